import { Skeleton } from '@mantine/core';
import { lazy, Suspense } from 'react';
import type { Granularity } from '../generated/graphql';
import { useFormat, type Money } from '../shared/format';
import type { ChartProps } from './chart';
import classes from './chart.module.css';

const Chart = lazy(() => import('./chart'));

/** A chart, and its values as a table. */
export function TimeChart(props: ChartProps) {
  const { bucket } = useFormat();
  const { points, granularity, label } = props;
  const isCompared = points.some(({ previous }) => previous);
  return (
    <>
      <Suspense fallback={<Skeleton height="20rem" />}><Chart {...props} /></Suspense>
      <details className={classes.details}>
        <summary>As a table</summary>
        <div className={classes.scroll} role="region" aria-label={`${label}, as a table`} tabIndex={0}>
          <table className={classes.table}>
            <thead>
              <tr><th scope="col">From</th><th scope="col">{label}</th>{isCompared && <th scope="col">Previous period</th>}</tr>
            </thead>
            <tbody>
              {points.toReversed().map(({ start, text, previous, isPartial }) => (
                <tr key={start}>
                  <th scope="row">{bucket(start, granularity)}{isPartial && ' (not over yet)'}</th>
                  <td className="number">{text}</td>
                  {isCompared && <td className="number">{previous?.text}</td>}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </>
  );
}

type Point = { start: string; net: Money };

/** The net revenue in a report. `isPartial`: the report ends today, so its last point is not over. */
export function SalesChart({ points, granularity, isPartial, label = 'Net revenue' }: {
  points: Point[];
  granularity: Granularity;
  isPartial: boolean;
  label?: string;
}) {
  const { money } = useFormat();
  const past = points.filter(({ start }) => Date.parse(start) <= Date.now());
  return (
    <TimeChart
      label={label}
      granularity={granularity}
      points={past.map(({ start, net }, index) => ({
        start,
        value: Number(net.amount),
        text: money(net),
        isPartial: isPartial && index === past.length - 1,
      }))}
    />
  );
}
