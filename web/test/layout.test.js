// Nothing on the pages overlaps, however long names and amounts are, on screens of each width.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { before } from 'node:test';
import { add, at, openDashboard, openShop, shows } from './pages.js';
import { browse, start, test, web } from './support.js';

const LONG = `${'Donaudampfschiff'.repeat(5)} ${'and a long name '.repeat(6)}`.trim();
const CREATE = 'mutation Create($input: CreateProductInput!) { createProduct(input: $input) { product { id } } }';
const REGISTER = 'mutation Register($input: RegisterClientInput!) { registerClient(input: $input) { client { id } } }';
const PLACE = 'mutation Place($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } } }';

let service;
let orders = 0;
let newPage;
before(async () => {
  newPage = await browse();
  service = await start();
  const mutate = async (query, input) => Object.values((await service.post({ query, variables: { input } })).data)[0];
  const { product } = await mutate(CREATE, { name: LONG, price: '999999999.99' });
  const { client } = await mutate(REGISTER, { name: LONG, email: `${'long'.repeat(15)}@example.com` });
  const { order } = await mutate(PLACE, { clientId: client.id, items: [{ productId: product.id, quantity: 10 }] });
  assert.ok(order);
  for (orders = 1; orders < 12; orders++) await service.placeOrder(String((orders % 3) + 1));
  await mkdir(path.join(web, 'artifacts'), { recursive: true });
});

/** Texts, inputs and buttons that cover each other or leave the screen. */
async function faults(page) {
  return page.evaluate(() => {
    const boxes = [];
    const ancestor = (element, has) => {
      for (let found = element; found; found = found.parentElement) if (has(getComputedStyle(found))) return found;
      return null;
    };
    /** The part of each rectangle that is visible. Texts only for screen readers have a pixel. */
    const add = (name, element, rectangles) => {
      const clip = ancestor(element, ({ overflowX }) => overflowX !== 'visible')?.getBoundingClientRect();
      // A bar that stays in view covers what scrolls below it.
      const layer = ancestor(element, ({ position }) => position === 'sticky');
      for (const each of rectangles) {
        const [left, right] = clip ? [Math.max(each.left, clip.left), Math.min(each.right, clip.right)] : [each.left, each.right];
        const [top, bottom] = clip ? [Math.max(each.top, clip.top), Math.min(each.bottom, clip.bottom)] : [each.top, each.bottom];
        if (right - left > 1 && bottom - top > 1) boxes.push({ name, layer, left, right, top, bottom });
      }
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const { currentNode } = texts;
      if (!currentNode.data.trim() || !currentNode.parentElement.checkVisibility()) continue;
      const range = document.createRange();
      range.selectNodeContents(currentNode);
      // A button contains its text.
      if (!currentNode.parentElement.closest('button')) add(currentNode.data.trim(), currentNode.parentElement, range.getClientRects());
    }
    for (const control of document.querySelectorAll('input, button, canvas')) {
      // An input may contain a button, for example to clear it.
      if (control.checkVisibility() && !control.closest('[data-position=right]')) add(control.id || control.tagName, control.parentElement, control.getClientRects());
    }
    const found = boxes.filter(({ left, right }) => left < 0 || right > innerWidth).map(({ name }) => `${name} leaves the screen`);
    // Lines of text have a little room above and below their letters.
    const overlap = (a, b) =>
      Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;
    boxes.forEach((a, index) => {
      for (const b of boxes.slice(index + 1)) if (a.layer === b.layer && overlap(a, b)) found.push(`${a.name} and ${b.name} overlap`);
    });
    if (document.documentElement.scrollWidth > innerWidth) found.push('the page is wider than the screen');
    for (const box of document.querySelectorAll('section, .scroll')) {
      if (box.scrollWidth > box.clientWidth) found.push(`${box.className || box.ariaLabel} is wider than its box`);
    }
    return { found, boxes: boxes.length };
  });
}

async function isTidy(page, where) {
  const { found, boxes } = await faults(page);
  assert.ok(boxes >= 8, `${where}: ${boxes} boxes`);
  assert.deepEqual(found, [], where);
  await page.screenshot({ path: path.join(web, `artifacts/${where}.png`), fullPage: true });
}

for (const width of [320, 390, 1280]) {
  test(`nothing overlaps on a screen of ${width} pixels`, async (t) => {
    const { page } = await newPage(t, { viewport: { width, height: 800 }, isMobile: width < 600 });
    await openDashboard(page, service);
    await shows(page, orders);
    await page.locator('#products tbody tr').nth(1).waitFor();
    await isTidy(page, `layout-dashboard-${width}`);
    await page.getByText('As a table').click();
    await page.locator('#points tbody tr').first().waitFor();
    const table = await page.locator('.scroll').evaluate(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth);
    assert.equal(table, 0, 'the table is wider than its box');

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
    orders++;
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
