// Placing the order: what is shown meanwhile, and where it is explained why an order was refused.
import { createContext, useContext, useState, type ReactNode } from 'react';
import { useMutation } from 'urql';
import { useLocation } from 'wouter';
import { PlaceMyOrderDocument, type PlaceMyOrderMutation } from '../generated/graphql';
import { isPassing, messageOf } from '../shared/errors';
import { sum, type Money } from '../shared/format';
import { useSession } from '../shared/session';
import { forgetKey, keyOf, useCart, type Line } from './cart';

/** Why the last order was refused. `field` is the path of the input that needs a change. */
export type Refusal = { message: string | undefined; field: string | undefined };

type Checkout = {
  /** The lines of the order that is being placed. */
  placing: Line[] | undefined;
  refusal: Refusal | undefined;
  place: () => Promise<void>;
};

/** What the page of an order knows of the checkout before it. */
export type Placed = { version: number; expected: Money };

const CheckoutContext = createContext<Checkout | undefined>(undefined);
export const useCheckout = (): Checkout => useContext(CheckoutContext)!;

type UserError = NonNullable<PlaceMyOrderMutation['placeOrder']>['userErrors'][number];

/** The path of the quantity in the cart, for an error of an item. */
const pathOf = ({ field }: UserError) =>
  field?.[1] === 'items' && field[2] !== undefined ? `lines.${field[2]}.quantity` : undefined;

export function CheckoutProvider({ children }: { children: ReactNode }) {
  const client = useSession().client!;
  const cart = useCart();
  const [, navigate] = useLocation();
  const [, send] = useMutation(PlaceMyOrderDocument);
  const [placing, setPlacing] = useState<Line[]>();
  const [refusal, setRefusal] = useState<Refusal>();

  const refuse = (errors: UserError[]) => {
    const atItems = errors.flatMap((error) => pathOf(error) ?? []);
    cart.setErrors(Object.fromEntries(errors.flatMap((error) => (pathOf(error) ? [[pathOf(error), error.message]] : []))));
    const others = errors.filter((error) => !pathOf(error)).map(({ message }) => message);
    setRefusal({ message: others.join(' ') || undefined, field: atItems[0] });
  };

  const place = async () => {
    if (placing) return;
    const { hasErrors, errors } = cart.validate();
    if (hasErrors) return setRefusal({ message: undefined, field: Object.keys(errors)[0] });
    const { lines } = cart.getValues();
    const items = lines.map(({ id, quantity }) => ({ productId: id, quantity: Number(quantity) }));
    setRefusal(undefined);
    setPlacing(lines);
    const { data, error } = await send({ input: { clientId: client, items, idempotencyKey: keyOf(client, items) } });
    setPlacing(undefined);
    if (error) {
      const again = isPassing(error) ? ' You can place the order again: it is placed only once.' : '';
      return setRefusal({ message: messageOf(error) + again, field: undefined });
    }
    const { order, clientVersion, userErrors } = data!.placeOrder!;
    if (!order) return refuse(userErrors);
    forgetKey(client);
    cart.setValues({ lines: [] });
    const expected = sum(lines.map(({ price, quantity }) => ({ price, quantity: Number(quantity) })));
    navigate(`/orders/${order.id}`, { state: { version: clientVersion, expected } });
  };

  return <CheckoutContext value={{ placing, refusal, place }}>{children}</CheckoutContext>;
}
