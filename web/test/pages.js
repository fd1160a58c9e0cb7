// What the tests of the pages share.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';

const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** The URL of a page of the service. */
export const at = (service, page) => new URL(page, service.url).href;

/** Opens a page of the back office, and waits for its heading. */
export async function openAdmin(page, service, path = '') {
  await page.goto(at(service, `/admin${path}`));
  await page.getByRole('heading', { level: 1 }).waitFor();
}

/** A figure of the overview. */
export const figure = (page, name) => page.getByRole('group', { name: 'Figures' }).locator('> *', { has: page.getByText(name, { exact: true }) });

/** Waits until the overview shows this number of orders in its period. */
export const shows = (page, orders) => figure(page, 'Orders').getByText(String(orders), { exact: true }).waitFor();

/** Opens the shop, and signs in as a client. */
export async function openShop(page, service, client = 'Bob') {
  await page.goto(at(service, '/shop'));
  await page.getByRole('button', { name: new RegExp(`^${client}`) }).click();
  await page.getByRole('heading', { name: 'Phone' }).waitFor();
}

/** Adds a product to the cart. */
export const add = (page, product) => page.getByRole('button', { name: new RegExp(`(^Add to cart|Add another) ${product}$`) }).click();

/** Places the order in the cart. On a phone, the cart is a page of its own. */
export async function placeOrder(page) {
  const cart = page.getByRole('link', { name: 'View the cart' });
  if (await cart.isVisible()) await cart.click();
  await page.getByRole('button', { name: 'Place the order' }).click();
}

/** Waits until nothing fades or moves any more, which axe would see with too little contrast. What moves for ever does not count. */
const stands = (page) =>
  page.evaluate(async () => {
    for (let frames = 0; frames < 3; frames++) await new Promise(requestAnimationFrame);
    const moving = document.getAnimations().filter(({ effect }) => effect.getComputedTiming().endTime !== Infinity);
    await Promise.allSettled(moving.map(({ finished }) => finished));
  });

export async function hasNoViolation(page, where) {
  await stands(page);
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
  assert.deepEqual(found, [], where);
}
