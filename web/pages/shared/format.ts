// Amounts, numbers and times in the locale and the time zone of the reader, and exact sums of money.
import Big from 'big.js';
import { createContext, useContext } from 'react';

export type Money = { amount: string; currencyCode: string };

export type Format = ReturnType<typeof createFormat>;

/** Formats for a locale and a time zone: by default those of the browser. */
export function createFormat(locale?: string, timeZone?: string) {
  const currencies = new Map<string, Intl.NumberFormat>();
  const currency = (code: string) => {
    const format = currencies.get(code) ?? new Intl.NumberFormat(locale, { style: 'currency', currency: code });
    currencies.set(code, format);
    return format;
  };
  const number = new Intl.NumberFormat(locale);
  const day = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeZone });
  const time = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeStyle: 'short', timeZone });
  return {
    locale: number.resolvedOptions().locale,
    timeZone: day.resolvedOptions().timeZone,
    /** Exact, because `format` reads the digits of a text. The number of decimal places is that of the currency. */
    money: ({ amount, currencyCode }: Money): string => currency(currencyCode).format(amount as `${number}`),
    number: (value: number): string => number.format(value),
    day: (value: string): string => day.format(new Date(value)),
    time: (value: string): string => time.format(new Date(value)),
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
  return { amount: total.toFixed(), currencyCode: first.price.currencyCode };
}
