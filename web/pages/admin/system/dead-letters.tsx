// Messages that could not be applied: why, and sending them back or deleting them.
import { Alert, Anchor, Badge, Button, EmptyState, Group, Paper, Stack, Table, Text } from '@mantine/core';
import { IconMailCheck } from '@tabler/icons-react';
import { useEffect, useRef, useState } from 'react';
import { useMutation, useQuery } from 'urql';
import { Link } from 'wouter';
import {
  AdminDeadLettersDocument, AdminDiscardDeadLettersDocument, AdminRedriveDeadLettersDocument,
  type AdminRedriveDeadLettersMutation, type DeadLetterRowFragment, type DeadLetterVerdict,
} from '../../generated/graphql';
import { messageOf, Problem } from '../../shared/errors';
import { useFormat, type Format } from '../../shared/format';
import { useSession } from '../../shared/session';
import { DialogButton, Notice, useDialog } from '../change';
import { Rows } from '../overview/recent-orders';
import tables from '../parts/parts.module.css';
import classes from './system.module.css';

const PROBLEMS = {
  MISSING: 'The queue has no dead-letter queue.',
  NOT_ALLOWED: 'The api may not read the dead-letter queue. Allow it, or use the command “projector dead-letters”.',
};

/** `count` comes from the state of the system: when it changes, the letters are read again. */
export function DeadLetters({ count, onChanged }: { count: number | null | undefined; onChanged: () => void }) {
  const [{ data, error, fetching }, read] = useQuery({ query: AdminDeadLettersDocument, requestPolicy: 'cache-and-network' });
  const refresh = () => read({ requestPolicy: 'network-only' });
  const before = useRef(count);
  useEffect(() => {
    if (before.current !== count) refresh();
    before.current = count;
  }, [count]);
  const [letters, setLetters] = useState<DeadLetterRowFragment[]>();
  const found = data?.system?.deadLetters;
  useEffect(() => {
    if (found?.nodes && !fetching) setLetters(found.nodes);
  }, [found, fetching]);
  const [notice, setNotice] = useState<string>();
  const format = useFormat();
  const mayWrite = useSession().may('system:write');
  const onDone = (did: 'sent back' | 'deleted') => (result: Payload) => {
    setNotice(resultOf(format, did, result));
    refresh();
    onChanged();
  };
  // The queue estimates the count, which may be too low.
  const all = Math.max(count ?? 0, letters?.length ?? 0);
  return (
    <Paper component="section" withBorder p="md" className={classes.card} aria-labelledby="dead-letters">
      <Group justify="space-between" mb="sm">
        <div>
          <h2 id="dead-letters">Dead letters</h2>
          <Text size="sm" c="dimmed">Messages that were received five times and not applied</Text>
        </div>
        {mayWrite && all > 0 && (
          <DialogButton label="Redrive all" title="Send all dead letters back to the queue?">
            <Command
              kind="redrive"
              explanation="Correct the reason before, or they come back. Those that are not events of this service stay. An event is applied only once."
              onDone={onDone('sent back')}
            />
          </DialogButton>
        )}
      </Group>
      <Notice>{notice}</Notice>
      {error && <Problem title="The dead letters cannot be read" error={error} onRetry={refresh} />}
      {found?.problem && <Alert color="yellow">{PROBLEMS[found.problem]}</Alert>}
      {!letters && !error && !found?.problem && <Rows count={2} />}
      {letters?.length === 0 && <EmptyState icon={<IconMailCheck aria-hidden />} title="No dead letters" description="All messages were applied." />}
      {letters && letters.length > 0 && (
        <>
          {all > letters.length && <Text size="sm" mb="xs">The oldest {format.number(letters.length)} of about {format.number(all)}. Others follow when these are gone.</Text>}
          <div className={classes.scroll} role="region" aria-label="List of dead letters" tabIndex={0}>
            <Table role="table" aria-label="Dead letters" className={tables.table}>
              <Table.Thead role="rowgroup">
                <Table.Tr role="row">
                  {['Message', 'Verdict', 'Reason', ...(mayWrite ? ['Actions'] : [])].map((header) => <Table.Th key={header} role="columnheader">{header}</Table.Th>)}
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody role="rowgroup">
                {letters.map((letter) => <Letter key={letter.id} letter={letter} mayWrite={mayWrite} onDone={onDone} />)}
              </Table.Tbody>
            </Table>
          </div>
        </>
      )}
    </Paper>
  );
}

const VERDICTS: Record<DeadLetterVerdict, [name: string, colour: string, advice: string]> = {
  FOREIGN: ['Foreign', 'red', 'Not an event of this service. Find its sender, then discard it.'],
  SUPERSEDED: ['Applied since', 'green', 'Discard it.'],
  NEEDED: ['Needed', 'yellow', 'Missing in the read model. Correct the reason, then redrive it.'],
};

