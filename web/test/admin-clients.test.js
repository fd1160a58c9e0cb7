// The clients of the back office, in a browser: each flow by what users see.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { before } from 'node:test';
import { artifact, checkerOf, CREATE, createArtifacts, hasFocus, heading, intercept, isOperation, mutate, place, REGISTER, SCREENS, useToken } from './admin.js';
import { isTidy } from './layout.js';
import { hasNoViolation, openAdmin } from './pages.js';
import { browse, program, run, start, test } from './support.js';

let newPage;
before(async () => {
  newPage = await browse();
  await createArtifacts();
});

const UPDATE = 'mutation Update($input: UpdateClientInput!) { updateClient(input: $input) { userErrors { message } } }';
const rows = (page) => page.getByRole('table', { name: 'Clients' }).getByRole('row').filter({ has: page.getByRole('cell') });
const history = (page) => page.getByRole('table', { name: 'History' });
const dialog = (page) => page.getByRole('dialog');

/** Waits until the ranking has this number of clients. */
async function ranked(service, number) {
  const query = '{ clients { nodes { id } } }';
  while ((await service.post({ query })).data.clients.nodes.length < number) await new Promise((resolve) => setTimeout(resolve, 20));
}

for (const [screen, options] of Object.entries(SCREENS)) {
  test(`a client is registered, found, edited and forgotten (${screen})`, async (t) => {
    const service = await start();
    const { page, pageErrors, hosts } = await newPage(t, options);
    const isFine = checkerOf(page, 'clients', screen);
    for (const client of ['1', '2', '2']) await place(service, client);
    await ranked(service, 2);
    await openAdmin(page, service, '/clients');
    await rows(page).nth(1).waitFor();
    assert.match(await rows(page).first().innerText(), /Alice[^]*2[^]*\$1,000\.00/, 'the highest total is first');
    await isFine('ranking');
    await page.getByLabel('Sort by').selectOption('Newest purchase');
    await page.waitForURL('**/clients?sort=LAST_PURCHASE_DESC');

    await page.getByRole('button', { name: 'New client' }).click();
    await dialog(page).getByLabel('Name').fill('Zoë');
    await dialog(page).getByRole('button', { name: 'Register the client' }).click();
    await dialog(page).getByText('Enter an e-mail address.').waitFor();
    await hasFocus(page, dialog(page).getByLabel('E-mail address'));
    await dialog(page).getByLabel('E-mail address').fill('bob@anemailprovider.com');
    await dialog(page).getByRole('button', { name: 'Register the client' }).click();
    await dialog(page).getByText('Another client has this e-mail address.').waitFor();
    await hasFocus(page, dialog(page).getByLabel('E-mail address'));
    await isFine('register');
    await dialog(page).getByLabel('E-mail address').fill('zoe@example.com');
    await dialog(page).getByRole('button', { name: 'Register the client' }).click();
    await heading(page, 'Zoë').waitFor();
    await page.getByText('No orders yet').waitFor();
    await history(page).getByText('Registered').waitFor();
    await isFine('new');

    await page.getByRole('main').getByRole('link', { name: 'Clients' }).click();
    await page.getByRole('searchbox', { name: 'Search' }).fill('ZO');
    await page.waitForURL('**search=ZO');
    await rows(page).filter({ hasText: 'zoe@example.com' }).waitFor();
    assert.ok(await page.getByLabel('Sort by').isDisabled());
    await page.getByRole('searchbox', { name: 'Search' }).fill('nobody');
    await page.getByText('No client matches').waitFor();
    await isFine('no-match');
    await page.getByRole('searchbox', { name: 'Search' }).fill('bob@');
    await rows(page).getByRole('link', { name: 'Bob' }).click();
    await heading(page, 'Bob').waitFor();
    await page.getByRole('table', { name: 'Orders' }).getByText('$500.00').first().waitFor();
    await history(page).getByText('Order placed').waitFor();
    await isFine('client');

    await page.getByRole('button', { name: 'Edit' }).click();
    await dialog(page).getByLabel('Name').fill('Robert');
    await dialog(page).getByRole('button', { name: 'Save' }).click();
    await page.getByRole('status').filter({ hasText: 'The client is changed.' }).waitFor();
    await heading(page, 'Robert').waitFor();
    await history(page).getByText('Name: Bob → Robert').waitFor();
    await hasFocus(page, page.getByRole('button', { name: 'Edit' }));

    await page.getByRole('button', { name: 'Forget' }).click();
    await dialog(page).getByLabel(/^Type the name/).fill('Bob');
    await dialog(page).getByRole('button', { name: 'Forget the client' }).click();
    await dialog(page).getByText('Type the name exactly').waitFor();
    await hasFocus(page, dialog(page).getByLabel(/^Type the name/));
    await isFine('forget');
    await dialog(page).getByLabel(/^Type the name/).fill('Robert');
    await dialog(page).getByRole('button', { name: 'Forget the client' }).click();
    await page.getByRole('status').filter({ hasText: 'The client is forgotten.' }).waitFor();
    await heading(page, 'Forgotten client').waitFor();
    await hasFocus(page, heading(page, 'Forgotten client'));
    for (const name of ['Edit', 'Forget']) assert.equal(await page.getByRole('button', { name }).count(), 0);
    assert.equal(await page.getByText('Robert').count(), 0);
    await isFine('forgotten');
    assert.deepEqual(pageErrors, [], 'also no violation of the security policy');
    assert.deepEqual([...hosts], [new URL(service.url).host]);
  });
}

