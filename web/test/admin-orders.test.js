// The orders of the back office, in a browser: each flow by what users see.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { before, test as testOfNode } from 'node:test';
import {
  artifact, CANCEL, checkerOf, CREATE, createArtifacts, hasFocus, heading, intercept, isOperation, mutate, PHONE, place, REFUND, REGISTER, SCREENS, useToken,
} from './admin.js';
import { isTidy } from './layout.js';
import { hasNoViolation, openAdmin } from './pages.js';
import { browse, program, run, start, test } from './support.js';

let newPage;
before(async () => {
  newPage = await browse();
  await createArtifacts();
});

const ORDER = 'query Order($id: ID!) { order(id: $id) { status refunded { amount } history { type } } }';
const stateOf = async (service, id) => (await service.post({ query: ORDER, variables: { id } })).data.order;
const rows = (page) => page.getByRole('table', { name: 'Orders' }).getByRole('row').filter({ has: page.getByRole('cell') });
const dialog = (page) => page.getByRole('dialog');
const isClosed = (page) => dialog(page).waitFor({ state: 'detached' });
/** The client of the filters, for those who may search clients. */
const clientInput = (page) => page.getByRole('combobox', { name: 'Client' });

for (const [screen, options] of Object.entries(SCREENS)) {
  test(`an order is found, refunded and cancelled (${screen})`, async (t) => {
    const service = await start();
    const { page, pageErrors, hosts } = await newPage(t, options);
    const isFine = checkerOf(page, 'orders', screen);
    await openAdmin(page, service, '/orders');
    await page.getByText('There are no orders yet').waitFor();
    await isFine('empty');
    await place(service, '1');
    const id = await place(service, '2', [{ productId: '1', quantity: 2 }, { productId: '3', quantity: 1 }]);
    await page.reload();
    await page.getByText('2 orders', { exact: true }).waitFor();
    await isFine('list');
    await page.getByLabel('Status', { exact: true }).selectOption('Cancelled');
    await page.getByText('No order matches').waitFor();
    await isFine('no-match');
    await page.getByRole('button', { name: 'Show all orders' }).click();
    await rows(page).filter({ hasText: 'Alice' }).getByRole('link').first().click();
    await heading(page, /^Order of/).waitFor();
    await page.getByRole('region', { name: 'Items' }).getByText('Computer').waitFor();
    await page.getByRole('table', { name: 'History' }).getByText('Order placed').waitFor();
    await isFine('order');

    await page.getByRole('button', { name: 'Refund' }).click();
    await hasFocus(page, dialog(page).getByLabel('Amount (USD)'));
    assert.equal(await dialog(page).getByLabel('Amount (USD)').inputValue(), '4000.00');
    await dialog(page).getByLabel('Amount (USD)').fill('1,000.50');
    await dialog(page).getByLabel('Reason').fill('Scratched');
    await isFine('refund');
    await dialog(page).getByRole('button', { name: 'Refund' }).click();
    await page.getByRole('status').filter({ hasText: 'Refunded. $2,999.50 of the order are left.' }).waitFor();
    await isClosed(page);
    await heading(page, /Partly refunded$/).waitFor();
    await page.getByRole('table', { name: 'History' }).getByText('Scratched').waitFor();
    await hasFocus(page, page.getByRole('button', { name: 'Refund' }));
    await isFine('refunded');

    await page.getByRole('button', { name: 'Cancel the order' }).click();
    await dialog(page).getByText('The client gets $2,999.50 back.').waitFor();
    await dialog(page).getByRole('button', { name: 'Cancel the order' }).click();
    await dialog(page).getByText('Say why, in a few words.').waitFor();
    await hasFocus(page, dialog(page).getByLabel('Reason'));
    await dialog(page).getByLabel('Reason').fill('Out of stock');
    await isFine('cancel');
    await dialog(page).getByRole('button', { name: 'Cancel the order' }).click();
    await page.getByRole('status').filter({ hasText: 'The order is cancelled.' }).waitFor();
    await isClosed(page);
    await heading(page, /Cancelled$/).waitFor();
    assert.equal(await page.getByRole('button', { name: 'Refund' }).count(), 0);
    await hasFocus(page, heading(page, /^Order of/));
    await page.getByRole('table', { name: 'History' }).getByText('Order cancelled').waitFor();
    await isFine('cancelled');
    assert.deepEqual((await stateOf(service, id)).history.map(({ type }) => type), ['ORDER_CANCELLED', 'ORDER_REFUNDED', 'ORDER_PLACED']);

    await page.getByRole('link', { name: 'Alice' }).click();
    await heading(page, 'Alice').waitFor();
    assert.deepEqual(pageErrors, [], 'also no violation of the security policy');
    assert.deepEqual([...hosts], [new URL(service.url).host]);
  });
}

