// The products of the back office, in a browser: each flow by what users see.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { before } from 'node:test';
import { CANCEL, checkerOf, CREATE, createArtifacts, hasFocus, heading, intercept, mutate, place, SCREENS, useToken } from './admin.js';
import { isTidy } from './layout.js';
import { hasNoViolation, openAdmin } from './pages.js';
import { browse, program, run, start, test } from './support.js';

let newPage;
before(async () => {
  newPage = await browse();
  await createArtifacts();
});

const PRODUCTS = '{ products(first: 50) { nodes { id name sku available price { amount } } } }';
const rows = (page) => page.getByRole('table', { name: 'Products' }).getByRole('row').filter({ has: page.getByRole('cell') });
const history = (page) => page.getByRole('table', { name: 'History' });
const dialog = (page) => page.getByRole('dialog');

/** The products of the service, as soon as the list has what `isThere` looks for. */
async function listed(service, isThere) {
  for (;;) {
    const { nodes } = (await service.post({ query: PRODUCTS })).data.products;
    if (nodes.some(isThere)) return nodes;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

for (const [screen, options] of Object.entries(SCREENS)) {
  test(`a product is created, edited, withdrawn and offered again (${screen})`, async (t) => {
    const service = await start();
    const { page, pageErrors, hosts } = await newPage(t, options);
    const isFine = checkerOf(page, 'products', screen);
    await openAdmin(page, service, '/products');
    await page.getByText('3 products', { exact: true }).waitFor();
    await isFine('list');
    await page.getByRole('button', { name: 'New product' }).click();
    await hasFocus(page, dialog(page).getByLabel('Name'));
    await dialog(page).getByRole('button', { name: 'Create the product' }).click();
    await dialog(page).getByText('Enter a name.').waitFor();
    await dialog(page).getByText('Write an amount such as 1250.00.').waitFor();
    await hasFocus(page, dialog(page).getByLabel('Name'));
    await isFine('refused');
    await dialog(page).getByLabel('Name').fill('Big Red Lamp');
    await dialog(page).getByLabel('Price (USD)').fill('1,234.50');
    await dialog(page).getByLabel('SKU').fill('LAMP 1');
    await dialog(page).getByRole('button', { name: 'Create the product' }).click();
    await dialog(page).getByText('without spaces').waitFor();
    await hasFocus(page, dialog(page).getByLabel('SKU'));
    await dialog(page).getByLabel('SKU').fill('LAMP-1');
    await dialog(page).getByRole('button', { name: 'Create the product' }).click();
    await heading(page, /^Big Red Lamp/).waitFor();
    await page.getByRole('status').filter({ hasText: 'The product is created.' }).waitFor();
    await page.getByRole('region', { name: 'Product' }).first().getByText('$1,234.50').waitFor();
    await history(page).getByText('Created').waitFor();
    await isFine('new');

    await page.getByRole('button', { name: 'Edit' }).click();
    await dialog(page).getByLabel('Price (USD)').waitFor();
    assert.equal(await dialog(page).getByLabel('Price (USD)').inputValue(), '1234.50');
    await dialog(page).getByLabel('SKU').fill('');
    await dialog(page).getByRole('button', { name: 'Save' }).click();
    await dialog(page).getByText('The SKU can be changed but not removed.').waitFor();
    await dialog(page).getByLabel('SKU').fill('LAMP-2');
    await dialog(page).getByLabel('Price (USD)').fill('999.99');
    await isFine('edit');
    await dialog(page).getByRole('button', { name: 'Save' }).click();
    await page.getByRole('status').filter({ hasText: 'The product is changed.' }).waitFor();
    await history(page).getByText('Price: $1,234.50 → $999.99').waitFor();
    await hasFocus(page, page.getByRole('button', { name: 'Edit' }));

    await page.getByRole('button', { name: 'Withdraw' }).click();
    await page.getByRole('status').filter({ hasText: 'The product is withdrawn.' }).waitFor();
    await heading(page, /Withdrawn$/).waitFor();
    await history(page).getByText('Offered: yes → no').waitFor();
    await isFine('withdrawn');
    await listed(service, ({ sku, available }) => sku === 'LAMP-2' && !available);
    await openAdmin(page, service, '/products');
    await page.getByLabel('Availability').selectOption('Withdrawn');
    await rows(page).filter({ hasText: 'LAMP-2' }).waitFor();
    await page.getByText('1 product', { exact: true }).waitFor();
    assert.match(page.url(), /\?offered=no$/);
    await page.getByLabel('Availability').selectOption('Offered');
    await page.getByText('3 products', { exact: true }).waitFor();
    await page.getByLabel('Availability').selectOption('All');
    await page.getByRole('searchbox', { name: 'Search' }).fill('red la');
    await page.getByText('1 product', { exact: true }).waitFor();
    await page.getByRole('searchbox', { name: 'Search' }).fill('nothing');
    await page.getByText('No product matches').waitFor();
    await isFine('no-match');
    await page.getByRole('button', { name: 'Show all products' }).click();
    await rows(page).getByRole('link', { name: 'Big Red Lamp' }).click();
    await page.getByRole('button', { name: 'Offer again' }).click();
    await page.getByRole('status').filter({ hasText: 'The product can be ordered again.' }).waitFor();
    await page.getByRole('button', { name: 'Withdraw' }).waitFor();
    assert.deepEqual(pageErrors, [], 'also no violation of the security policy');
    assert.deepEqual([...hosts], [new URL(service.url).host]);
  });
}

test('the page of a product shows how much of it was sold', async (t) => {
  const service = await start();
  await place(service, '1', [{ productId: '2', quantity: 3 }]);
  await mutate(service, CANCEL, { orderId: await place(service, '2'), reason: 'Ordered by mistake' });
  const today = new Date().toISOString().slice(0, 10);
  const query = `{ product(id: 2) { sales(from: "${today}", to: "${today}") { units grossUnits } } }`;
  const isApplied = ({ units, grossUnits }) => units === 3 && grossUnits === 4;
  while (!isApplied((await service.post({ query })).data.product.sales)) await new Promise((resolve) => setTimeout(resolve, 50));
  const { page, pageErrors } = await newPage(t);
  await openAdmin(page, service, '/products/2');
  for (const days of ['Last 30 days', 'Last 365 days']) {
    await page.getByRole('region', { name: 'Sales' }).getByText(days).locator('xpath=..').filter({ hasText: /\$1,500\.00\s*3 units/ }).waitFor();
  }
  assert.deepEqual(pageErrors, []);
});

test('a product whose response is lost is created once', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  let isLost = true;
  await intercept(page, 'AdminCreateProduct', async (route) => {
    if (!isLost) return route.continue();
    await route.fetch();
    return route.abort();
  });
  await openAdmin(page, service, '/products');
  await page.getByRole('button', { name: 'New product' }).click();
  await dialog(page).getByLabel('Name').fill('Lamp');
  await dialog(page).getByLabel('Price (USD)').fill('10');
  await dialog(page).getByRole('button', { name: 'Create the product' }).dblclick();
  await hasFocus(page, dialog(page).getByRole('alert').filter({ hasText: 'It is not known whether this was done' }));
  await hasNoViolation(page, 'lost response');
  isLost = false;
  await dialog(page).getByRole('button', { name: 'Create the product' }).click();
  await heading(page, /^Lamp/).waitFor();
  const products = await listed(service, ({ name }) => name === 'Lamp');
  assert.equal(products.filter(({ name }) => name === 'Lamp').length, 1);
});

test('prices are read and written as the locale does', async (t) => {
  for (const [currency, locale, typed, amount, shown] of [
    ['EUR', 'de-DE', '1.234,50', '1234.50', '1234,50'],
    ['KWD', 'pt-BR', '0,125', '0.125', '0,125'],
    ['JPY', 'ja-JP', '1,234', '1234', '1234'],
  ]) {
    const service = await start({ CURRENCY: currency });
    const { page } = await newPage(t, { locale });
    await openAdmin(page, service, '/products');
    await page.getByRole('button', { name: 'New product' }).click();
    await dialog(page).getByLabel('Name').fill('Lamp');
    await dialog(page).getByLabel(`Price (${currency})`).fill(typed);
    await dialog(page).getByRole('button', { name: 'Create the product' }).click();
    await heading(page, /^Lamp/).waitFor();
    const products = await listed(service, ({ name }) => name === 'Lamp');
    assert.equal(products.find(({ name }) => name === 'Lamp').price.amount, amount, currency);
    await page.getByRole('button', { name: 'Edit' }).click();
    await dialog(page).getByLabel(`Price (${currency})`).waitFor();
    assert.equal(await dialog(page).getByLabel(`Price (${currency})`).inputValue(), shown);
    await service.stop();
  }
});

test('failures are shown in their place and can be repeated', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  let isDown = true;
  await intercept(page, 'AdminProduct', (route) => (isDown ? route.abort() : route.continue()));
  await intercept(page, 'AdminUpdateProduct', (route) => (isDown ? route.abort() : route.continue()));
  await openAdmin(page, service, '/products/1');
  await page.getByRole('status', { name: 'Loading the product' }).waitFor();
  await hasNoViolation(page, 'loading');
  const alert = page.getByRole('alert').filter({ hasText: 'The product cannot be shown' });
  await alert.waitFor();
  await hasNoViolation(page, 'failed');
  isDown = false;
  await alert.getByRole('button', { name: 'Try again' }).click();
  await heading(page, /^Computer/).waitFor();
  isDown = true;
  await page.getByRole('button', { name: 'Withdraw' }).click();
  await page.getByRole('alert').filter({ hasText: 'The product was not changed' }).waitFor();
  await hasNoViolation(page, 'not withdrawn');
  isDown = false;
  await page.getByRole('button', { name: 'Withdraw' }).click();
  await heading(page, /Withdrawn$/).waitFor();
  await openAdmin(page, service, '/products/987654');
  await page.getByText('There is no such product').waitFor();
});

