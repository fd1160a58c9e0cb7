// The state of the service, for operators without a shell: what is behind, what has failed, and what to do about it.
import { Badge, Paper, Progress, Skeleton, Table, Text } from '@mantine/core';
import { useDocumentVisibility, useInterval } from '@mantine/hooks';
import { useEffect, useState, type ReactNode } from 'react';
import { useQuery } from 'urql';
import {
  AdminSystemDocument, type OutboxPartsFragment, type ProjectionPartsFragment, type ProjectorPartsFragment, type ProjectorState,
  type QueuePartsFragment, type ReadModelPartsFragment, type StorePartsFragment, type SweepPartsFragment,
} from '../../generated/graphql';
import { Problem } from '../../shared/errors';
import { useFormat } from '../../shared/format';
import { Freshness } from '../overview/freshness';
import tables from '../parts/parts.module.css';
import { View } from '../view';
import { DeadLetters } from './dead-letters';
import { Findings } from './findings';
import classes from './system.module.css';

/** In milliseconds. */
const REFRESH_EVERY = 5_000;

export type Parts = {
  apiVersion: string;
  stores: StorePartsFragment[];
  projection: ProjectionPartsFragment | null;
  outbox: OutboxPartsFragment | null;
  queue: QueuePartsFragment | null;
  readModel: ReadModelPartsFragment | null;
  projectors: ProjectorPartsFragment[] | null;
  sweep: SweepPartsFragment | null;
  deadLetters: { count: number | null; problem: string | null } | null;
};

export default function SystemPage() {
  const [{ data, error, fetching, stale }, read] = useQuery({ query: AdminSystemDocument, requestPolicy: 'cache-and-network' });
  const refresh = () => read({ requestPolicy: 'network-only' });
  const isVisible = useDocumentVisibility() === 'visible';
  const { start, stop } = useInterval(refresh, REFRESH_EVERY);
  useEffect(() => {
    if (isVisible) start();
    return stop;
  }, [isVisible]);
  const [kept, setKept] = useState<{ parts: Parts; time: number }>();
  useEffect(() => {
    const system = data?.system;
    if (system && !fetching && !stale) setKept({ parts: system, time: Date.now() });
  }, [data, fetching, stale]);
  const parts = kept?.parts;
  // A part that cannot be read is null, and has an error. The others remain.
  const isUnknown = (part: keyof Parts) => error?.graphQLErrors.some(({ path }) => path?.[1] === part) ?? false;
  const isWhole = error && !error.graphQLErrors.some(({ path }) => path && path.length > 1);
  return (
    <View title="System" actions={<Freshness time={kept?.time} />}>
      {isWhole && <div className={classes.problem}><Problem title="The state cannot be read" error={error} onRetry={refresh} /></div>}
      {!parts && !error && <Skeleton height={400} radius="md" role="status" aria-hidden={false} aria-label="Loading the state" />}
      {parts && (
        <>
          <Findings parts={parts} isUnknown={isUnknown} />
          <div className={classes.cards}>
            <Stores stores={parts.stores} version={parts.apiVersion} />
            <Card title="Queries" hint="How far they are behind changes" isUnknown={isUnknown('projection')}>
              {parts.projection && <Projection {...parts.projection} />}
            </Card>
            <Card title="Outbox" hint="Events that wait to be sent to the queue or topic" isUnknown={isUnknown('outbox')}>
              {parts.outbox && <Outbox {...parts.outbox} />}
            </Card>
            <Card title="Queue" hint="Messages that wait to be applied, as the queue estimates" isUnknown={isUnknown('queue')}>
              {parts.queue ? <Queue {...parts.queue} /> : <Text size="sm">Unknown, because the api has no QUEUE_URL.</Text>}
            </Card>
            <Card title="Read model" hint="What queries read" isUnknown={isUnknown('readModel')}>
              {parts.readModel && <ReadModel {...parts.readModel} />}
            </Card>
            <Card title="Sweep" hint="Compares the read model with the database and repairs it" isUnknown={isUnknown('sweep')}>
              {parts.sweep ? <Sweep {...parts.sweep} /> : <Text size="sm">None yet. It needs a projector with a database, and a read model in Redis.</Text>}
            </Card>
          </div>
          <Projectors projectors={parts.projectors} isUnknown={isUnknown('projectors')} />
          {(parts.deadLetters || isUnknown('deadLetters')) && <DeadLetters count={parts.deadLetters?.count} onChanged={refresh} />}
        </>
      )}
    </View>
  );
}

function Card({ title, hint, isUnknown = false, children }: { title: string; hint: string; isUnknown?: boolean; children: ReactNode }) {
  const id = title.toLowerCase().replaceAll(' ', '-');
  return (
    <Paper component="section" withBorder p="md" className={classes.card} aria-labelledby={id}>
      <h2 id={id}>{title}</h2>
      <Text size="sm" c="dimmed" mb="sm">{hint}</Text>
      {isUnknown ? <Badge color="gray" variant="light" tt="none" size="lg">Unknown: its store does not respond</Badge> : children}
    </Paper>
  );
}

const Facts = ({ facts }: { facts: [string, ReactNode][] }) => (
  <dl className={classes.facts}>
    {facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd className="number">{value}</dd></div>)}
  </dl>
);

