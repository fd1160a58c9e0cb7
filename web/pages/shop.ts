// A small shop: choose products, place an order, and see when the dashboard has it.
import { element, money, orders, request, showProblem, signIn } from './api';
import { graphql } from './generated';
import type { PlaceMutation } from './generated/graphql';

const PRODUCTS = graphql(`
  query Products {
    products(first: 100) { nodes { id name price { amount currencyCode } } }
  }
`);
const CLIENT = graphql(`
  query Client($id: ID!, $minVersion: Int) {
    client(id: $id, minVersion: $minVersion) { name orderCount total { amount currencyCode } }
  }
`);
const CLIENTS = graphql(`
  query Clients {
    clients(first: 100, sortBy: LAST_PURCHASE_DESC) { nodes { id name } }
  }
`);
const REGISTER = graphql(`
  mutation Register($input: RegisterClientInput!) {
    registerClient(input: $input) { client { id } clientVersion userErrors { message field } }
  }
`);
const PLACE = graphql(`
  mutation Place($input: PlaceOrderInput!) {
    placeOrder(input: $input) {
      order { id total { amount currencyCode } }
      clientVersion
      userErrors { message field }
    }
  }
`);

const client = element<HTMLInputElement>('client');
const products = element('products');
const quantities = () => [...products.querySelectorAll('input')];
/** The items of the order, in whole units. */
const chosen = () =>
  quantities()
    .map((input) => ({ input, item: { productId: input.dataset['product']!, quantity: Math.trunc(Number(input.value)) } }))
    .filter(({ item }) => item.quantity !== 0);

await signIn();
try {
  const { products: { nodes } } = await request(PRODUCTS, {});
  products.replaceChildren(
    ...nodes.map(({ id, name, price }) => {
      const entry = document.createElement('li');
      const label = document.createElement('label');
      const input = document.createElement('input');
      Object.assign(input, { id: `product-${id}`, type: 'number', min: '0', max: '10000', step: '1', value: '0' });
      Object.assign(input.dataset, { product: id, price: price.amount, currency: price.currencyCode });
      label.htmlFor = input.id;
      label.textContent = `${name}, ${money(price)}`;
      entry.append(label, input);
      return entry;
    }),
  );
} catch (error) {
  showProblem((error as Error).message);
}

function showTotal(): void {
  const sum = chosen().reduce((sum, { input, item }) => sum + Number(input.dataset['price']) * item.quantity, 0);
  const currencyCode = quantities()[0]?.dataset['currency'];
  element('total').textContent = currencyCode && sum > 0 ? money({ amount: sum.toFixed(2), currencyCode }) : '';
}
products.addEventListener('input', showTotal);

/** Shows the client whose number is in the input. */
async function showClient(): Promise<void> {
  const id = client.value.trim();
  let summary: string;
  try {
    const { client } = await request(CLIENT, { id });
    summary = client ? `${client.name}, ${orders(client.orderCount)}, ${money(client.total)}` : 'No client has this number.';
  } catch (error) {
    summary = (error as Error).message;
  }
  if (id === client.value.trim()) element('client-summary').textContent = summary; // unless the number has changed
}
client.addEventListener('input', showClient);
void showClient();

/** Suggests the clients that ordered last, if the token allows to read them. */
async function suggestClients(): Promise<void> {
  const { clients: { nodes } } = await request(CLIENTS, {}).catch(() => ({ clients: { nodes: [] } }));
  element('clients').replaceChildren(...nodes.map(({ id, name }) => new Option(name, id)));
}
void suggestClients();

