// Cancelling an order: it is shown as cancelled at once, and as before if the service refuses.
import { Alert, Button, Group, Stack, Text, Textarea } from '@mantine/core';
import { useForm } from '@mantine/form';
import { useDisclosure } from '@mantine/hooks';
import type { CacheExchangeOpts } from '@urql/exchange-graphcache';
import { useState } from 'react';
import { useMutation } from 'urql';
import {
  CancelMyOrderDocument, ReceiptFragmentDoc, type CancelMyOrderMutationVariables, type ReceiptFragment,
} from '../generated/graphql';
import { Dialog } from '../shared/dialog';
import { messageOf } from '../shared/errors';
import { useFormat } from '../shared/format';
import { newKey } from '../shared/keys';

export const cancelAtOnce: CacheExchangeOpts = {
  optimistic: {
    cancelOrder: (variables, cache) => {
      const { input } = variables as CancelMyOrderMutationVariables;
      const order = cache.readFragment(ReceiptFragmentDoc, { __typename: 'Order', id: input.orderId } as ReceiptFragment);
      const cancelled = order && {
        ...order,
        __typename: 'Order',
        status: 'CANCELLED',
        refunded: order.total,
        net: { ...order.net, amount: '0' },
        cancelledAt: new Date().toISOString(),
        cancelReason: input.reason,
      };
      return { __typename: 'OrderPayload', order: cancelled, clientVersion: null, replayed: false, userErrors: [] };
    },
  },
};

const canBeCancelled = ({ status }: ReceiptFragment) => status === 'PLACED' || status === 'PARTIALLY_REFUNDED';

/** A button that asks for a reason and cancels an order. `label` names the order for those who do not see where the button is. */
export function CancelButton({ order, label }: { order: ReceiptFragment; label?: string }) {
  const { money } = useFormat();
  const [isOpen, { open, close }] = useDisclosure();
  const [problem, setProblem] = useState<string>();
  const [{ fetching }, cancel] = useMutation(CancelMyOrderDocument);
  const form = useForm({
    initialValues: { reason: '' },
    validate: { reason: (reason) => (reason.trim() ? null : 'Say why, in a few words.') },
  });
  const dismiss = () => {
    setProblem(undefined);
    close();
  };

  const submit = async ({ reason }: { reason: string }) => {
    dismiss();
    const input = { orderId: order.id, reason: reason.trim(), idempotencyKey: newKey() };
    const { data, error } = await cancel({ input });
    const refused = error ? messageOf(error) : data!.cancelOrder!.userErrors.map(({ message }) => message).join(' ');
    if (!refused) return;
    setProblem(refused);
    open();
  };

  return (
    <>
      {canBeCancelled(order) && (
        <Button variant="default" size="sm" onClick={open} disabled={fetching} aria-label={label && `Cancel ${label}`}>
          Cancel the order
        </Button>
      )}
      <Dialog opened={isOpen} onClose={dismiss} title="Cancel the order?">
        <form onSubmit={form.onSubmit(submit, () => form.getInputNode('reason')?.focus())} noValidate>
          <Stack>
            {problem && (
              <Alert data-autofocus tabIndex={-1} color="red" role="alert" title="The order was not cancelled">{problem}</Alert>
            )}
            <Text>You get {money(order.net)} back. A cancelled order cannot be restored.</Text>
            <Textarea
              label="Reason"
              placeholder="For example: ordered by mistake"
              maxLength={200}
              autosize={false}
              rows={2}
              data-autofocus={!problem || undefined}
              key={form.key('reason')}
              {...form.getInputProps('reason')}
            />
            <Group justify="flex-end">
              <Button variant="default" onClick={dismiss}>Keep the order</Button>
              <Button type="submit" color="red">Cancel the order</Button>
            </Group>
          </Stack>
        </form>
      </Dialog>
    </>
  );
}
