// The dashboard, in a browser: which figures it shows, from when they are, and for whom.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { before } from 'node:test';
import { at, openDashboard, shows } from './pages.js';
import { browse, program, run, start, temporaryDirectory, test } from './support.js';

let newPage;
before(async () => {
  newPage = await browse();
});

const day = new Intl.DateTimeFormat('en', { month: 'short', day: 'numeric', timeZone: 'UTC' });

test('the chart of hours ends with this hour and names its days', async (t) => {
  const service = await start();
  await service.placeOrder('1');
  const { page } = await newPage(t);
  // A canvas has no text that can be read later.
  await page.addInitScript(() => {
    globalThis.drawn = [];
    const { fillText } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
      globalThis.drawn.push(text);
      return fillText.call(this, text, ...place);
    };
  });
  await openDashboard(page, service);
  await page.evaluate(() => (globalThis.drawn = []));
  await page.getByRole('radio', { name: '48 hours' }).check();
  await page.locator('#over-time-total', { hasText: 'Last 48 hours: $1,000.00 in 1 order' }).waitFor();
  const rows = page.locator('#points tbody tr');
  assert.equal(await rows.count(), 48);
  const hour = Math.floor(Date.now() / 3_600_000) * 3_600_000;
  const keys = await rows.evaluateAll((rows) => rows.map(({ dataset }) => Date.parse(dataset.key)));
  // The hour may have changed since.
  assert.ok([hour, hour - 3_600_000].includes(keys[0]), new Date(keys[0]).toISOString());
  assert.equal(keys[0] - keys[47], 47 * 3_600_000);
  const labels = await page.evaluate(() => globalThis.drawn);
  assert.ok(labels.includes(day.format(keys[0])), `no label has the day: ${labels}`);
});

test('a day with more cancellations than orders has a bar below zero', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await page.route('**/graphql', async (route) => {
    const response = await route.fetch();
    const result = await response.json();
    // As if an order of yesterday was cancelled today.
    const today = result.data?.sales?.points.at(-1);
    if (today) today.revenue.amount = '-0.05';
    await route.fulfill({ response, json: result });
  });
  await openDashboard(page, service);
  await page.locator('#over-time-total', { hasText: /^Last 30 days: -\$0\.05 in 0 orders$/ }).waitFor();
  await page.waitForFunction(() => {
    const canvas = document.querySelector('#chart canvas');
    const expected = getComputedStyle(document.documentElement).getPropertyValue('--accent').trim();
    const colour = (parts) => `#${[...parts].map((part) => part.toString(16).padStart(2, '0')).join('')}`;
    const { data, width, height } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const isBar = (pixel) => colour(data.subarray(4 * pixel, 4 * pixel + 3)) === expected;
    return Array.from({ length: width * height }, (_, pixel) => pixel).filter(isBar).length > 100;
  });
  await page.unrouteAll({ behavior: 'ignoreErrors' });
});

test('what was cancelled is beside what was placed', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await openDashboard(page, service);
  const query = `mutation {
    a: placeOrder(input: { clientId: 1, items: [{ productId: 3, quantity: 1 }] }) { order { id } }
    b: placeOrder(input: { clientId: 1, items: [{ productId: 2, quantity: 1 }] }) { order { id } }
  }`;
  const { data } = await service.post({ query });
  const cancel = `mutation { cancelOrder(input: { orderId: "${data.a.order.id}", reason: "x" }) { userErrors { code } } }`;
  assert.deepEqual((await service.post({ query: cancel })).data, { cancelOrder: { userErrors: [] } });
  for (const [id, text] of [['cancelled-orders', '1'], ['cancelled', '$1,000.00'], ['orders', '2'], ['revenue', '$500.00']]) {
    await page.waitForFunction(([id, text]) => document.getElementById(id).textContent === text, [id, text]);
  }
});

test('figures name their days and their period', async (t) => {
  const service = await start();
  await service.placeOrder('1');
  const { page } = await newPage(t);
  await openDashboard(page, service);
  await shows(page, 1);
  const heading = (name) => page.getByRole('heading', { name }).textContent();
  const today = [Date.now(), Date.now() - 10_000].map((time) => day.format(time)); // the day may have changed since
  assert.ok(today.some((day) => new RegExp(`^Today ${day}, \\d{4}, UTC$`)), await heading('Today'));
  assert.equal(await heading('Top clients'), 'Top clients of all time');
  assert.equal(await heading('Top products'), 'Top products of the last 30 days');
  const time = await page.locator('#latest tbody td').first().textContent();
  assert.ok(today.some((day) => time.startsWith(`${day}, `)), time);
});

test('figures from before an outage are marked as old, and the chart keeps its label', async (t) => {
  const settings = { DATABASE_URL: `sqlite://${await temporaryDirectory()}/orders.db`, JWT_SECRET: randomUUID() };
  const first = await start(settings);
  await first.placeOrder('1');
  const { page } = await newPage(t);
  await openDashboard(page, first);
  await shows(page, 1);
  const marked = (number) =>
    page.waitForFunction((number) => document.querySelectorAll('[data-old^="as of "]').length === number, number);
  await marked(0);
  await first.stop();
  await marked(2); // today's figures and the recent orders
  await page.getByRole('radio', { name: '24 months' }).click();
  await page.getByRole('alert').filter({ hasText: 'The service cannot be reached.' }).waitFor();
  await marked(5);
  assert.ok(await page.getByRole('radio', { name: '30 days' }).isChecked(), 'the chart still shows days');
  assert.match(await page.locator('#over-time-total').textContent(), /^Last 30 days: /);

  await start({ ...settings, LISTEN_ADDR: new URL(first.url).host });
  await marked(0);
  assert.ok(await page.getByRole('alert').isHidden());
  await page.getByRole('radio', { name: '24 months' }).check();
  await page.locator('#over-time-total', { hasText: 'Last 24 months: ' }).waitFor();
});

test('figures are marked as old when the service hangs', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  await page.clock.install();
  await openDashboard(page, service);
  await shows(page, 0);
  service.pause();
  t.after(service.resume);
  await page.clock.runFor(10_000); // a ping
  assert.equal(await page.locator('#connection').textContent(), 'live');
  await page.clock.runFor(5_000); // without a pong
  await page.locator('#now[data-old]').waitFor();
  assert.notEqual(await page.locator('#connection').textContent(), 'live');
});

test('a page shows nothing but the sign-in until it has a token, which it keeps for the session', async (t) => {
  const secret = { JWT_SECRET: randomUUID() };
  const service = await start(secret);
  const { stdout: token } = await run(program('api'), ['token', '--scope', 'sales:read'], { env: secret });
  const { page } = await newPage(t);
  await page.route('**/pages/config.json', (route) => route.fulfill({ json: { headers: {} } }));
  const sections = page.locator('main > :not(#sign-in, #problem), nav, #connection');
  const isSignedOut = async () => {
    await page.getByLabel('A token with the scope').waitFor();
    const visible = await sections.evaluateAll((all) => all.filter((each) => each.checkVisibility()).map(({ id }) => id));
    assert.deepEqual(visible, []);
  };
  await page.goto(at(service, '/dashboard'));
  await isSignedOut();
  await page.getByLabel('A token with the scope').fill(token);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await shows(page, 0);
  await page.reload();
  await shows(page, 0);
  assert.ok(await page.locator('#sign-in').isHidden());
  await page.getByRole('button', { name: 'Sign out' }).click();
  await isSignedOut();
});
