// The shop, in a browser: each flow by what users see, with the mouse, the keyboard and a phone.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { before } from 'node:test';
import { add, at, hasNoViolation, openShop, placeOrder } from './pages.js';
import { browse, program, run, start, temporaryDirectory, test, web } from './support.js';

let newPage;
before(async () => {
  newPage = await browse();
  await mkdir(path.join(web, 'artifacts'), { recursive: true });
});

const CREATE = 'mutation Create($input: CreateProductInput!) { createProduct(input: $input) { product { id } } }';
const UPDATE = 'mutation Update($input: UpdateProductInput!) { updateProduct(input: $input) { userErrors { code } } }';
const ORDERS = '{ client(id: "1") { orderCount } orders(clientId: "1") { nodes { id status } } }';
const PHONE = { viewport: { width: 390, height: 664 }, isMobile: true, hasTouch: true };
const LOGGED = /Failed to load resource|WebSocket connection/; // by the browser, when a test cuts the connection

async function createProducts(service, number) {
  for (let index = 1; index <= number; index++) {
    const input = { name: `Cable ${index}`, price: '1.10', sku: `CABLE-${index}` };
    assert.equal((await service.post({ query: CREATE, variables: { input } })).errors, undefined);
  }
}

const update = async (service, input) =>
  assert.deepEqual((await service.post({ query: UPDATE, variables: { input } })).data.updateProduct.userErrors, []);

const heading = (page, name) => page.getByRole('heading', { level: 1, name });

/** Waits until an element has the focus, and checks that it is in view. */
async function hasFocus(page, locator) {
  await locator.waitFor();
  await page.waitForFunction((element) => element === document.activeElement, await locator.elementHandle());
  const { y, height } = await locator.boundingBox();
  assert.ok(y >= 0 && y + height <= page.viewportSize().height, `it is at ${y}`);
}

for (const [name, options] of Object.entries({
  'desktop-light': { viewport: { width: 1280, height: 900 }, colorScheme: 'light' },
  'desktop-dark': { viewport: { width: 1280, height: 900 }, colorScheme: 'dark' },
  'phone-light': { ...PHONE, colorScheme: 'light' },
  'phone-dark': { ...PHONE, colorScheme: 'dark' },
})) {
  test(`a client signs in, orders, and cancels the order (${name})`, async (t) => {
    const service = await start();
    await createProducts(service, 6);
    const { page, pageErrors, hosts } = await newPage(t, options);
    const isFine = async (state) => {
      await hasNoViolation(page, `${state}, ${name}`);
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, `${state} is too wide`);
      await page.screenshot({ path: path.join(web, `artifacts/shop-${state}-${name}.png`) });
    };
    await page.goto(at(service, '/shop'));
    await page.getByRole('button', { name: /^Bob/ }).waitFor();
    await isFine('sign-in');
    await page.getByRole('button', { name: /^Bob/ }).click();
    await page.getByRole('heading', { name: 'Phone' }).waitFor();
    await isFine('products');
    await page.getByRole('searchbox', { name: 'Search products' }).fill('nothing like this');
    await page.getByText('No product matches').waitFor();
    await isFine('no-match');
    await page.getByRole('button', { name: 'Show all products' }).click();
    for (const product of ['Phone', 'Phone', 'TV']) await add(page, product);
    await page.getByText('2 in the cart').waitFor();
    await isFine('filled');
    if (options.isMobile) {
      await page.getByRole('main').getByText('3 units').waitFor();
      await page.getByRole('link', { name: 'View the cart' }).click();
      await heading(page, 'Cart').waitFor();
    }
    await page.getByRole('status').getByText('$2,000.00').waitFor();
    await isFine('cart');
    await page.getByRole('button', { name: 'Place the order' }).click();
    await heading(page, 'Thank you for your order').waitFor();
    await page.getByText('You have placed 1 order so far, for $2,000.00 in total.').waitFor();
    await isFine('confirmation');
    await page.getByRole('link', { name: 'My orders' }).click();
    await page.getByText('2 × Phone, 1 × TV').waitFor();
    await isFine('orders');
    await page.getByRole('button', { name: /^Cancel the order of/ }).click();
    await page.getByRole('textbox', { name: 'Reason' }).fill('Ordered by mistake');
    await isFine('cancel');
    await page.getByRole('dialog').getByRole('button', { name: 'Cancel the order' }).click();
    await page.getByText('Cancelled', { exact: true }).waitFor();
    await page.getByRole('link', { name: /^Order of/ }).click();
    await page.getByText('Cancelled: Ordered by mistake').waitFor();
    await isFine('cancelled');
    await page.reload();
    await page.getByText('Cancelled: Ordered by mistake').waitFor();
    await page.getByRole('button', { name: 'Account of Bob' }).click();
    await page.getByText('1 order · $0.00').waitFor();
    await isFine('account');
    await page.getByRole('button', { name: 'Sign out' }).click();
    await heading(page, 'Who is shopping?').waitFor();
    assert.deepEqual(pageErrors, [], 'also no violation of the security policy');
    assert.deepEqual([...hosts], [new URL(service.url).host]);
  });
}

