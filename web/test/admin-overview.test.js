// The overview of the back office, in a browser: the figures of a period, with what they are compared, and when they are old.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { before } from 'node:test';
import { artifact, checkerOf, createArtifacts, heading, intercept, isOperation, place, SCREENS, useToken } from './admin.js';
import { isTidy } from './layout.js';
import { at, figure, openAdmin, shows } from './pages.js';
import { browse, program, run, start, startRedis, temporaryDirectory, test } from './support.js';

let newPage;
before(async () => {
  newPage = await browse();
  await createArtifacts();
});

const region = (page, name) => page.getByRole('region', { name, exact: true });
const periodButton = (page) => page.getByRole('button', { name: /^(Today|Yesterday|Last|Month|Year|\w{3} \d)/ }).first();
const choose = async (page, preset) => {
  await periodButton(page).click();
  await page.getByRole('dialog').getByRole('button', { name: preset, exact: true }).click();
};

const hasQuery = (page, query) => page.waitForURL(({ search }) => search === `?${query}`);

const money = (amount, currencyCode = 'USD') => ({ __typename: 'Money', amount, currencyCode });
const sums = (amount, orderCount, currency) => ({ gross: money(amount, currency), net: money(amount, currency), orderCount });
const point = (start, amount, orderCount = 1, currency = 'USD') => ({ __typename: 'SalesPoint', start, ...sums(amount, orderCount, currency) });
/** A report whose points are given as pairs of a start and an amount. */
const report = (points, currency) => {
  // The sum has the decimal places of its amounts, as in the service.
  const places = points[0]?.[1].split('.')[1]?.length ?? 0;
  const sum = points.reduce((sum, [, amount]) => sum + Number(amount), 0).toFixed(places);
  return {
    __typename: 'SalesReport',
    ...sums(sum, points.length, currency),
    points: points.map(([start, amount]) => point(start, amount, 1, currency)),
  };
};
const fulfil = (data) => (route) => route.fulfill({ json: { data } });

for (const [screen, options] of Object.entries(SCREENS)) {
  test(`the overview is accessible in each state (${screen})`, async (t) => {
    const service = await start();
    for (const client of ['1', '2', '2', '3']) await place(service, client);
    const { page, pageErrors } = await newPage(t, options);
    const isFine = checkerOf(page, 'overview', screen);
    let answer;
    await intercept(page, 'AdminSales', async (route) => {
      await new Promise((resolve) => (answer = resolve));
      await route.fallback();
    });
    await page.goto(at(service, '/admin'));
    await region(page, 'Recent orders').getByRole('listitem').nth(3).waitFor();
    await isFine('loading');
    await page.unroute('**/graphql');
    answer();
    await shows(page, 4);
    await page.getByRole('application', { name: 'Net revenue' }).waitFor();
    await region(page, 'Top products').getByRole('listitem').first().waitFor();
    await figure(page, 'New clients').getByText('3', { exact: true }).waitFor();
    await figure(page, 'Returning clients').getByText('0', { exact: true }).waitFor();
    await region(page, 'Top clients').getByRole('listitem').filter({ hasText: /Alice.*2 orders.*\$1,000\.00/s }).waitFor();
    await isFine('figures');
    await periodButton(page).click();
    await page.getByLabel('Last day').waitFor();
    await isFine('period');
    await page.keyboard.press('Escape');
    await page.getByText('As a table').click();
    await page.getByRole('rowheader').first().waitFor();
    await isFine('table');
    if (screen.startsWith('phone')) {
      await page.getByRole('button', { name: 'Navigation' }).click();
      await page.getByRole('dialog').getByRole('link', { name: 'Orders' }).waitFor();
      await isFine('navigation');
      await page.keyboard.press('Escape');
    }
    assert.deepEqual(pageErrors, []);
    await page.route('**/graphql', (route) => route.abort());
    await page.getByRole('alert').filter({ hasText: 'The sales cannot be shown' }).waitFor();
    await isFine('failed');
    await shows(page, 4);
  });
}

