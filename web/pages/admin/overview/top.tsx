import { Anchor, EmptyState, Paper, Text } from '@mantine/core';
import { IconPackage } from '@tabler/icons-react';
import { useEffect, type ReactNode } from 'react';
import { Link } from 'wouter';
import { AdminTopProductsDocument, type AdminClientReportQuery } from '../../generated/graphql';
import { Problem } from '../../shared/errors';
import { useFormat } from '../../shared/format';
import { useReport, type Report } from '../../shared/report';
import { useSession } from '../../shared/session';
import type { Period } from './period';
import { Rows } from './recent-orders';
import classes from './overview.module.css';

/** What is shown instead of no rows. */
type Empty = { title: string; description: string };
const NOTHING_SOLD = 'Nothing was sold in this period';
const TOO_LONG: Empty = { title: 'This period is too long', description: 'Clients are compared within a year at most.' };

type Ranked = { id: string; href: string | undefined; name: string; detail: string; amount: string; share: number };

export function TopProducts({ period: { from, to }, changes }: { period: Period; changes: number }) {
  const { money, count } = useFormat();
  const session = useSession();
  const report = useReport(AdminTopProductsDocument, { from, to, sortBy: 'REVENUE_DESC' });
  useEffect(() => {
    if (changes > 0) report.read();
  }, [changes]);
  const all = report.data?.topProducts;
  const most = Math.max(1, ...(all ?? []).map(({ revenue }) => Number(revenue.amount)));
  return (
    <Ranking
      title="Top products"
      note="Of these days in UTC"
      report={report}
      empty={{ title: NOTHING_SOLD, description: 'Products appear here as soon as they are ordered.' }}
      ranked={all?.map(({ product, units, revenue }) => ({
        id: product.id,
        href: session.may('products:read') ? `/products/${product.id}` : undefined,
        name: product.name,
        detail: count(units, 'unit'),
        amount: money(revenue),
        share: Number(revenue.amount) / most,
      }))}
    />
  );
}

export function TopClients({ report, period }: { report: Report<AdminClientReportQuery>; period: Period }) {
  const { money, count } = useFormat();
  const session = useSession();
  const all = report.data?.clientReport?.topClients;
  const most = Math.max(1, ...(all ?? []).map(({ net }) => Number(net.amount)));
  return (
    <Ranking
      title="Top clients"
      report={report}
      empty={period.isLong ? TOO_LONG : { title: NOTHING_SOLD, description: 'Clients appear here as soon as they order.' }}
      ranked={period.isLong ? [] : all?.map(({ client, orderCount, net }) => ({
        id: client.id,
        href: session.may('clients:read') ? `/clients/${client.id}` : undefined,
        name: client.name,
        detail: count(orderCount, 'order'),
        amount: money(net),
        share: Number(net.amount) / most,
      }))}
    />
  );
}

/** The best of a period, each with a bar that shows its share of the first. */
export function Ranking({ title, note, report, ranked, empty }: {
  title: string;
  note?: ReactNode;
  report: Report<unknown>;
  ranked: Ranked[] | undefined;
  empty: Empty;
}) {
  const id = title.toLowerCase().replace(' ', '-');
  return (
    <Paper component="section" withBorder p="md" className={classes.card} aria-labelledby={id} aria-busy={report.isOther}>
      <div className={classes.cardHead}>
        <h2 id={id}>{title}</h2>
        {note && <Text size="sm" c="dimmed">{note}</Text>}
      </div>
      {report.error && <Problem title="They cannot be shown" error={report.error} onRetry={report.read} />}
      {!ranked && !report.error && <Rows count={5} />}
      {ranked?.length === 0 && <EmptyState icon={<IconPackage aria-hidden />} {...empty} />}
      <ol className={classes.list}>
        {ranked?.map(({ id, href, name, detail, amount, share }) => (
          <li key={id} className={classes.row}>
            <span className={classes.rowMain}>
              {href ? <Anchor component={Link} href={href} fw={500}>{name}</Anchor> : <span>{name}</span>}
              <Text size="sm" c="dimmed" component="span">{detail}</Text>
            </span>
            <span className="number">{amount}</span>
            <svg className={classes.share} viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden>
              <rect width={Math.max(0, share) * 100} height="1" />
            </svg>
          </li>
        ))}
      </ol>
    </Paper>
  );
}
