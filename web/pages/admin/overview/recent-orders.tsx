import { Anchor, EmptyState, Paper, Skeleton, Text } from '@mantine/core';
import { IconReceipt } from '@tabler/icons-react';
import { Link } from 'wouter';
import type { AdminSalesChangedSubscription } from '../../generated/graphql';
import { useFormat } from '../../shared/format';
import { useSession } from '../../shared/session';
import classes from './overview.module.css';

/** The newest orders as they arrive. */
export function RecentOrders({ snapshot }: { snapshot: AdminSalesChangedSubscription['salesChanged'] | undefined }) {
  const { count } = useFormat();
  return (
    <Paper component="section" withBorder p="md" className={classes.card} aria-labelledby="recent-orders">
      <div className={classes.cardHead}>
        <h2 id="recent-orders">Recent orders</h2>
        {snapshot && <Text size="sm" c="dimmed">{count(snapshot.ordersPerMinute, 'order')} in the last minute</Text>}
      </div>
      {!snapshot && <Rows count={6} />}
      {snapshot?.latestOrders.length === 0 && (
        <EmptyState
          icon={<IconReceipt aria-hidden />}
          title="No orders yet"
          description={<>Orders appear here as soon as they are placed, for example <Anchor href="/shop" target="_blank" inherit underline="always">in the shop</Anchor>.</>}
        />
      )}
      <ol className={classes.list}>
        {snapshot?.latestOrders.map((order) => <RecentOrder key={order.id} order={order} />)}
      </ol>
    </Paper>
  );
}

function RecentOrder({ order: { id, clientId, placedAt, client, itemCount, total } }: { order: AdminSalesChangedSubscription['salesChanged']['latestOrders'][number] }) {
  const { money, time, count } = useFormat();
  const session = useSession();
  const when = <time dateTime={placedAt}>{time(placedAt)}</time>;
  return (
    <li className={classes.row}>
      <span className={classes.rowMain}>
        {session.may('orders:read') ? <Anchor component={Link} href={`/orders/${id}`} fw={500}>{client?.name ?? `Client ${clientId}`}</Anchor> : <span>{client?.name ?? `Client ${clientId}`}</span>}
        <Text size="sm" c="dimmed" component="span">{when} · {count(itemCount, 'item')}</Text>
      </span>
      <span className="number">{money(total)}</span>
    </li>
  );
}

/** Rows that are still to come. */
export const Rows = ({ count }: { count: number }) => (
  <div role="status" aria-label="Loading" className={classes.list}>
    {Array.from({ length: count }, (_, index) => <Skeleton key={index} height={44} my={6} />)}
  </div>
);