test('the filters are in the address, and find orders by status, day, client and id', async (t) => {
  const service = await start();
  const [first, second] = [await place(service, '1'), await place(service, '2')];
  await mutate(service, CANCEL, { orderId: second, reason: 'Test' });
  const { page } = await newPage(t, { timezoneId: 'UTC' });
  await openAdmin(page, service, '/orders');
  await page.getByText('2 orders', { exact: true }).waitFor();
  await page.getByLabel('Status', { exact: true }).selectOption('Cancelled');
  await page.getByText('1 order', { exact: true }).waitFor();
  assert.match(page.url(), /\?status=CANCELLED$/);
  await page.reload();
  await page.getByText('1 order', { exact: true }).waitFor();
  assert.equal(await page.getByLabel('Status', { exact: true }).inputValue(), 'CANCELLED');
  await page.getByRole('button', { name: 'Clear the filters' }).click();
  await page.getByText('2 orders', { exact: true }).waitFor();

  await clientInput(page).fill('bo');
  await page.getByRole('option', { name: /^Bob/ }).click();
  await page.getByText('1 order', { exact: true }).waitFor();
  assert.match(page.url(), /\?client=1$/);
  await page.reload();
  await rows(page).filter({ hasText: 'Bob' }).waitFor();
  assert.equal(await clientInput(page).inputValue(), 'Bob');
  const today = new Date().toISOString().slice(0, 10);
  await page.getByLabel('From').fill('2020-01-01');
  await page.getByLabel('To', { exact: true }).fill('2020-12-31');
  await page.getByText('No order matches').waitFor();
  await page.getByLabel('From').fill(today);
  await page.getByText('1 order', { exact: true }).waitFor();
  assert.equal(new URL(page.url()).searchParams.get('to'), today, 'the last day is not before the first one');

  await page.getByLabel('Order', { exact: true }).fill(first);
  await page.keyboard.press('Enter');
  await rows(page).filter({ hasText: 'Bob' }).waitFor();
  assert.equal(new URL(page.url()).search, `?id=${first}`);
  await page.getByLabel('Order', { exact: true }).fill(randomUUID());
  await page.keyboard.press('Enter');
  await page.getByText('No order matches').waitFor();
  await page.goto(new URL(`/admin/orders?status=WRONG&from=tomorrow&client=2`, service.url).href);
  await rows(page).filter({ hasText: 'Alice' }).waitFor();
});

/** Lists of the back office as a service with this number of orders would return them, in pages of `size` if that is set. */
function pagesOf(total, size) {
  const order = (index) => ({
    __typename: 'Order',
    id: `00000000-0000-7000-8000-${String(index).padStart(12, '0')}`,
    placedAt: new Date(Date.UTC(2026, 0, 31) - index * 60_000).toISOString(),
    status: 'PLACED',
    total: { __typename: 'Money', amount: '1500.00', currencyCode: 'USD' },
    client: { __typename: 'Client', id: String(index % 100), name: `Client ${index % 100}` },
  });
  return (route, { first, after }) => {
    const begin = Number(after ?? 0);
    const end = Math.min(begin + (size ?? first), total);
    const nodes = Array.from({ length: end - begin }, (_, index) => order(begin + index));
    const pageInfo = { __typename: 'PageInfo', hasNextPage: end < total, endCursor: String(end) };
    return route.fulfill({ json: { data: { orders: { __typename: 'OrderConnection', nodes, pageInfo } } } });
  };
}

