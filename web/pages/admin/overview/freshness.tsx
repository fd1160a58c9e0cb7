import { Badge, Text } from '@mantine/core';
import { useInterval } from '@mantine/hooks';
import { useState } from 'react';
import { useFormat } from '../../shared/format';
import { useConnection } from '../../shared/graphql';

/** How old the figures are, and whether they are followed. */
export function Freshness({ time }: { time: number | undefined }) {
  const { duration, time: format } = useFormat();
  const connection = useConnection();
  const [now, setNow] = useState(Date.now);
  useInterval(() => setNow(Date.now()), 1_000, { autoInvoke: true });
  if (time === undefined) return null;
  if (connection !== 'connected') return <Badge color="yellow" variant="light" size="lg" tt="none">Out of date: from {format(new Date(time).toISOString())}</Badge>;
  return <Text size="sm" c="dimmed" className="number">Updated {duration(now - time)} ago</Text>;
}
