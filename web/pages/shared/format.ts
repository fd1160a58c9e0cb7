// Amounts, numbers and times in the locale and the time zone of the reader, and exact sums of money.
import Big from 'big.js';
import { createContext, useContext } from 'react';

export type Money = { amount: string; currencyCode: string };

/** The number of decimal places of an amount. All amounts of the service have those of the currency. */
export const placesOf = (amount: string): number => amount.split('.')[1]?.length ?? 0;

export type Format = ReturnType<typeof createFormat>;

/** Formats for a locale and a time zone: by default those of the browser. */
export function createFormat(locale?: string, timeZone?: string) {
  const currencies = new Map<string, Intl.NumberFormat>();
  // Browsers have other decimal places than the service for some currencies, such as 0 instead of 2 for HUF, and would round.
  const currency = (code: string, places: number) => {
    const key = `${code} ${places}`;
    const digits = { minimumFractionDigits: places, maximumFractionDigits: places };
    const format = currencies.get(key) ?? new Intl.NumberFormat(locale, { style: 'currency', currency: code, ...digits });
    currencies.set(key, format);
    return format;
  };
  const number = new Intl.NumberFormat(locale);
  const compact = new Intl.NumberFormat(locale, { notation: 'compact', maximumFractionDigits: 1 });
  const change = new Intl.NumberFormat(locale, { style: 'percent', maximumFractionDigits: 1, signDisplay: 'exceptZero' });
  const day = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeZone });
  const time = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeStyle: 'short', timeZone });
  // Days have no time zone.
  const days = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeZone: 'UTC' });
  const bucket = (long: Intl.DateTimeFormatOptions, short: Intl.DateTimeFormatOptions) =>
    [new Intl.DateTimeFormat(locale, { ...long, timeZone }), new Intl.DateTimeFormat(locale, { ...short, timeZone })] as const;
  const buckets = {
    HOUR: bucket({ dateStyle: 'medium', timeStyle: 'short' }, { hour: 'numeric', minute: '2-digit' }),
    DAY: bucket({ weekday: 'short', day: 'numeric', month: 'short', year: 'numeric' }, { day: 'numeric', month: 'short' }),
    MONTH: bucket({ month: 'long', year: 'numeric' }, { month: 'short', year: '2-digit' }),
  };
  return {
    locale: number.resolvedOptions().locale,
    timeZone: day.resolvedOptions().timeZone,
    /** Exact, because `format` reads the digits of a text. It has as many decimal places as the amount. */
    money: ({ amount, currencyCode }: Money): string => currency(currencyCode, placesOf(amount)).format(amount as `${number}`),
    number: (value: number): string => number.format(value),
    day: (value: string): string => day.format(new Date(value)),
    time: (value: string): string => time.format(new Date(value)),
    /** For example "1.2M", for the axis of a chart. */
    compact: (value: number): string => compact.format(value),
    /** For example "+12.5%" for 0.125. */
    change: (ratio: number): string => change.format(ratio),
    /** For example "2s" or "3min". */
    duration: (milliseconds: number): string => {
      const seconds = Math.max(0, Math.round(milliseconds / 1000));
      const [value, unit] =
        seconds < 60 ? [seconds, 'second'] : seconds < 3600 ? [Math.floor(seconds / 60), 'minute'] : [Math.floor(seconds / 3600), 'hour'];
      return new Intl.NumberFormat(locale, { style: 'unit', unit, unitDisplay: 'narrow' }).format(value);
    },
    /** A range of days such as "2026-01-31", for example "Jan 1 – 31, 2026". */
    days: (from: string, to: string): string => days.formatRange(new Date(from), new Date(to)),
    /** The start of an hour, a day or a month. */
    bucket: (start: string, granularity: 'HOUR' | 'DAY' | 'MONTH', isShort = false): string =>
      buckets[granularity][isShort ? 1 : 0].format(new Date(start)),
    /** For example "1 order" or "2,000 orders". */
    count: (value: number, one: string, many = `${one}s`): string => `${number.format(value)} ${value === 1 ? one : many}`,
  };
}

const FormatContext = createContext(createFormat());
export const FormatProvider = FormatContext.Provider;
export const useFormat = (): Format => useContext(FormatContext);

/** The exact sum of prices, each times its quantity. Undefined if there are none. All have the same currency. */
export function sum(lines: { price: Money; quantity: number }[]): Money | undefined {
  const [first] = lines;
  if (!first) return undefined;
  const total = lines.reduce((total, { price, quantity }) => total.plus(Big(price.amount).times(quantity)), Big(0));
  return { amount: total.toFixed(placesOf(first.price.amount)), currencyCode: first.price.currencyCode };
}
