// Cancelling and refunding an order: each is confirmed, has a reason, and is made only once.
import { Text, Textarea, TextInput, type TextareaProps } from '@mantine/core';
import Big from 'big.js';
import { AdminCancelOrderDocument, AdminRefundOrderDocument, type AdminOrderStateFragment } from '../../generated/graphql';
import { useFormat } from '../../shared/format';
import { useSession } from '../../shared/session';
import { ChangeForm, DialogButton, useChangeForm } from '../change';
import { editAmount, exampleOf, parseAmount } from '../parts/amount';

type Props = { order: AdminOrderStateFragment; onDone: (notice: string) => void };

const isReason = (reason: string) => (reason.trim() ? null : 'Say why, in a few words.');

export function CancelButton({ order, onDone }: Props) {
  const isOffered = useSession().may('orders:cancel') && (order.status === 'PLACED' || order.status === 'PARTIALLY_REFUNDED');
  return (
    <DialogButton label="Cancel the order" title="Cancel the order?" color="red" variant="light" isOffered={isOffered}>
      <CancelForm order={order} onDone={onDone} />
    </DialogButton>
  );
}

function CancelForm({ order, onDone }: Props) {
  const { money } = useFormat();
  const change = useChangeForm({
    name: `cancel ${order.id}`,
    document: AdminCancelOrderDocument,
    payloadOf: ({ cancelOrder }) => cancelOrder,
    initialValues: { reason: '' },
    validate: { reason: isReason },
    inputOf: ({ reason }) => ({ orderId: order.id, reason: reason.trim() }),
    onDone: ({ replayed }) => onDone(replayed ? 'The order was cancelled already.' : 'The order is cancelled.'),
  });
  return (
    <ChangeForm change={change} submitLabel="Cancel the order" color="red">
      <Text>The client gets {money(order.net)} back. A cancelled order cannot be restored.</Text>
      <Reason placeholder="For example: out of stock" {...change.form.getInputProps('reason')} />
    </ChangeForm>
  );
}

export function RefundButton({ order, onDone }: Props) {
  const isOffered = useSession().may('orders:refund') && order.status !== 'CANCELLED' && order.status !== 'REFUNDED';
  return (
    <DialogButton label="Refund" title="Refund a part of the order" isOffered={isOffered}>
      <RefundForm order={order} onDone={onDone} />
    </DialogButton>
  );
}

function RefundForm({ order, onDone }: Props) {
  const { money, locale } = useFormat();
  const { amount: left, currencyCode } = order.net;
  const change = useChangeForm({
    name: `refund ${order.id}`,
    document: AdminRefundOrderDocument,
    payloadOf: ({ refundOrder }) => refundOrder,
    initialValues: { amount: editAmount(left, locale), reason: '' },
    validate: {
      amount: (text) => {
        const amount = parseAmount(text, locale);
        if (amount === undefined) return `Write an amount such as ${exampleOf(left, locale)}.`;
        return Big(amount).gt(left) || Big(amount).eq(0) ? `Write an amount above zero, at most ${money(order.net)}.` : null;
      },
      reason: isReason,
    },
    inputOf: ({ amount, reason }) => ({ orderId: order.id, amount: parseAmount(amount, locale)!, reason: reason.trim() }),
    onDone: ({ replayed, order: now }) =>
      onDone(
        replayed || !now
          ? 'This refund had been made already. Nothing was refunded now.'
          : `Refunded. ${money(now.net)} of the order ${Number(now.net.amount) === 1 ? 'is' : 'are'} left.`,
      ),
  });
  return (
    <ChangeForm change={change} submitLabel="Refund" color="red">
      <TextInput
        label={`Amount (${currencyCode})`}
        description={`${money(order.net)} of ${money(order.total)} are left.`}
        inputMode="decimal"
        autoComplete="off"
        data-autofocus
        maxLength={40}
        {...change.form.getInputProps('amount')}
      />
      <Reason placeholder="For example: arrived damaged" {...change.form.getInputProps('reason')} />
    </ChangeForm>
  );
}

const Reason = (props: TextareaProps) => <Textarea label="Reason" maxLength={200} autosize={false} rows={2} {...props} />;
