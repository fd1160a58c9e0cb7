// Cancelling an order. The dialog stays open until the service has answered, so that a refusal is shown where the user is.
import { Alert, Button, Group, Stack, Text, Textarea } from '@mantine/core';
import { useForm } from '@mantine/form';
import { useDisclosure } from '@mantine/hooks';
import { useEffect, useRef, useState } from 'react';
import { useMutation } from 'urql';
import { CancelMyOrderDocument, type ReceiptFragment } from '../generated/graphql';
import { Dialog } from '../shared/dialog';
import { messageOf } from '../shared/errors';
import { useFormat } from '../shared/format';
import { newKey } from '../shared/keys';

const canBeCancelled = ({ status }: ReceiptFragment) => status === 'PLACED' || status === 'PARTIALLY_REFUNDED';

/** A button that asks for a reason and cancels an order. `label` names the order for those who do not see where the button is. */
export function CancelButton({ order, label }: { order: ReceiptFragment; label?: string }) {
  const [isOpen, { open, close }] = useDisclosure();
  const [{ fetching }, send] = useMutation(CancelMyOrderDocument);

  /** Resolves to why the order was not cancelled. */
  const cancel = async (reason: string, idempotencyKey: string) => {
    const { data, error } = await send({ input: { orderId: order.id, reason, idempotencyKey } });
    const refusal = error ? messageOf(error) : data!.cancelOrder!.userErrors.map(({ message }) => message).join(' ');
    if (!refusal) close();
    return refusal;
  };

  return (
    <>
      {canBeCancelled(order) && (
        <Button variant="default" size="sm" onClick={open} aria-label={label && `Cancel ${label}`}>Cancel the order</Button>
      )}
      <Dialog opened={isOpen} onClose={close} isBusy={fetching} title="Cancel the order?">
        <CancelForm order={order} isBusy={fetching} onCancel={cancel} onClose={close} />
      </Dialog>
    </>
  );
}

function CancelForm({ order, isBusy, onCancel, onClose }: {
  order: ReceiptFragment;
  isBusy: boolean;
  onCancel: (reason: string, idempotencyKey: string) => Promise<string>;
  onClose: () => void;
}) {
  const { money } = useFormat();
  const [refusal, setRefusal] = useState<string>();
  const alert = useRef<HTMLDivElement>(null);
  const key = useRef(newKey());
  const form = useForm({
    initialValues: { reason: '' },
    onValuesChange: () => (key.current = newKey()),
    validate: { reason: (reason) => (reason.trim() ? null : 'Say why, in a few words.') },
  });
  useEffect(() => alert.current?.focus(), [refusal]);
  const submit = async ({ reason }: { reason: string }) => {
    setRefusal(undefined);
    setRefusal(await onCancel(reason.trim(), key.current));
  };
  return (
    <form onSubmit={form.onSubmit(submit, () => form.getInputNode('reason')?.focus())} noValidate>
      <Stack>
        {refusal && <Alert ref={alert} tabIndex={-1} color="red" role="alert" title="The order was not cancelled">{refusal}</Alert>}
        <Text>You get {money(order.net)} back. A cancelled order cannot be restored.</Text>
        <Textarea
          label="Reason"
          placeholder="For example: ordered by mistake"
          maxLength={200}
          autosize={false}
          rows={2}
          data-autofocus
          key={form.key('reason')}
          {...form.getInputProps('reason')}
        />
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose} disabled={isBusy}>Keep the order</Button>
          <Button type="submit" color="red" loading={isBusy}>Cancel the order</Button>
        </Group>
      </Stack>
    </form>
  );
}
