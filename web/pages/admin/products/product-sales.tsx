import { Paper, Skeleton, Title } from '@mantine/core';
import { useQuery } from 'urql';
import { AdminProductSalesDocument, type AdminProductSoldFragment } from '../../generated/graphql';
import { Problem } from '../../shared/errors';
import { useFormat } from '../../shared/format';
import { daysBefore, today } from '../parts/days';
import classes from '../parts/parts.module.css';

/** What was sold of a product lately, after cancellations and refunds. */
export function ProductSales({ id }: { id: string }) {
  const to = today('UTC');
  const variables = { id, month: daysBefore(to, 29), year: daysBefore(to, 364), to };
  const [{ data, error, fetching }, read] = useQuery({ query: AdminProductSalesDocument, variables, requestPolicy: 'cache-and-network' });
  const { month, year } = data?.product ?? {};
  return (
    <Paper withBorder p="md" component="section" aria-label="Sales" className={classes.panel}>
      <Title order={2} size="h3" mb="sm">Sales after refunds</Title>
      {error && <Problem title="The sales cannot be shown" error={error} onRetry={() => read({ requestPolicy: 'network-only' })} />}
      {fetching && !data && <Skeleton height={44} role="status" aria-hidden={false} aria-label="Loading the sales" />}
      {month && year && <dl className={classes.facts}><Sold label="Last 30 days" sold={month} /><Sold label="Last 365 days" sold={year} /></dl>}
    </Paper>
  );
}

function Sold({ label, sold: { units, revenue } }: { label: string; sold: AdminProductSoldFragment }) {
  const { money, count } = useFormat();
  return <div><dt>{label}</dt><dd>{money(revenue)}<br />{count(units, 'unit')}</dd></div>;
}