test('a quantity that cannot be ordered is explained at its field, which gets the focus, on a phone', async (t) => {
  const service = await start();
  await createProducts(service, 12);
  const { page } = await newPage(t, PHONE);
  await openShop(page, service);
  for (let index = 12; index >= 1; index--) await add(page, `Cable ${index}`);
  await page.getByRole('link', { name: 'View the cart' }).click();
  const quantity = page.getByRole('textbox', { name: 'Quantity of Cable 12' });
  for (const wrong of ['', '10001', '99999999999']) {
    await quantity.fill(wrong);
    await page.getByRole('button', { name: 'Place the order' }).click();
    await page.getByRole('alert').filter({ hasText: 'Use a whole number from 1 to 10,000.' }).waitFor();
    await hasFocus(page, quantity);
    assert.equal(await quantity.getAttribute('aria-invalid'), 'true');
  }
  await hasNoViolation(page, 'refused quantity');
  await quantity.fill('2');
  assert.equal(await page.getByRole('alert').count(), 0);
  await page.getByRole('button', { name: 'Place the order' }).click();
  await heading(page, 'Thank you for your order').waitFor();
});

test('what the service refuses is explained where it can be changed', async (t) => {
  const service = await start();
  const { page } = await newPage(t, PHONE);
  await openShop(page, service);
  for (const product of ['TV', 'Phone']) await add(page, product);
  await page.getByRole('link', { name: 'View the cart' }).click();
  await page.getByRole('textbox', { name: 'Quantity of Phone' }).waitFor();
  await update(service, { id: '2', available: false });
  await page.getByRole('button', { name: 'Place the order' }).click();
  await hasFocus(page, page.getByRole('textbox', { name: 'Quantity of Phone' }));
  await page.getByRole('alert').filter({ hasText: /not available|cannot be ordered|withdrawn/ }).waitFor();
  await hasNoViolation(page, 'withdrawn product');
  await page.screenshot({ path: path.join(web, 'artifacts/shop-refused-phone-light.png') });
  await page.getByRole('button', { name: 'Remove Phone' }).click();
  assert.equal(await page.getByRole('alert').count(), 0);
  await page.getByRole('button', { name: 'Place the order' }).click();
  await heading(page, 'Thank you for your order').waitFor();
  const { data } = await service.post({ query: ORDERS });
  assert.equal(data.orders.nodes.length, 1);
});

test('a total that is too large is explained above the order', async (t) => {
  const service = await start();
  await service.post({ query: CREATE, variables: { input: { name: 'Palace', price: '9999999999.99' } } });
  const { page } = await newPage(t, PHONE);
  await openShop(page, service);
  await add(page, 'Palace');
  await page.getByRole('link', { name: 'View the cart' }).click();
  await page.getByRole('textbox', { name: 'Quantity of Palace' }).fill('10000');
  await page.getByRole('button', { name: 'Place the order' }).click();
  await hasFocus(page, page.getByRole('alert').filter({ hasText: 'The total of the order is too large.' }));
  await hasNoViolation(page, 'refused total');
});

