// GraphiQL, in a browser.
import assert from 'node:assert/strict';
import path from 'node:path';
import { before } from 'node:test';
import { browse, start, test, web } from './support.js';

const MUTATION =
  'mutation Order { placeOrder(input: { clientId: "2", items: [{ productId: "2", quantity: 3 }] }) { clientVersion } }';
const QUERY = 'query Alice { client(id: "2", minVersion: 2) { name total { amount } } }';

let service;
let newPage;
before(async () => {
  service = await start();
  newPage = await browse();
});

test('GraphiQL runs mutations, queries and subscriptions and loads nothing from other hosts', async (t) => {
  const { page, pageErrors, hosts } = await newPage(t);
  await open(page);
  assert.equal(await page.title(), 'Orders · GraphiQL');
  const examples = await examplesOf(page);
  assert.deepEqual(await page.locator('.graphiql-tab-button').allTextContents(), examples);

  await service.placeOrder('1');
  await page.getByLabel('Show Documentation Explorer').click();
  await tab(page, 'ClientChanged');
  await execute(page, 'subscription ClientChanged');
  await responseContains(page, /"orderCount": 1/);
  await service.placeOrder('1');
  await responseContains(page, /"orderCount": 2/);
  await page.screenshot({ path: path.join(web, 'artifacts/graphiql.png') });
  await page.getByLabel('Stop query').click();

  await page.getByLabel('New tab').click();
  await type(page, 'Operation Editor', MUTATION);
  await execute(page, 'mutation Order');
  await responseContains(page, /"clientVersion": 2/);

  await page.getByLabel('New tab').click();
  await type(page, 'Operation Editor', QUERY);
  await execute(page, 'query Alice');
  await responseContains(page, /"name": "Alice", "total": { "amount": "1500.00"/);

  assert.deepEqual(pageErrors, []);
  assert.deepEqual([...hosts], [new URL(service.url).host]);
});

test('headers are sent and are not stored in the browser', async (t) => {
  const { page } = await newPage(t);
  await open(page);
  await tab(page, 'ClientChanged');
  await type(page, 'Headers', '{ "authorization": "Bearer wrong" }');
  await execute(page, 'subscription ClientChanged');
  await responseContains(page, /Socket closed with event 4403/);

  await tab(page, 'Client');
  await execute(page, 'query Client');
  await responseContains(page, /"client": /);
  await open(page);
  await execute(page, 'query Client');
  await responseContains(page, /"client": /);
  const stored = await page.evaluate(() => JSON.stringify(localStorage));
  assert.ok(stored.includes('ClientChanged'));
  assert.ok(!stored.includes('Bearer'));
});

test('the page reports that its settings cannot be loaded', async (t) => {
  const { page } = await newPage(t);
  await page.route('**/config.json', (route) => route.fulfill({ status: 503 }));
  await page.goto(service.url);
  assert.match(await page.getByRole('alert').textContent(), /config.json\) cannot be read: 503/);
});

/** Opens GraphiQL; resolves when it can be used. */
async function open(page) {
  await page.goto(service.url);
  const isBuiltIn = (await page.content()).includes('/graphiql/assets/');
  assert.ok(isBuiltIn, 'the page is not in the program: `npm run build` comes before cargo');
  await page.getByLabel('Operation Editor').locator('.view-line').first().waitFor();
}

/** The names of the example operations. */
async function examplesOf(page) {
  const response = await page.request.get(new URL('/graphiql/config.json', service.url).href);
  const { examples } = await response.json();
  return examples.map((example) => example.match(/(?:query|mutation|subscription) (\w+)/)[1]);
}

/** Opens the tab of this name. */
const tab = (page, name) => page.locator('.graphiql-tab-button', { hasText: new RegExp(`^${name}$`) }).click();

/** Replaces the text of an editor. GraphiQL loses keys that are faster than a person. */
async function type(page, editor, text) {
  await page.getByLabel(editor, { exact: true }).locator('.graphiql-editor:not(.hidden) .view-lines').click();
  await page.keyboard.press('Control+A');
  await page.keyboard.press('Delete');
  await page.keyboard.type(text, { delay: 20 });
}

/** Runs the operation in the editor, once the page has stored this text of it. */
async function execute(page, text) {
  await page.waitForFunction((text) => localStorage.getItem('graphiql:query')?.includes(text), text);
  await page.getByLabel('Execute query').click();
}

/** Waits until the response contains this text. A space matches any white space. */
async function responseContains(page, text) {
  const pattern = new RegExp(text.source.replaceAll(' ', '\\s*'));
  await page.locator('.result-window .view-lines', { hasText: pattern }).waitFor();
}