// It has more time than others: a browser needs some seconds for so many rows, and several times as many on a busy machine.
testOfNode('a table of 10,000 rows stays usable', { timeout: 200_000 }, async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await intercept(page, 'AdminOrders', pagesOf(10_000, 500));
  await openAdmin(page, service, '/orders');
  await page.getByText('500 orders shown, there are more', { exact: true }).waitFor();
  /** Resolves to the milliseconds from an action until the page shows a text, measured in the page: searching 10,000 rows takes time, too. */
  const elapsed = (act, text) =>
    page.evaluate(async ([act, text]) => {
      const began = performance.now();
      const button = (name) => [...document.querySelectorAll('main button')].find(({ textContent }) => textContent === name);
      const actions = {
        load: () => button('Load more').click(),
        open: () => document.querySelector('tbody:last-of-type tr:last-child a').click(),
      };
      actions[act]();
      const isShown = () => [...document.querySelectorAll('main h1, main p[role=status]')].some(({ textContent }) => [text, `${text} shown, there are more`].includes(textContent));
      while (!isShown()) await new Promise(requestAnimationFrame);
      return performance.now() - began;
    }, [act, text]);
  const times = {};
  for (let shown = 1_000; shown <= 10_000; shown += 500) times.load = await elapsed('load', `${shown.toLocaleString('en')} orders`);
  assert.equal(await page.evaluate(() => document.querySelectorAll('tbody tr').length), 10_000);
  times.open = await elapsed('open', 'Order');
  t.diagnostic(JSON.stringify(times));
  for (const time of Object.values(times)) assert.ok(time < 10_000, JSON.stringify(times));
});

test('more orders are loaded below, and are still there on the way back', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await intercept(page, 'AdminOrders', pagesOf(120));
  await openAdmin(page, service, '/orders');
  await page.getByRole('button', { name: 'Load more' }).click();
  await page.getByText('100 orders shown, there are more').waitFor();
  await page.getByRole('button', { name: 'Load more' }).click();
  await page.getByText('120 orders', { exact: true }).waitFor();
  assert.equal(await page.getByRole('button', { name: 'Load more' }).count(), 0);
  await page.getByRole('link', { name: 'Client 7' }).last().click();
  await page.waitForURL('**/admin/clients/7');
  await page.goBack();
  await page.getByText('120 orders', { exact: true }).waitFor();
  await page.getByRole('button', { name: 'Refresh: Orders' }).click();
  await page.getByText('50 orders shown, there are more').waitFor();
});

test('rows stay visible while they cannot be read again', async (t) => {
  const service = await start();
  await place(service, '1');
  const { page } = await newPage(t);
  let isDown = true;
  await page.route('**/graphql', (route) => (isDown ? route.abort() : route.continue()));
  await openAdmin(page, service, '/orders');
  await page.getByText('Loading: Orders').waitFor();
  await hasNoViolation(page, 'loading');
  const alert = page.getByRole('alert').filter({ hasText: 'The service cannot be reached.' });
  await alert.filter({ hasText: 'These cannot be shown: Orders' }).waitFor();
  await hasNoViolation(page, 'failed');
  await page.screenshot({ path: artifact('admin-orders-failed') });
  isDown = false;
  await alert.getByRole('button', { name: 'Try again' }).click();
  await rows(page).filter({ hasText: 'Bob' }).waitFor();
  assert.equal(await alert.count(), 0);
  isDown = true;
  await page.getByRole('button', { name: 'Refresh: Orders' }).click();
  await alert.filter({ hasText: 'These may be out of date: Orders' }).waitFor();
  assert.equal(await rows(page).count(), 1);
  await hasNoViolation(page, 'out of date');
});