test('an order is shown at once and placed once, however often it is sent', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await openShop(page, service);
  await add(page, 'Phone');
  let isLost = true;
  let sent = 0;
  await page.route('**/graphql', async (route) => {
    if (!route.request().postData().includes('idempotencyKey')) return route.continue();
    sent++;
    await new Promise((resolve) => setTimeout(resolve, 200));
    if (!isLost) return route.continue();
    await route.fetch(); // The order is placed, and the response is lost.
    await route.abort();
  });
  await page.getByRole('button', { name: 'Place the order' }).dblclick();
  await heading(page, 'Placing your order').waitFor();
  assert.equal(await page.getByRole('button', { name: 'Place the order' }).count(), 0);
  await hasNoViolation(page, 'placing');
  await hasFocus(page, page.getByRole('alert').filter({ hasText: 'it is placed only once' }));
  assert.equal(sent, 3, 'the request was repeated');
  await page.reload();
  isLost = false;
  await page.getByRole('button', { name: 'Place the order' }).click();
  await heading(page, 'Thank you for your order').waitFor();
  await page.getByText('You have placed 1 order so far, for $500.00 in total.').waitFor();
  assert.equal((await service.post({ query: ORDERS })).data.orders.nodes.length, 1);
  // The same cart again is another order.
  await page.getByRole('link', { name: 'Products' }).click();
  await add(page, 'Phone');
  await page.getByRole('button', { name: 'Place the order' }).click();
  await page.getByText('You have placed 2 orders so far, for $1,000.00 in total.').waitFor();
});

test('the cart is the same in all tabs and after a reload, and is empty after the order', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await openShop(page, service);
  await add(page, 'Phone');
  const other = await page.context().newPage();
  await openShop(other, service);
  await other.getByRole('textbox', { name: 'Quantity of Phone' }).waitFor();
  await add(other, 'TV');
  await page.getByRole('textbox', { name: 'Quantity of TV' }).waitFor();
  await page.reload();
  await page.getByRole('textbox', { name: 'Quantity of TV' }).waitFor();
  await placeOrder(page);
  await heading(page, 'Thank you for your order').waitFor();
  await other.getByText('Your cart is empty').waitFor();
});

/** Counts how often a page stores its cart. Resolves to a function that returns the number. */
async function countSaves(page) {
  await page.addInitScript(() => {
    globalThis.saves = 0;
    const { setItem } = Storage.prototype;
    Storage.prototype.setItem = function (name, value) {
      if (name.startsWith('cart-')) globalThis.saves++;
      return setItem.call(this, name, value);
    };
  });
  return () => page.evaluate(() => globalThis.saves);
}

test('tabs that have read different prices agree on the newer one', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  const savesOfFirst = await countSaves(page);
  await openShop(page, service);
  await add(page, 'Phone');
  await page.getByText('$500.00 each').waitFor();
  await update(service, { id: '2', price: '450.00' });
  const other = await page.context().newPage();
  const savesOfSecond = await countSaves(other);
  await openShop(other, service);
  await other.getByText('$450.00 each (was $500.00)').waitFor();
  await page.getByText('$450.00 each').waitFor();
  // A change goes from one tab to the other and back, after all that came before it.
  await add(other, 'TV');
  await page.getByRole('textbox', { name: 'Quantity of TV' }).fill('2');
  await other.getByText('2 in the cart').waitFor();
  for (const tab of [page, other]) await tab.getByText('$450.00 each').waitFor();
  const saves = [await savesOfFirst(), await savesOfSecond()];
  assert.ok(saves[0] <= 3 && saves[1] <= 2, `the tabs stored the cart ${saves} times`);
});

test('a change of another tab that is older than what is stored is ignored', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await openShop(page, service);
  await add(page, 'Phone');
  await page.getByRole('textbox', { name: 'Quantity of Phone' }).waitFor();
  const stored = await page.evaluate(() => {
    const key = Object.keys(localStorage).find((name) => name.startsWith('cart-'));
    // As when both tabs change the cart at the same time, and this one is stored last.
    dispatchEvent(new StorageEvent('storage', { key, newValue: '[]', storageArea: localStorage }));
    return localStorage.getItem(key);
  });
  assert.equal(JSON.parse(stored).length, 1);
  await add(page, 'Phone');
  await page.getByText('2 in the cart').waitFor();
});

