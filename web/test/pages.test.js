// The dashboard, in a browser, and the way of an order from the shop to the dashboard.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { before } from 'node:test';
import { add, at, hasNoViolation, openDashboard, openShop, placeOrder, shows } from './pages.js';
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
  await openShop(shop.page, service, 'Alice');
  for (const product of ['Phone', 'TV', 'Phone', 'Phone']) await add(shop.page, product);
  await placeOrder(shop.page);
  const began = performance.now();
  await shows(dashboard.page, 1);
  const waited = performance.now() - began;
  assert.ok(waited < 1_000, `it took ${waited} ms`);
  await shop.page.getByText('You have placed 1 order so far, for $2,500.00 in total.').waitFor();
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

test('the dashboard is accessible in light and dark mode, on a phone and on a desktop', async (t) => {
  const service = await start();
  const orders = 12;
  for (let placed = 0; placed < orders; placed++) await service.placeOrder(String((placed % 3) + 1));
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
    assert.deepEqual(pageErrors, []);
  }
});

test('the dashboard works with trusted documents only, and asks for a token if it has none', async (t) => {
  const directory = await temporaryDirectory();
  const secret = { JWT_SECRET: randomUUID() };
  // The manifest of another frontend: the pages bring their own documents.
  const manifest = path.join(directory, 'trusted.json');
  await writeFile(manifest, JSON.stringify({ theirs: '{ __typename }' }));
  const service = await start({ ...secret, TRUSTED_DOCUMENTS: manifest });
  const scope = 'clients:read products:read sales:read';
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