/** Opens the overview at a time, and resolves to the variables with which it then queries the sales. */
async function variablesAt(page, service, time, query) {
  await page.clock.setFixedTime(new Date(time));
  const asked = page.waitForRequest((request) => isOperation(request, 'AdminSales'));
  await page.goto(at(service, `/admin${query}`));
  return (await asked).postDataJSON().variables;
}

test('periods are compared with the same number of days before, or with the same days of an earlier month', async (t) => {
  const service = await start();
  const { page } = await newPage(t, { timezoneId: 'UTC' });
  for (const [time, query, from, to, previousFrom, previousTo, granularity] of [
    ['2026-11-28T10:20:00Z', '', '2026-10-30', '2026-11-28', '2026-09-30', '2026-10-29', 'DAY'],
    ['2026-11-28T10:20:00Z', '?range=today', '2026-11-28', '2026-11-28', '2026-11-27', '2026-11-27', 'HOUR'],
    ['2026-11-28T10:20:00Z', '?range=7d', '2026-11-22', '2026-11-28', '2026-11-15', '2026-11-21', 'DAY'],
    ['2026-11-28T10:20:00Z', '?range=month', '2026-11-01', '2026-11-28', '2026-10-01', '2026-10-28', 'DAY'],
    // March has more days than February.
    ['2026-03-31T10:20:00Z', '?range=month', '2026-03-01', '2026-03-31', '2026-02-01', '2026-02-28', 'DAY'],
    ['2026-09-30T10:20:00Z', '?range=month', '2026-09-01', '2026-09-30', '2026-08-01', '2026-08-30', 'DAY'],
    ['2026-10-02T10:20:00Z', '?range=last-month', '2026-09-01', '2026-09-30', '2026-08-01', '2026-08-31', 'DAY'],
    ['2028-02-29T10:20:00Z', '?range=year', '2028-01-01', '2028-02-29', '2027-01-01', '2027-02-28', 'DAY'],
    ['2026-11-28T10:20:00Z', '?range=12m', '2025-11-29', '2026-11-28', '2024-11-29', '2025-11-28', 'MONTH'],
    ['2026-11-28T10:20:00Z', '?from=2026-07-01&to=2026-09-30', '2026-07-01', '2026-09-30', '2026-04-01', '2026-06-30', 'DAY'],
    ['2026-11-28T10:20:00Z', '?from=2026-07-05&to=2026-07-06', '2026-07-05', '2026-07-06', '2026-07-03', '2026-07-04', 'HOUR'],
    ['2026-11-28T10:20:00Z', '?range=7d&by=HOUR', '2026-11-22', '2026-11-28', '2026-11-15', '2026-11-21', 'HOUR'],
    // What is wrong in the address is ignored.
    ['2026-11-28T10:20:00Z', '?from=2026-02-30&to=2027-01-01&by=YEAR&range=constructor', '2026-10-30', '2026-11-28', '2026-09-30', '2026-10-29', 'DAY'],
  ]) {
    const variables = await variablesAt(page, service, time, query);
    const found = [variables.from, variables.to, variables.previousFrom, variables.previousTo, variables.granularity];
    assert.deepEqual(found, [from, to, previousFrom, previousTo, granularity], `${time} ${query}`);
    assert.equal(variables.isPartial, to === time.slice(0, 10), query);
  }
});

test('a day that is not over is compared until its last full hour', async (t) => {
  const service = await start();
  const { page } = await newPage(t, { timezoneId: 'UTC' });
  const hours = (day, amounts) => amounts.map((amount, hour) => [`${day}T${String(hour + 8).padStart(2, '0')}:00:00.000Z`, amount]);
  const [today, yesterday] = [
    hours('2026-11-28', ['10.00', '0.00', '5.00', '0.00']),
    hours('2026-11-27', ['4.00', '1.00', '50.00', '100.00']),
  ];
  // The first hour of these days is eight o'clock, so two hours are full at ten.
  await intercept(page, 'AdminSales', fulfil({ sales: report(today), previous: report(yesterday), lastDay: report(today), previousLastDay: report(yesterday) }));
  await page.clock.setFixedTime(new Date('2026-11-28T10:20:00Z'));
  await page.goto(at(service, '/admin?range=today'));
  const net = figure(page, 'Net revenue');
  await net.getByText('$15.00', { exact: true }).waitFor();
  await net.getByText('+100%').waitFor();
  await net.getByText(/\$10\.00 until Nov 28, 2026, 10:00\sAM, before \$5\.00/).waitFor();

  await page.getByText('As a table').click();
  await page.getByRole('row', { name: /10:00 AM \(not over yet\) \$5\.00 \$50\.00/ }).waitFor();
  // Hours to come have only the previous day.
  await page.getByRole('row', { name: /11:00 AM – \$100\.00/ }).waitFor();
  await page.getByRole('switch', { name: 'Compare' }).uncheck();
  await page.getByText('+100%').waitFor({ state: 'detached' });
  assert.match(page.url(), /compare=off/);
});

