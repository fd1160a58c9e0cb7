// Signing in with an OpenID Connect provider, in a browser.
import assert from 'node:assert/strict';
import { before } from 'node:test';
import { add, at, hasNoViolation, placeOrder } from './pages.js';
import { startProvider } from './provider.js';
import { browse, start, test } from './support.js';

let newPage;
before(async () => {
  newPage = await browse();
});

const QUERY = { query: '{ products { nodes { id } } }' };

const signInButton = (page) => page.getByRole('button', { name: 'Sign in' });
const problem = (page, text) => page.getByRole('alert').filter({ hasText: text }).waitFor();
const products = (page) => page.getByRole('heading', { name: 'Phone' }).waitFor();

/** On the page of the provider. */
async function enter(page, user) {
  await page.getByPlaceholder('Enter any login').fill(user);
  await page.getByPlaceholder('and password').fill('secret');
  await page.getByRole('button', { name: 'Sign-in' }).click();
}

async function signIn(page, service, user = 'bob', path = '/shop') {
  await page.goto(at(service, path));
  await signInButton(page).click();
  await enter(page, user);
}

/** The tokens that the browser has stored. */
const storedTokens = (page) =>
  page.evaluate(() =>
    [localStorage, sessionStorage].flatMap((storage) => Object.values(storage)).filter((text) => text.includes('_token')),
  );

test('a client signs in with the provider, comes back to the same page, reloads, orders, and signs out', async (t) => {
  const provider = await startProvider(t);
  const service = await start(provider.settings);
  const { page, pageErrors, hosts } = await newPage(t);
  await page.goto(at(service, '/shop/orders?from=mail#top'));
  await signInButton(page).waitFor();
  assert.equal(await page.getByRole('navigation').count(), 0, 'nothing is shown before');
  assert.ok(!hosts.has(provider.host), 'the provider is not asked before');
  await hasNoViolation(page, 'sign in');
  await signInButton(page).click();
  await enter(page, 'bob');
  await page.getByText('You have no orders yet').waitFor();
  assert.equal(page.url(), at(service, '/shop/orders?from=mail#top'));
  await page.reload();
  await page.getByText('You have no orders yet').waitFor();
  assert.deepEqual(provider.requests, { authorization_code: 1, refresh_token: 0 }, 'a reload needs no new token');
  await page.getByRole('link', { name: 'Products', exact: true }).click();
  await add(page, 'Phone');
  await placeOrder(page);
  await page.getByText('You have placed 1 order so far').waitFor();
  await page.getByRole('button', { name: 'Account of Bob' }).click();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('button', { name: 'Yes, sign me out' }).click();
  await signInButton(page).waitFor();
  assert.equal(new URL(page.url()).pathname, '/shop');
  assert.deepEqual(await storedTokens(page), []);
  // The provider has forgotten the user, too.
  await signInButton(page).click();
  await enter(page, 'bob');
  await products(page);
  // The pages of the provider have a font of another host, and no icon.
  assert.deepEqual(pageErrors.filter((text) => !text.startsWith('Failed to load resource')), []);
});

test('the session continues when the access token has expired', async (t) => {
  const provider = await startProvider(t, { lifetime: 2 });
  const service = await start(provider.settings);
  const { page } = await newPage(t);
  const sent = page.waitForRequest((request) => request.headers().authorization !== undefined);
  await signIn(page, service);
  await products(page);
  const token = (await sent).headers().authorization.slice('Bearer '.length);
  // The service accepts clocks that differ by ten seconds.
  while (!(await service.post(QUERY, token)).errors) await new Promise((resolve) => setTimeout(resolve, 200));
  await add(page, 'Phone');
  await placeOrder(page);
  await page.getByText('You have placed 1 order so far').waitFor();
  assert.equal(provider.requests.authorization_code, 1);
  assert.ok(provider.requests.refresh_token >= 1);
  const renewed = provider.requests.refresh_token;
  const expiry = (tokens) => Math.max(...tokens.map((text) => JSON.parse(text).expires_at));
  while (expiry(await storedTokens(page)) > Date.now() / 1000) await new Promise((resolve) => setTimeout(resolve, 200));
  await page.reload();
  await page.getByText('Placed', { exact: true }).waitFor();
  assert.equal(provider.requests.authorization_code, 1);
  assert.ok(provider.requests.refresh_token > renewed, 'a token that has expired is not used');
});

