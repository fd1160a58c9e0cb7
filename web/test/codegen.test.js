// GraphQL Code Generator: the types of the schema, and manifests of trusted documents.
import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';
import { readFile, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { before } from 'node:test';
import { generate } from '@graphql-codegen/cli';
import { getOperationAST, parse } from 'graphql';
import { program, run, start, temporaryDirectory, test, web } from './support.js';

const PROGRAM = `
import { graphql, type DocumentType } from './generated';
import type { VariablesOf } from '@graphql-typed-document-node/core';

const PlaceOrder = graphql(\`mutation PlaceOrder($input: PlaceOrderInput!) {
  placeOrder(input: $input) { order { total { amount } } userErrors { code field } }
}\`);
const Products = graphql(\`query Products($first: Int) {
  products(first: $first) { nodes { name } }
}\`);
const ClientChanged = graphql(\`subscription ClientChanged($id: ID!) {
  clientChanged(id: $id) { orderCount lastPurchase }
}\`);

export const order: VariablesOf<typeof PlaceOrder> = {
  input: { clientId: '1', items: [{ productId: '1', quantity: 2 }] },
};
export const total = ({ placeOrder }: DocumentType<typeof PlaceOrder>): string | undefined =>
  placeOrder?.order?.total.amount;
export const isUnknown = ({ placeOrder }: DocumentType<typeof PlaceOrder>): boolean =>
  placeOrder?.userErrors.some(({ code }) => code === 'CLIENT_NOT_FOUND') ?? false;
export const names = ({ products }: DocumentType<typeof Products>): string[] =>
  products?.nodes.map(({ name }) => name) ?? [];
export const count = ({ clientChanged }: DocumentType<typeof ClientChanged>): number =>
  clientChanged.orderCount;
`;

let directory;
before(async () => {
  directory = await temporaryDirectory();
  const file = await writeProgram(PROGRAM);
  await symlink(path.join(web, 'node_modules'), path.join(directory, 'node_modules'));
  await generate({
    schema: path.join(web, '../schema.graphql'),
    documents: file,
    generates: {
      [`${directory}/generated/`]: {
        preset: 'client',
        presetConfig: { persistedDocuments: { hashAlgorithm: 'sha256' } },
        config: { scalars: { DateTime: 'string', Decimal: 'string' } },
      },
    },
    silent: true,
  });
});

test('a program that uses the schema correctly compiles', async () => {
  const { status, output } = await compile(PROGRAM);
  assert.equal(status, 0, output);
});

const mistakes = [
  ['an unknown field', 'clientChanged.orderCount', 'clientChanged.orders', 'TS2339'],
  ['an input without a required field', ', quantity: 2', '', 'TS2741'],
  ['an unchecked nullable order', 'order?.total', 'order.total', 'TS18047'],
  ['an unknown error code', 'CLIENT_NOT_FOUND', 'NO_SUCH_CLIENT', 'TS2367'],
];
for (const [mistake, from, to, code] of mistakes) {
  test(`a program with ${mistake} does not compile`, async () => {
    const { status, output } = await compile(PROGRAM.replace(from, to));
    assert.notEqual(status, 0);
    assert.match(output, new RegExp(`program.ts\\(.* error ${code}: `));
    assert.equal(output.match(/error/g).length, 1, output);
  });
}

test('generated documents are trusted and others are not', async () => {
  const manifest = path.join(directory, 'generated/persisted-documents.json');
  const documents = Object.entries(JSON.parse(await readFile(manifest)));
  assert.equal(documents.length, 3);
  const [id, text] = documents.find(([, document]) => document.startsWith('query Products'));
  await trustsOnly(manifest, [{ documentId: id }, byHash(text)]);
});

test("documents of Apollo's manifest are trusted and others are not", async () => {
  const body = 'query Products($first: Int) { products(first: $first) { nodes { name __typename } } }';
  const { name, operation } = getOperationAST(parse(body));
  const operations = [{ id: hashOf(body), name: name.value, type: operation, body }];
  const manifest = path.join(directory, 'persisted-query-manifest.json');
  await writeFile(manifest, JSON.stringify({ format: 'apollo-persisted-query-manifest', version: 1, operations }));
  await trustsOnly(manifest, [byHash(body)]);
});

/** With this manifest, the service accepts these requests, and others only with the token for development. */
async function trustsOnly(manifest, requests) {
  const secret = { JWT_SECRET: randomUUID() };
  const service = await start({ ...secret, TRUSTED_DOCUMENTS: manifest });
  const { stdout } = await run(program('api'), ['token', '--scope', 'products:read'], { env: secret });
  const token = stdout.trim();
  for (const request of requests) {
    const { data, errors } = await service.post({ ...request, variables: { first: 1 } }, token);
    assert.equal(errors, undefined);
    assert.equal(data.products.nodes[0].name, 'Computer');
  }
  const query = 'query Products { products { nodes { id } } }';
  for (const request of [{ query }, byHash(query), { query, ...byHash(query) }, { documentId: 'unknown' }]) {
    const { data, errors } = await service.post(request, token);
    assert.equal(data, undefined);
    assert.equal(errors[0].extensions.code, 'QUERY_NOT_IN_SAFELIST');
  }
  assert.equal((await service.post({ query })).errors, undefined, 'the token for development allows any document');
}

const hashOf = (text) => createHash('sha256').update(text).digest('hex');

const byHash = (text) => ({ extensions: { persistedQuery: { version: 1, sha256Hash: hashOf(text) } } });

async function compile(text) {
  const file = await writeProgram(text);
  const tsc = path.join(web, 'node_modules/typescript/bin/tsc');
  const options = ['--strict', '--noEmit', '--skipLibCheck', '--module', 'esnext', '--moduleResolution', 'bundler'];
  return run(process.execPath, [tsc, ...options, file], { cwd: directory });
}

async function writeProgram(text) {
  const file = path.join(directory, 'program.ts');
  await writeFile(file, text);
  return file;
}
