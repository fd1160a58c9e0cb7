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
const chosen = () =>
  quantities()
    .filter(({ value }) => value.trim() !== '' && value.trim() !== '0')
    .map((input) => ({ input, item: { productId: input.dataset['product']!, quantity: Math.trunc(Number(input.value)) } }));

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
  const inputs = chosen().map(({ input }) => input);
  const sum = inputs.reduce((sum, input) => sum + Number(input.dataset['price']) * Number(input.value), 0);
  const currencyCode = quantities()[0]?.dataset['currency'];
  element('total').textContent = currencyCode && sum > 0 ? money({ amount: sum.toFixed(2), currencyCode }) : '';
}
products.addEventListener('input', showTotal);

/** Who it is, as far as the read model knows. */
async function showClient(): Promise<void> {
  const id = client.value.trim();
  const answer = await ask(CLIENT, { id }).catch(() => undefined);
  if (id !== client.value.trim()) return; // typed on meanwhile
  const known = answer?.client;
  element('client-known').textContent = known
    ? `${known.name}, ${known.orderCount} orders, ${money(known.total)}`
    : 'No orders yet.';
}
client.addEventListener('input', showClient);
void showClient();

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

// The same until an order stands: sent again after a lost answer, it places no second one.
let key = crypto.randomUUID();

element<HTMLFormElement>('order').addEventListener('input', () => (key = crypto.randomUUID()));
element<HTMLFormElement>('order').addEventListener('submit', async (event) => {
  event.preventDefault();
  const button = element<HTMLButtonElement>('place');
  button.disabled = true;
  try {
    const [clientId, items] = [client.value.trim(), chosen()];
    const input = { clientId, items: items.map(({ item }) => item), idempotencyKey: key };
    const { placeOrder: { order, clientVersion, userErrors } } = await ask(PLACE, { input });
    problem();
    showFaults(userErrors, items.map(({ input }) => input));
    if (!order) return;
    key = crypto.randomUUID();
    for (const quantity of quantities()) quantity.value = '0';
    showTotal();
    const entry = document.createElement('li');
    entry.textContent = `${money(order.total)}, order ${order.id}`;
    element('done').prepend(entry);
    // The dashboard has it as soon as this has.
    const began = performance.now();
    const { client: now } = await ask(CLIENT, { id: clientId, minVersion: clientVersion });
    const waited = Math.round(performance.now() - began);
    if (now) entry.textContent += `. On the dashboard after ${waited} ms: ${now.name} now has ${now.orderCount} orders of ${money(now.total)}.`;
    await showClient();
  } catch (error) {
    problem(`${(error as Error).message} Nothing is lost: place it again, and it is placed once.`);
  } finally {
    button.disabled = false;
  }
});