test('clients are counted and ranked for the period, and compared for its full days', async (t) => {
  const service = await start();
  const { page, pageErrors } = await newPage(t, { timezoneId: 'UTC' });
  const asked = [];
  const counts = (newClientCount, returningClientCount) => ({ __typename: 'ClientReport', newClientCount, returningClientCount });
  const best = { __typename: 'ClientSales', client: { __typename: 'Client', id: '7', name: 'Zoë' }, orderCount: 2, net: money('12.50') };
  await intercept(page, 'AdminClientReport', (route, variables) => {
    asked.push(variables);
    const { isPartial, isCompared } = variables;
    const data = { clientReport: { ...counts(5, 9), topClients: [best] }, ...(isPartial && { full: counts(4, 8) }), ...(isCompared && { previous: counts(2, 10) }) };
    return fulfil(data)(route);
  });
  const has = async (name, value, ...texts) => {
    await figure(page, name).getByText(value, { exact: true }).waitFor();
    for (const text of texts) await figure(page, name).getByText(text).waitFor();
  };
  await page.clock.setFixedTime(new Date('2026-11-28T10:20:00Z'));
  await openAdmin(page, service, '?range=7d');
  await has('New clients', '5', '+100%', '4 until yesterday, before 2');
  await has('Returning clients', '9', '-20%', '8 until yesterday, before 10');
  await region(page, 'Top clients').getByRole('listitem').filter({ hasText: /Zoë.*2 orders.*\$12\.50/s }).waitFor();
  const { from, to, fullTo, previousFrom, previousTo } = asked.at(-1);
  assert.deepEqual([from, to, fullTo, previousFrom, previousTo], ['2026-11-22', '2026-11-28', '2026-11-27', '2026-11-15', '2026-11-20']);

  await choose(page, 'Last month');
  await has('New clients', '5', '+150%', '5, before 2');
  assert.deepEqual([asked.at(-1).previousFrom, asked.at(-1).previousTo], ['2026-09-01', '2026-09-30']);
  await choose(page, 'Today');
  await has('New clients', '5', 'No comparison');
  assert.deepEqual([asked.at(-1).isPartial, asked.at(-1).isCompared], [false, false]);

  // Longer than the service counts them.
  const before = asked.length;
  await openAdmin(page, service, '?from=2025-01-01&to=2026-11-28');
  await has('Returning clients', '–', 'Only for up to a year');
  await region(page, 'Top clients').getByText('This period is too long').waitFor();
  await service.placeOrder('1');
  await shows(page, 1);
  await region(page, 'Top products').getByRole('listitem').waitFor();
  assert.equal(asked.length, before);
  assert.deepEqual(pageErrors, []);
});

test('the user chooses figure, granularity and days, and the address keeps them', async (t) => {
  const service = await start();
  await place(service, '1');
  const { page, pageErrors } = await newPage(t, { timezoneId: 'UTC' });
  await openAdmin(page, service);
  await shows(page, 1);
  await page.getByRole('button', { name: /^Average order value/ }).click();
  await page.getByRole('application', { name: 'Average order value' }).waitFor();
  await choose(page, 'Today');
  await hasQuery(page, 'range=today');
  await page.getByRole('application', { name: 'Average order value' }).waitFor();
  await periodButton(page).click();
  await page.getByLabel('First day').fill('2026-06-10');
  await page.getByLabel('Last day').fill('2026-06-01');
  await page.getByRole('button', { name: 'Show these days' }).click();
  await page.getByText('It is before the first day.').waitFor();
  await page.getByLabel('Last day').fill('2026-06-16');
  await page.getByRole('button', { name: 'Show these days' }).click();
  await hasQuery(page, 'from=2026-06-10&to=2026-06-16');
  await shows(page, 0);
  await page.getByText('Hours', { exact: true }).click();
  await hasQuery(page, 'from=2026-06-10&to=2026-06-16&by=HOUR');
  await page.reload();
  await shows(page, 0);
  assert.ok(await page.getByRole('radio', { name: 'Hours' }).isChecked());
  await page.goBack();
  assert.deepEqual(pageErrors, []);
});