test('a refund that is refused is explained at its field, and the dialog begins with what is left', async (t) => {
  const service = await start();
  const id = await place(service, '1');
  const { page } = await newPage(t, PHONE);
  await openAdmin(page, service, `/orders/${id}`);
  await page.getByRole('button', { name: 'Refund' }).click();
  const amount = dialog(page).getByLabel('Amount (USD)');
  const refund = dialog(page).getByRole('button', { name: 'Refund' });
  await dialog(page).getByLabel('Reason').fill('Scratched');
  for (const [text, message] of [
    ['', 'Write an amount such as 1250.00.'],
    ['1.2.3', 'Write an amount such as 1250.00.'],
    ['1,5', 'Write an amount such as 1250.00.'],
    ['0', 'Write an amount above zero, at most $500.00.'],
    ['500.01', 'Write an amount above zero, at most $500.00.'],
  ]) {
    await amount.fill(text);
    await refund.click();
    await dialog(page).getByText(message).waitFor();
    await hasFocus(page, amount);
  }
  await hasNoViolation(page, 'refused amount');
  // The service refuses what the page cannot know: someone else has refunded meanwhile.
  await amount.fill('400');
  await mutate(service, REFUND, { orderId: id, amount: '200.00', reason: 'Late' });
  await refund.click();
  await dialog(page).getByText(/300/).first().waitFor();
  await hasFocus(page, amount);
  await page.keyboard.press('Escape');
  await isClosed(page);
  await page.getByRole('button', { name: 'Refund' }).click();
  await amount.waitFor();
  assert.equal(await amount.inputValue(), '300.00');
  assert.equal(await dialog(page).getByLabel('Reason').inputValue(), '');
  assert.equal(await dialog(page).getByRole('alert').count(), 0);
});

test('a refund whose response is lost is made once, however often it is sent', async (t) => {
  const service = await start();
  const id = await place(service, '1');
  const { page } = await newPage(t);
  let isLost = true;
  await intercept(page, 'AdminRefundOrder', async (route) => {
    if (!isLost) return route.continue();
    await route.fetch(); // The refund is made, and the response is lost.
    return route.abort();
  });
  const send = async (amount) => {
    await isClosed(page);
    await page.getByRole('button', { name: 'Refund' }).click();
    await dialog(page).getByLabel('Amount (USD)').fill(amount);
    await dialog(page).getByLabel('Reason').fill('Scratched');
    await dialog(page).getByRole('button', { name: 'Refund' }).click();
  };
  await openAdmin(page, service, `/orders/${id}`);
  await send('100');
  // It cannot be closed while the outcome is open.
  await page.keyboard.press('Escape');
  assert.ok(await dialog(page).getByRole('button', { name: 'Close' }).first().isDisabled());
  const alert = dialog(page).getByRole('alert').filter({ hasText: 'It is not known whether this was done' });
  await hasFocus(page, alert);
  await hasNoViolation(page, 'lost response');
  await page.screenshot({ path: artifact('admin-orders-lost') });
  // The key outlives a reload.
  await page.reload();
  isLost = false;
  await send('100');
  await page.getByRole('status').filter({ hasText: 'This refund had been made already.' }).waitFor();
  assert.equal((await stateOf(service, id)).refunded.amount, '100.00');
  // The next refund is another one.
  await send('100');
  await page.getByRole('status').filter({ hasText: 'Refunded. $300.00' }).waitFor();

  // Another amount after a lost response is not refunded on top of the first one.
  isLost = true;
  await send('50');
  await alert.waitFor();
  isLost = false;
  await dialog(page).getByLabel('Amount (USD)').fill('60');
  await dialog(page).getByRole('button', { name: 'Refund' }).click();
  await dialog(page).getByRole('alert').filter({ hasText: 'An earlier attempt was carried out' }).waitFor();
  assert.equal((await stateOf(service, id)).refunded.amount, '250.00');
});

test('what the scopes of the token forbid is not offered', async (t) => {
  const secret = { JWT_SECRET: randomUUID() };
  const service = await start(secret);
  const id = await place(service, '1');
  const { stdout } = await run(program('api'), ['token', '--scope', 'orders:read'], { env: secret });
  const { page, pageErrors } = await newPage(t);
  await useToken(page, stdout.trim());
  await openAdmin(page, service, '/orders');
  await page.getByText('1 order', { exact: true }).waitFor();
  assert.equal(await page.getByRole('columnheader', { name: 'Client' }).count(), 0);
  await page.getByLabel('Client', { exact: true }).fill('2');
  await page.keyboard.press('Enter');
  await page.getByText('No order matches').waitFor();
  await openAdmin(page, service, `/orders/${id}`);
  await page.getByRole('table', { name: 'History' }).getByText('Order placed').waitFor();
  await page.getByRole('region', { name: 'Client' }).getByText('Client 1').waitFor();
  for (const name of ['Refund', 'Cancel the order']) assert.equal(await page.getByRole('button', { name }).count(), 0);
  await hasNoViolation(page, 'read only');
  assert.deepEqual(pageErrors, []);
});

