import { Paper, Skeleton, Text, Title } from '@mantine/core';
import { useDidUpdate } from '@mantine/hooks';
import { useQuery } from 'urql';
import { AdminClientSalesDocument, type AdminClientStateFragment } from '../../generated/graphql';
import { Problem } from '../../shared/errors';
import { useFormat } from '../../shared/format';
import { monthsBefore, today } from '../parts/days';
import classes from '../parts/parts.module.css';
import { SalesChart } from '../sales-chart';

/** The sales to a client in the last twelve months. They are read again with each version of the client. */
export function ClientSales({ client: { id, version } }: { client: AdminClientStateFragment }) {
  const { money, count, timeZone } = useFormat();
  const to = today(timeZone);
  const variables = { id, from: monthsBefore(to, 11), to, timeZone };
  const [{ data, error, fetching }, read] = useQuery({ query: AdminClientSalesDocument, variables });
  const again = () => read({ requestPolicy: 'network-only' });
  useDidUpdate(again, [version]);
  const sales = data?.client?.sales;
  return (
    <Paper withBorder p="md" component="section" aria-label="Sales" className={classes.panel}>
      <Title order={2} size="h3">Last 12 months</Title>
      {error && <Problem title="The sales cannot be shown" error={error} onRetry={again} />}
      {fetching && !sales && <Skeleton height="20rem" mt="sm" role="status" aria-hidden={false} aria-label="Loading the sales" />}
      {sales && (
        <>
          <Text c="dimmed" size="sm" mb="sm">{money(sales.net)} after refunds, {count(sales.orderCount, 'order')}</Text>
          <SalesChart points={sales.points} granularity="MONTH" isPartial />
        </>
      )}
    </Paper>
  );
}