test('what the scopes of the token forbid is not offered', async (t) => {
  const secret = { JWT_SECRET: randomUUID() };
  const service = await start(secret);
  const { stdout } = await run(program('api'), ['token', '--scope', 'products:read'], { env: secret });
  const { page, pageErrors } = await newPage(t);
  await useToken(page, stdout.trim());
  await openAdmin(page, service, '/products');
  await page.getByText('3 products', { exact: true }).waitFor();
  assert.equal(await page.getByRole('button', { name: 'New product' }).count(), 0);
  await openAdmin(page, service, '/products/1');
  await heading(page, /^Computer/).waitFor();
  assert.equal(await page.getByRole('region', { name: 'Sales' }).count(), 0);
  for (const name of ['Edit', 'Withdraw']) assert.equal(await page.getByRole('button', { name }).count(), 0);
  await hasNoViolation(page, 'read only');
  assert.deepEqual(pageErrors, []);
});

const LONG = `${'Donaudampfschiff'.repeat(5)} ${'and a long name '.repeat(6)}`.trim();

test('nothing overlaps, however long names and amounts are', async (t) => {
  const service = await start();
  const { productId } = await mutate(service, CREATE, { name: LONG, price: '999999999.99', sku: 'S'.repeat(64) });
  await listed(service, ({ name }) => name === LONG);
  for (const width of [320, 390, 1280]) {
    const { page } = await newPage(t, { viewport: { width, height: 800 }, isMobile: width < 600 });
    await page.route('**/graphql', async (route) => {
      const response = await route.fetch();
      return route.fulfill({ response, body: (await response.text()).replaceAll('"999999999.99"', '"1000000000000000.00"') });
    });
    await openAdmin(page, service, '/products');
    await rows(page).getByText('$1,000,000,000,000,000.00').waitFor();
    await isTidy(page, `layout-admin-products-${width}`);
    await openAdmin(page, service, `/products/${productId}`);
    await history(page).getByText('Created').waitFor();
    await isTidy(page, `layout-admin-product-${width}`);
  }
});
