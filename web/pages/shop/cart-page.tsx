import { ActionIcon, Alert, Anchor, Button, CloseButton, EmptyState, NumberInput, Paper, Text, Title } from '@mantine/core';
import { IconAlertCircle, IconMinus, IconPlus, IconShoppingCart } from '@tabler/icons-react';
import { useEffect, useRef, useState } from 'react';
import { useQuery } from 'urql';
import { Link } from 'wouter';
import { ShopProductDocument } from '../generated/graphql';
import { sum, useFormat, type Money } from '../shared/format';
import { MAX_QUANTITY, useCart, useCartTotal, type Line } from './cart';
import { useCheckout } from './checkout';
import classes from './shop.module.css';
import { View } from './view';

export const CartPage = () => (
  <View title="Cart">
    <Paper withBorder p="md">
      <CartPanel />
    </Paper>
  </View>
);

/** The lines of the cart, their total, and the button that places the order. */
export function CartPanel() {
  const cart = useCart();
  const { total } = useCartTotal();
  const { money } = useFormat();
  const { place, refusal } = useCheckout();
  const panel = useRef<HTMLFormElement>(null);
  const problem = useRef<HTMLDivElement>(null);
  const { lines } = cart.values;

  useEffect(() => {
    // The focus also scrolls to the reason, which may be out of view on a phone.
    if (!refusal || !panel.current?.checkVisibility()) return;
    (refusal.field ? panel.current.querySelector<HTMLElement>(`[data-path="${refusal.field}"]`) : problem.current)?.focus();
  }, [refusal]);

  const remove = (index: number) => {
    cart.removeListItem('lines', index);
    panel.current?.focus();
  };

  return (
    <form
      ref={panel}
      tabIndex={-1}
      noValidate
      className={classes.cart}
      aria-label="Your order"
      onSubmit={(event) => {
        event.preventDefault();
        void place();
      }}
    >
      {refusal?.message && (
        <Alert ref={problem} tabIndex={-1} color="red" role="alert" icon={<IconAlertCircle aria-hidden />} title="The order was not placed">
          {refusal.message}
        </Alert>
      )}
      {lines.length === 0 ? (
        <EmptyState
          icon={<IconShoppingCart aria-hidden />}
          title="Your cart is empty"
          description={<>Add <Anchor component={Link} href="/" inherit underline="always">products</Anchor> to place an order.</>}
        />
      ) : (
        <>
          <ul className={classes.lines}>
            {lines.map((line, index) => <CartLine key={line.id} line={line} index={index} onRemove={() => remove(index)} />)}
          </ul>
          <div className={classes.checkout}>
            <div className={classes.total}>
              <Title order={2} size="h3">Total</Title>
              <output className="number" aria-live="polite">{total ? money(total) : '–'}</output>
            </div>
            <Button type="submit" size="md" fullWidth>Place the order</Button>
          </div>
        </>
      )}
    </form>
  );
}

function CartLine({ line: { id, name, price, quantity }, index, onRemove }: { line: Line; index: number; onRemove: () => void }) {
  const cart = useCart();
  const { money } = useFormat();
  const path = `lines.${index}.quantity`;
  const [before, setBefore] = useState<Money>();
  const [{ data, stale }] = useQuery({ query: ShopProductDocument, variables: { id }, requestPolicy: 'cache-and-network' });
  const product = data?.product;
  useEffect(() => {
    // The service charges the current price, so the cart shows it. It changes only when the product was read, because another tab
    // may have read it later and set a newer price.
    if (!product || stale || product.price.amount === price.amount) return;
    setBefore(price);
    cart.setFieldValue(`lines.${index}.price`, product.price);
  }, [product, stale]);

  const units = Number(quantity) || 0;
  const set = (value: number) => cart.setFieldValue(path, Math.min(Math.max(value, 1), MAX_QUANTITY));
  const lineTotal = sum([{ price, quantity: units }])!;
  const { error, ...input } = cart.getInputProps(path);
  const problem = error ?? (product?.available === false && 'This product is not available any more. Remove it.');
  return (
    <li className={classes.line}>
      <span className={classes.lineName}>{name}</span>
      <CloseButton aria-label={`Remove ${name}`} onClick={onRemove} className={classes.remove} />
      <Text size="sm" c="dimmed" className="number">
        {money(price)} each
        {before && <> (was <s>{money(before)}</s>)</>}
      </Text>
      <div className={classes.lineFoot}>
        <div className={classes.stepper}>
          <ActionIcon variant="default" size="input-sm" aria-label={`One ${name} less`} aria-disabled={units <= 1} onClick={() => set(units - 1)}>
            <IconMinus size={16} aria-hidden />
          </ActionIcon>
          <NumberInput
            {...input}
            aria-label={`Quantity of ${name}`}
            aria-describedby={problem ? `${path}-error` : undefined}
            error={Boolean(problem)}
            hideControls
            allowDecimal={false}
            allowNegative={false}
            clampBehavior="none"
            inputMode="numeric"
            w="4.75rem"
          />
          <ActionIcon variant="default" size="input-sm" aria-label={`One ${name} more`} aria-disabled={units >= MAX_QUANTITY} onClick={() => set(units + 1)}>
            <IconPlus size={16} aria-hidden />
          </ActionIcon>
        </div>
        <Text fw={600} className={`number ${classes.lineTotal}`}>{money(lineTotal)}</Text>
      </div>
      {problem && <Text id={`${path}-error`} size="sm" c="var(--mantine-color-error)" role="alert">{problem}</Text>}
    </li>
  );
}
