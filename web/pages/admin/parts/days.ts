// Days such as "2026-01-31".

/** The current day in a time zone. */
export const today = (timeZone: string): string => new Intl.DateTimeFormat('en-CA', { timeZone, dateStyle: 'short' }).format(new Date());

/** The first day of the month that is so many months before. */
export const monthsBefore = (day: string, months: number): string =>
  new Date(Date.UTC(+day.slice(0, 4), +day.slice(5, 7) - 1 - months)).toISOString().slice(0, 10);

export const daysBefore = (day: string, days: number): string => new Date(Date.parse(day) - days * 86_400_000).toISOString().slice(0, 10);
