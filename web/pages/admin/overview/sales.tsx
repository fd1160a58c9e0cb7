// The figures of the period, and one of them as a chart.
import { Button, Paper, Skeleton, Text, UnstyledButton } from '@mantine/core';
import { useState } from 'react';
import { useSearchParams } from 'wouter';
import type { AdminClientReportQuery, AdminSalesQuery, SalesFiguresFragment, SalesPointFiguresFragment } from '../../generated/graphql';
import { useFormat } from '../../shared/format';
import type { Report } from '../../shared/report';
import { TimeChart } from '../sales-chart';
import { Sparkline } from '../sparkline';
import { ChangeText } from './change-text';
import { ClientTiles } from './client-tiles';
import { changeOf, compare, METRICS, numberOf, textOf, type Comparison, type Metric } from './figures';
import { dayOf, type Period } from './period';
import classes from './overview.module.css';

export function Sales({ report, clients, period }: { report: Report<AdminSalesQuery>; clients: Report<AdminClientReportQuery>; period: Period }) {
  const [id, setId] = useState(METRICS[0]!.id);
  const metric = METRICS.find((each) => each.id === id)!;
  const { data, isOther, error } = report;
  const sums = data?.sales ?? undefined;
  const points = sums && pastPoints(sums.points);
  const comparison = data && compare(data, period.from === period.to, Date.now());
  const isEmpty = sums?.orderCount === 0;
  return (
    <section aria-label="Sales" aria-busy={isOther} className={classes.sales}>
      <div className={classes.tiles} role="group" aria-label="Figures">
        {METRICS.map((each) => (
          <Tile
            key={each.id}
            metric={each}
            sums={sums}
            points={points}
            comparison={comparison}
            isCompared={period.isCompared}
            hasFailed={error !== undefined && !data}
            isChosen={each.id === id}
            onChoose={() => setId(each.id)}
          />
        ))}
        <ClientTiles report={clients} period={period} />
      </div>
      {data && points && (
        <Paper withBorder p="md" className={classes.card}>
          <div className={classes.cardHead}>
            <h2>{metric.label}</h2>
            <Text size="sm" c="dimmed">{isEmpty ? 'There are no orders in this period yet.' : metric.hint}</Text>
          </div>
          <SalesOverTime key={`${period.from} ${period.to} ${period.granularity}`} metric={metric} data={data} period={period} />
        </Paper>
      )}
      {!points && !error && <Skeleton height="26rem" radius="md" />}
    </section>
  );
}

const pastPoints = (points: SalesPointFiguresFragment[]) => {
  const now = Date.now();
  return points.filter(({ start }) => Date.parse(start) <= now);
};

function Tile({ metric, sums, points, comparison, isCompared, hasFailed, isChosen, onChoose }: {
  metric: Metric;
  sums: SalesFiguresFragment | undefined;
  points: SalesPointFiguresFragment[] | undefined;
  comparison: Comparison | undefined;
  isCompared: boolean;
  hasFailed: boolean;
  isChosen: boolean;
  onChoose: () => void;
}) {
  const format = useFormat();
  return (
    <UnstyledButton className={classes.tile} aria-pressed={isChosen} onClick={onChoose} title={metric.hint}>
      <span className={classes.tileContent}>
        <span className={classes.tileLabel}>{metric.label}</span>
        {sums ? (
          <>
            <strong className={`number ${classes.tileValue}`}>{textOf(format, metric.value(sums))}</strong>
            {isCompared && <Change metric={metric} comparison={comparison} />}
            {points && <Sparkline values={points.map((point) => numberOf(metric.value(point)) ?? 0)} />}
          </>
        ) : hasFailed ? (
          <strong className={classes.tileValue}>–</strong>
        ) : (
          <>
            <Skeleton height={28} width="70%" />
            <Skeleton height={16} width="40%" />
            <Skeleton height={32} />
          </>
        )}
      </span>
    </UnstyledButton>
  );
}

function Change({ metric, comparison }: { metric: Metric; comparison: Comparison | undefined }) {
  const format = useFormat();
  if (!comparison) return <ChangeText change={undefined} explanation="There is nothing to compare with yet." />;
  const [current, previous] = [metric.value(comparison.current), metric.value(comparison.previous)];
  const until = comparison.until ? ` until ${format.time(comparison.until)}` : '';
  return (
    <ChangeText
      change={changeOf(numberOf(current), numberOf(previous))}
      explanation={`${textOf(format, current)}${until}, before ${textOf(format, previous)}`}
    />
  );
}

function SalesOverTime({ metric, data, period: { granularity, isPartial, isCompared } }: { metric: Metric; data: AdminSalesQuery; period: Period }) {
  const format = useFormat();
  const [zoom, setZoom] = useState<[number, number]>();
  const [, setParameters] = useSearchParams();
  const current = data.sales!.points;
  const previous = isCompared ? (data.previous?.points ?? []) : [];
  const past = pastPoints(current).length;
  const length = Math.max(past, isCompared ? Math.min(current.length, previous.length) : past);
  const points = current.slice(0, length).map((point, index) => {
    const before = previous[index];
    const isFuture = index >= past;
    const value = isFuture ? undefined : metric.value(point);
    return {
      start: point.start,
      value: numberOf(value),
      text: textOf(format, value),
      isPartial: isPartial && index === past - 1,
      previous: before && { start: before.start, value: numberOf(metric.value(before)), text: textOf(format, metric.value(before)) },
    };
  });
  const [first, last] = [points[zoom?.[0] ?? 0], points[zoom?.[1] ?? points.length - 1]];
  const isZoomed = zoom !== undefined && first && last && (zoom[0] > 0 || zoom[1] < points.length - 1);
  const showZoomed = () =>
    setParameters((before) => {
      const after = new URLSearchParams(before);
      for (const name of ['range', 'by']) after.delete(name);
      const [from, to] = [first, last].map((point) => dayOf(Date.parse(point!.start), format.timeZone));
      after.set('from', from!);
      after.set('to', to!);
      return after;
    });
  return (
    <>
      <TimeChart points={points} granularity={granularity} label={metric.label} onBrush={(...zoom) => setZoom(zoom)} />
      {isZoomed && granularity !== 'MONTH' && (
        <div className={classes.zoom}>
          <Text size="sm">{format.bucket(first.start, granularity)} – {format.bucket(last.start, granularity)}</Text>
          <Button size="xs" variant="default" onClick={showZoomed}>Show only these days</Button>
        </div>
      )}
    </>
  );
}
