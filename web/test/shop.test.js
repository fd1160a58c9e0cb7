// The shop, in a browser: orders that are refused, many products, and tokens that expire.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { hasNoViolation, openShop } from './pages.js';
import { browse, start, temporaryDirectory, test } from './support.js';

let newPage;
before(async () => {
  newPage = await browse();
});

const CREATE = 'mutation Create($input: CreateProductInput!) { createProduct(input: $input) { product { id } } }';

async function createProducts(service, number) {
  for (let index = 1; index <= number; index++) {
    const input = { name: `Cable ${index}`, price: '1.10' };
    const { errors } = await service.post({ query: CREATE, variables: { input } });
    assert.equal(errors, undefined);
  }
}

const placeOrder = (page) => page.getByRole('button', { name: 'Place the order' }).click();

/** Waits until an alert has the focus and is in view. */
async function hasFocus(page, id, text) {
  const alert = page.locator(`#${id}[role=alert]`, { hasText: text });
  await alert.waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), id);
  const { y, height } = await alert.boundingBox();
  assert.ok(y >= 0 && y + height <= page.viewportSize().height, `the alert is at ${y}`);
}

test('on a phone, a refused order scrolls to the reason and moves the focus to it', async (t) => {
  const service = await start();
  await createProducts(service, 20);
  const { page } = await newPage(t, { viewport: { width: 390, height: 664 }, isMobile: true });
  await openShop(page, service);
  await placeOrder(page);
  await hasFocus(page, 'items-error', 'The order has no items.');
  await page.getByLabel('Cable 20').fill('10001');
  await placeOrder(page);
  await hasFocus(page, 'items-error', 'Cable 20: ');
  await page.getByLabel('Cable 20').fill('1');
  await page.getByLabel('Number').fill('77');
  await placeOrder(page);
  await hasFocus(page, 'client-error', 'There is no such client.');
  await page.getByLabel('Number').fill('1');
  await page.route('**/graphql', (route) => route.abort(), { times: 1 });
  await placeOrder(page);
  await hasFocus(page, 'problem', 'The service cannot be reached. You can place the order again');
  await placeOrder(page);
  await page.locator('#done li', { hasText: 'Bob now has 1 order of $1.10' }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Place the order');
});

test('quantities that are not whole numbers are refused', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await openShop(page, service);
  const phone = page.getByLabel('Phone');
  for (const quantity of ['1.7', '0.5', '99999999999', '-0.1']) {
    await phone.fill(quantity);
    assert.equal(await page.locator('#total').textContent(), quantity === '99999999999' ? '$49,999,999,999,500.00' : '');
    await placeOrder(page);
    await hasFocus(page, 'items-error', 'Phone: Use a whole number from 1 to 10000.');
    assert.equal(await phone.getAttribute('aria-invalid'), 'true');
    await phone.fill('0');
  }
  await phone.focus();
  await page.keyboard.type('e');
  await placeOrder(page);
  await hasFocus(page, 'items-error', 'Phone: Use a whole number from 1 to 10000.');
  await hasNoViolation(page, 'refused quantity');
  const { data } = await service.post({ query: '{ client(id: "1") { orderCount } }' });
  assert.equal(data.client.orderCount, 0);
});

test('the total is in view before the order is placed, however many products there are', async (t) => {
  const service = await start();
  await createProducts(service, 60);
  const { page } = await newPage(t, { viewport: { width: 1280, height: 800 } });
  await openShop(page, service);
  assert.equal(await page.locator('#total').evaluate((total) => getComputedStyle(total, '::before').content), '"–"');
  for (const [product, total] of [['Phone', '$500.00'], ['Cable 60', '$501.10']]) {
    await page.getByLabel(product).fill('1');
    const { y, height } = await page.locator('#total', { hasText: total }).boundingBox();
    assert.ok(y >= 0 && y + height <= 800, `the total is at ${y}`);
  }
  assert.equal(await page.getByText('Quantity').first().isVisible(), true);
});

test('all products can be ordered, a page at a time', async (t) => {
  const service = await start();
  await createProducts(service, 101);
  const { page } = await newPage(t);
  await openShop(page, service);
  const products = page.locator('#products li');
  assert.equal(await products.count(), 100);
  await page.getByLabel('Phone').fill('1');
  await page.getByRole('button', { name: 'More products' }).click();
  await page.getByLabel('Cable 101').fill('3');
  assert.equal(await products.count(), 104);
  assert.ok(await page.locator('#more').isHidden());
  assert.equal(await page.locator('#total').textContent(), '$503.30');
  await placeOrder(page);
  await page.locator('#done li', { hasText: 'Bob now has 1 order of $503.30' }).waitFor();
});

test('the shop offers no withdrawn product', async (t) => {
  const service = await start();
  const update = 'mutation { updateProduct(input: { id: 1, available: false }) { userErrors { code } } }';
  assert.deepEqual((await service.post({ query: update })).data.updateProduct.userErrors, []);
  // The list is read again after a second.
  const query = '{ products(available: true) { nodes { name } } }';
  const names = async () => (await service.post({ query })).data.products.nodes.map(({ name }) => name);
  while ((await names()).includes('Computer')) await new Promise((resolve) => setTimeout(resolve, 50));
  const { page } = await newPage(t);
  await openShop(page, service);
  await page.getByLabel('TV, $1,000.00').waitFor();
  assert.equal(await page.getByLabel('Computer').count(), 0);
});

test('the shop fetches a new token when its token has expired or the service has restarted', async (t) => {
  const settings = { DATABASE_URL: `sqlite://${await temporaryDirectory()}/orders.db` };
  const first = await start(settings);
  const { page } = await newPage(t);
  const expired = { json: { headers: { Authorization: 'Bearer expired' } } };
  await page.route('**/pages/config.json', (route) => route.fulfill(expired), { times: 1 });
  await openShop(page, first);
  await first.stop();
  await page.getByLabel('Phone').fill('1');
  await placeOrder(page);
  await page.getByRole('alert').filter({ hasText: 'You can place the order again' }).waitFor();
  // This service has another secret.
  await start({ ...settings, LISTEN_ADDR: new URL(first.url).host });
  await placeOrder(page);
  await page.locator('#done li', { hasText: 'Bob now has 1 order of $500.00' }).waitFor();
  assert.equal(await page.getByRole('alert').isVisible(), false);
});

test('the shop asks for another token when a typed token is refused', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await page.route('**/pages/config.json', (route) => route.fulfill({ json: { headers: {} } }));
  await page.goto(new URL('/shop', service.url).href);
  for (const token of ['wrong', service.token]) {
    await page.getByLabel('A token with the scopes').fill(token);
    await page.getByRole('button', { name: 'Sign in' }).click();
    if (token === 'wrong') await page.getByRole('alert').filter({ hasText: 'The token was refused.' }).waitFor();
  }
  await page.getByLabel('Phone, $500.00').fill('1');
  await placeOrder(page);
  await page.locator('#done li', { hasText: 'Bob now has 1 order' }).waitFor();
});
