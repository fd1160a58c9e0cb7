// A chart of values over time. It is loaded only when one is shown.
import { useState } from 'react';
import { Area, Brush, CartesianGrid, ComposedChart, Line, ReferenceLine, ResponsiveContainer, Tooltip, XAxis, YAxis } from 'recharts';
import type { Granularity } from '../generated/graphql';
import { useFormat } from '../shared/format';
import classes from './chart.module.css';

export type ChartPoint = {
  start: string;
  /** Undefined: there is no value, or the point is still to come. */
  value: number | undefined;
  /** The value as it is shown. */
  text: string;
  /** The same point of the previous period. */
  previous?: { start: string; value: number | undefined; text: string } | undefined;
  /** Whether the hour, day or month is not over. */
  isPartial?: boolean;
};

export type ChartProps = {
  points: ChartPoint[];
  granularity: Granularity;
  label: string;
  /** The points between which the user has moved the brush. */
  onBrush?: (first: number, last: number) => void;
};

/** With fewer points there is nothing to zoom into. */
const MIN_BRUSH = 10;

export default function Chart({ points, granularity, label, onBrush }: ChartProps) {
  const { bucket, compact } = useFormat();
  const [window, setWindow] = useState<[number, number]>();
  const [first, last] = window ?? [0, points.length - 1];
  const partial = points.findIndex(({ isPartial }) => isPartial);
  // The line to the point that is not over is dashed.
  const rows = points.map(({ start, value, previous, isPartial, ...point }, index) => ({
    ...point,
    start,
    value: isPartial ? undefined : value,
    partial: isPartial || index === partial - 1 ? value : undefined,
    previous: previous?.value,
    point: points[index]!,
  }));
  const hasBrush = points.length >= MIN_BRUSH;
  const isShort = points.filter(({ value }) => value !== undefined).length < 3;
  return (
    <div className={classes.chart}>
      <ResponsiveContainer width="100%" height="100%" initialDimension={{ width: 600, height: 320 }}>
        <ComposedChart data={rows} margin={{ top: 8, right: 8, bottom: 0, left: 0 }} title={label} role="application" aria-label={label}>
          <defs>
            <linearGradient id="fill" x1="0" y1="0" x2="0" y2="1">
              <stop offset="0%" stopColor="var(--chart-current)" stopOpacity={0.28} />
              <stop offset="100%" stopColor="var(--chart-current)" stopOpacity={0.02} />
            </linearGradient>
          </defs>
          <CartesianGrid vertical={false} stroke="var(--chart-grid)" />
          <XAxis
            dataKey="start"
            tickFormatter={(start: string) => bucket(start, granularity, true)}
            tick={{ fill: 'var(--mantine-color-dimmed)', fontSize: 12 }}
            tickLine={false}
            axisLine={{ stroke: 'var(--chart-grid)' }}
            minTickGap={36}
          />
          <YAxis
            width={56}
            tickFormatter={compact}
            tick={{ fill: 'var(--mantine-color-dimmed)', fontSize: 12 }}
            tickLine={false}
            axisLine={false}
            allowDecimals={false}
          />
          <ReferenceLine y={0} stroke="var(--chart-grid)" />
          <Tooltip
            isAnimationActive={false}
            cursor={{ stroke: 'var(--mantine-color-dimmed)', strokeDasharray: '3 3' }}
            content={({ active, payload }) => {
              const point = (payload?.[0]?.payload as { point: ChartPoint } | undefined)?.point;
              return active && point ? <PointTooltip point={point} granularity={granularity} /> : null;
            }}
          />
          <Line dataKey="previous" stroke="var(--chart-previous)" strokeWidth={2} strokeDasharray="2 4" dot={isShort} isAnimationActive={false} activeDot={false} />
          <Area dataKey="value" type="monotone" stroke="var(--chart-current)" strokeWidth={2.5} fill="url(#fill)" dot={isShort} isAnimationActive={false} />
          <Area dataKey="partial" type="monotone" stroke="var(--chart-current)" strokeWidth={2.5} strokeDasharray="6 5" fill="url(#fill)" fillOpacity={0.4} dot={partial >= 0 && points.length < 3} isAnimationActive={false} />
          {hasBrush && (
            <Brush
              dataKey="start"
              height={30}
              travellerWidth={12}
              startIndex={Math.min(first, points.length - 1)}
              endIndex={Math.min(last, points.length - 1)}
              stroke="var(--chart-brush)"
              fill="var(--card-background)"
              tickFormatter={(start: string) => bucket(start, granularity, true)}
              ariaLabel={`Range of the chart: ${label}`}
              onChange={({ startIndex = 0, endIndex = points.length - 1 }) => {
                setWindow([startIndex, endIndex]);
                onBrush?.(startIndex, endIndex);
              }}
            />
          )}
        </ComposedChart>
      </ResponsiveContainer>
    </div>
  );
}

function PointTooltip({ point: { start, text, value, previous, isPartial }, granularity }: { point: ChartPoint; granularity: Granularity }) {
  const { bucket } = useFormat();
  return (
    <div className={classes.tooltip} role="status">
      <div><strong>{bucket(start, granularity)}</strong>{isPartial && ' (not over yet)'}</div>
      {(value !== undefined || !previous) && <div className={classes.row} data-kind="current"><span>This period</span> <b className="number">{text}</b></div>}
      {previous && (
        <div className={classes.row} data-kind="previous"><span>{bucket(previous.start, granularity)}</span> <b className="number">{previous.text}</b></div>
      )}
    </div>
  );
}
