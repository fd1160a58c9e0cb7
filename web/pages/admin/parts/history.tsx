// What has happened to an order, a client or a product: what was changed, when and by whom.
import { EmptyState, Text } from '@mantine/core';
import { IconHistory } from '@tabler/icons-react';
import { useMemo } from 'react';
import { Link } from 'wouter';
import type { AdminEventFragment, EventType } from '../../generated/graphql';
import { useFormat, type Format } from '../../shared/format';
import { PagedTable, type Column, type Source } from './paged-table';
import classes from './parts.module.css';

const EVENTS: Record<EventType, string> = {
  ORDER_PLACED: 'Order placed',
  ORDER_CANCELLED: 'Order cancelled',
  ORDER_REFUNDED: 'Refunded',
  CLIENT_REGISTERED: 'Registered',
  CLIENT_UPDATED: 'Changed',
  CLIENT_FORGOTTEN: 'Forgotten',
  PRODUCT_CREATED: 'Created',
  PRICE_CHANGED: 'Price changed',
  PRODUCT_UPDATED: 'Changed',
};

const FIELDS: Record<string, string> = { name: 'Name', email: 'E-mail address', price: 'Price', available: 'Offered', sku: 'SKU' };

/** `revision` changes with each event. Events of orders have a link if `hasOrderLinks`. `currencyCode` is that of changed prices. */
export function History<Data>({ source, revision, hasOrderLinks = false, currencyCode }: {
  source: Pick<Source<Data, AdminEventFragment>, 'query' | 'variables' | 'pageOf'>;
  revision: string | number;
  hasOrderLinks?: boolean;
  currencyCode?: string;
}) {
  const columns = useColumns(hasOrderLinks, currencyCode);
  const { query, variables, pageOf } = source;
  const table = useMemo(() => ({ query, variables, pageOf, keyOf: ({ version }: AdminEventFragment) => version, columns }), [source, columns]);
  const empty = <EmptyState icon={<IconHistory aria-hidden />} title="Nothing has happened yet" description="Changes are listed here." />;
  return <PagedTable label="History" name="history" unit={['event', 'events']} source={table} empty={empty} revision={revision} />;
}

function useColumns(hasOrderLinks: boolean, currencyCode: string | undefined): Column<AdminEventFragment>[] {
  const format = useFormat();
  return useMemo(
    () => [
      { header: 'Event', width: 9, cell: ({ type, orderId }) => (
        hasOrderLinks && orderId
          ? <Link href={`/orders/${orderId}`} className={classes.rowLink}>{EVENTS[type]}</Link>
          : <Text inherit fw={500}>{EVENTS[type]}</Text>
      ) },
      { header: 'Details', cell: (event) => <Details event={event} format={format} currencyCode={currencyCode} /> },
      { header: 'Time', width: 12, cell: ({ time }) => <time dateTime={time}>{format.time(time)}</time> },
      { header: 'By', width: 9, cell: ({ actor }) => <span title={actor ?? undefined} className={classes.clamp}>{actor ?? 'Unknown'}</span> },
      { header: 'Version', width: 5.5, isNumber: true, cell: ({ version }) => format.number(version) },
    ],
    [format, hasOrderLinks, currencyCode],
  );
}

function Details({ event: { amount, reason, changes }, format, currencyCode }: {
  event: AdminEventFragment;
  format: Format;
  currencyCode: string | undefined;
}) {
  const valueOf = (field: string, value: string | null | undefined) => {
    if (value === null || value === undefined) return undefined;
    if (field === 'price' && currencyCode) return format.money({ amount: value, currencyCode });
    if (field === 'available') return value === 'true' ? 'yes' : 'no';
    return value;
  };
  return (
    <>
      {amount && <div className="number">{format.money(amount)}</div>}
      {reason && <div>{reason}</div>}
      {changes.map(({ field, before, after }) => (
        <div key={field}>
          <Text span inherit c="dimmed">{FIELDS[field] ?? field}: </Text>
          {valueOf(field, before) !== undefined && <><del>{valueOf(field, before)}</del> <span aria-hidden>→</span> </>}
          <ins>{valueOf(field, after) ?? '–'}</ins>
        </div>
      ))}
    </>
  );
}