test('a cart that was changed is another order, also if it has the same products again', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await openShop(page, service);
  await add(page, 'Phone');
  await page.route('**/graphql', async (route) => {
    if (!route.request().postData().includes('idempotencyKey')) return route.continue();
    await route.fetch(); // The order is placed, and the response is lost.
    await route.abort();
  });
  await page.getByRole('button', { name: 'Place the order' }).click();
  await hasFocus(page, page.getByRole('alert').filter({ hasText: 'it is placed only once' }));
  await page.unroute('**/graphql');
  await page.getByRole('button', { name: 'Remove Phone' }).click();
  await add(page, 'Phone');
  await placeOrder(page);
  await page.getByText('You have placed 2 orders so far, for $1,000.00 in total.').waitFor();
});

test('a price that changes is shown before the order is placed', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await openShop(page, service);
  await add(page, 'Phone');
  await update(service, { id: '2', price: '450.00' });
  await page.reload();
  await page.getByText('$450.00 each (was $500.00)').waitFor();
  await placeOrder(page);
  await heading(page, 'Thank you for your order').waitFor();
  assert.equal(await page.getByText('A price has changed').count(), 0);
  await page.getByRole('link', { name: 'Products' }).click();
  await add(page, 'Phone');
  await page.getByText('$450.00 each').waitFor();
  await update(service, { id: '2', price: '475.00' });
  await placeOrder(page);
  await page.getByText('The cart showed $450.00. The order costs $475.00.').waitFor();
  await hasNoViolation(page, 'changed price');
});

test('products are found by words and SKU, and read a page at a time', async (t) => {
  const service = await start();
  await createProducts(service, 30);
  const { page } = await newPage(t);
  await openShop(page, service);
  const cards = page.locator('main').getByRole('listitem').filter({ has: page.getByRole('heading') });
  assert.equal(await cards.count(), 24);
  await page.getByRole('button', { name: 'Show more products' }).click();
  await page.getByRole('heading', { name: 'Cable 30' }).waitFor();
  assert.equal(await cards.count(), 33);
  assert.equal(await page.getByRole('button', { name: 'Show more products' }).count(), 0);
  const search = page.getByRole('searchbox', { name: 'Search products' });
  for (const [text, found] of [['cab', '24 products or more for “cab”'], ['CABLE-30', '1 product for “CABLE-30”']]) {
    await search.fill(text);
    await page.getByRole('status').filter({ hasText: found }).waitFor();
  }
  await add(page, 'Cable 30');
  await page.getByRole('button', { name: 'Clear the search' }).click();
  await page.getByRole('heading', { name: 'Phone' }).waitFor();
  await page.getByRole('textbox', { name: 'Quantity of Cable 30' }).waitFor();
});

test('the shop offers no withdrawn product', async (t) => {
  const service = await start();
  await update(service, { id: '1', available: false });
  // The list is read again after a second.
  const query = '{ products(available: true) { nodes { name } } }';
  const names = async () => (await service.post({ query })).data.products.nodes.map(({ name }) => name);
  while ((await names()).includes('Computer')) await new Promise((resolve) => setTimeout(resolve, 50));
  const { page } = await newPage(t);
  await openShop(page, service);
  assert.equal(await page.getByRole('heading', { name: 'Computer' }).count(), 0);
});

test('an order is placed and cancelled by keyboard alone', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await page.goto(at(service, '/shop'));
  await page.getByRole('button', { name: /^Bob/ }).waitFor();
  /** Presses the tabulator until a control with this name has the focus. Resolves to the names on the way. */
  const tabTo = async (name) => {
    const names = [];
    for (let steps = 0; steps < 40; steps++) {
      await page.keyboard.press('Tab');
      const focused = await page.evaluate(() => {
        const { activeElement: element } = document;
        return element.getAttribute('aria-label') ?? element.textContent;
      });
      names.push(focused);
      if (name.test(focused)) return names;
    }
    throw new Error(`the keyboard does not reach ${name}: ${names}`);
  };
  await tabTo(/Bob/);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Phone' }).waitFor();
  const names = await tabTo(/^Add to cart\s?Phone/);
  const order = ['Products', 'My orders', 'Search products', 'Add to cartPhone'].map((name) => names.indexOf(name));
  assert.ok(order.every((place, index) => place > (order[index - 1] ?? -1)), `${names}`);
  await page.keyboard.press('Enter');
  await tabTo(/^Quantity of Phone/);
  await page.keyboard.press('ArrowUp');
  await page.getByRole('status').getByText('$1,000.00').waitFor();
  await page.keyboard.press('Enter');
  await heading(page, 'Thank you for your order').waitFor();
  await page.waitForFunction(() => document.activeElement.tagName === 'H1');
  await tabTo(/^Cancel the order/);
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').waitFor();
  await page.waitForFunction(() => document.activeElement.tagName === 'TEXTAREA');
  await page.keyboard.type('Too many');
  await tabTo(/^Cancel the order/);
  await page.keyboard.press('Enter');
  await page.getByText('Cancelled: Too many').waitFor();
});