test('the page of an order follows changes by others', async (t) => {
  const service = await start();
  const id = await place(service, '1');
  const { page } = await newPage(t);
  await openAdmin(page, service, `/orders/${id}`);
  await page.getByRole('table', { name: 'History' }).getByText('Order placed').waitFor();
  await mutate(service, REFUND, { orderId: id, amount: '100.00', reason: 'Scratched' });
  await heading(page, /Partly refunded$/).waitFor();
  await page.getByRole('table', { name: 'History' }).getByText('Scratched').waitFor();
  await openAdmin(page, service, `/orders/${randomUUID()}`);
  await page.getByText('There is no such order').waitFor();
  await hasNoViolation(page, 'no such order');
});

/** As in browsers that cannot write files. */
const withoutPicker = (page) => page.addInitScript(() => delete globalThis.showSaveFilePicker);

test('the filtered orders are exported, page after page, and no cell is a formula', async (t) => {
  const service = await start();
  const { clientId } = await mutate(service, REGISTER, { name: '=HYPERLINK("http://x"), "Zoë"', email: 'zoe@example.com' });
  const ids = [];
  for (let index = 0; index < 45; index++) ids.unshift(await place(service, clientId));
  await place(service, '1');
  for (const [index, reason] of ['+1', '-1', '@sum'].entries()) await mutate(service, CANCEL, { orderId: ids[index], reason });
  const { page, pageErrors } = await newPage(t);
  await withoutPicker(page);
  let requests = 0;
  page.on('request', (request) => isOperation(request, 'AdminOrderExport') && requests++);
  await openAdmin(page, service, `/orders?client=${clientId}`);
  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Export as CSV' }).click();
  const text = await readFile(await (await download).path(), 'utf8');
  await page.getByRole('status').filter({ hasText: '45 orders exported.' }).waitFor();
  await hasNoViolation(page, 'exported');
  assert.equal(requests, 2);
  const [header, ...lines] = text.trimEnd().split('\r\n');
  assert.equal(header, '\uFEFFid,placed_at,status,client_id,client_name,client_email,currency,total,refunded,net,cancelled_at,cancel_reason');
  assert.deepEqual(lines.map((line) => line.slice(0, 36)), ids);
  const name = `"'=HYPERLINK(""http://x""), ""Zoë"""`;
  assert.match(lines[0], new RegExp(`,CANCELLED,${clientId},`));
  assert.ok(lines.every((line) => line.includes(`,${name},zoe@example.com,USD,500.00,`)), lines[0]);
  assert.deepEqual(lines.slice(0, 3).map((line) => line.split(',').at(-1)), [`'+1`, `'-1`, `'@sum`]);
  assert.deepEqual(pageErrors, []);
});

