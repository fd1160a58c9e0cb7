// The introspection queries of tools, and types that gql.tada infers from one.
import assert from 'node:assert/strict';
import { readFile, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { before } from 'node:test';
import { minifyIntrospection, outputIntrospectionFile } from '@gql.tada/internal';
import { buildClientSchema, buildSchema, getIntrospectionQuery, introspectionFromSchema, lexicographicSortSchema, printSchema } from 'graphql';
import { run, start, temporaryDirectory, test, web } from './support.js';

// schema.graphql states no specifications of scalars, and has no description of the schema as a whole.
const sorted = (schema) => printSchema(lexicographicSortSchema(schema)).replaceAll(/ @specifiedBy\(.*?\)/g, '');

let service;
let expected;
before(async () => {
  service = await start();
  expected = sorted(buildSchema(await readFile(path.join(web, '../schema.graphql'), 'utf8')));
});

// Altair's settings choose among these options of graphql-js.
const all = { specifiedByUrl: true, directiveIsRepeatable: true, schemaDescription: true, inputValueDeprecation: true };
const tools = {
  'graphql-js': {},
  Altair: all,
  'graphql-js with oneOf': { ...all, oneOf: true },
};
for (const [tool, options] of Object.entries(tools)) {
  test(`the introspection query of ${tool} returns the schema`, async () => {
    const { data, errors } = await service.post({ query: getIntrospectionQuery(options) });
    assert.equal(errors, undefined);
    const { __schema } = data;
    assert.equal(sorted(buildClientSchema({ __schema: { ...__schema, description: null } })), expected);
  });
}

const PROGRAM = `
import { initGraphQLTada, type ResultOf, type VariablesOf } from 'gql.tada';
import type { introspection } from './introspection.d.ts';

const graphql = initGraphQLTada<{ introspection: introspection; scalars: { Decimal: string } }>();
const Products = graphql(\`query Products($first: Int) { products(first: $first) { nodes { name price { amount } } } }\`);
export const first: VariablesOf<typeof Products> = { first: 10 };
export const names = ({ products }: ResultOf<typeof Products>): string[] => products?.nodes.map(({ name }) => name) ?? [];
`;

test('gql.tada reads the schema of the service and infers types from it', async () => {
  const directory = await temporaryDirectory();
  await symlink(path.join(web, 'node_modules'), path.join(directory, 'node_modules'));
  const execute = (tool, ...args) => run(process.execPath, [path.join(web, 'node_modules', tool), ...args], { cwd: directory });
  const header = `Authorization: ${service.headers.Authorization}`;
  const generate = ['generate-schema', service.url, '--output', 'schema.graphql', '--header', header];
  const { status, output } = await execute('gql.tada/bin/cli.js', ...generate);
  assert.equal(status, 0, output);

  const schema = buildSchema(await readFile(path.join(directory, 'schema.graphql'), 'utf8'));
  // The command generate-output needs an older TypeScript.
  const introspection = minifyIntrospection(introspectionFromSchema(schema));
  const types = outputIntrospectionFile(introspection, { fileType: '.d.ts', shouldPreprocess: true });
  await writeFile(path.join(directory, 'introspection.d.ts'), types);
  const compile = async (program) => {
    await writeFile(path.join(directory, 'program.ts'), program);
    const options = ['--strict', '--noEmit', '--skipLibCheck', '--module', 'esnext', '--moduleResolution', 'bundler'];
    return execute('typescript/bin/tsc', ...options, '--allowImportingTsExtensions', 'program.ts');
  };
  const compiled = await compile(PROGRAM);
  assert.equal(compiled.status, 0, compiled.output);
  const mistaken = await compile(PROGRAM.replace('({ name }) => name', '({ title }) => title'));
  assert.match(mistaken.output, /error TS2339: Property 'title' does not exist/);
});
