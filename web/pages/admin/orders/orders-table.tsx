import { useMemo, type ReactNode } from 'react';
import { Link } from 'wouter';
import {
  AdminOrderByIdDocument, AdminOrdersDocument, type AdminOrderByIdQuery, type AdminOrderRowFragment, type AdminOrdersQuery,
} from '../../generated/graphql';
import { useFormat } from '../../shared/format';
import { Status } from '../../shared/status';
import { useSession } from '../../shared/session';
import { PagedTable, type Column, type Source } from '../parts/paged-table';
import classes from '../parts/parts.module.css';
import type { Filters } from './filters';

/** Fifty orders cost about 900 of the 1000 that an operation may cost. */
const PAGE = 50;

/** The variables of a list of orders. The page of a client reads the client itself, and perhaps a newer state than that of the list. */
export function useListVariables({ client, status, from, to }: Filters, isOfClient = false) {
  const withClients = useSession().may('clients:read') && !isOfClient;
  const { timeZone } = useFormat();
  return useMemo(
    () => ({ clientId: client ?? null, status: status ?? null, from: from ?? null, to: to ?? null, timeZone, withClients }),
    [client, status, from, to, timeZone, withClients],
  );
}

export function OrdersTable({ filters, empty, revision, isOfClient = false }: {
  filters: Filters;
  empty: ReactNode;
  revision?: number;
  isOfClient?: boolean;
}) {
  const variables = useListVariables(filters, isOfClient);
  const columns = useColumns(variables.withClients);
  const { id } = filters;
  const list = useMemo<Source<AdminOrdersQuery, AdminOrderRowFragment>>(
    () => ({ query: AdminOrdersDocument, variables: { ...variables, first: PAGE }, pageOf: ({ orders }) => orders, keyOf: ({ id }) => id, columns }),
    [variables, columns],
  );
  const one = useMemo<Source<AdminOrderByIdQuery, AdminOrderRowFragment>>(
    () => ({
      query: AdminOrderByIdDocument,
      variables: { id, withClients: variables.withClients, first: 1 },
      pageOf: ({ order }) => ({ nodes: order ? [order] : [], pageInfo: { hasNextPage: false } }),
      keyOf: ({ id }) => id,
      columns,
    } as Source<AdminOrderByIdQuery, AdminOrderRowFragment>),
    [id, variables, columns],
  );
  const table = { label: 'Orders', unit: ['order', 'orders'] as [string, string], name: 'orders', empty, ...(revision !== undefined && { revision }) };
  return id ? <PagedTable key="one" {...table} source={one} /> : <PagedTable key="list" {...table} source={list} />;
}

function useColumns(withClients: boolean): Column<AdminOrderRowFragment>[] {
  const { money, time } = useFormat();
  return useMemo(
    () => [
      {
        header: 'Placed',
        width: 13,
        cell: ({ id, placedAt }) => (
          <Link href={`/orders/${id}`} className={classes.rowLink}><time dateTime={placedAt}>{time(placedAt)}</time></Link>
        ),
      },
      ...(withClients ? [{ header: 'Client', cell: ClientCell }] : []),
      { header: 'Status', width: 9.5, cell: ({ status }) => <Status status={status} /> },
      { header: 'Total', width: 12, isNumber: true, cell: ({ total }) => money(total) },
    ],
    [money, time, withClients],
  );
}

const ClientCell = ({ client }: AdminOrderRowFragment): ReactNode =>
  client ? <Link href={`/clients/${client.id}`} className={`${classes.above} ${classes.clamp}`}>{client.name}</Link> : '–';