test('a refused cancellation is explained in its dialog, which stays open while it is sent and starts afresh', async (t) => {
  const service = await start({ CANCEL_WINDOW: '1ms' });
  const { page } = await newPage(t);
  await openShop(page, service);
  await add(page, 'Phone');
  await placeOrder(page);
  await heading(page, 'Thank you for your order').waitFor();
  const open = page.getByRole('button', { name: 'Cancel the order' });
  await open.click();
  const dialog = page.getByRole('dialog');
  const send = dialog.getByRole('button', { name: 'Cancel the order' });
  await send.click();
  await dialog.getByText('Say why, in a few words.').waitFor();
  const reason = dialog.getByRole('textbox', { name: 'Reason' });
  await reason.fill('Too late');
  let answer;
  const mayAnswer = new Promise((resolve) => (answer = resolve));
  const sent = page.waitForRequest((request) => request.postData()?.includes('Too late'));
  await page.route('**/graphql', async (route) => {
    if (route.request().postData().includes('Too late')) await mayAnswer;
    await route.continue();
  });
  await send.click();
  await sent;
  await page.keyboard.press('Escape');
  await page.mouse.click(5, 5);
  for (const name of ['Close', 'Keep the order']) assert.ok(await dialog.getByRole('button', { name }).isDisabled(), name);
  await hasNoViolation(page, 'cancelling');
  answer();
  await hasFocus(page, dialog.getByRole('alert').filter({ hasText: 'The order was not cancelled' }));
  await hasNoViolation(page, 'refused cancellation');
  await dialog.getByRole('button', { name: 'Keep the order' }).click();
  await dialog.waitFor({ state: 'detached' });
  await page.getByText('Placed', { exact: true }).waitFor();
  await open.click();
  await reason.waitFor();
  assert.equal(await reason.inputValue(), '');
  assert.equal(await dialog.getByRole('alert').count(), 0);
});

test('a cancellation whose response is lost is sent again with its key', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await openShop(page, service);
  await add(page, 'Phone');
  await placeOrder(page);
  await heading(page, 'Thank you for your order').waitFor();
  await page.getByRole('button', { name: 'Cancel the order' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByRole('textbox', { name: 'Reason' }).fill('By mistake');
  await page.route('**/graphql', async (route) => {
    if (!route.request().postData().includes('By mistake')) return route.continue();
    await route.fetch(); // The order is cancelled, and the response is lost.
    await route.abort();
  });
  const send = dialog.getByRole('button', { name: 'Cancel the order' });
  await send.click();
  await hasFocus(page, dialog.getByRole('alert').filter({ hasText: 'The service cannot be reached.' }));
  await page.unroute('**/graphql');
  await send.click();
  await page.getByText('Cancelled: By mistake').waitFor();
  await dialog.waitFor({ state: 'detached' });
});

test('the page of an order follows changes by others', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await openShop(page, service);
  await add(page, 'Phone');
  await placeOrder(page);
  await heading(page, 'Thank you for your order').waitFor();
  const { id } = (await service.post({ query: ORDERS })).data.orders.nodes[0];
  const refund = 'mutation Refund($input: RefundOrderInput!) { refundOrder(input: $input) { userErrors { code } } }';
  const input = { orderId: id, amount: '100.00', reason: 'Scratched' };
  assert.deepEqual((await service.post({ query: refund, variables: { input } })).data.refundOrder.userErrors, []);
  await page.getByText('Partly refunded').waitFor();
  await page.getByText('$400.00', { exact: true }).waitFor();
  await page.goto(at(service, `/shop/orders/${randomUUID()}`));
  await page.getByText('You have no such order').waitFor();
  await hasNoViolation(page, 'no such order');
  await page.goto(at(service, '/shop/nothing'));
  await heading(page, 'Page not found').waitFor();
});