function useTimes() {
  const { time, duration } = useFormat();
  const when = (at: string | null | undefined, never = 'Never') => (at ? <time dateTime={at}>{time(at)}</time> : never);
  return { when, lasting: (seconds: number) => duration(seconds * 1000) };
}

const STORES = { DATABASE: 'Database', QUEUE: 'Queue', READ_MODEL: 'Read model' };

const Stores = ({ stores, version }: { stores: StorePartsFragment[]; version: string }) => (
  <Card title="Stores" hint={`As the api reaches them, version ${version}`}>
    <Facts
      facts={stores.map(({ name, reachable, problems }) => [
        STORES[name],
        <Badge color={!reachable ? 'red' : problems.length > 0 ? 'yellow' : 'green'} variant="light" tt="none" size="lg">
          {!reachable ? 'Not reachable' : problems.length > 0 ? 'Has problems' : 'Reachable'}
        </Badge>,
      ])}
    />
    {stores.flatMap(({ problems }) => problems).map((problem) => <Text key={problem} size="sm" mt="xs">{problem}</Text>)}
  </Card>
);

function Projection({ lagSeconds, newestEventAt }: ProjectionPartsFragment) {
  const { when, lasting } = useTimes();
  return <Facts facts={[['Behind', lagSeconds === 0 ? 'Up to date' : `About ${lasting(lagSeconds)}`], ['Newest change', when(newestEventAt, 'None yet')]]} />;
}

function Outbox({ pending, refused, oldestAgeSeconds }: OutboxPartsFragment) {
  const { number } = useFormat();
  const { lasting } = useTimes();
  return <Facts facts={[['Waiting', number(pending)], ['Refused by the queue', number(refused)], ['Oldest', pending === 0 ? '–' : lasting(oldestAgeSeconds)]]} />;
}

function Queue({ visible, inFlight }: QueuePartsFragment) {
  const { number } = useFormat();
  return <Facts facts={[['Waiting', number(visible)], ['Being applied', number(inFlight)]]} />;
}

function ReadModel({ generation, format, latestFormat, rebuild, previous }: ReadModelPartsFragment) {
  const { number } = useFormat();
  const { when } = useTimes();
  const percent = rebuild?.replayedPercent ?? 0;
  return (
    <>
      <Facts
        facts={[
          ['Generation', number(generation)],
          ['Format', format === latestFormat ? number(format) : `${number(format)}, the latest is ${number(latestFormat)}`],
          ...(rebuild ? [['Rebuild', `Generation ${number(rebuild.generation)}: ${number(percent)}% of the log`] as [string, string]] : []),
          ...(previous ? [['Can be rolled back until', when(previous.keptUntil)] as [string, ReactNode]] : []),
        ]}
      />
      {rebuild && <Progress value={percent} mt="xs" aria-label="Progress of the rebuild" />}
    </>
  );
}

function Sweep({ comparedAt, roundBeganAt, roundFinished, differences, repaired, lastDifferenceAt, wrongSums }: SweepPartsFragment) {
  const { number } = useFormat();
  const { when } = useTimes();
  return (
    <Facts
      facts={[
        ['Recent changes compared', when(comparedAt)],
        [roundFinished ? 'Last round began' : 'Round began', when(roundBeganAt)],
        ['Differences, repaired', `${number(differences)}, ${number(repaired)}`],
        ['Last difference', when(lastDifferenceAt)],
        ['Wrong sums', number(wrongSums)],
      ]}
    />
  );
}

const STATES: Record<ProjectorState, [string, string]> = {
  CURRENT: ['Up to date', 'green'],
  LAGGING: ['Behind', 'yellow'],
  WAITING: ['Waits for a store', 'orange'],
  FROZEN: ['Stuck: restart it', 'red'],
};

function Projectors({ projectors, isUnknown }: { projectors: ProjectorPartsFragment[] | null; isUnknown: boolean }) {
  const { when, lasting } = useTimes();
  return (
    <Card title="Projectors" hint="The processes that apply events to the read model" isUnknown={isUnknown}>
      {projectors?.length === 0 && <Text size="sm">None has reported in the last ten seconds. A Lambda function does not report.</Text>}
      {projectors && projectors.length > 0 && (
        <div className={classes.scroll} role="region" aria-label="List of projectors" tabIndex={0}>
          <Table role="table" aria-label="Projectors" className={tables.table}>
            <Table.Thead role="rowgroup">
              <Table.Tr role="row">
                {['State', 'Behind', 'Started', 'Version'].map((header) => <Table.Th key={header} role="columnheader">{header}</Table.Th>)}
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody role="rowgroup">
              {projectors.map(({ startedAt, version, state, lagSeconds }, index) => (
                <Table.Tr key={index} role="row">
                  <Table.Td role="cell" data-label="State"><Badge color={STATES[state][1]} variant="light" tt="none" size="lg">{STATES[state][0]}</Badge></Table.Td>
                  <Table.Td role="cell" data-label="Behind" className="number">{lagSeconds === 0 ? '–' : lasting(lagSeconds)}</Table.Td>
                  <Table.Td role="cell" data-label="Started">{when(startedAt)}</Table.Td>
                  <Table.Td role="cell" data-label="Version">{version}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
    </Card>
  );
}
