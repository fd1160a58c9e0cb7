// The cart: a form whose values are kept in the local storage, and so survive a reload and are the same in all tabs.
import { createFormContext, isInRange } from '@mantine/form';
import { useWindowEvent } from '@mantine/hooks';
import type { ReactNode } from 'react';
import { sum, type Money } from '../shared/format';
import { newKey } from '../shared/keys';
import { useSession } from '../shared/session';

/** A product in the cart, with the name and the price that the user has seen. The input of the quantity may be empty. */
export type Line = { id: string; name: string; price: Money; quantity: number | string };
type Cart = { lines: Line[] };

export const MAX_QUANTITY = 10_000;

const [CartFormProvider, useCartContext, useCartForm] = createFormContext<Cart>();
export { useCartContext as useCart };

const stored = (name: string) => JSON.parse(localStorage.getItem(name) ?? '[]') as Line[];

/** What is ordered, as text. */
const orderOf = (lines: Line[]) => JSON.stringify(lines.map(({ id, quantity }) => [id, quantity]));

export function CartProvider({ children }: { children: ReactNode }) {
  const client = useSession().client!;
  const name = `cart-${client}`;
  const form = useCartForm({
    initialValues: { lines: stored(name) },
    onValuesChange: ({ lines }, before) => {
      const text = JSON.stringify(lines);
      // A change of another tab is stored already.
      if (text === localStorage.getItem(name)) return;
      localStorage.setItem(name, text);
      if (orderOf(lines) !== orderOf(before.lines)) forgetKey(client);
    },
    validate: {
      lines: { quantity: isInRange({ min: 1, max: MAX_QUANTITY }, 'Use a whole number from 1 to 10,000.') },
    },
  });
  useWindowEvent('storage', ({ key }) => {
    // What is stored now: the value of the event may have been replaced already, and two tabs would exchange theirs for ever.
    if (key === name) form.setValues({ lines: stored(name) });
  });
  return <CartFormProvider form={form}>{children}</CartFormProvider>;
}

/** What is in the cart. `total` is undefined if it is empty or a quantity is not a number that can be ordered. */
export function useCartTotal(): { count: number; total: Money | undefined } {
  const { lines } = useCartContext().values;
  const numbers = lines.map(({ price, quantity }) => ({ price, quantity: Number(quantity) }));
  const isComplete = numbers.every(({ quantity }) => Number.isInteger(quantity) && quantity > 0);
  return { count: numbers.reduce((count, { quantity }) => count + quantity, 0), total: isComplete ? sum(numbers) : undefined };
}

/**
 * The idempotency key of an order. The same cart has the same key until the order is placed or the cart is changed, also after a
 * reload and in another tab. So an order whose response was lost can be sent again, and is placed only once.
 */
export function keyOf(client: string, items: unknown): string {
  const order = JSON.stringify(items);
  const attempt = JSON.parse(localStorage.getItem(`attempt-${client}`) ?? '{}') as { order?: string; key?: string };
  if (attempt.order === order && attempt.key) return attempt.key;
  const key = newKey();
  localStorage.setItem(`attempt-${client}`, JSON.stringify({ order, key }));
  return key;
}

/** Forgets the key of an order that was placed, or of a cart that was changed: the same cart again is another order. */
export const forgetKey = (client: string): void => localStorage.removeItem(`attempt-${client}`);