test('the chart is read with the keyboard, and its brush zooms', async (t) => {
  const service = await start();
  await place(service, '1');
  const { page, pageErrors } = await newPage(t, { timezoneId: 'UTC' });
  await openAdmin(page, service);
  const chart = page.getByRole('application', { name: 'Net revenue' });
  await chart.focus();
  for (let key = 0; key < 40; key++) await page.keyboard.press('ArrowRight');
  const today = new Intl.DateTimeFormat('en-US', { timeZone: 'UTC', month: 'short', day: 'numeric' }).format(Date.now());
  await page.getByRole('status').filter({ hasText: today }).filter({ hasText: '(not over yet)' }).filter({ hasText: '$500.00' }).waitFor();
  const [first] = await page.getByRole('slider').all();
  await first.focus();
  await page.keyboard.press('ArrowRight');
  await page.getByRole('button', { name: 'Show only these days' }).click();
  await page.waitForURL(({ searchParams }) => searchParams.has('from') && searchParams.has('to'));
  assert.deepEqual(pageErrors, []);
});

test('figures stay when they cannot be read again, and are marked as old while the connection is lost', async (t) => {
  const settings = { DATABASE_URL: `sqlite://${await temporaryDirectory()}/orders.db`, JWT_SECRET: randomUUID() };
  const first = await start(settings);
  await first.placeOrder('1');
  const { page } = await newPage(t);
  await openAdmin(page, first);
  await shows(page, 1);
  await page.getByText(/^Updated \d+s ago$/).waitFor();
  await first.stop();
  await page.getByText(/^Out of date: from /).waitFor();
  await page.getByText('Connection lost').waitFor();
  await page.getByRole('alert').filter({ hasText: 'The sales cannot be shown' }).waitFor();
  await shows(page, 1);

  const second = await start({ ...settings, LISTEN_ADDR: new URL(first.url).host });
  await second.placeOrder('2');
  await shows(page, 2);
  await page.getByText(/^Updated \d+s ago$/).waitFor();
  await page.getByRole('alert').waitFor({ state: 'detached' });
});

test('figures and orders stay while Redis is down, are marked as old, and follow changes again afterwards', async (t) => {
  const redis = await startRedis();
  const service = await start({ DATABASE_URL: `sqlite://${await temporaryDirectory()}/orders.db`, REDIS_URL: redis.url });
  await service.placeOrder('1');
  const { page } = await newPage(t);
  await openAdmin(page, service);
  await shows(page, 1);
  const orders = region(page, 'Recent orders').getByRole('listitem');
  await orders.filter({ hasText: 'Bob' }).waitFor();
  await redis.stop();
  await page.getByText('Updates are interrupted').waitFor();
  await page.getByText(/^Out of date: from /).waitFor();
  await page.getByRole('alert').filter({ hasText: 'The sales cannot be shown' }).waitFor();
  await shows(page, 1);
  assert.equal(await orders.count(), 1);

  await redis.start();
  await page.getByText('Updates are interrupted').waitFor({ state: 'detached' });
  await service.placeOrder('2');
  await orders.filter({ hasText: 'Alice' }).waitFor();
  await shows(page, 2);
  await page.getByText(/^Updated \d+s ago$/).waitFor();
  await page.getByRole('alert').waitFor({ state: 'detached' });
});

