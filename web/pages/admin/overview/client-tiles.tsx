import { Skeleton } from '@mantine/core';
import type { AdminClientReportQuery, ClientCountsFragment } from '../../generated/graphql';
import { useFormat } from '../../shared/format';
import type { Report } from '../../shared/report';
import { ChangeText } from './change-text';
import { changeOf } from './figures';
import type { Period } from './period';
import classes from './overview.module.css';

type Counts = Omit<ClientCountsFragment, '__typename'>;

const FIGURES: { label: string; hint: string; of: (counts: Counts) => number }[] = [
  { label: 'New clients', hint: 'Their first order is in this period', of: ({ newClientCount }) => newClientCount },
  { label: 'Returning clients', hint: 'They had ordered before this period', of: ({ returningClientCount }) => returningClientCount },
];

export function ClientTiles({ report: { data, error }, period }: { report: Report<AdminClientReportQuery>; period: Period }) {
  const { number } = useFormat();
  return FIGURES.map(({ label, hint, of }) => {
    const counts = data?.clientReport;
    const current = period.isPartial ? data?.full : counts;
    const previous = data?.previous;
    const days = period.isPartial ? ' until yesterday' : '';
    return (
      <div key={label} className={classes.tile} title={hint}>
        <div className={classes.tileContent}>
          <span className={classes.tileLabel}>{label}</span>
          {counts ? (
            <>
              <strong className={`number ${classes.tileValue}`}>{number(of(counts))}</strong>
              {period.isCompared &&
                (current && previous ? (
                  <ChangeText change={changeOf(of(current), of(previous))} explanation={`${number(of(current))}${days}, before ${number(of(previous))}`} />
                ) : (
                  <ChangeText change={undefined} explanation="There is nothing to compare with yet." />
                ))}
            </>
          ) : error || period.isLong ? (
            <>
              <strong className={classes.tileValue}>–</strong>
              {period.isLong && <span className={classes.change}>Only for up to a year</span>}
            </>
          ) : (
            <>
              <Skeleton height={28} width="40%" />
              <Skeleton height={16} width="40%" />
            </>
          )}
        </div>
      </div>
    );
  });
}