test('the dialog begins with the current name, and keeps what it did not change', async (t) => {
  const service = await start();
  await place(service, '1');
  await ranked(service, 1);
  const { page } = await newPage(t);
  await openAdmin(page, service, '/clients/1');
  await page.getByRole('button', { name: 'Edit' }).click();
  await dialog(page).getByLabel('Name').fill('Discarded');
  await page.keyboard.press('Escape');
  await dialog(page).waitFor({ state: 'detached' });
  await mutate(service, UPDATE, { id: '1', name: 'Bobby' });
  await heading(page, 'Bobby').waitFor();
  await page.getByRole('button', { name: 'Edit' }).click();
  await dialog(page).getByLabel('Name').waitFor();
  assert.equal(await dialog(page).getByLabel('Name').inputValue(), 'Bobby');
  // Someone else changes the name while this user changes the address.
  await mutate(service, UPDATE, { id: '1', name: 'Robert' });
  await dialog(page).getByLabel('E-mail address').fill('robert@example.com');
  await dialog(page).getByRole('button', { name: 'Save' }).click();
  await heading(page, 'Robert').waitFor();
  await page.getByText('robert@example.com').first().waitFor();
});

test('a list of orders that was computed earlier does not bring back the old name', async (t) => {
  const service = await start();
  await place(service, '1');
  await ranked(service, 1);
  const { page } = await newPage(t);
  await intercept(page, 'AdminOrders', async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: (await response.text()).replaceAll('Robert', 'Bob') });
  });
  await openAdmin(page, service, '/clients/1');
  await heading(page, 'Bob').waitFor();
  await page.getByRole('region', { name: 'Orders' }).getByText('1 order', { exact: true }).waitFor();
  const [orders] = await Promise.all([
    page.waitForResponse((response) => isOperation(response.request(), 'AdminOrders')),
    mutate(service, UPDATE, { id: '1', name: 'Robert' }),
  ]);
  await orders.finished();
  await history(page).getByText('Name: Bob → Robert').waitFor();
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
  assert.equal(await heading(page).innerText(), 'Robert');
});

test('the page of a client follows new orders', async (t) => {
  const service = await start();
  await place(service, '1');
  await ranked(service, 1);
  const { page } = await newPage(t);
  await openAdmin(page, service, '/clients/1');
  await page.getByRole('region', { name: 'Orders' }).getByText('1 order', { exact: true }).waitFor();
  const sales = page.getByRole('region', { name: 'Sales' });
  await sales.getByText('$500.00 after refunds, 1 order', { exact: true }).waitFor();
  await place(service, '1');
  await sales.getByText('$1,000.00 after refunds, 2 orders', { exact: true }).waitFor();
  await sales.getByText('As a table').click();
  await sales.getByRole('row', { name: /\(not over yet\) \$1,000\.00$/ }).waitFor();
  assert.equal(await sales.getByRole('rowheader').count(), 12);
  await page.getByRole('region', { name: 'Orders' }).getByText('2 orders', { exact: true }).waitFor();
  await page.getByRole('region', { name: 'Totals' }).getByText('$1,000.00').first().waitFor();
  await openAdmin(page, service, '/clients/987654');
  await page.getByText('There is no such client').waitFor();
  await hasNoViolation(page, 'no such client');
});