test('an export can be stopped, continues after a failure, and is written to the file where the browser can do that', async (t) => {
  const service = await start();
  for (let index = 0; index < 45; index++) await place(service, '1');
  const { page } = await newPage(t);
  // A file that only this page sees, because nobody can choose one in a test.
  await page.addInitScript(() => {
    globalThis.showSaveFilePicker = async () => (await navigator.storage.getDirectory()).getFileHandle('orders.csv', { create: true });
  });
  const written = () => page.evaluate(async () => (await (await (await navigator.storage.getDirectory()).getFileHandle('orders.csv')).getFile()).text());
  let fails = false;
  let waiting;
  await intercept(page, 'AdminOrderExport', async (route, { after }) => {
    if (after && fails) return route.abort();
    if (after && waiting) await waiting;
    return route.continue().catch(() => {});
  });
  await openAdmin(page, service, '/orders');
  const state = page.getByRole('region', { name: 'Export' });
  let release;
  waiting = new Promise((resolve) => (release = resolve));
  await page.getByRole('button', { name: 'Export as CSV' }).click();
  await state.getByText('35 orders exported …').waitFor();
  await hasNoViolation(page, 'exporting');
  await page.screenshot({ path: artifact('admin-orders-exporting') });
  await state.getByRole('button', { name: 'Stop the export' }).click();
  await state.waitFor({ state: 'detached' });
  assert.equal(await written(), '', 'nothing is left behind');
  release();
  waiting = undefined;

  fails = true;
  await page.getByRole('button', { name: 'Export as CSV' }).click();
  await state.getByRole('alert').filter({ hasText: 'The export has paused after 35 orders' }).waitFor();
  await hasNoViolation(page, 'paused');
  fails = false;
  await state.getByRole('button', { name: 'Try again' }).click();
  await page.getByRole('status').filter({ hasText: '45 orders exported.' }).waitFor();
  const lines = (await written()).trimEnd().split('\r\n');
  assert.equal(lines.length, 46);
  assert.equal(new Set(lines).size, 46, 'no order is missing or there twice');
});

test('amounts are read and written as the locale does', async (t) => {
  for (const [currency, locale, left, typed, refunded] of [
    ['EUR', 'de-DE', '500,00', '1,50', '1.50'],
    ['KWD', 'pt-BR', '50,000', '1,505', '1.505'],
    ['JPY', 'ja-JP', '50000', '1,500', '1500'],
  ]) {
    const service = await start({ CURRENCY: currency });
    const id = await place(service, '1');
    const { page } = await newPage(t, { locale });
    await openAdmin(page, service, `/orders/${id}`);
    await page.getByRole('button', { name: 'Refund' }).click();
    const amount = dialog(page).getByLabel(`Amount (${currency})`);
    await amount.waitFor();
    assert.equal(await amount.inputValue(), left, currency);
    await amount.fill(typed);
    await dialog(page).getByLabel('Reason').fill('Test');
    await dialog(page).getByRole('button', { name: 'Refund' }).click();
    await page.getByRole('status').filter({ hasText: 'Refunded.' }).waitFor();
    assert.equal((await stateOf(service, id)).refunded.amount, refunded, currency);
    await service.stop();
  }
});

const LONG = `${'Donaudampfschiff'.repeat(5)} ${'and a long name '.repeat(6)}`.trim();

test('nothing overlaps, however long names and amounts are', async (t) => {
  const service = await start();
  const { productId } = await mutate(service, CREATE, { name: LONG, price: '999999999.99' });
  const { clientId } = await mutate(service, REGISTER, { name: LONG, email: `${'long'.repeat(15)}@example.com` });
  const id = await place(service, clientId, [{ productId, quantity: 10 }]);
  await mutate(service, REFUND, { orderId: id, amount: '0.01', reason: LONG });
  for (const width of [320, 390, 1280]) {
    const { page } = await newPage(t, { viewport: { width, height: 800 }, isMobile: width < 600 });
    // The largest amounts that the pages must show are larger than an order of the service can be.
    await page.route('**/graphql', async (route) => {
      const response = await route.fetch();
      const body = (await response.text()).replaceAll('"9999999999.90"', '"1000000000000000.00"').replaceAll('"9999999999.89"', '"999999999999999.99"');
      return route.fulfill({ response, body });
    });
    await openAdmin(page, service, '/orders');
    await rows(page).getByText('$1,000,000,000,000,000.00').waitFor();
    await isTidy(page, `layout-admin-orders-${width}`);
    await openAdmin(page, service, `/orders/${id}`);
    await page.getByRole('table', { name: 'History' }).getByText('Refunded').waitFor();
    await isTidy(page, `layout-admin-order-${width}`);
    await page.getByRole('button', { name: 'Refund' }).click();
    await dialog(page).getByText(/are left\.$/).waitFor();
    await page.screenshot({ path: artifact(`layout-admin-refund-${width}`) });
    const { x, width: of } = await dialog(page).getByRole('button', { name: 'Refund' }).boundingBox();
    assert.ok(x >= 0 && x + of <= width);
  }
});
