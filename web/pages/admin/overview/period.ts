// Periods of days in the time zone of the shop, and the period with which each one is compared. A day is a text such as "2026-01-31".
import { useInterval } from '@mantine/hooks';
import { useState } from 'react';
import { useSearchParams } from 'wouter';
import type { Granularity } from '../../generated/graphql';
import { useFormat } from '../../shared/format';

export type Days = { from: string; to: string };
export type Period = Days & {
  label: string;
  /** The days with which it is compared: the same number of days before, or the same days of an earlier month. */
  previous: Days;
  granularity: Granularity;
  /** What may be chosen. */
  granularities: Granularity[];
  /** Whether the last day is today, which is not over. */
  isPartial: boolean;
  isCompared: boolean;
  /** Whether it has too many days to count clients. */
  isLong: boolean;
};

const DAY = 86_400_000;
/** The service counts clients in at most so many days. */
const MAX_DAYS_OF_CLIENTS = 366;
const daysOf = ({ from, to }: Days) => (Date.parse(to) - Date.parse(from)) / DAY + 1;
export const addDays = (day: string, days: number) => new Date(Date.parse(day) + days * DAY).toISOString().slice(0, 10);
const monthEnd = (day: string) => new Date(Date.UTC(+day.slice(0, 4), +day.slice(5, 7), 0)).toISOString().slice(0, 10);
const monthStart = (day: string) => `${day.slice(0, 7)}-01`;

/** The same day of another month, or its last day if the month is too short. */
function addMonths(day: string, months: number): string {
  const month = new Date(Date.UTC(+day.slice(0, 4), +day.slice(5, 7) - 1 + months)).toISOString().slice(0, 7);
  return [`${month}-${day.slice(8)}`, monthEnd(`${month}-01`)].sort()[0]!;
}

/** `months`: how many months earlier the previous period is. Without it, the previous period ends on the day before. */
type Preset = { label: string; months?: number; of: (today: string) => Days };

const last = (days: number): Preset => ({ label: `Last ${days} days`, of: (today) => ({ from: addDays(today, 1 - days), to: today }) });

export const PRESETS: Record<string, Preset> = {
  today: { label: 'Today', of: (today) => ({ from: today, to: today }) },
  yesterday: { label: 'Yesterday', of: (today) => ({ from: addDays(today, -1), to: addDays(today, -1) }) },
  '7d': last(7),
  '30d': last(30),
  '90d': last(90),
  month: { label: 'Month to date', months: 1, of: (today) => ({ from: monthStart(today), to: today }) },
  'last-month': {
    label: 'Last month',
    months: 1,
    of: (today) => ({ from: addMonths(monthStart(today), -1), to: addDays(monthStart(today), -1) }),
  },
  year: { label: 'Year to date', months: 12, of: (today) => ({ from: `${today.slice(0, 4)}-01-01`, to: today }) },
  '12m': { label: 'Last 12 months', months: 12, of: (today) => ({ from: addDays(addMonths(today, -12), 1), to: today }) },
};
const DEFAULT = '30d';

function previousOf(days: Days, months: number | undefined, today: string): Days {
  if (!months) return { from: addDays(days.from, -daysOf(days)), to: addDays(days.from, -1) };
  const to = addMonths(days.to, -months);
  // A whole month is compared with a whole month, although that may be longer.
  const isWhole = days.to === monthEnd(days.to) && days.to < today;
  return { from: addMonths(days.from, -months), to: isWhole ? monthEnd(to) : to };
}

/** The number of whole months. Undefined if the days begin or end in the middle of one. */
function monthsOf({ from, to }: Days): number | undefined {
  if (from !== monthStart(from) || to !== monthEnd(to)) return undefined;
  return (+to.slice(0, 4) - +from.slice(0, 4)) * 12 + +to.slice(5, 7) - +from.slice(5, 7) + 1;
}

function granularitiesOf(days: Days): Granularity[] {
  const length = daysOf(days);
  // Two reports with more points cost more than the service allows.
  return [...(length <= 7 ? (['HOUR'] as const) : []), ...(length <= 250 ? (['DAY'] as const) : []), ...(length > 31 ? (['MONTH'] as const) : [])];
}

const defaultOf = (days: Days): Granularity => (daysOf(days) <= 2 ? 'HOUR' : daysOf(days) <= 92 ? 'DAY' : 'MONTH');

/** The day of a time in a time zone. */
export const dayOf = (time: number, timeZone: string): string =>
  new Intl.DateTimeFormat('en-CA', { timeZone, year: 'numeric', month: '2-digit', day: '2-digit' }).format(time);

/** Today in the time zone of the shop. */
function useToday(): string {
  const { timeZone } = useFormat();
  const [day, setDay] = useState(() => dayOf(Date.now(), timeZone));
  useInterval(() => setDay(dayOf(Date.now(), timeZone)), 1_000, { autoInvoke: true });
  return day;
}

const isDay = (text: string | null): text is string =>
  text !== null && /^\d{4}-\d\d-\d\d$/.test(text) && addMonths(text, 0) === text && text >= '2000-01-01';

/** The period in the address of the page, so that it survives a reload and can be sent to a colleague. */
export function usePeriod(): { period: Period; preset: string | undefined; today: string; change: (parameters: Record<string, string | null>) => void } {
  const [parameters, setParameters] = useSearchParams();
  const { days: daysText } = useFormat();
  const today = useToday();
  const [from, to, by] = ['from', 'to', 'by'].map((name) => parameters.get(name));
  const isFree = isDay(from!) && isDay(to!) && from <= to && to <= today;
  const preset = isFree ? undefined : Object.hasOwn(PRESETS, parameters.get('range') ?? '') ? parameters.get('range')! : DEFAULT;
  const { label, months, of } = preset ? PRESETS[preset]! : { label: '', months: undefined, of: () => ({ from: from!, to: to! }) };
  const days = of(today);
  const granularities = granularitiesOf(days);
  const period: Period = {
    ...days,
    label: label || daysText(days.from, days.to),
    previous: previousOf(days, preset ? months : monthsOf(days), today),
    granularities,
    granularity: granularities.find((each) => each === by) ?? defaultOf(days),
    isPartial: days.to === today,
    isCompared: parameters.get('compare') !== 'off',
    isLong: daysOf(days) > MAX_DAYS_OF_CLIENTS,
  };
  const change = (changes: Record<string, string | null>) =>
    setParameters((before) => {
      const after = new URLSearchParams(before);
      for (const [name, value] of Object.entries(changes)) {
        if (value === null) after.delete(name);
        else after.set(name, value);
      }
      return after;
    });
  return { period, preset, today, change };
}
