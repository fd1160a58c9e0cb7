// The way of an order from the shop to the back office, and what holds for all pages.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { before } from 'node:test';
import { heading, useToken } from './admin.js';
import { add, at, figure, openAdmin, openShop, placeOrder, shows } from './pages.js';
import { browse, program, run, start, temporaryDirectory, test } from './support.js';

let newPage;
before(async () => {
  newPage = await browse();
});

test('an order from the shop appears in the back office within a second, and counts within three', async (t) => {
  const service = await start();
  const admin = await newPage(t);
  const shop = await newPage(t);
  await openAdmin(admin.page, service);
  await admin.page.getByText('No orders yet').waitFor();
  await openShop(shop.page, service, 'Alice');
  for (const product of ['Phone', 'TV', 'Phone', 'Phone']) await add(shop.page, product);
  await placeOrder(shop.page);
  const began = performance.now();
  const recent = admin.page.getByRole('region', { name: 'Recent orders' }).getByRole('listitem');
  await recent.filter({ hasText: 'Alice' }).waitFor();
  const arrived = performance.now() - began;
  assert.match(await recent.innerText(), /Alice[^]*2 items[^]*\$2,500\.00/);
  await shows(admin.page, 1);
  const counted = performance.now() - began;
  assert.ok(arrived < 1_000 && counted < 3_000, `it took ${arrived} and ${counted} ms`);
  await figure(admin.page, 'Net revenue').getByText('$2,500.00', { exact: true }).waitFor();
  await admin.page.getByRole('region', { name: 'Top products' }).getByText('Phone').waitFor();
  await admin.page.getByRole('region', { name: 'Top clients' }).getByText('Alice').waitFor();
  await recent.getByRole('link').click();
  await heading(admin.page, /^Order/).waitFor();
  for (const { pageErrors, hosts } of [admin, shop]) {
    assert.deepEqual(pageErrors, []);
    assert.deepEqual([...hosts], [new URL(service.url).host]);
  }
});

test('the former address of the dashboard leads to the back office', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await page.goto(at(service, '/dashboard'));
  await heading(page, 'Overview').waitFor();
  assert.equal(new URL(page.url()).pathname, '/admin');
});

test('the back office works with trusted documents only', async (t) => {
  const directory = await temporaryDirectory();
  const secret = { JWT_SECRET: randomUUID() };
  // The manifest of another frontend: the pages bring their own documents.
  const manifest = path.join(directory, 'trusted.json');
  await writeFile(manifest, JSON.stringify({ theirs: '{ __typename }' }));
  const service = await start({ ...secret, TRUSTED_DOCUMENTS: manifest });
  const { stdout: token } = await run(program('api'), ['token', '--scope', 'clients:read products:read sales:read'], { env: secret });
  const { page } = await newPage(t);
  await useToken(page, token.trim());
  await openAdmin(page, service);
  await shows(page, 0);
  const { errors } = await service.post({ query: '{ clients { nodes { id } } }' }, token.trim());
  assert.equal(errors[0].extensions.code, 'QUERY_NOT_IN_SAFELIST');
});