test('failures are shown in their place and can be repeated', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await page.goto(at(service, '/shop'));
  await page.getByRole('button', { name: /^Bob/ }).waitFor();
  await page.route('**/graphql', (route) => route.abort());
  await page.getByRole('button', { name: /^Bob/ }).click();
  await page.getByRole('status', { name: 'Loading the products' }).waitFor();
  await hasNoViolation(page, 'loading');
  const alert = page.getByRole('alert').filter({ hasText: 'The products cannot be shown' });
  await alert.filter({ hasText: 'The service cannot be reached.' }).waitFor();
  await hasNoViolation(page, 'failed');
  await page.unroute('**/graphql');
  await alert.getByRole('button', { name: 'Try again' }).click();
  await page.getByRole('heading', { name: 'Phone' }).waitFor();
  assert.equal(await alert.count(), 0);
  await page.getByRole('link', { name: 'My orders' }).click();
  await page.getByText('You have no orders yet').waitFor();
  await hasNoViolation(page, 'no orders');
});

test('after a restart of the service, the shop connects again with a new token', async (t) => {
  const settings = { DATABASE_URL: `sqlite://${await temporaryDirectory()}/orders.db` };
  const first = await start(settings);
  const { page, pageErrors } = await newPage(t);
  await openShop(page, first);
  await add(page, 'Phone');
  await first.stop();
  await page.getByRole('status').filter({ hasText: 'Connection lost' }).waitFor();
  await hasNoViolation(page, 'connection lost');
  await page.screenshot({ path: path.join(web, 'artifacts/shop-connection-lost.png') });
  await placeOrder(page);
  await hasFocus(page, page.getByRole('alert').filter({ hasText: 'You can place the order again' }));
  // This service has another secret.
  await start({ ...settings, LISTEN_ADDR: new URL(first.url).host });
  await page.getByText('Connection lost').waitFor({ state: 'detached' });
  await placeOrder(page);
  await page.getByText('You have placed 1 order so far, for $500.00 in total.').waitFor();
  assert.deepEqual(pageErrors.filter((text) => !LOGGED.test(text)), []);
});

test('a token is asked for, must be for one client, and is asked for again when it has expired', async (t) => {
  const secret = { JWT_SECRET: randomUUID() };
  const service = await start(secret);
  const mint = async (...options) => {
    const scope = ['--scope', 'orders:place orders:read orders:cancel clients:read products:read'];
    return (await run(program('api'), ['token', ...scope, ...options], { env: secret })).stdout.trim();
  };
  const { page } = await newPage(t);
  const claims = { client: 'orders_client', scope: 'scope', scopePrefix: '' };
  await page.route('**/pages/config.json*', (route) => route.fulfill({ json: { headers: {}, claims } }));
  await page.goto(at(service, '/shop'));
  const token = page.getByLabel('Token', { exact: true });
  await token.waitFor();
  assert.equal(await page.getByRole('navigation').count(), 0, 'nothing is shown before');
  await hasNoViolation(page, 'token');
  const signIn = async (text) => {
    await token.fill(text);
    await page.getByRole('button', { name: 'Sign in' }).click();
  };
  await signIn('wrong');
  await page.getByText('This is not a token.').waitFor();
  await signIn(await mint());
  await page.getByRole('alert').filter({ hasText: 'This token is not for one client' }).waitFor();
  await signIn(await mint('--client', '1'));
  await page.getByRole('heading', { name: 'Phone' }).waitFor();
  await page.reload();
  await page.getByRole('heading', { name: 'Phone' }).waitFor();
  await add(page, 'Phone');
  // As the service answers when the token has expired.
  const expired = { errors: [{ message: 'The token is invalid.', extensions: { code: 'UNAUTHENTICATED' } }] };
  await page.route('**/graphql', (route) => route.fulfill({ status: 401, json: expired }));
  await page.getByRole('button', { name: 'Place the order' }).click();
  await page.getByRole('alert').filter({ hasText: 'Your session has expired.' }).waitFor();
  await page.unroute('**/graphql');
  await signIn(await mint('--client', '1'));
  await page.getByRole('textbox', { name: 'Quantity of Phone' }).waitFor();
});

