import { Anchor, Button, EmptyState, Paper, Skeleton, Stack, Text } from '@mantine/core';
import { IconReceipt } from '@tabler/icons-react';
import { useState } from 'react';
import { useQuery } from 'urql';
import { Link } from 'wouter';
import { MyOrdersDocument, type ReceiptFragment } from '../generated/graphql';
import { Problem } from '../shared/errors';
import { useFormat } from '../shared/format';
import { Status } from '../shared/status';
import { CancelButton } from './cancel';
import classes from './shop.module.css';
import { View } from './view';

export function OrdersPage() {
  const [after, setAfter] = useState<string | null>(null);
  const [{ data, error, fetching }, read] = useQuery({
    query: MyOrdersDocument,
    variables: { after },
    requestPolicy: 'cache-and-network',
  });
  const orders = data?.orders?.nodes;
  const page = data?.orders?.pageInfo;
  return (
    <View title="My orders">
      <Stack>
        {error && (
          <Problem title="Your orders cannot be shown" error={error} onRetry={() => read({ requestPolicy: 'network-only' })} />
        )}
        {!orders && !error && <OrderSkeletons />}
        {orders?.length === 0 && (
          <EmptyState icon={<IconReceipt aria-hidden />} title="You have no orders yet" description="The orders that you place are listed here.">
            <EmptyState.Actions><Button component={Link} href="/">Show the products</Button></EmptyState.Actions>
          </EmptyState>
        )}
        {orders && orders.length > 0 && (
          <ul className={classes.orders}>
            {orders.map((order) => <OrderCard key={order.id} order={order} />)}
          </ul>
        )}
        {page?.hasNextPage && (
          <Button variant="default" loading={fetching} onClick={() => setAfter(page.endCursor ?? null)}>Show older orders</Button>
        )}
      </Stack>
    </View>
  );
}

function OrderCard({ order }: { order: ReceiptFragment }) {
  const { money, time, number } = useFormat();
  const when = time(order.placedAt);
  return (
    <Paper component="li" withBorder p="md" className={classes.order}>
      <div className={classes.orderHead}>
        <Anchor component={Link} href={`/orders/${order.id}`} fw={600}>Order of <time dateTime={order.placedAt}>{when}</time></Anchor>
        <Status status={order.status} />
      </div>
      <Text size="sm">
        {order.items.map(({ quantity, name }) => `${number(quantity)} × ${name}`).join(', ')}
      </Text>
      <div className={classes.orderFoot}>
        <Text fw={650} className="number">{money(order.total)}</Text>
        <CancelButton order={order} label={`the order of ${when}`} />
      </div>
    </Paper>
  );
}

const OrderSkeletons = () => (
  <Stack role="status" aria-label="Loading your orders">
    {Array.from({ length: 4 }, (_, index) => <Skeleton key={index} height={120} radius="md" />)}
  </Stack>
);
