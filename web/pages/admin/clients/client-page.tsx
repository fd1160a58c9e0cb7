// The page of a client: its totals, its orders and its history. It follows each change.
import { Anchor, Badge, Button, EmptyState, Paper, Skeleton, Stack, Title } from '@mantine/core';
import { IconMapQuestion, IconReceiptOff } from '@tabler/icons-react';
import Big from 'big.js';
import { useMemo, useState } from 'react';
import { useQuery, useSubscription } from 'urql';
import { Link } from 'wouter';
import { useHistoryState } from 'wouter/use-browser-location';
import {
  AdminClientChangedDocument, AdminClientDocument, AdminClientHistoryDocument, type AdminClientHistoryQuery, type AdminClientStateFragment,
} from '../../generated/graphql';
import { Problem } from '../../shared/errors';
import { placesOf, useFormat } from '../../shared/format';
import { useSession } from '../../shared/session';
import { DialogButton, Notice } from '../change';
import { OrdersTable } from '../orders/orders-table';
import { History } from '../parts/history';
import classes from '../parts/parts.module.css';
import { View } from '../view';
import { EditForm, ForgetForm, isForgotten } from './client-changes';
import { ClientSales } from './client-sales';

const BACK = { href: '/clients', label: 'Clients' };
const EVENTS = 20;

export default function ClientPage({ id }: { id: string }) {
  const session = useSession();
  // After the client was registered, queries may not have it yet.
  const minVersion = useHistoryState<{ version?: number } | null>()?.version;
  const variables = { id, ...(minVersion && { minVersion }) };
  const [{ data, error }, read] = useQuery({ query: AdminClientDocument, variables, requestPolicy: 'cache-and-network' });
  const [{ data: changed }] = useSubscription({ query: AdminClientChangedDocument, variables: { id } });
  const [notice, setNotice] = useState<string>();
  // The client may have been read before the read model had it.
  const client = data && (data.client ?? changed?.clientChanged);
  const problem = error && <Problem title="The client cannot be shown" error={error} onRetry={() => read({ requestPolicy: 'network-only' })} />;
  if (!client) {
    return (
      <View title="Client" back={BACK}>
        {problem}
        {!data && !error && <Skeleton height={240} radius="md" role="status" aria-hidden={false} aria-label="Loading the client" />}
        {data && !client && (
          <EmptyState icon={<IconMapQuestion aria-hidden />} title="There is no such client" description="The link may be incomplete. Sample clients are shown from their first order on.">
            <EmptyState.Actions><Button component={Link} href="/clients" variant="default">Show all clients</Button></EmptyState.Actions>
          </EmptyState>
        )}
      </View>
    );
  }
  const isGone = isForgotten(client);
  const actions = (
    <>
      <DialogButton label="Edit" title="Edit the client" isOffered={session.may('clients:write') && !isGone}>
        <EditForm client={client} onDone={setNotice} />
      </DialogButton>
      <DialogButton label="Forget" title="Forget the client?" color="red" variant="light" isOffered={session.may('clients:forget') && !isGone}>
        <ForgetForm client={client} onDone={setNotice} />
      </DialogButton>
    </>
  );
  return (
    <View
      title={client.name}
      heading={<>{client.name} {isGone && <Badge variant="light" color="gray" tt="none" size="lg">Forgotten</Badge>}</>}
      back={BACK}
      actions={actions}
    >
      <Notice>{notice}</Notice>
      <Stack>
        {problem}
        <Totals client={client} />
        {session.may('sales:read') && <ClientSales client={client} />}
        {session.may('orders:read') && (
          <>
            <Title order={2} mt="md">Orders</Title>
            <OrdersTable
              isOfClient
              filters={{ client: id }}
              revision={client.version}
              empty={<EmptyState icon={<IconReceiptOff aria-hidden />} title="No orders yet" description="The orders of this client are listed here." />}
            />
          </>
        )}
        <Title order={2} mt="md">History</Title>
        <ClientHistory client={client} />
      </Stack>
    </View>
  );
}

function Totals({ client }: { client: AdminClientStateFragment }) {
  const { money, number, time } = useFormat();
  const { id, email, total, gross, cancelled, orderCount, cancelledCount, lastPurchase } = client;
  const average = orderCount > 0 && { ...gross, amount: Big(gross.amount).div(orderCount).toFixed(placesOf(gross.amount)) };
  return (
    <Paper withBorder p="md" component="section" aria-label="Totals" className={classes.panel}>
      <dl className={classes.facts}>
        <div className={classes.wide}><dt>E-mail address</dt><dd>{isForgotten(client) ? 'Erased' : <Anchor href={`mailto:${email}`} inherit>{email}</Anchor>}</dd></div>
        <div><dt>Client id</dt><dd>{id}</dd></div>
        <div><dt>Total after refunds</dt><dd>{money(total)}</dd></div>
        <div><dt>Placed</dt><dd>{money(gross)}</dd></div>
        <div><dt>Cancelled and refunded</dt><dd>{money(cancelled)}</dd></div>
        <div><dt>Average order</dt><dd>{average ? money(average) : '–'}</dd></div>
        <div><dt>Orders</dt><dd>{number(orderCount)}{cancelledCount > 0 && `, ${number(cancelledCount)} of them cancelled`}</dd></div>
        <div><dt>Last purchase</dt><dd>{lastPurchase ? time(lastPurchase) : 'None yet'}</dd></div>
      </dl>
    </Paper>
  );
}

function ClientHistory({ client: { id, version } }: { client: AdminClientStateFragment }) {
  const hasOrderLinks = useSession().may('orders:read');
  const source = useMemo(
    () => ({ query: AdminClientHistoryDocument, variables: { id, first: EVENTS }, pageOf: ({ client }: AdminClientHistoryQuery) => client?.history }),
    [id],
  );
  return <History source={source} revision={version} hasOrderLinks={hasOrderLinks} />;
}