type Payload = NonNullable<AdminRedriveDeadLettersMutation['redriveDeadLetters']>;
type OnDone = (did: 'sent back' | 'deleted') => (result: Payload) => void;

function Letter({ letter: { id, sentAt, type, clientId, productId, version, receives, verdict, reason }, mayWrite, onDone }: {
  letter: DeadLetterRowFragment;
  mayWrite: boolean;
  onDone: OnDone;
}) {
  const { time, count } = useFormat();
  const name = type ? type.toLowerCase().replaceAll('_', ' ') : 'unknown message';
  const [verdictName, colour, advice] = verdict ? VERDICTS[verdict] : ['Unknown', 'gray', 'The read model is unavailable.'];
  return (
    <Table.Tr role="row">
      <Table.Td role="cell" data-label="Message">
        <Text size="sm" fw={500}>{name}</Text>
        {clientId && <Anchor component={Link} href={`/clients/${clientId}`} size="sm">Client {clientId}</Anchor>}
        {productId && <Anchor component={Link} href={`/products/${productId}`} size="sm">Product {productId}</Anchor>}
        <Text size="sm" c="dimmed">{version !== null && `Version ${version} · `}{sentAt && `sent ${time(sentAt)} · `}received {count(receives, 'time')}</Text>
      </Table.Td>
      <Table.Td role="cell" data-label="Verdict"><Badge color={colour} variant="light" tt="none" size="lg">{verdictName}</Badge><Text size="sm" c="dimmed">{advice}</Text></Table.Td>
      <Table.Td role="cell" data-label="Reason">{reason}</Table.Td>
      {mayWrite && (
        <Table.Td role="cell" data-label="Actions">
          <Group gap="xs">
            <DialogButton label="Redrive" size="xs" title="Send this message back to the queue?" aria-label={`Redrive ${name}`}>
              <Command kind="redrive" ids={[id]} explanation="Correct the reason before, or it comes back. An event is applied only once." onDone={onDone('sent back')} />
            </DialogButton>
            <DialogButton label="Discard" size="xs" color="red" title="Delete this message?" aria-label={`Discard ${name}`}>
              <Command
                kind="discard"
                ids={[id]}
                explanation={verdict === 'NEEDED' ? 'Its event is missing in the read model, until the sweep repairs it.' : 'It cannot be restored.'}
                onDone={onDone('deleted')}
              />
            </DialogButton>
          </Group>
        </Table.Td>
      )}
    </Table.Tr>
  );
}

/** Asks, and sends the command. Both can be repeated safely after a lost response. */
function Command({ kind, ids, explanation, onDone }: { kind: 'redrive' | 'discard'; ids?: string[]; explanation: string; onDone: (result: Payload) => void }) {
  const { close, setBusy } = useDialog();
  const [redriving, redrive] = useMutation(AdminRedriveDeadLettersDocument);
  const [discarding, discard] = useMutation(AdminDiscardDeadLettersDocument);
  const [problem, setProblem] = useState<string>();
  const isSending = redriving.fetching || discarding.fetching;
  useEffect(() => setBusy(isSending), [isSending]);
  const send = async () => {
    setProblem(undefined);
    const result = kind === 'redrive' ? await redrive({ input: { ids: ids ?? null } }) : await discard({ input: { ids: ids! } });
    const data = result.data as Record<string, Payload | null> | undefined;
    const payload = data?.['redriveDeadLetters'] ?? data?.['discardDeadLetters'];
    if (!payload) return setProblem(result.error ? messageOf(result.error) : 'The service has failed.');
    close();
    onDone(payload);
  };
  return (
    <Stack>
      {problem && <Alert color="red" role="alert" title="It is not known whether this was done">{problem} You can repeat it.</Alert>}
      <Text>{explanation}</Text>
      <Group justify="flex-end">
        <Button variant="default" onClick={close} disabled={isSending} data-autofocus>Close</Button>
        <Button color={kind === 'discard' ? 'red' : 'blue'} loading={isSending} onClick={send}>
          {kind === 'discard' ? 'Delete' : ids ? 'Send it back' : 'Send all back'}
        </Button>
      </Group>
    </Stack>
  );
}

/** What a command has done. */
function resultOf({ count }: Format, did: string, { ids, skipped, missingIds, hasMore }: Payload): string {
  const was = (number: number) => (number === 1 ? 'was' : 'were');
  return [
    `${count(ids.length, 'dead letter')} ${was(ids.length)} ${did}.`,
    skipped > 0 && `${count(skipped, 'message')} that ${skipped === 1 ? 'is no event' : 'are no events'} of this service stayed.`,
    missingIds.length > 0 && `${count(missingIds.length, 'message')} ${was(missingIds.length)} not found: somebody else may have taken them.`,
    hasMore && 'There may be more: repeat it.',
  ].filter(Boolean).join(' ');
}
