// The dashboard and the shop, in a browser.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { before } from 'node:test';
import { at, hasNoViolation, openDashboard, openShop, shows } from './pages.js';
import { browse, program, run, start, temporaryDirectory, test, web } from './support.js';

let newPage;
before(async () => {
  newPage = await browse();
});

test('an order from the shop appears on the dashboard within a second', async (t) => {
  const service = await start();
  const dashboard = await newPage(t);
  const shop = await newPage(t);
  await openDashboard(dashboard.page, service);
  await shows(dashboard.page, 0);
  await openShop(shop.page, service);
  await shop.page.getByLabel('Number').fill('2');
  await shop.page.getByLabel('Phone').fill('3');
  await shop.page.getByLabel('TV').fill('1');
  assert.equal(await shop.page.locator('#total').textContent(), '$2,500.00');
  await shop.page.getByRole('button').click();
  const began = performance.now();
  await shows(dashboard.page, 1);
  const waited = performance.now() - began;
  assert.ok(waited < 1_000, `it took ${waited} ms`);
  const placed = shop.page.locator('#done li');
  await placed.filter({ hasText: 'Alice now has 1 order of $2,500.00' }).waitFor();
  assert.equal(await dashboard.page.locator('#revenue').textContent(), '$2,500.00');
  const last = dashboard.page.locator('#latest tbody tr');
  assert.match(await last.innerText(), /\tAlice\t2\t\$2,500\.00$/);
  await dashboard.page.locator('#clients tbody tr', { hasText: 'Alice' }).waitFor();
  await dashboard.page.locator('#products tbody tr', { hasText: 'Phone' }).waitFor();
  await dashboard.page.locator('#over-time-total', { hasText: '$2,500.00 in 1 order' }).waitFor();
  assert.match(await dashboard.page.locator('#lag').textContent(), /^0\.\d\d s$/);

  for (const range of ['48 hours', '24 months']) {
    await dashboard.page.getByLabel(range).check();
    const rows = range === '48 hours' ? 48 : 24;
    await dashboard.page.waitForFunction((rows) => document.querySelector('#points').tBodies[0].rows.length === rows, rows);
  }
  for (const { pageErrors, hosts } of [dashboard, shop]) {
    assert.deepEqual(pageErrors, []);
    assert.deepEqual([...hosts], [new URL(service.url).host]);
  }
});

test('a client that registers in the shop can order at once and appears on the dashboard', async (t) => {
  const service = await start();
  const dashboard = await newPage(t);
  const { page, pageErrors } = await newPage(t);
  await openDashboard(dashboard.page, service);
  await openShop(page, service);
  await page.getByText('Register a new client').click();
  await page.getByLabel('Name').fill('Zoë');
  await page.getByLabel('E-mail').fill('bob@anemailprovider.com');
  await page.getByRole('button', { name: 'Register' }).click();
  await page.locator('#register-error', { hasText: 'Another client has this e-mail address.' }).waitFor();
  assert.equal(await page.getByLabel('E-mail').getAttribute('aria-invalid'), 'true');
  await hasNoViolation(page, 'rejected registration');
  await page.getByLabel('E-mail').fill('zoe@anemailprovider.com');
  await page.getByRole('button', { name: 'Register' }).click();
  await page.locator('#client-summary', { hasText: 'Zoë, 0 orders, $0.00' }).waitFor();
  assert.equal(await page.locator('#clients option').first().textContent(), 'Zoë');
  assert.ok(await page.locator('#register-error').isHidden());
  await page.getByLabel('Phone').fill('1');
  await page.getByRole('button', { name: 'Place the order' }).click();
  await dashboard.page.locator('#clients tbody tr', { hasText: 'Zoë' }).filter({ hasText: '$500.00' }).waitFor();
  assert.deepEqual(pageErrors, []);
});