test('another period that cannot be read shows the problem, and not the figures of the one before', async (t) => {
  const service = await start();
  await place(service, '1');
  const { page } = await newPage(t);
  await openAdmin(page, service);
  await shows(page, 1);
  let isBroken = true;
  await intercept(page, 'AdminSales', (route) => (isBroken ? route.abort() : route.fallback()));
  await choose(page, 'Yesterday');
  await page.getByRole('alert').filter({ hasText: 'The sales cannot be shown' }).waitFor();
  await figure(page, 'Orders').getByText('–').waitFor();
  isBroken = false;
  await page.getByRole('button', { name: 'Try again' }).click();
  await shows(page, 0);
  await page.getByRole('alert').waitFor({ state: 'detached' });
});

test('figures are marked as old when the service hangs', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await page.clock.install();
  await openAdmin(page, service);
  await shows(page, 0);
  await page.getByText('No orders yet').waitFor();
  service.pause();
  t.after(service.resume);
  await page.clock.runFor(16_000); // a ping without a pong
  await page.getByText(/^Out of date: from /).waitFor();
});

test('at midnight, the next day begins', async (t) => {
  const service = await start();
  const { page } = await newPage(t, { timezoneId: 'America/Sao_Paulo' });
  // Midnight in São Paulo, and a new month.
  await page.clock.install({ time: new Date('2026-12-01T02:59:50Z') });
  const asked = (from) => page.waitForRequest((request) => isOperation(request, 'AdminSales') && request.postDataJSON().variables.from === from);
  const before = asked('2026-11-01');
  await openAdmin(page, service, '?range=month');
  await before;
  const after = asked('2026-12-01');
  await page.clock.runFor(15_000);
  const { timeZone, to } = (await after).postDataJSON().variables;
  assert.deepEqual([timeZone, to], ['America/Sao_Paulo', '2026-12-01']);
});

test('the shop has its own locale and time zone, and each currency its digits', async (t) => {
  for (const [currency, locale, timeZone, total, day] of [
    ['BRL', 'pt-BR', 'America/Sao_Paulo', /^R\$\s500,00$/, / de \d{4}/],
    ['JPY', 'ja-JP', 'Asia/Tokyo', /^[¥￥]50,000$/, /\d{4}\/\d\d\/\d\d/],
    // Browsers have no decimal places for it.
    ['IQD', 'en', 'Asia/Baghdad', /^IQD\s50\.000$/, /, \d{4}/],
    // Days cannot begin at a quarter of an hour.
    ['EUR', 'de-DE', 'Asia/Kathmandu', /^500,00\s€$/, /\d\d\.\d\d\.\d{4}/],
  ]) {
    const service = await start({ CURRENCY: currency, SHOP_LOCALE: locale, SHOP_TIME_ZONE: timeZone });
    await place(service, '1');
    // The browser of a colleague elsewhere.
    const { page } = await newPage(t, { locale: 'en-US', timezoneId: 'America/New_York' });
    await openAdmin(page, service);
    await figure(page, 'Net revenue').getByText(total).waitFor();
    const period = page.getByText(', compared with');
    await period.filter({ hasText: timeZone === 'Asia/Kathmandu' ? 'UTC' : timeZone }).waitFor();
    assert.match(await period.innerText(), day);
    await service.stop();
  }
});

for (const width of [320, 390, 768, 1280]) {
  test(`nothing on the overview overlaps at ${width} pixels, however long names and amounts are`, async (t) => {
    const service = await start({ CURRENCY: 'JPY' });
    const LONG = `${'Donaudampfschiff'.repeat(5)} ${'and a long name '.repeat(6)}`.trim();
    const mutation = `mutation { createProduct(input: { name: "${LONG}", price: "9999999999" }) { productId } registerClient(input: { name: "${LONG}", email: "long@example.com" }) { clientId } }`;
    const { data } = await service.post({ query: mutation });
    await place(service, data.registerClient.clientId, [{ productId: data.createProduct.productId, quantity: 9 }]);
    await place(service, '1');
    const { page } = await newPage(t, { viewport: { width, height: 800 }, isMobile: width < 600, locale: 'pt-BR' });
    await openAdmin(page, service);
    await shows(page, 2);
    await region(page, 'Top products').getByRole('listitem').nth(1).waitFor();
    await page.getByRole('application', { name: 'Net revenue' }).waitFor();
    await isTidy(page, `layout-overview-${width}`);
  });
}

