// What the tests of the back office share.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { hasNoViolation } from './pages.js';
import { web } from './support.js';

export const PHONE = { viewport: { width: 390, height: 664 }, isMobile: true, hasTouch: true };
const DESKTOP = { viewport: { width: 1280, height: 900 } };

/** A screen and a colour scheme for each run of a test. */
export const SCREENS = {
  'desktop-light': { ...DESKTOP, colorScheme: 'light' },
  'desktop-dark': { ...DESKTOP, colorScheme: 'dark' },
  'phone-light': { ...PHONE, colorScheme: 'light' },
  'phone-dark': { ...PHONE, colorScheme: 'dark' },
};

export const artifact = (name) => path.join(web, 'artifacts', `${name}.png`);
export const createArtifacts = () => mkdir(path.join(web, 'artifacts'), { recursive: true });

export const heading = (page, name) => page.getByRole('heading', { level: 1, name });

/** Waits until an element has the focus, and checks that it is in view. */
export async function hasFocus(page, locator) {
  await locator.waitFor();
  await page.waitForFunction((element) => element === document.activeElement, await locator.elementHandle());
  const { y, height } = await locator.boundingBox();
  assert.ok(y >= 0 && y + height <= page.viewportSize().height, `it is at ${y}`);
}

/** Checks that a state of a page is accessible and not wider than the screen, and takes a picture. */
export const checkerOf = (page, pageName, screen) => async (state) => {
  await hasNoViolation(page, `${state}, ${screen}`);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, `${state} is too wide, ${screen}`);
  await page.screenshot({ path: artifact(`admin-${pageName}-${state}-${screen}`) });
};

/** Signs the page in with a token. */
export const useToken = (page, token) =>
  page.addInitScript((signIn) => sessionStorage.setItem('sign-in-admin', signIn), JSON.stringify({ how: 'token', token }));

/** Runs a mutation, and resolves to its payload, which must have no errors. */
export async function mutate(service, query, input) {
  const { data, errors } = await service.post({ query, variables: { input } });
  assert.equal(errors, undefined, JSON.stringify(errors));
  const [payload] = Object.values(data);
  assert.deepEqual(payload.userErrors ?? [], []);
  return payload;
}

export const PLACE = 'mutation Place($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } clientVersion userErrors { message } } }';
export const REGISTER = 'mutation Register($input: RegisterClientInput!) { registerClient(input: $input) { clientId userErrors { message } } }';
export const CREATE = 'mutation Create($input: CreateProductInput!) { createProduct(input: $input) { productId userErrors { message } } }';
export const REFUND = 'mutation Refund($input: RefundOrderInput!) { refundOrder(input: $input) { order { status } userErrors { message } } }';
export const CANCEL = 'mutation Cancel($input: CancelOrderInput!) { cancelOrder(input: $input) { order { status } userErrors { message } } }';

/** Places an order of one phone ($500.00), or of other items. Resolves to its id. */
export async function place(service, clientId, items = [{ productId: '2', quantity: 1 }]) {
  return (await mutate(service, PLACE, { clientId, items })).order.id;
}

/** Whether a request of the page is for this operation. */
export const isOperation = (request, name) => request.postData()?.includes(`"operationName":"${name}"`) ?? false;

/** Answers an operation of the page with `respond(route, variables)`, and lets the others through. */
export const intercept = (page, name, respond) =>
  page.route('**/graphql', (route) => {
    const request = route.request();
    return isOperation(request, name) ? respond(route, request.postDataJSON().variables) : route.fallback();
  });
