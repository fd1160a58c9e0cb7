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

test('each example runs', async (t) => {
  const { page } = await newPage(t);
  const { examples } = await (await page.request.get(new URL('/graphiql/config.json', service.url).href)).json();
  for (const query of examples.filter((example) => !/^subscription /m.test(example))) {
    const { data, errors } = await service.post({ query });
    assert.equal(errors, undefined, query);
    // Its id is for the reader to replace.
    const expected = /CancelOrder/.test(query) ? ['ORDER_NOT_FOUND'] : [];
    const problems = Object.values(data).flatMap(({ userErrors }) => userErrors ?? []);
    assert.deepEqual(problems.map(({ code }) => code), expected, query);
  }
});

for (const colorScheme of ['light', 'dark']) {
  test(`at 1280 pixels all examples fit, in ${colorScheme} colours`, async (t) => {
    const width = 1280;
    const { page } = await newPage(t, { viewport: { width, height: 800 }, colorScheme });
    await open(page);
    const examples = await examplesOf(page);
    for (const name of examples) {
      await tab(page, name);
      const editor = page.getByLabel('Operation Editor');
      await editor.locator('.view-line', { hasText: name }).first().waitFor();
      const outside = await editor.evaluate((element) => {
        const { right } = element.querySelector('.monaco-scrollable-element').getBoundingClientRect();
        const lines = [...element.querySelectorAll('.view-line > span')];
        return lines.filter((line) => line.getBoundingClientRect().right > right).map(({ textContent }) => textContent);
      });
      assert.deepEqual(outside, [], name);
      const { x, width: own } = await tabButton(page, name).boundingBox();
      assert.ok(x >= 0 && x + own <= width, `the tab ${name} ends at ${x + own}`);
    }
    const background = await page.locator('.graphiql-container').evaluate((element) => getComputedStyle(element).backgroundColor);
    const [red, green, blue] = background.match(/\d+/g).map(Number);
    assert.equal(red + green + blue < 380, colorScheme === 'dark', background);
    await page.screenshot({ path: path.join(web, `artifacts/graphiql-${colorScheme}.png`) });
  });
}

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

test('without a token the page asks for one, and loads the schema when one is entered', async (t) => {
  const { page } = await newPage(t);
  await page.route('**/config.json', async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, json: { ...(await response.json()), headers: {} } });
  });
  await open(page);
  const hint = page.getByRole('status').filter({ hasText: 'The schema is loaded when you enter a valid token' });
  await hint.waitFor();
  await type(page, 'Headers', JSON.stringify(service.headers));
  await hint.waitFor({ state: 'detached' });
  await page.getByLabel('Show Documentation Explorer').click();
  await page.getByText('Root Types').waitFor();
});

test('on a phone the editors and the response have the width of the screen, and nothing overlaps', async (t) => {
  const width = 390;
  const { page } = await newPage(t, { viewport: { width, height: 844 }, isMobile: true });
  await open(page);
  await tab(page, 'Client');
  await execute(page, 'query Client');
  await responseContains(page, /"client": /);
  const boxes = {};
  for (const name of ['query-editor', 'editor-tools', 'response']) {
    boxes[name] = await page.locator(`.graphiql-${name}`).boundingBox();
    const { x, width: own } = boxes[name];
    assert.ok(x >= 0 && own > width * 0.75 && x + own <= width, `${name}: ${JSON.stringify(boxes[name])}`);
  }
  const { 'query-editor': query, 'editor-tools': tools, response } = boxes;
  assert.ok(query.height > 100 && query.y + query.height <= tools.y + 1, JSON.stringify(boxes));
  assert.ok(response.height > 100 && tools.y + tools.height <= response.y + 1, JSON.stringify(boxes));
  assert.ok(response.y + response.height <= 844, JSON.stringify(boxes));
  await page.screenshot({ path: path.join(web, 'artifacts/graphiql-phone.png') });
  await page.getByLabel('Show Documentation Explorer').click();
  await page.getByText('Root Types').waitFor();
  const documentation = await page.locator('.graphiql-plugin').boundingBox();
  assert.ok(documentation.width > width * 0.75, JSON.stringify(documentation));
  await page.getByLabel('Hide Documentation Explorer').click();
  await page.getByLabel('Operation Editor').click();
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width);
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

const tabButton = (page, name) => page.locator('.graphiql-tab-button', { hasText: new RegExp(`^${name}$`) });

/** Opens the tab of this name. */
const tab = (page, name) => tabButton(page, name).click();

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
