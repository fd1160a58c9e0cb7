// The page of an order: its items, its sums, its client and its history. It follows each change.
import { Anchor, EmptyState, Button, Paper, Skeleton, Stack, Text, Title } from '@mantine/core';
import { IconMapQuestion } from '@tabler/icons-react';
import { useMemo, useState } from 'react';
import { useQuery, useSubscription } from 'urql';
import { Link } from 'wouter';
import {
  AdminOrderChangedDocument, AdminOrderDocument, AdminOrderHistoryDocument, type AdminOrderHistoryQuery, type AdminOrderQuery,
} from '../../generated/graphql';
import { Problem } from '../../shared/errors';
import { useFormat } from '../../shared/format';
import { useSession } from '../../shared/session';
import { Status } from '../../shared/status';
import { Notice } from '../change';
import { History } from '../parts/history';
import { View } from '../view';
import { CancelButton, RefundButton } from './order-changes';
import classes from './orders.module.css';

type Order = NonNullable<AdminOrderQuery['order']>;

const BACK = { href: '/orders', label: 'Orders' };
/** More cost more than an operation may cost. Few orders have more than three. */
const EVENTS = 40;

export default function OrderPage({ id }: { id: string }) {
  const { time } = useFormat();
  const withClients = useSession().may('clients:read');
  const [{ data, error }, read] = useQuery({ query: AdminOrderDocument, variables: { id, withClients }, requestPolicy: 'cache-and-network' });
  useSubscription({ query: AdminOrderChangedDocument, variables: { id } });
  const [notice, setNotice] = useState<string>();
  const order = data?.order;
  const problem = error && <Problem title="The order cannot be shown" error={error} onRetry={() => read({ requestPolicy: 'network-only' })} />;
  if (!order) {
    return (
      <View title="Order" back={BACK}>
        {problem}
        {!data && !error && <Skeleton height={320} radius="md" role="status" aria-hidden={false} aria-label="Loading the order" />}
        {data && !order && (
          <EmptyState icon={<IconMapQuestion aria-hidden />} title="There is no such order" description="The id or the link may be incomplete.">
            <EmptyState.Actions><Button component={Link} href="/orders" variant="default">Show all orders</Button></EmptyState.Actions>
          </EmptyState>
        )}
      </View>
    );
  }
  return (
    <View
      title={`Order of ${time(order.placedAt)}`}
      heading={<>Order of {time(order.placedAt)} <Status status={order.status} /></>}
      back={BACK}
      actions={<><RefundButton order={order} onDone={setNotice} /><CancelButton order={order} onDone={setNotice} /></>}
    >
      <Notice>{notice}</Notice>
      <Stack>
        {problem}
        <div className={classes.columns}>
          <Items order={order} />
          <Stack>
            <Client order={order} />
            <Paper withBorder p="md" component="section" aria-label="Order id" className={classes.panel}>
              <Title order={2} size="h3">Order id</Title>
              <Text ff="monospace" size="sm">{order.id}</Text>
            </Paper>
          </Stack>
        </div>
        <Title order={2} mt="md">History</Title>
        <OrderHistory order={order} />
      </Stack>
    </View>
  );
}

function Items({ order: { items, total, refunded, net, status, cancelledAt, cancelReason } }: { order: Order }) {
  const { money, number, time } = useFormat();
  const mayRead = useSession().may('products:read');
  return (
    <Paper withBorder p="md" component="section" aria-label="Items" className={classes.panel}>
      <Title order={2} size="h3">Items</Title>
      <ul className={classes.items}>
        {items.map(({ productId, name, quantity, unitPrice, lineTotal }, index) => (
          <li key={index}>
            <span>
              {mayRead ? <Anchor component={Link} href={`/products/${productId}`} c="inherit">{name}</Anchor> : name}
              <Text size="sm" c="dimmed" className="number">{number(quantity)} × {money(unitPrice)}</Text>
            </span>
            <span className="number">{money(lineTotal)}</span>
          </li>
        ))}
      </ul>
      <dl className={`number ${classes.sums}`}>
        <dt data-strong>Total</dt><dd data-strong>{money(total)}</dd>
        {status !== 'PLACED' && (
          <>
            <dt>Refunded</dt><dd>{money(refunded)}</dd>
            <dt data-strong>After refunds</dt><dd data-strong>{money(net)}</dd>
          </>
        )}
      </dl>
      {cancelledAt && <Text size="sm" mt="md">Cancelled on {time(cancelledAt)}{cancelReason && `: ${cancelReason}`}</Text>}
    </Paper>
  );
}

function Client({ order: { client, clientId } }: { order: Order }) {
  return (
    <Paper withBorder p="md" component="section" aria-label="Client" className={classes.panel}>
      <Title order={2} size="h3">Client</Title>
      {client
        ? <><Anchor component={Link} href={`/clients/${client.id}`} fw={500}>{client.name}</Anchor><Text size="sm" c="dimmed">{client.email}</Text></>
        : <Text>Client {clientId}</Text>}
      <Anchor component={Link} href={`/orders?client=${clientId}`} size="sm">Show the orders of this client</Anchor>
    </Paper>
  );
}

function OrderHistory({ order: { id, status, net } }: { order: Order }) {
  const source = useMemo(
    () => ({
      query: AdminOrderHistoryDocument,
      variables: { id, first: EVENTS },
      pageOf: ({ order }: AdminOrderHistoryQuery) => ({ nodes: order?.history ?? [], pageInfo: { hasNextPage: false } }),
    }),
    [id],
  );
  return <History source={source} revision={`${status} ${net.amount}`} />;
}
