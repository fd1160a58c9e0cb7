// The figures of a period: their values, their series, and their change against the previous period.
import Big from 'big.js';
import type { AdminSalesQuery, SalesFiguresFragment, SalesPointFiguresFragment } from '../../generated/graphql';
import { placesOf, type Format, type Money } from '../../shared/format';

type Sums = Pick<SalesFiguresFragment, 'gross' | 'net' | 'orderCount'>;

/** A figure of a report or of one of its points. Undefined: there is none, such as the average of no orders. */
export type Metric = {
  id: string;
  label: string;
  hint: string;
  value: (sums: Sums) => Money | number | undefined;
};

export const METRICS: Metric[] = [
  { id: 'net', label: 'Net revenue', hint: 'Orders minus cancellations and refunds', value: ({ net }) => net },
  { id: 'gross', label: 'Gross revenue', hint: 'Orders as they were placed', value: ({ gross }) => gross },
  { id: 'orders', label: 'Orders', hint: 'Including those that were cancelled later', value: ({ orderCount }) => orderCount },
  {
    id: 'average',
    label: 'Average order value',
    hint: 'Gross revenue for each order',
    value: ({ gross, orderCount }) =>
      orderCount === 0 ? undefined : { ...gross, amount: Big(gross.amount).div(orderCount).toFixed(placesOf(gross.amount)) },
  },
];

export const numberOf = (value: Money | number | undefined): number | undefined =>
  typeof value === 'object' ? Number(value.amount) : value;

export const textOf = ({ money, number }: Format, value: Money | number | undefined): string =>
  value === undefined ? '–' : typeof value === 'object' ? money(value) : number(value);

const minus = <M extends Money>(money: M, others: M[]): M => ({
  ...money,
  amount: others.reduce((rest, { amount }) => rest.minus(amount), Big(money.amount)).toFixed(placesOf(money.amount)),
});

/** The sums without the last hours of the last day. */
const without = (sums: Sums, hours: SalesPointFiguresFragment[]): Sums => ({
  gross: minus(sums.gross, hours.map(({ gross }) => gross)),
  net: minus(sums.net, hours.map(({ net }) => net)),
  orderCount: hours.reduce((rest, { orderCount }) => rest - orderCount, sums.orderCount),
});

const HOUR = 3_600_000;

/** What can be compared: sums of both periods until the same moment. */
export type Comparison = {
  current: Sums;
  previous: Sums;
  /** If the last day is not over: both sums end with the last full hour. This is its end. */
  until: string | undefined;
};

/** Undefined if there is nothing to compare. */
export function compare({ sales, previous, lastDay, previousLastDay }: AdminSalesQuery, isOneDay: boolean, now: number): Comparison | undefined {
  if (!sales || !previous) return undefined;
  if (!lastDay || !previousLastDay) return { current: sales, previous, until: undefined };
  const fullHours = lastDay.points.filter(({ start }) => Date.parse(start) + HOUR <= now).length;
  if (isOneDay && fullHours === 0) return undefined;
  const midnight = Date.parse(lastDay.points[0]!.start);
  return {
    current: without(sales, lastDay.points.slice(fullHours)),
    previous: without(previous, previousLastDay.points.slice(fullHours)),
    until: new Date(midnight + fullHours * HOUR).toISOString(),
  };
}

/** The relative change. Undefined if it began with nothing. */
export function changeOf(current: number | undefined, previous: number | undefined): number | undefined {
  return current === undefined || !previous ? undefined : (current - previous) / Math.abs(previous);
}