test('signing out removes the token also while the service cannot be reached', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await openShop(page, service);
  await page.getByRole('button', { name: 'Account of Bob' }).click();
  await page.context().setOffline(true);
  await page.getByRole('button', { name: 'Sign out' }).click();
  await heading(page, 'Sign in').waitFor();
  await page.context().setOffline(false);
  await page.reload();
  await heading(page, 'Who is shopping?').waitFor();
});

test('a new client registers and orders at once', async (t) => {
  const service = await start();
  const { page, pageErrors } = await newPage(t);
  await page.goto(at(service, '/shop'));
  await page.getByRole('button', { name: 'Register a new client' }).click();
  const [name, email] = [page.getByLabel('Name'), page.getByLabel('E-mail address', { exact: true })];
  const register = page.getByRole('button', { name: 'Register and sign in' });
  await name.fill('Zoë');
  await register.click();
  await page.getByText('Enter an e-mail address.').waitFor();
  await email.fill('bob@anemailprovider.com');
  await register.click();
  await page.getByText('Another client has this e-mail address.').waitFor();
  await hasFocus(page, email);
  await hasNoViolation(page, 'refused registration');
  await email.fill('zoe@anemailprovider.com');
  // As long as the read model does not have the client.
  await page.route('**/graphql', async (route) => {
    const response = await route.fetch();
    const json = await response.json();
    if (json.data?.client) json.data.client = null;
    await route.fulfill({ response, json });
  });
  await register.click();
  await page.getByRole('button', { name: 'Account of Zoë' }).waitFor();
  await page.unroute('**/graphql');
  await add(page, 'Phone');
  await placeOrder(page);
  await page.getByText('You have placed 1 order so far, for $500.00 in total.').waitFor();
  assert.deepEqual(pageErrors, []);
});

test('the shop and the back office have sessions of their own in the same tab', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await page.goto(at(service, '/admin'));
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  await openShop(page, service);
  await page.goto(at(service, '/admin'));
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  await page.goto(at(service, '/shop'));
  await page.getByRole('heading', { name: 'Phone' }).waitFor();
});

test('amounts have the digits of their currency and the format of the locale', async (t) => {
  for (const [currency, locale, amount, sum] of [
    ['JPY', 'ja-JP', /^[¥￥]50,000$/, /^[¥￥]100,000$/],
    ['KWD', 'pt-BR', /^KWD\s50,000$/, /^KWD\s100,000$/],
    ['EUR', 'de-DE', /^500,00\s€$/, /^1\.000,00\s€$/],
    // Browsers have no decimal places for these.
    ['COP', 'en', /^COP\s500\.00$/, /^COP\s1,000\.00$/],
    ['IQD', 'en', /^IQD\s50\.000$/, /^IQD\s100\.000$/],
  ]) {
    const service = await start({ CURRENCY: currency });
    const { page } = await newPage(t, { locale });
    await openShop(page, service);
    await page.getByText(amount).first().waitFor();
    await add(page, 'Phone');
    await add(page, 'Phone');
    await page.getByRole('status').filter({ hasText: sum }).waitFor();
    await service.stop();
  }
});

test('the shop needs less than 250 KB', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  const sizes = {};
  const session = await page.context().newCDPSession(page);
  await session.send('Network.enable');
  const urls = {};
  session.on('Network.responseReceived', ({ requestId, response }) => (urls[requestId] = response.url));
  session.on('Network.loadingFinished', ({ requestId, encodedDataLength }) => (sizes[urls[requestId]] = encodedDataLength));
  await openShop(page, service);
  const total = Object.values(sizes).reduce((sum, size) => sum + size, 0);
  assert.ok(total > 50_000 && total < 250_000, JSON.stringify(sizes, null, 2));
});
