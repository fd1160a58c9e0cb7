// A small shop: choose products, place an order, and see when the dashboard has it.
import { element, Failure, money, orders, request, showAlert, showProblem, signIn, sum, write } from './api';
import { graphql } from './generated';
import type { PlaceMutation, ProductsQuery } from './generated/graphql';

const PRODUCTS = graphql(`
  query Products($after: String) {
    products(first: 100, after: $after, available: true) {
      nodes { id name price { amount currencyCode } }
      pageInfo { hasNextPage endCursor }
    }
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
/** The items of the order. A text that is no number has the quantity NaN. */
const chosen = () =>
  quantities()
    .filter(({ value, validity }) => validity.badInput || Number(value) !== 0)
    .map((input) => ({ input, item: { productId: input.dataset['product']!, quantity: input.valueAsNumber } }));

type Product = NonNullable<ProductsQuery['products']>['nodes'][number];

/** Separates the parts of a label. It is only for screen readers. */
function comma(): HTMLElement {
  const comma = document.createElement('span');
  [comma.className, comma.textContent] = ['comma', ', '];
  return comma;
}

function productEntry({ id, name, price }: Product): HTMLElement {
  const entry = document.createElement('li');
  const label = document.createElement('label');
  const [title, amount, quantity] = [document.createElement('span'), document.createElement('span'), document.createElement('small')];
  const input = document.createElement('input');
  Object.assign(input, { id: `product-${id}`, type: 'number', min: '0', max: '10000', step: '1', value: '0' });
  Object.assign(input.dataset, { product: id, name, price: price.amount, currency: price.currencyCode });
  input.setAttribute('aria-describedby', 'items-error');
  [title.textContent, quantity.textContent, amount.className] = [name, 'Quantity', 'price'];
  write(amount, money(price));
  label.htmlFor = input.id;
  label.append(title, comma(), amount, comma(), quantity);
  entry.append(label, input);
  return entry;
}

let after: string | null = null;

/** Adds the next page of products. */
async function showProducts(): Promise<void> {
  const more = element('more');
  if (more.ariaBusy === 'true') return;
  more.ariaBusy = 'true';
  try {
    const { nodes, pageInfo } = (await request(PRODUCTS, { after })).products!; // `request` throws if the field fails
    const entries = nodes.map(productEntry);
    products.append(...entries);
    after = pageInfo.endCursor ?? after;
    if (document.activeElement === more) entries[0]?.querySelector('input')?.focus();
    more.hidden = !pageInfo.hasNextPage;
    showProblem();
  } catch (error) {
    more.hidden = false;
    showProblem((error as Error).message);
  }
  more.ariaBusy = 'false';
}

/** Shows the price of the order, if it can be placed. */
function showTotal(): void {
  const items = chosen();
  const total = items.every(({ item }) => item.quantity > 0 && Number.isInteger(item.quantity)) && sum(items.map(({ input, item }) =>
    [{ amount: input.dataset['price']!, currencyCode: input.dataset['currency']! }, item.quantity]));
  write(element('total'), total ? money(total) : '');
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

/** Suggests the clients that ordered last, if the token allows to read them. */
async function suggestClients(): Promise<void> {
  const { clients } = await request(CLIENTS, {}).catch(() => ({ clients: null }));
  element('clients').replaceChildren(...(clients?.nodes ?? []).map(({ id, name }) => new Option(name, id)));
}

/** Shows an alert and moves the focus to it, which also scrolls to it. */
function focusAlert(id: string, message: string): void {
  showAlert(id, message);
  if (message) element(id).focus();
}

/** Calls `submit` when the form is sent, unless an earlier call still runs. A disabled button would lose the focus. */
function onSubmit(id: string, submit: () => Promise<void>): void {
  const form = element<HTMLFormElement>(id);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (form.ariaBusy === 'true') return;
    form.ariaBusy = 'true';
    await submit().finally(() => (form.ariaBusy = 'false'));
  });
}

onSubmit('register', async () => {
  const [name, email] = [element<HTMLInputElement>('name'), element<HTMLInputElement>('email')];
  try {
    const input = { name: name.value, email: email.value };
    const { registerClient } = await request(REGISTER, { input });
    const { client: registered, clientVersion, userErrors } = registerClient!; // `request` throws if the field fails
    showProblem();
    for (const input of [name, email]) {
      input.setAttribute('aria-invalid', String(userErrors.some(({ field }) => field?.[1] === input.id)));
    }
    focusAlert('register-error', userErrors.map(({ message }) => message).join(' '));
    if (!registered) return;
    element('clients').prepend(new Option(input.name.trim(), registered.id));
    name.value = email.value = '';
    client.value = registered.id;
    await request(CLIENT, { id: registered.id, minVersion: clientVersion });
  } catch (error) {
    focusAlert('problem', (error as Error).message);
  } finally {
    await showClient();
  }
});

type UserErrors = Pick<NonNullable<PlaceMutation['placeOrder']>['userErrors'][number], 'message' | 'field'>[];

/** Shows each error above its inputs, and moves the focus to the first. `inputs` are those of the items of the order. */
function showErrors(errors: UserErrors, inputs: HTMLInputElement[]): void {
  const inputOf = ({ field }: UserErrors[number]) => (field?.[1] === 'items' ? inputs[Number(field[2])] : undefined);
  const about = (client: boolean) => errors.filter(({ field }) => (field?.[1] === 'clientId') === client);
  const items = about(false).map((error) => {
    const name = inputOf(error)?.dataset['name'];
    return name ? `${name}: ${error.message}` : error.message;
  });
  client.setAttribute('aria-invalid', String(about(true).length > 0));
  for (const input of quantities()) {
    input.setAttribute('aria-invalid', String(errors.some((error) => inputOf(error) === input)));
  }
  focusAlert('items-error', items.join(' '));
  focusAlert('client-error', about(true).map(({ message }) => message).join(' '));
}

/** The quantities that the service cannot read. (It checks the others.) */
const unreadable = (items: ReturnType<typeof chosen>): UserErrors =>
  items.flatMap(({ item: { quantity } }, index) =>
    quantity === (quantity | 0) ? [] : [{ message: 'Use a whole number from 1 to 10000.', field: ['input', 'items', String(index)] }]);

/** An idempotency key. (`crypto.randomUUID` exists only on HTTPS and on localhost.) */
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
// It changes when an order has been placed or edited. An order that is sent again after a lost response is placed once.
let key = newKey();

type PlacedOrder = { entry: HTMLElement; version: number | null | undefined };

/** Places the order and adds it to the list. Undefined if it was rejected. */
async function place(clientId: string): Promise<PlacedOrder | undefined> {
  const items = chosen();
  const inputs = items.map(({ input }) => input);
  const wrong = unreadable(items);
  if (wrong.length > 0) {
    showErrors(wrong, inputs);
    return;
  }
  const input = { clientId, items: items.map(({ item }) => item), idempotencyKey: key };
  const { placeOrder } = await request(PLACE, { input });
  const { order, clientVersion, userErrors } = placeOrder!; // `request` throws if the field fails
  showProblem();
  showErrors(userErrors, inputs);
  if (!order) return;
  key = newKey();
  for (const quantity of quantities()) quantity.value = '0';
  showTotal();
  const entry = document.createElement('li');
  entry.textContent = `${money(order.total)}, order ${order.id}.`;
  element('done').prepend(entry);
  entry.scrollIntoView({ block: 'nearest' });
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

/** Errors that sending the same order again cannot change. */
const FINAL = ['BAD_USER_INPUT', 'FORBIDDEN', 'PERSISTED_QUERY_NOT_FOUND'];

element('order').addEventListener('input', () => (key = newKey()));
onSubmit('order', async () => {
  const clientId = client.value.trim();
  try {
    const placed = await place(clientId);
    if (placed) await waitForDashboard(clientId, placed.entry, placed.version);
  } catch (error) {
    const { message, code = '' } = error as Failure;
    focusAlert('problem', FINAL.includes(code) ? message : `${message} You can place the order again: it is placed only once.`);
  }
});

element('more').addEventListener('click', showProducts);
await signIn();
await showProducts();
void showClient();
void suggestClients();
