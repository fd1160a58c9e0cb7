import { VisuallyHidden } from '@mantine/core';
import { IconArrowDownRight, IconArrowUpRight } from '@tabler/icons-react';
import { useFormat } from '../../shared/format';
import classes from './overview.module.css';

/** A change, and the two values in words. */
export function ChangeText({ change, explanation }: { change: number | undefined; explanation: string }) {
  const format = useFormat();
  const direction = change === undefined || Math.abs(change) < 0.0005 ? 'none' : change > 0 ? 'up' : 'down';
  const Icon = direction === 'up' ? IconArrowUpRight : IconArrowDownRight;
  return (
    <span className={classes.change} data-direction={direction} title={explanation}>
      {direction !== 'none' && <Icon size={16} aria-hidden />}
      {change === undefined ? 'No comparison' : format.change(change)}
      <VisuallyHidden>: {explanation}</VisuallyHidden>
    </span>
  );
}