test('problems are shown beside their fields and a lost response does not repeat the order', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await openShop(page, service);
  const button = page.getByRole('button');
  await button.click();
  await page.locator('#items-error', { hasText: 'The order has no items.' }).waitFor();
  await page.getByLabel('Number').fill('77');
  await page.getByLabel('TV').fill('10001');
  await button.click();
  await page.locator('#client-error', { hasText: 'There is no such client.' }).waitFor();
  await page.locator('#items-error', { hasText: 'from 1 to 10000' }).waitFor();
  assert.equal(await page.getByLabel('TV').getAttribute('aria-invalid'), 'true');
  assert.equal(await page.getByLabel('Phone').getAttribute('aria-invalid'), 'false');
  await hasNoViolation(page, 'rejected order');
  await page.getByLabel('Number').fill('1');
  await page.getByLabel('TV').fill('1');
  // The response is lost. A second click places the order only once.
  await page.route('**/graphql', async (route) => {
    await route.fetch();
    await route.abort();
  }, { times: 1 });
  await button.click();
  await page.getByRole('alert').filter({ hasText: 'placed only once' }).waitFor();
  await button.click();
  await page.locator('#done li', { hasText: 'Bob now has 1 order' }).waitFor();
  assert.equal(await page.locator('#client-error').isVisible(), false);
  // A placed order must not be repeated when the query after it fails.
  await page.getByLabel('TV').fill('2');
  assert.equal(await page.locator('#total').textContent(), '$2,000.00');
  await page.route('**/graphql', (route) => {
    const isQuery = route.request().postData().includes('minVersion');
    return isQuery ? route.abort() : route.continue();
  });
  await button.click();
  await page.locator('#done li', { hasText: 'The order was placed.' }).waitFor();
  assert.equal(await page.getByRole('alert').isVisible(), false);
});

test('the dashboard reconnects when the service comes back', async (t) => {
  // The second service has another secret and so another token.
  const settings = { DATABASE_URL: `sqlite://${await temporaryDirectory()}/orders.db` };
  const before = await start(settings);
  const { page } = await newPage(t);
  await openDashboard(page, before);
  await before.placeOrder('1');
  await shows(page, 1);
  await before.stop();
  await page.locator('#connection:not([data-state=connected])').waitFor();
  const after = await start({ ...settings, LISTEN_ADDR: new URL(before.url).host });
  await page.locator('#connection[data-state=connected]').waitFor();
  await after.placeOrder('1');
  await shows(page, 2);
});

test('the pages are accessible in light and dark mode, on a phone and on a desktop', async (t) => {
  const service = await start();
  let orders = 0;
  for (; orders < 12; orders++) await service.placeOrder(String((orders % 3) + 1));
  const phone = { width: 390, height: 844 };
  const desk = { width: 1440, height: 1000 };
  for (const [name, options] of Object.entries({
    light: { viewport: desk, colorScheme: 'light' },
    dark: { viewport: desk, colorScheme: 'dark' },
    phone: { viewport: phone, colorScheme: 'dark', isMobile: true },
  })) {
    const { page, pageErrors } = await newPage(t, options);
    await openDashboard(page, service);
    await shows(page, orders);
    await page.locator('#clients tbody tr').nth(2).waitFor();
    await hasNoViolation(page, `dashboard, ${name}`);
    const isWide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.equal(isWide, false, 'nothing is wider than the screen');
    await page.screenshot({ path: path.join(web, `artifacts/dashboard-${name}.png`), fullPage: true });
    await openShop(page, service);
    await hasNoViolation(page, `shop, ${name}`);
    await page.screenshot({ path: path.join(web, `artifacts/shop-${name}.png`), fullPage: true });
    // An order by keyboard alone.
    await page.getByLabel('Computer').focus();
    await page.keyboard.press('ArrowUp');
    await page.keyboard.press('Enter');
    await page.locator('#done li', { hasText: 'On the dashboard' }).waitFor();
    orders++;
    assert.deepEqual(pageErrors, []);
  }
});

test('the pages work with trusted documents only, and a page without a token asks for one', async (t) => {
  const directory = await temporaryDirectory();
  const secret = { JWT_SECRET: randomUUID() };
  // The manifest of another frontend: the pages bring their own documents.
  const manifest = path.join(directory, 'trusted.json');
  await writeFile(manifest, JSON.stringify({ theirs: '{ __typename }' }));
  const service = await start({ ...secret, TRUSTED_DOCUMENTS: manifest });
  const scope = 'orders:place clients:read products:read sales:read';
  const { stdout: token } = await run(program('api'), ['token', '--scope', scope], { env: secret });
  const { page } = await newPage(t);
  await page.route('**/pages/config.json', (route) => route.fulfill({ json: { headers: {} } }));
  await page.goto(at(service, '/dashboard'));
  await page.getByLabel('A token with the scope').fill('wrong');
  await page.getByRole('button').click();
  await page.getByRole('alert').filter({ hasText: 'The token was refused.' }).waitFor();
  await page.getByLabel('A token with the scope').fill(token);
  await page.getByRole('button').click();
  await shows(page, 0);
  await page.locator('#over-time-total', { hasText: '$0.00 in 0 orders' }).waitFor();
  assert.equal((await service.post({ query: '{ clients { nodes { id } } }' }, token.trim())).errors[0].extensions.code, 'QUERY_NOT_IN_SAFELIST');
});
