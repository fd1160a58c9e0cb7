// Relay: its compiler, and its store with the `getDataID` of docs/frontend.md.
import assert from 'node:assert/strict';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { before } from 'node:test';
import { run, start, temporaryDirectory, test, web } from './support.js';

const PROGRAM = `
import { graphql } from 'relay-runtime';
graphql\`
  query programQuery($id: ID!, $first: Int) {
    client(id: $id) { id name recentOrders(first: $first) { id } }
    product(id: $id) { id name }
    products(first: $first) { nodes { id name } }
  }
\`;
graphql\`
  fragment program_products on Query
  @refetchable(queryName: "programProductsQuery")
  @argumentDefinitions(first: { type: "Int" }, after: { type: "String" }) {
    products(first: $first, after: $after) @connection(key: "program_products") { edges { node { id name } } }
  }
\`;
graphql\`
  mutation programMutation($input: PlaceOrderInput!) {
    placeOrder(input: $input) { order { id total { amount } } clientVersion userErrors { message } }
  }
\`;
graphql\`
  subscription programSubscription($id: ID!) { clientChanged(id: $id) { id orderCount } }
\`;
`;

let directory;
before(async () => {
  directory = await temporaryDirectory();
  await symlink(path.join(web, 'node_modules'), path.join(directory, 'node_modules'));
  await mkdir(path.join(directory, 'generated'));
  const config = {
    src: '.',
    schema: path.relative(directory, path.join(web, '../schema.graphql')),
    language: 'javascript',
    artifactDirectory: 'generated',
    eagerEsModules: true,
  };
  const frontend = await readFile(path.join(web, '../docs/frontend.md'), 'utf8');
  const files = {
    'package.json': '{ "type": "module" }',
    'relay.config.json': JSON.stringify(config),
    'program.js': PROGRAM,
    'environment.js': frontend.match(/^```js\n(import .* from 'relay-runtime';\n.*?)^```$/ms)[1],
  };
  for (const [name, text] of Object.entries(files)) await writeFile(path.join(directory, name), text);
});

test('the compiler accepts pages, mutations and subscriptions, and the store keeps types apart', async () => {
  const compiler = path.join(web, 'node_modules/relay-compiler/cli.js');
  const { status, output } = await run(process.execPath, [compiler, 'relay.config.json'], { cwd: directory });
  assert.equal(status, 0, output);

  const service = await start();
  const { default: query } = await import(path.join(directory, 'generated/programQuery.graphql.js'));
  const { createEnvironment } = await import(path.join(directory, 'environment.js'));
  const { default: relay } = await import('relay-runtime');
  const environment = createEnvironment(({ text }, variables) => service.post({ query: text, variables }));
  const fetch = (variables) => relay.fetchQuery(environment, query, variables).toPromise();
  const { client, product, products } = await fetch({ id: '1' });
  assert.deepEqual([client.name, product.name], ['Bob', 'Computer']);
  assert.deepEqual(products.nodes.map(({ name }) => name), ['Computer', 'Phone', 'TV']);
  const source = environment.getStore().getSource();
  assert.equal(source.get('Client:1').name, 'Bob');
  assert.equal(source.get('Product:1').name, 'Computer');
});
