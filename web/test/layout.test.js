// Nothing in the shop overlaps, however long names and amounts are, on screens of each width.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { before } from 'node:test';
import { faults, isTidy } from './layout.js';
import { add, at, openShop } from './pages.js';
import { browse, start, test, web } from './support.js';

const LONG = `${'Donaudampfschiff'.repeat(5)} ${'and a long name '.repeat(6)}`.trim();
const CREATE = 'mutation Create($input: CreateProductInput!) { createProduct(input: $input) { product { id } } }';
const REGISTER = 'mutation Register($input: RegisterClientInput!) { registerClient(input: $input) { client { id } } }';
const PLACE = 'mutation Place($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } } }';

let service;
let newPage;
before(async () => {
  newPage = await browse();
  service = await start();
  const mutate = async (query, input) => Object.values((await service.post({ query, variables: { input } })).data)[0];
  const { product } = await mutate(CREATE, { name: LONG, price: '999999999.99' });
  const { client } = await mutate(REGISTER, { name: LONG, email: `${'long'.repeat(15)}@example.com` });
  const { order } = await mutate(PLACE, { clientId: client.id, items: [{ productId: product.id, quantity: 10 }] });
  assert.ok(order);
  for (let orders = 1; orders < 12; orders++) await service.placeOrder(String((orders % 3) + 1));
  await mkdir(path.join(web, 'artifacts'), { recursive: true });
});

for (const width of [320, 390, 1280]) {
  test(`nothing overlaps on a screen of ${width} pixels`, async (t) => {
    const { page } = await newPage(t, { viewport: { width, height: 800 }, isMobile: width < 600 });
    await page.goto(at(service, '/shop'));
    await page.getByRole('button', { name: /^Donau/ }).waitFor();
    await isTidy(page, `layout-sign-in-${width}`);
    await openShop(page, service, 'Donau');
    await isTidy(page, `layout-products-${width}`);
    await add(page, LONG);
    if (width < 600) await page.getByRole('link', { name: 'View the cart' }).click();
    await page.getByRole('textbox', { name: `Quantity of ${LONG}` }).fill('10000');
    await page.getByRole('status').filter({ hasText: '$9,999,999,999,900.00' }).waitFor();
    await isTidy(page, `layout-cart-${width}`);
    await page.getByRole('button', { name: 'Place the order' }).click();
    await page.getByRole('alert').filter({ hasText: 'The total of the order is too large.' }).waitFor();
    await isTidy(page, `layout-refused-${width}`);
    await page.getByRole('textbox', { name: `Quantity of ${LONG}` }).fill('10');
    await page.getByRole('button', { name: 'Place the order' }).click();
    await page.getByRole('heading', { name: 'Thank you for your order' }).waitFor();
    await page.getByText(/^You have placed/).waitFor();
    await isTidy(page, `layout-confirmation-${width}`);
    await page.getByRole('link', { name: 'My orders' }).click();
    await page.getByRole('link', { name: /^Order of/ }).first().waitFor();
    await isTidy(page, `layout-orders-${width}`);

    await page.evaluate(() => sessionStorage.clear());
    const claims = { client: 'orders_client', scope: 'scope', scopePrefix: '' };
    await page.route('**/pages/config.json*', (route) => route.fulfill({ json: { headers: {}, claims } }));
    await page.goto(at(service, '/shop'));
    await page.getByLabel('Token', { exact: true }).waitFor();
    assert.deepEqual((await faults(page)).found, []);
  });
}
