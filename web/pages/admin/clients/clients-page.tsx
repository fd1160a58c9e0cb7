// Clients: found by their name or address, or ranked by their orders.
import { Button, EmptyState, NativeSelect, Text } from '@mantine/core';
import { IconSearch, IconUsers } from '@tabler/icons-react';
import { useMemo } from 'react';
import { Link, useLocation } from 'wouter';
import { AdminClientsDocument, type AdminClientRowFragment, type AdminClientsQuery, type ClientSort } from '../../generated/graphql';
import { useFormat } from '../../shared/format';
import { useSession } from '../../shared/session';
import { DialogButton } from '../change';
import { PagedTable, type Column, type Source } from '../parts/paged-table';
import classes from '../parts/parts.module.css';
import { SearchInput } from '../parts/search-input';
import { useParam } from '../parts/use-param';
import { View } from '../view';
import { RegisterForm } from './client-changes';

const PAGE = 50;
const SORTS: { value: ClientSort; label: string }[] = [
  { value: 'TOTAL_DESC', label: 'Highest total' },
  { value: 'LAST_PURCHASE_DESC', label: 'Newest purchase' },
];

export default function ClientsPage() {
  const session = useSession();
  const [, navigate] = useLocation();
  const [search, setSearch] = useParam('search');
  const [sort, setSort] = useParam('sort');
  const sortBy = SORTS.find(({ value }) => value === sort)?.value ?? 'TOTAL_DESC';
  const mayRank = session.may('sales:read');
  const register = (
    <DialogButton label="New client" title="Register a client" variant="filled" isOffered={session.may('clients:write')}>
      <RegisterForm onDone={({ clientId, clientVersion }) => navigate(`/clients/${clientId}`, { state: { version: clientVersion } })} />
    </DialogButton>
  );
  return (
    <View title="Clients" actions={register}>
      <div className={classes.filters}>
        <SearchInput label="Search" placeholder="Beginning of a name or e-mail address" value={search} onSearch={setSearch} />
        {mayRank && (
          <NativeSelect
            label="Sort by"
            data={SORTS}
            value={sortBy}
            disabled={search !== ''}
            onChange={({ currentTarget }) => setSort(currentTarget.value)}
          />
        )}
      </div>
      {search || mayRank ? (
        <ClientsTable search={search} sortBy={sortBy} onClear={() => setSearch('')} />
      ) : (
        <EmptyState icon={<IconSearch aria-hidden />} title="Search for a client" description="Type the beginning of a name or of an e-mail address." />
      )}
    </View>
  );
}

function ClientsTable({ search, sortBy, onClear }: { search: string; sortBy: ClientSort; onClear: () => void }) {
  const columns = useColumns();
  const source = useMemo<Source<AdminClientsQuery, AdminClientRowFragment>>(
    () => ({
      query: AdminClientsDocument,
      variables: { ...(search ? { search } : { sortBy }), first: PAGE },
      pageOf: ({ clients }) => clients,
      keyOf: ({ id }) => id,
      columns,
    }),
    [search, sortBy, columns],
  );
  const empty = search ? (
    <EmptyState icon={<IconSearch aria-hidden />} title="No client matches" description="Try the beginning of the name or of the e-mail address.">
      <EmptyState.Actions><Button variant="default" onClick={onClear}>Show all clients</Button></EmptyState.Actions>
    </EmptyState>
  ) : (
    <EmptyState icon={<IconUsers aria-hidden />} title="There are no clients yet" description="A client is ranked from its first order on." />
  );
  return <PagedTable label="Clients" name="clients" unit={['client', 'clients']} source={source} empty={empty} />;
}

function useColumns(): Column<AdminClientRowFragment>[] {
  const { money, number, time } = useFormat();
  return useMemo(
    () => [
      {
        header: 'Client',
        cell: ({ id, name, email }) => (
          <>
            <Link href={`/clients/${id}`} className={`${classes.rowLink} ${classes.clamp}`}>{name}</Link>
            <Text size="sm" c="dimmed" className={classes.clamp}>{email}</Text>
          </>
        ),
      },
      { header: 'Orders', width: 7, isNumber: true, cell: ({ orderCount }) => number(orderCount) },
      { header: 'Total', width: 11, isNumber: true, cell: ({ total }) => money(total) },
      { header: 'Last purchase', width: 13, cell: ({ lastPurchase }) => (lastPurchase ? <time dateTime={lastPurchase}>{time(lastPurchase)}</time> : 'None yet') },
    ],
    [money, number, time],
  );
}