element<HTMLFormElement>('register').addEventListener('submit', async (event) => {
  event.preventDefault();
  const [name, email] = [element<HTMLInputElement>('name'), element<HTMLInputElement>('email')];
  const button = element<HTMLButtonElement>('register-button');
  button.disabled = true;
  try {
    const input = { name: name.value, email: email.value };
    const { registerClient } = await request(REGISTER, { input });
    const { client: registered, clientVersion, userErrors } = registerClient!; // `request` throws if the field fails
    showProblem();
    const error = element('register-error');
    error.hidden = userErrors.length === 0;
    error.textContent = userErrors.map(({ message }) => message).join(' ');
    for (const input of [name, email]) {
      input.setAttribute('aria-invalid', String(userErrors.some(({ field }) => field?.[1] === input.id)));
    }
    if (!registered) return;
    element('clients').prepend(new Option(input.name.trim(), registered.id));
    name.value = email.value = '';
    client.value = registered.id;
    await request(CLIENT, { id: registered.id, minVersion: clientVersion });
  } catch (error) {
    showProblem((error as Error).message);
  } finally {
    button.disabled = false;
    await showClient();
  }
});

type UserErrors = NonNullable<PlaceMutation['placeOrder']>['userErrors'];

/** Shows each error next to its input. `inputs` are those of the items of the order. */
function showErrors(errors: UserErrors, inputs: HTMLInputElement[]): void {
  const about = (client: boolean) =>
    errors.filter(({ field }) => (field?.[1] === 'clientId') === client).map(({ message }) => message).join(' ');
  for (const [id, message] of [['client-error', about(true)], ['items-error', about(false)]] as const) {
    element(id).textContent = message;
    element(id).hidden = message === '';
  }
  client.setAttribute('aria-invalid', String(about(true) !== ''));
  for (const input of quantities()) {
    const isInvalid = errors.some(({ field }) => field?.[1] === 'items' && inputs[Number(field[2])] === input);
    input.setAttribute('aria-invalid', String(isInvalid));
    input.setAttribute('aria-describedby', 'items-error');
  }
}

/** An idempotency key. (`crypto.randomUUID` exists only on HTTPS and on localhost.) */
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
// It changes when an order has been placed or edited. An order that is sent again after a lost response is placed once.
let key = newKey();

type PlacedOrder = { entry: HTMLElement; version: number | null | undefined };

/** Places the order and adds it to the list. Undefined if it was rejected. */
async function place(clientId: string): Promise<PlacedOrder | undefined> {
  const items = chosen();
  const input = { clientId, items: items.map(({ item }) => item), idempotencyKey: key };
  const { placeOrder } = await request(PLACE, { input });
  const { order, clientVersion, userErrors } = placeOrder!; // `request` throws if the field fails
  showProblem();
  showErrors(userErrors, items.map(({ input }) => input));
  if (!order) return;
  key = newKey();
  for (const quantity of quantities()) quantity.value = '0';
  showTotal();
  const entry = document.createElement('li');
  entry.textContent = `${money(order.total)}, order ${order.id}.`;
  element('done').prepend(entry);
  return { entry, version: clientVersion };
}

/** Waits until queries include an order. Then the dashboard has it too. */
async function waitForDashboard(clientId: string, entry: HTMLElement, version: number | null | undefined): Promise<void> {
  const began = performance.now();
  try {
    const { client } = await request(CLIENT, { id: clientId, minVersion: version });
    const waited = Math.round(performance.now() - began);
    if (client) entry.textContent += ` On the dashboard after ${waited} ms: ${client.name} now has ${orders(client.orderCount)} of ${money(client.total)}.`;
  } catch (error) {
    entry.textContent += ` The order was placed. Whether the dashboard has it is unknown: ${(error as Error).message}`;
  }
  await showClient();
}

const form = element<HTMLFormElement>('order');
form.addEventListener('input', () => (key = newKey()));
form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const button = element<HTMLButtonElement>('place');
  button.disabled = true;
  const clientId = client.value.trim();
  try {
    const placed = await place(clientId);
    if (placed) await waitForDashboard(clientId, placed.entry, placed.version);
  } catch (error) {
    showProblem(`${(error as Error).message} You can place the order again: it is placed only once.`);
  } finally {
    button.disabled = false;
  }
});