test('a registration whose response is lost is made once', async (t) => {
  const service = await start();
  const { page } = await newPage(t);
  let isLost = true;
  await intercept(page, 'AdminRegisterClient', async (route) => {
    if (!isLost) return route.continue();
    await route.fetch();
    return route.abort();
  });
  await openAdmin(page, service, '/clients');
  await page.getByRole('button', { name: 'New client' }).click();
  await dialog(page).getByLabel('Name').fill('Zoë');
  await dialog(page).getByLabel('E-mail address').fill('zoe@example.com');
  await dialog(page).getByRole('button', { name: 'Register the client' }).click();
  await dialog(page).getByRole('alert').filter({ hasText: 'It is not known whether this was done' }).waitFor();
  await page.screenshot({ path: artifact('admin-clients-lost') });
  isLost = false;
  await dialog(page).getByRole('button', { name: 'Register the client' }).click();
  await heading(page, 'Zoë').waitFor();
});

test('failures are shown in their place and can be repeated', async (t) => {
  const service = await start();
  await place(service, '1');
  await ranked(service, 1);
  const { page } = await newPage(t);
  let isDown = true;
  await intercept(page, 'AdminClient', (route) => (isDown ? route.abort() : route.continue()));
  await openAdmin(page, service, '/clients/1');
  await page.getByRole('status', { name: 'Loading the client' }).waitFor();
  await hasNoViolation(page, 'loading');
  const alert = page.getByRole('alert').filter({ hasText: 'The client cannot be shown' });
  await alert.waitFor();
  await hasNoViolation(page, 'failed');
  isDown = false;
  await alert.getByRole('button', { name: 'Try again' }).click();
  await heading(page, 'Bob').waitFor();
});

test('what the scopes of the token forbid is not offered', async (t) => {
  const secret = { JWT_SECRET: randomUUID() };
  const service = await start(secret);
  await place(service, '1');
  await ranked(service, 1);
  const { stdout } = await run(program('api'), ['token', '--scope', 'clients:read'], { env: secret });
  const { page, pageErrors } = await newPage(t);
  await useToken(page, stdout.trim());
  await openAdmin(page, service, '/clients');
  await page.getByText('Search for a client').waitFor();
  assert.equal(await page.getByLabel('Sort by').count(), 0);
  await hasNoViolation(page, 'search only');
  await page.getByRole('searchbox', { name: 'Search' }).fill('bob');
  await rows(page).getByRole('link', { name: 'Bob' }).click();
  await heading(page, 'Bob').waitFor();
  await history(page).getByText('Order placed').waitFor();
  for (const name of ['Orders', 'Sales']) assert.equal(await page.getByRole('region', { name }).count(), 0);
  for (const name of ['Edit', 'Forget']) assert.equal(await page.getByRole('button', { name }).count(), 0);
  await hasNoViolation(page, 'read only');
  assert.deepEqual(pageErrors, []);
});

const LONG = `${'Donaudampfschiff'.repeat(5)} ${'and a long name '.repeat(6)}`.trim();

test('nothing overlaps, however long names and amounts are', async (t) => {
  const service = await start();
  const { productId } = await mutate(service, CREATE, { name: 'Palace', price: '999999999.99' });
  const { clientId } = await mutate(service, REGISTER, { name: LONG, email: `${'long'.repeat(15)}@example.com` });
  await place(service, clientId, [{ productId, quantity: 10 }]);
  await ranked(service, 1);
  for (const width of [320, 390, 1280]) {
    const { page } = await newPage(t, { viewport: { width, height: 800 }, isMobile: width < 600 });
    await page.route('**/graphql', async (route) => {
      const response = await route.fetch();
      return route.fulfill({ response, body: (await response.text()).replaceAll('"9999999999.90"', '"1000000000000000.00"') });
    });
    await openAdmin(page, service, '/clients');
    await rows(page).getByText('$1,000,000,000,000,000.00').waitFor();
    await isTidy(page, `layout-admin-clients-${width}`);
    await openAdmin(page, service, `/clients/${clientId}`);
    await history(page).getByText('Registered').waitFor();
    await page.getByRole('region', { name: 'Orders' }).getByText('1 order', { exact: true }).waitFor();
    await isTidy(page, `layout-admin-client-${width}`);
  }
});
