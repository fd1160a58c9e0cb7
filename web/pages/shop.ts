// A small storefront: choose, place, and see that it has arrived.
import { ask, element, money, problem, signIn } from './api';
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
    clients(first: 100, orderBy: LAST_PURCHASE_DESC) { nodes { id name } }
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
/** What is ordered: whole pieces. */
const chosen = () =>
  quantities()
    .map((input) => ({ input, item: { productId: input.dataset['product']!, quantity: Math.trunc(Number(input.value)) } }))
    .filter(({ item }) => item.quantity !== 0);

await signIn();
try {
  const { products: { nodes } } = await ask(PRODUCTS, {});
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
  problem((error as Error).message);
}

function showTotal(): void {
  const sum = chosen().reduce((sum, { input, item }) => sum + Number(input.dataset['price']) * item.quantity, 0);
  const currencyCode = quantities()[0]?.dataset['currency'];
  element('total').textContent = currencyCode && sum > 0 ? money({ amount: sum.toFixed(2), currencyCode }) : '';
}
products.addEventListener('input', showTotal);

/** Who it is, as far as the read model knows. */
async function showClient(): Promise<void> {
  const id = client.value.trim();
  let known: string;
  try {
    const { client } = await ask(CLIENT, { id });
    known = client ? `${client.name}, ${client.orderCount} orders, ${money(client.total)}` : 'Not known yet.';
  } catch (error) {
    known = (error as Error).message;
  }
  if (id === client.value.trim()) element('client-known').textContent = known; // or it was typed on meanwhile
}
client.addEventListener('input', showClient);
void showClient();

/** Offers those that ordered last, as far as the token allows to see them. */
async function offerClients(): Promise<void> {
  const { clients: { nodes } } = await ask(CLIENTS, {}).catch(() => ({ clients: { nodes: [] } }));
  element('clients').replaceChildren(...nodes.map(({ id, name }) => new Option(name, id)));
}
void offerClients();

element<HTMLFormElement>('register').addEventListener('submit', async (event) => {
  event.preventDefault();
  const [name, email] = [element<HTMLInputElement>('name'), element<HTMLInputElement>('email')];
  const button = element<HTMLButtonElement>('register-button');
  button.disabled = true;
  try {
    const input = { name: name.value, email: email.value };
    const { registerClient: { client: registered, clientVersion, userErrors } } = await ask(REGISTER, { input });
    problem();
    const wrong = element('register-error');
    wrong.hidden = userErrors.length === 0;
    wrong.textContent = userErrors.map(({ message }) => message).join(' ');
    for (const entry of [name, email]) {
      entry.setAttribute('aria-invalid', String(userErrors.some(({ field }) => field?.[1] === entry.id)));
    }
    if (!registered) return;
    element('clients').prepend(new Option(input.name.trim(), registered.id));
    name.value = email.value = '';
    client.value = registered.id;
    await ask(CLIENT, { id: registered.id, minVersion: clientVersion });
  } catch (error) {
    problem((error as Error).message);
  } finally {
    button.disabled = false;
    await showClient();
  }
});

/** Shows each fault beside what it is about. */
function showFaults(faults: PlaceMutation['placeOrder']['userErrors'], inputs: HTMLInputElement[]): void {
  const about = (client: boolean) =>
    faults.filter(({ field }) => (field?.[1] === 'clientId') === client).map(({ message }) => message).join(' ');
  for (const [id, message] of [['client-error', about(true)], ['items-error', about(false)]] as const) {
    element(id).textContent = message;
    element(id).hidden = message === '';
  }
  client.setAttribute('aria-invalid', String(about(true) !== ''));
  for (const input of quantities()) {
    const wrong = faults.some(({ field }) => field?.[1] === 'items' && inputs[Number(field[2])] === input);
    input.setAttribute('aria-invalid', String(wrong));
    input.setAttribute('aria-describedby', 'items-error');
  }
}

/** A name for an order. (`crypto.randomUUID` is there only on https and on this machine.) */
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
// The same until an order stands, or another is entered: sent again after a lost answer, it places no second one.
let key = newKey();

/** Places what is entered; tells which of the client's versions that made, if it stands. */
async function place(clientId: string): Promise<{ entry: HTMLElement; version: number | null | undefined } | undefined> {
  const items = chosen();
  const input = { clientId, items: items.map(({ item }) => item), idempotencyKey: key };
  const { placeOrder: { order, clientVersion, userErrors } } = await ask(PLACE, { input });
  problem();
  showFaults(userErrors, items.map(({ input }) => input));
  if (!order) return;
  key = newKey();
  for (const quantity of quantities()) quantity.value = '0';
  showTotal();
  const entry = document.createElement('li');
  entry.textContent = `${money(order.total)}, order ${order.id}.`;
  element('done').prepend(entry);
  return { entry, version: clientVersion };
}

/** Waits until the dashboard has an order: it does as soon as this has. */
async function arrive(clientId: string, entry: HTMLElement, version: number | null | undefined): Promise<void> {
  const began = performance.now();
  try {
    const { client } = await ask(CLIENT, { id: clientId, minVersion: version });
    const waited = Math.round(performance.now() - began);
    if (client) entry.textContent += ` On the dashboard after ${waited} ms: ${client.name} now has ${client.orderCount} orders of ${money(client.total)}.`;
  } catch (error) {
    entry.textContent += ` It stands. Whether the dashboard has it is not known: ${(error as Error).message}`;
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
    if (placed) await arrive(clientId, placed.entry, placed.version);
  } catch (error) {
    problem(`${(error as Error).message} Nothing is lost: place it again, and it is placed once.`);
  } finally {
    button.disabled = false;
  }
});
