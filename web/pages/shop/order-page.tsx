// The page of an order: the confirmation after it was placed, and later its state, which follows each change.
import { Alert, Button, EmptyState, Group, Loader, Paper, Skeleton, Stack, Text } from '@mantine/core';
import { IconCircleCheck, IconInfoCircle, IconMapQuestion } from '@tabler/icons-react';
import { useQuery, useSubscription } from 'urql';
import { Link } from 'wouter';
import { useHistoryState } from 'wouter/use-browser-location';
import { MyOrderChangedDocument, MyOrderDocument, ShopAccountDocument, type ReceiptFragment } from '../generated/graphql';
import { Problem } from '../shared/errors';
import { sum, useFormat } from '../shared/format';
import { useSession } from '../shared/session';
import { Status } from '../shared/status';
import { CancelButton } from './cancel';
import type { Line } from './cart';
import type { Placed } from './checkout';
import classes from './shop.module.css';
import { View } from './view';

export function OrderPage({ id }: { id: string }) {
  const placed = useHistoryState<Placed | null>();
  const [{ data, error }, read] = useQuery({ query: MyOrderDocument, variables: { id } });
  useSubscription({ query: MyOrderChangedDocument, variables: { id } });
  const order = data?.order;
  if (order) {
    return placed ? (
      <View title="Thank you for your order" heading={<><IconCircleCheck className={classes.done} aria-hidden /> Thank you for your order</>}>
        <Confirmation order={order} placed={placed} />
      </View>
    ) : (
      <View title="Your order"><Receipt order={order} /></View>
    );
  }
  return (
    <View title="Your order">
      {error && <Problem title="The order cannot be shown" error={error} onRetry={() => read({ requestPolicy: 'network-only' })} />}
      {!data && !error && <Skeleton height={260} radius="md" role="status" aria-hidden={false} aria-label="Loading the order" />}
      {data && !order && (
        <EmptyState icon={<IconMapQuestion aria-hidden />} title="You have no such order" description="The link may be incomplete.">
          <EmptyState.Actions><Button component={Link} href="/orders">Show my orders</Button></EmptyState.Actions>
        </EmptyState>
      )}
    </View>
  );
}

function Confirmation({ order, placed }: { order: ReceiptFragment; placed: Placed }) {
  const { money } = useFormat();
  const hasChanged = Number(placed.expected.amount) !== Number(order.total.amount);
  return (
    <Stack>
      <OwnTotals version={placed.version} />
      {hasChanged && (
        <Alert color="yellow" icon={<IconInfoCircle aria-hidden />} title="A price has changed">
          The cart showed {money(placed.expected)}. The order costs {money(order.total)}.
        </Alert>
      )}
      <Receipt order={order} />
    </Stack>
  );
}

/** The totals of the client, which include the new order: the service waits until its read model has it. */
function OwnTotals({ version }: { version: number }) {
  const { money, count } = useFormat();
  const id = useSession().client!;
  const [{ data, fetching }] = useQuery({
    query: ShopAccountDocument,
    variables: { id, minVersion: version },
    requestPolicy: 'network-only',
  });
  if (fetching) return <Skeleton height={22} width="70%" />;
  if (!data?.client) return null;
  const { orderCount, total } = data.client;
  return <Text role="status">You have placed {count(orderCount, 'order')} so far, for {money(total)} in total.</Text>;
}

function Receipt({ order }: { order: ReceiptFragment }) {
  const { money, time, number } = useFormat();
  return (
    <Paper withBorder p="md" component="section" aria-label="Receipt">
      <div className={classes.orderHead}>
        <Text c="dimmed" size="sm">Placed on <time dateTime={order.placedAt}>{time(order.placedAt)}</time></Text>
        <Status status={order.status} />
      </div>
      <ul className={classes.receipt}>
        {order.items.map(({ productId, name, quantity, unitPrice, lineTotal }) => (
          <li key={productId}>
            <span>{name}<Text size="sm" c="dimmed" className="number">{number(quantity)} × {money(unitPrice)}</Text></span>
            <span className="number">{money(lineTotal)}</span>
          </li>
        ))}
      </ul>
      <dl className={classes.sums}>
        <dt>Total</dt><dd className="number">{money(order.total)}</dd>
        {order.status !== 'PLACED' && (
          <>
            <dt>Refunded</dt><dd className="number">{money(order.refunded)}</dd>
            <dt>You pay</dt><dd className="number">{money(order.net)}</dd>
          </>
        )}
      </dl>
      {order.cancelReason && <Text size="sm" mb="md">Cancelled: {order.cancelReason}</Text>}
      <Text size="sm" c="dimmed" mb="md">Order {order.id}</Text>
      <Group justify="space-between">
        <Button component={Link} href="/" variant="light">Continue shopping</Button>
        <CancelButton order={order} />
      </Group>
    </Paper>
  );
}

/** The order as the cart expects it, until the service has placed it. */
export function PlacingPage({ lines }: { lines: Line[] }) {
  const { money, number } = useFormat();
  const expected = lines.map(({ quantity, ...line }) => ({ ...line, quantity: Number(quantity) }));
  return (
    <View title="Placing your order">
      <Paper withBorder p="md">
        <Group role="status"><Loader size="sm" aria-hidden /><Text>Your order is on its way …</Text></Group>
        <ul className={classes.receipt}>
          {expected.map((line) => (
            <li key={line.id}>
              <span>{line.name}<Text size="sm" c="dimmed" className="number">{number(line.quantity)} × {money(line.price)}</Text></span>
              <span className="number">{money(sum([line])!)}</span>
            </li>
          ))}
        </ul>
        <dl className={classes.sums}><dt>Total</dt><dd className="number">{money(sum(expected)!)}</dd></dl>
      </Paper>
    </View>
  );
}