test('scopes hide what a person may not do, and an address leads nowhere without its scope', async (t) => {
  const secret = { JWT_SECRET: randomUUID() };
  const service = await start(secret);
  const { stdout: token } = await run(program('api'), ['token', '--subject', 'packer', '--scope', 'orders:read products:read'], { env: secret });
  const { page } = await newPage(t);
  await useToken(page, token.trim());
  await openAdmin(page, service, '/orders');
  const links = await page.getByRole('navigation', { name: 'Pages' }).getByRole('link').allInnerTexts();
  assert.deepEqual(links.map((text) => text.trim()), ['Orders', 'Products', 'Shop']);
  await page.getByText('packer').waitFor();
  await page.goto(at(service, '/admin/clients'));
  await page.getByText('You may not see this page').waitFor();
  await page.goto(at(service, '/admin/nothing'));
  await page.getByText('There is no page with this address').waitFor();
});

test('an expired session leads to the sign-in, and signing out works without the service', async (t) => {
  const secret = { JWT_SECRET: randomUUID() };
  const service = await start(secret);
  const { stdout: token } = await run(program('api'), ['token', '--scope', 'sales:read'], { env: secret });
  const { page } = await newPage(t);
  await page.route('**/pages/config.json', async (route) => {
    const { claims } = await (await route.fetch()).json();
    await route.fulfill({ json: { headers: {}, claims } });
  });
  const signIn = async () => {
    await page.getByLabel('Token', { exact: true }).fill(token);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await shows(page, 0);
  };
  await page.goto(at(service, '/admin'));
  await page.getByLabel('Token', { exact: true }).waitFor();
  assert.equal(await page.getByRole('navigation').count(), 0, 'nothing is shown before');
  await signIn();
  await page.reload();
  await shows(page, 0);

  // As the service answers when the token has expired.
  const expired = { errors: [{ message: 'The token is invalid.', extensions: { code: 'UNAUTHENTICATED' } }] };
  await page.route('**/graphql', (route) => route.fulfill({ status: 401, json: expired }));
  await choose(page, 'Today');
  await page.getByRole('alert').filter({ hasText: 'Your session has expired. Sign in again.' }).waitFor();
  assert.equal(await page.getByRole('navigation').count(), 0, 'nothing is shown any more');
  await page.unroute('**/graphql');
  await signIn();

  await page.unroute('**/pages/config.json');
  await service.stop();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('Token', { exact: true }).waitFor();
  assert.ok(!(await page.evaluate(() => Object.values(sessionStorage).join())).includes(token.trim()));
});

test('a page that fails keeps the navigation, and can be tried again', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await intercept(page, 'AdminSales', fulfil({ sales: { ...report([]), points: null }, previous: null, lastDay: null, previousLastDay: null }));
  await page.goto(at(service, '/admin'));
  await heading(page, 'This page has failed').waitFor();
  await page.getByRole('link', { name: 'Products' }).click();
  await heading(page, 'Products').waitFor();
});

test('the overview needs less than 250 KB before its chart', async (t) => {
  const service = await start();
  await place(service, '1');
  const { page } = await newPage(t, { viewport: { width: 390, height: 844 }, isMobile: true });
  const sizes = {};
  const urls = {};
  const session = await page.context().newCDPSession(page);
  await session.send('Network.enable');
  session.on('Network.responseReceived', ({ requestId, response }) => (urls[requestId] = response.url));
  session.on('Network.loadingFinished', ({ requestId, encodedDataLength }) => (sizes[urls[requestId]] = encodedDataLength));
  await openAdmin(page, service);
  await shows(page, 1);
  await page.getByRole('application', { name: 'Net revenue' }).waitFor();
  const sum = (entries) => entries.reduce((total, [, size]) => total + size, 0);
  const all = Object.entries(sizes);
  const first = sum(all.filter(([url]) => !/\/chart-[^/]+\.js/.test(url)));
  assert.ok(first > 50_000 && first < 250_000 && sum(all) > first, JSON.stringify(sizes, null, 2));
});
