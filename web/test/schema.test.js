// The schema passes the linter, and scripts/compare-schema.js finds changes that break clients.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { run, temporaryDirectory, test, web } from './support.js';

test('the schema passes the linter', async () => {
  const { status, output } = await run('npm', ['run', '--silent', 'lint'], { cwd: web });
  assert.equal(status, 0, output);
});

const schema = `
type Query {
  product(id: ID, legacyId: ID @deprecated(reason: "Use id.")): Product
}
type Product {
  id: ID!
  name: String
  title: String @deprecated(reason: "Use name.")
  colour: Colour
}
enum Colour { RED GREY GRAY @deprecated(reason: "Use GREY.") }
`;

const breaking = [
  ['a removed field', '  name: String\n', '', "Field 'name' was removed from object type 'Product'"],
  ['a changed type', 'name: String', 'name: Int', "Field 'Product.name' changed type from 'String' to 'Int'"],
  ['a field that becomes nullable', 'id: ID!', 'id: ID', "Field 'Product.id' changed type from 'ID!' to 'ID'"],
  ['a removed argument', 'id: ID, ', '', "Argument 'id: ID' was removed from field 'Query.product'"],
  ['a new non-null argument', 'id: ID,', 'id: ID, at: Int!,', "Argument 'at: Int!' added to field 'Query.product'"],
  ['a removed enum value', 'RED', '', "Enum value 'RED' was removed from enum 'Colour'"],
];
for (const [change, from, to, message] of breaking) {
  test(`${change} breaks clients`, async () => {
    assert.deepEqual(await compare(schema.replace(from, to)), { status: 1, output: `${message}\n` });
  });
}

const harmless = [
  ['an added field', 'id: ID!', 'id: ID!\n  price: Int!'],
  ['an added nullable argument', 'id: ID,', 'id: ID, at: Int,'],
  ['a removed deprecated field', '  title: String @deprecated(reason: "Use name.")\n', ''],
  ['a removed deprecated argument', ', legacyId: ID @deprecated(reason: "Use id.")', ''],
  ['a removed deprecated enum value', ' GRAY @deprecated(reason: "Use GREY.")', ''],
];
for (const [change, from, to] of harmless) {
  test(`${change} breaks nothing`, async () => {
    assert.deepEqual(await compare(schema.replace(from, to)), { status: 0, output: '' });
  });
}

async function compare(changed) {
  assert.notEqual(changed, schema);
  const directory = await temporaryDirectory();
  const files = [path.join(directory, 'old.graphql'), path.join(directory, 'new.graphql')];
  await Promise.all([writeFile(files[0], schema), writeFile(files[1], changed)]);
  const { status, output } = await run(process.execPath, ['scripts/compare-schema.js', ...files], { cwd: web });
  return { status, output };
}