test('failures of the provider are explained, and signing out works without it', async (t) => {
  const provider = await startProvider(t);
  const service = await start(provider.settings);
  const { page } = await newPage(t);
  await page.goto(at(service, '/shop'));
  await signInButton(page).click();
  await page.getByRole('link', { name: 'Cancel' }).click();
  await problem(page, 'You were not signed in: access was denied or cancelled.');
  assert.equal(page.url(), at(service, '/shop'));
  await hasNoViolation(page, 'denied');
  await page.goto(at(service, '/shop?code=forged&state=forged'));
  await problem(page, 'This sign-in has expired, or was started in another tab.');
  await signIn(page, service);
  await products(page);
  await page.goto(at(service, '/shop?error=forged&state=forged'));
  await products(page);
  provider.stop();
  await page.getByRole('button', { name: 'Account of Bob' }).click();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await signInButton(page).waitFor();
  assert.deepEqual(await storedTokens(page), []);
  await signInButton(page).click();
  await problem(page, 'The sign-in service cannot be reached.');
});

test('a user who is no client of the shop can sign out', async (t) => {
  const provider = await startProvider(t);
  const service = await start(provider.settings);
  const { page } = await newPage(t);
  await signIn(page, service, 'clerk');
  await problem(page, 'not for one client');
  await hasNoViolation(page, 'no client');
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('button', { name: 'Yes, sign me out' }).click();
  await signIn(page, service);
  await products(page);
});

test('the staff signs in to the back office, and a client of the shop may not', async (t) => {
  const provider = await startProvider(t);
  const service = await start(provider.settings);
  const { page } = await newPage(t);
  await page.goto(at(service, '/admin/products?search=phone'));
  await signInButton(page).waitFor();
  assert.equal(await page.getByRole('navigation').count(), 0, 'nothing is shown before');
  await signInButton(page).click();
  await enter(page, 'clerk');
  await page.getByRole('link', { name: 'Phone' }).waitFor();
  assert.equal(page.url(), at(service, '/admin/products?search=phone'));
  assert.equal(await page.getByRole('button', { name: 'New product' }).count(), 0, 'the token has no scope for it');
  await page.getByRole('link', { name: 'Overview' }).click();
  await page.getByRole('group', { name: 'Figures' }).waitFor();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('button', { name: 'Yes, sign me out' }).click();
  await signInButton(page).waitFor();
  assert.equal(page.url(), at(service, '/admin'));
  assert.deepEqual(await storedTokens(page), []);
  await signInButton(page).click();
  await enter(page, 'bob');
  await problem(page, 'This token is for one client.');
  await hasNoViolation(page, 'a client in the back office');
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('button', { name: 'Yes, sign me out' }).click();
  await signInButton(page).waitFor();
});

test('with a wrong client id the provider explains the fault, and the user can go back', async (t) => {
  const provider = await startProvider(t);
  const service = await start({ ...provider.settings, OIDC_CLIENT_ID: 'unknown' });
  const { page } = await newPage(t);
  await page.goto(at(service, '/shop'));
  await signInButton(page).click();
  await page.getByText('invalid_client').first().waitFor();
  await page.goBack();
  await signInButton(page).waitFor();
  assert.ok(await signInButton(page).isEnabled());
});

test('GraphiQL uses the token of the user', async (t) => {
  const provider = await startProvider(t);
  const service = await start(provider.settings);
  const { page } = await newPage(t);
  await page.goto(at(service, '/graphiql/'));
  await page.getByText('The schema is loaded when you enter a valid token').waitFor();
  await signInButton(page).click();
  await enter(page, 'bob');
  await page.getByRole('button', { name: 'Sign out' }).waitFor();
  await page.getByLabel('Show Documentation Explorer').click();
  await page.getByText('Root Types').waitFor();
  await page.locator('.graphiql-tab-button', { hasText: /^Client$/ }).click();
  await page.getByLabel('Execute query').click();
  await page.locator('.result-window .view-lines', { hasText: 'Bob' }).waitFor();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('button', { name: 'Yes, sign me out' }).click();
  await signInButton(page).waitFor();
});
