import { Alert, List } from '@mantine/core';
import { IconAlertTriangle, IconCircleCheck } from '@tabler/icons-react';
import { useFormat } from '../../shared/format';
import type { Parts } from './system-page';

/** Longer waits are not usual. In seconds. */
const MAX_LAG = 30;

/** What needs attention, each with what to do. */
export function Findings({ parts, isUnknown }: { parts: Parts; isUnknown: (part: keyof Parts) => boolean }) {
  const { duration, count } = useFormat();
  const { stores, projection, outbox, sweep, projectors, readModel, deadLetters } = parts;
  const findings = [
    stores.some(({ reachable }) => !reachable) && 'A store cannot be reached. Changes and queries that need it fail until it is back.',
    stores.some(({ problems }) => problems.length > 0) && 'A store has problems, which are listed below with what to do.',
    projection && projection.lagSeconds > MAX_LAG && `Queries are ${duration(projection.lagSeconds * 1000)} behind. See whether projectors run and how many messages wait.`,
    outbox && outbox.refused > 0 && `The queue or topic refuses ${count(outbox.refused, 'event')}. They are sent again: look at its settings and rights.`,
    outbox && outbox.oldestAgeSeconds > MAX_LAG && 'Events wait long to be sent. See whether the queue or topic can be reached.',
    projectors?.some(({ state }) => state === 'FROZEN') && 'A projector is stuck. Restart it.',
    sweep && sweep.wrongSums > 0 && `${count(sweep.wrongSums, 'sum')} of the read model ${sweep.wrongSums === 1 ? 'is' : 'are'} wrong. Run “projector rebuild start”, which corrects them.`,
    readModel?.rebuild && 'A rebuild of the read model has begun. If it does not move, “projector rebuild start” continues it.',
    (deadLetters?.count ?? 0) > 0 && `${count(deadLetters!.count!, 'message')} could not be applied. See the dead letters below.`,
    (['projection', 'outbox', 'queue', 'readModel'] as const).some(isUnknown) && 'Some parts are unknown, because their store does not respond.',
  ].filter((finding) => typeof finding === 'string');
  return (
    <div role="status">
      {findings.length === 0 ? (
        <Alert color="green" icon={<IconCircleCheck aria-hidden />} title="Everything works" mb="md">Nothing waits for long, and nothing has failed.</Alert>
      ) : (
        <Alert color="yellow" icon={<IconAlertTriangle aria-hidden />} title={findings.length === 1 ? 'One thing needs attention' : `${findings.length} things need attention`} mb="md">
          <List size="sm">{findings.map((finding) => <List.Item key={finding}>{finding}</List.Item>)}</List>
        </Alert>
      )}
    </div>
  );
}
