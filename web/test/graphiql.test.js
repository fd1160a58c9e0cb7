// The page for people, in a browser.
import assert from 'node:assert/strict';
import path from 'node:path';
import { before } from 'node:test';
import { browse, start, test, web } from './support.js';

const MUTATION =
  'mutation Order { placeOrder(input: { clientId: "2", items: [{ productId: "2", quantity: 3 }] }) { clientVersion } }';
const QUERY = 'query Alice { client(id: "2", minVersion: 1) { name total { amount } } }';

let service;
let newPage;
before(async () => {
  service = await start();
  newPage = await browse();
});

test('GraphiQL runs mutations, queries and subscriptions, and needs no other host', async (t) => {
  const { page, complaints, hosts } = await newPage(t);
  await open(page);
  assert.equal(await page.title(), 'Orders · GraphiQL');
  const examples = await examplesOf(page);
  assert.deepEqual(await page.locator('.graphiql-tab-button').allTextContents(), examples);

  await service.placeOrder('1');
  await page.getByLabel('Show Documentation Explorer').click();
  await tab(page, 'ClientChanged');
  await execute(page, 'subscription ClientChanged');
  await answers(page, /"orderCount": 1/);
  await service.placeOrder('1');
  await answers(page, /"orderCount": 2/);
  await page.screenshot({ path: path.join(web, 'artifacts/graphiql.png') });
  await page.getByLabel('Stop query').click();

  await page.getByLabel('New tab').click();
  await type(page, 'Operation Editor', MUTATION);
  await execute(page, 'mutation Order');
  await answers(page, /"clientVersion": 1/);

  await page.getByLabel('New tab').click();
  await type(page, 'Operation Editor', QUERY);
  await execute(page, 'query Alice');
  await answers(page, /"name": "Alice", "total": { "amount": "1500.00"/);

  assert.deepEqual(complaints, []);
  assert.deepEqual([...hosts], [new URL(service.url).host]);
});

test('what is in the headers editor is sent, and kept nowhere', async (t) => {
  const { page } = await newPage(t);
  await open(page);
  await tab(page, 'ClientChanged');
  await type(page, 'Headers', '{ "authorization": "Bearer wrong" }');
  await execute(page, 'subscription ClientChanged');
  await answers(page, /Socket closed with event 4403/);

  await tab(page, 'Client');
  await execute(page, 'query Client');
  await answers(page, /"client": /);
  await open(page);
  await execute(page, 'query Client');
  await answers(page, /"client": /);
  const kept = await page.evaluate(() => JSON.stringify(localStorage));
  assert.ok(kept.includes('ClientChanged'));
  assert.ok(!kept.includes('Bearer'));
});

test('the page says so when its settings cannot be read', async (t) => {
  const { page } = await newPage(t);
  await page.route('**/config.json', (route) => route.fulfill({ status: 503 }));
  await page.goto(service.url);
  assert.match(await page.getByRole('alert').textContent(), /config.json, cannot be read: 503/);
});

/** Opens GraphiQL; resolves when it can be used. */
async function open(page) {
  await page.goto(service.url);
  const isBuiltIn = (await page.content()).includes('/graphiql/assets/');
  assert.ok(isBuiltIn, 'the page is not in the program: `npm run build` comes before cargo');
  await page.getByLabel('Operation Editor').locator('.view-line').first().waitFor();
}

/** The names of the example operations that the service has. */
async function examplesOf(page) {
  const response = await page.request.get(new URL('/graphiql/config.json', service.url).href);
  const { examples } = await response.json();
  return examples.map((example) => example.match(/(?:query|mutation|subscription) (\w+)/)[1]);
}

/** Opens the tab of this name. */
const tab = (page, name) => page.locator('.graphiql-tab-button', { hasText: new RegExp(`^${name}$`) }).click();

/** Replaces what is in an editor, as fast as a person might: faster keys get lost. */
async function type(page, editor, text) {
  await page.getByLabel(editor, { exact: true }).locator('.graphiql-editor:not(.hidden) .view-lines').click();
  await page.keyboard.press('Control+A');
  await page.keyboard.press('Delete');
  await page.keyboard.type(text, { delay: 20 });
}

/** Runs what is in the editor, this text among it, once the page has noted that it is there. */
async function execute(page, text) {
  await page.waitForFunction((text) => localStorage.getItem('graphiql:query')?.includes(text), text);
  await page.getByLabel('Execute query').click();
}

/** Waits until the answer shown has this; spaces stand for any. */
async function answers(page, text) {
  const pattern = new RegExp(text.source.replaceAll(' ', '\\s*'));
  await page.locator('.result-window .view-lines', { hasText: pattern }).waitFor();
}
