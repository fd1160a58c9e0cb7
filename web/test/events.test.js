// The contract of the events: the schemas, the AsyncAPI document, the examples of docs/events.md, and scripts/compare-events.js.
import assert from 'node:assert/strict';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import Ajv from 'ajv';
import Ajv2020 from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { run, temporaryDirectory, test, web } from './support.js';

const contract = path.join(web, '../events');
const json = async (file) => JSON.parse(await readFile(file, 'utf8'));
const document = await json(path.join(contract, 'asyncapi.json'));
const schemas = await Promise.all(
  (await readdir(contract)).filter((file) => file.endsWith('.schema.json')).map((file) => json(path.join(contract, file))),
);

const ajv = new Ajv2020({ allErrors: true });
addFormats(ajv);
ajv.addFormat('int64', { type: 'number', validate: Number.isSafeInteger });
ajv.addFormat('int32', { type: 'number', validate: (number) => number === (number | 0) });
const validators = new Map(schemas.map((schema) => [schema.title, ajv.compile(schema)]));

function isValid(event) {
  const validate = validators.get(event.type);
  assert.ok(validate, `unknown type ${event.type}`);
  return validate(event) || assert.fail(`${event.type}: ${ajv.errorsText(validate.errors)}`);
}

test('each example is valid, and not without a required field', () => {
  for (const schema of schemas) {
    for (const example of schema.examples) {
      isValid(example);
      for (const required of schema.required) {
        assert.ok(!validators.get(schema.title)({ ...example, [required]: undefined }), `${schema.title} without ${required}`);
      }
      isValid({ ...example, added: 1, data: { ...example.data, added: 1 } });
    }
  }
});

test('the schemas have the limits of the types', () => {
  const example = schemas.find((schema) => schema.title === 'orders.OrderPlaced.v1').examples[0];
  const line = example.data.lines[0];
  for (const data of [{ lines: [] }, { lines: [{ ...line, quantity: 0 }] }, { total: 0.5 }, { clientId: '1' }, { currency: 'usd' }]) {
    assert.throws(() => isValid({ ...example, data: { ...example.data, ...data } }), /OrderPlaced/, JSON.stringify(data));
  }
  assert.throws(() => isValid({ ...example, sequence: '7' }), /sequence/);
});

test('the examples of docs/events.md are valid', async () => {
  const page = await readFile(path.join(web, '../docs/events.md'), 'utf8');
  const examples = [...page.matchAll(/^```json\n(.*?)^```/gms)].map(([, text]) => JSON.parse(text)).filter((event) => event.specversion);
  assert.ok(examples.length > 0);
  examples.forEach(isValid);
  for (const type of validators.keys()) assert.ok(page.includes(`\`${type}\``), `${type} is missing`);
});

test('the AsyncAPI document is valid', async () => {
  const specification = createRequire(import.meta.url)('@asyncapi/specs/schemas/3.0.0.json');
  const draft7 = new Ajv({ allErrors: true, strict: false, validateFormats: false });
  assert.ok(draft7.validate(specification, document), draft7.errorsText());
  assert.deepEqual(Object.keys(document.components.messages).sort(), [...validators.keys()].sort());
});

const order = 'orders.OrderPlaced.v1';
const changes = [
  ['a new type', (messages) => void (messages.new = messages[order]), ''],
  ['a new optional field', ({ [order]: { payload } }) => void (payload.properties.data.properties.coupon = { type: 'string' }), ''],
  ['another comment', ({ [order]: { payload } }) => void (payload.description = 'Other words.'), ''],
  ['a removed type', (messages) => delete messages[order], `${order} was removed`],
  ['a removed field', ({ [order]: { payload } }) => delete payload.properties.data.properties.total, `${order}.data.total was removed`],
  [
    'a new required field',
    ({ [order]: { payload } }) => payload.properties.data.required.push('coupon'),
    `${order}.data: required changed`,
  ],
  [
    'a changed limit of items',
    ({ [order]: { payload } }) => void (payload.properties.data.properties.lines.items.properties.quantity.maximum = 9),
    `${order}.data.lines[].quantity: maximum changed`,
  ],
];
for (const [change, apply, expected] of changes) {
  test(`${change} ${expected ? 'breaks readers' : 'breaks no reader'}`, async () => {
    const directory = await temporaryDirectory();
    const changed = structuredClone(document);
    apply(changed.components.messages);
    const file = path.join(directory, 'asyncapi.json');
    await writeFile(file, JSON.stringify(changed));
    const { status, output } = await run(process.execPath, ['scripts/compare-events.js', path.join(contract, 'asyncapi.json'), file], { cwd: web });
    assert.equal(status, expected ? 1 : 0, output);
    assert.ok(expected ? output.startsWith(expected) : output === '', output);
  });
}
