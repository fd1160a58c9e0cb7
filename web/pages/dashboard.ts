// The dashboard. A subscription brings today's sums and the recent orders; after each change, the chart and the rankings are
// queried again.
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { element, money, number, orders, request, showProblem, showRows, signIn, subscribe, sum, write } from './api';
import { graphql } from './generated';
import type { Granularity, SalesChangedSubscription, SalesQuery } from './generated/graphql';

const SALES = graphql(`
  query Sales($from: Date!, $to: Date!, $granularity: Granularity!) {
    sales(from: $from, to: $to, granularity: $granularity) {
      points { start orderCount revenue: net { amount currencyCode } }
    }
  }
`);
const TOP = graphql(`
  query Top($from: Date!, $to: Date!) {
    clients(first: 10) { nodes { id name orderCount total { amount currencyCode } } }
    topProducts(from: $from, to: $to, first: 10) { product { id name } units revenue { amount currencyCode } }
  }
`);
const CHANGED = graphql(`
  subscription SalesChanged {
    salesChanged {
      time
      revenueToday { amount currencyCode }
      ordersToday
      cancelledToday { amount currencyCode }
      cancelledOrdersToday
      ordersPerMinute
      latestOrders { id placedAt itemCount client { name } total { amount currencyCode } }
    }
  }
`);

/** The shortest time between two refreshes, in milliseconds. */
const PAUSE = 2_000;
/** Longer than the service returns the same report, in milliseconds: a query after that includes the change. */
const FRESH = 1_100;
const DAY = 86_400_000;

type Format = Intl.DateTimeFormatOptions;
/**
 * The first day, the largest number of points, and the formats of times: in the table (`title`), and below the chart
 * (`short`, with `group` in a second line wherever it changes).
 */
type Range = { name: string; granularity: Granularity; from: () => string; points: number; title: Format; short: Format; group: Format };
const HOURS: Format = { hour: '2-digit', minute: '2-digit' };
const DAYS: Format = { month: 'short', day: 'numeric' };
const YEARS: Format = { year: 'numeric' };
const RANGES: Record<string, Range> = {
  // Today has points for hours that are still to come, so two days ago may be part of the range.
  hours: { name: '48 hours', granularity: 'HOUR', from: () => ago(2), points: 48, title: { ...DAYS, ...HOURS }, short: HOURS, group: DAYS },
  days: { name: '30 days', granularity: 'DAY', from: () => ago(29), points: 30, title: { ...YEARS, ...DAYS }, short: DAYS, group: YEARS },
  months: { name: '24 months', granularity: 'MONTH', from: months, points: 24, title: { ...YEARS, month: 'long' }, short: { month: 'short' }, group: YEARS },
};
const formatter = (format: Format) => {
  const utc = new Intl.DateTimeFormat('en', { ...format, timeZone: 'UTC', hourCycle: 'h23' });
  return (time: string | number) => utc.format(new Date(time));
};
const day = formatter({ ...YEARS, ...DAYS });
const moment = formatter({ ...DAYS, ...HOURS, second: '2-digit' });

/** The day this number of days ago, in UTC. */
function ago(days: number): string {
  return new Date(Date.now() - days * DAY).toISOString().slice(0, 10);
}

/** The first day of the month 23 months ago. */
function months(): string {
  const now = new Date();
  return new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - 23)).toISOString().slice(0, 10);
}

const choice = () => document.querySelector<HTMLInputElement>('#ranges input:checked')!;

/** Marks the figures below a heading as old, with the time of the figures, or removes the mark. */
function markOld(headings: string[], time?: string | number): void {
  for (const heading of headings) {
    if (time) element(heading).dataset['old'] = `as of ${moment(time)}`;
    else delete element(heading).dataset['old'];
  }
}

type Points = NonNullable<SalesQuery['sales']>['points'];
let chart: uPlot | undefined;

function draw(points: Points, { name, title, short, group }: Range): void {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const place = element('chart');
  const data: uPlot.AlignedData = [
    points.map(({ start }) => Date.parse(start) / 1000),
    points.map(({ revenue }) => Number(revenue.amount)),
  ];
  const half = ((data[0][1] ?? 0) - (data[0][0] ?? 0)) / 2;
  const total = sum(points.map(({ revenue }) => [revenue, 1]))!;
  const compact = new Intl.NumberFormat('en', { style: 'currency', currency: total.currencyCode, notation: 'compact' });
  const [long, brief, grouped] = [formatter(title), formatter(short), formatter(group)];
  const label = (time: number, index: number, all: number[]) => {
    const [above, before] = [grouped(time * 1000), index > 0 && grouped(all[index - 1]! * 1000)];
    return above === before ? brief(time * 1000) : `${brief(time * 1000)}\n${above}`;
  };
  const axis = { stroke: colour('--quiet'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false } };
  const bars = uPlot.paths.bars?.({ size: [0.7, 60] });
  chart?.destroy();
  chart = new uPlot(
    {
      width: place.clientWidth,
      height: place.clientHeight,
      legend: { show: false },
      cursor: { show: false },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), 'Etc/UTC'),
      scales: {
        // Leaves room for half a bar before the first point and after the last.
        x: { range: (_, first, last) => [first - half, last + half] },
        // Revenue is negative if more was cancelled than placed.
        y: { range: (_, least, most) => [Math.min(0, least * 1.1), Math.max(0, most * 1.1) || 1] },
      },
      axes: [
        { ...axis, grid: { show: false }, space: 70, size: 50, values: (_, times) => times.map(label) },
        { ...axis, size: 70, values: (_, values) => values.map((value) => compact.format(value)) },
      ],
      series: [{}, { width: 0, fill: colour('--accent'), ...(bars && { paths: bars }), points: { show: false } }],
    },
    data,
    place,
  );
  showRows('points', points.toReversed().map(({ start, orderCount, revenue }) => ({
    key: start,
    cells: [long(start), number(orderCount), money(revenue)],
  })));
  const text = `Last ${name}: ${money(total)} in ${orders(points.reduce((sum, { orderCount }) => sum + orderCount, 0))}`;
  write(element('over-time-total'), text);
  place.setAttribute('aria-label', `Revenue. ${text}`);
}

const REPORTS = ['over-time', 'top-clients', 'top-products'];
let shown: { range: string; points: Points; time: number } | undefined;
let refreshes = 0;

const redraw = () => shown && draw(shown.points, RANGES[shown.range]!);

/** Queries the chart and the rankings. */
async function refresh(): Promise<void> {
  const [mine, range] = [++refreshes, choice().value];
  const { from, granularity, points: size } = RANGES[range]!;
  element('chart').ariaBusy = String(shown?.range !== range);
  try {
    // `request` throws if a field fails, so none of these is null.
    const [{ sales }, { clients, topProducts }] = await Promise.all([
      request(SALES, { from: from(), to: ago(0), granularity }),
      request(TOP, { from: ago(29), to: ago(0) }),
    ]);
    if (mine !== refreshes) return; // a newer refresh has begun
    const points = sales!.points.filter(({ start }) => Date.parse(start) <= Date.now()).slice(-size);
    shown = { range, points, time: Date.now() };
    redraw();
    showRows('clients', clients!.nodes.map(({ id, name, orderCount, total }) => ({
      key: id,
      cells: [name, number(orderCount), money(total)],
    })));
    showRows('products', topProducts!.map(({ product, units, revenue }) => ({
      key: product.id,
      cells: [product.name, number(units), money(revenue)],
    })));
    markOld(REPORTS);
    showProblem();
  } catch (error) {
    if (mine !== refreshes) return;
    showProblem((error as Error).message);
    if (!shown) return;
    // The choice follows the chart, which still shows the other range.
    document.querySelector<HTMLInputElement>(`#ranges [value=${shown.range}]`)!.checked = true;
    markOld(REPORTS, shown.time);
  }
  element('chart').ariaBusy = 'false';
}

let due: ReturnType<typeof setTimeout> | undefined;
let lastRefresh = 0;

/** Refreshes soon, but not too often. */
function scheduleRefresh(): void {
  due ??= setTimeout(() => {
    due = undefined;
    lastRefresh = Date.now();
    void refresh();
  }, Math.max(FRESH, lastRefresh + PAUSE - Date.now()));
}

const LIVE = ['now', 'recent-orders'];
const STATES = { connecting: 'connecting …', connected: 'live', closed: 'not connected' };
let latest: SalesChangedSubscription['salesChanged'] | undefined;

function showSnapshot(snapshot: SalesChangedSubscription['salesChanged']): void {
  const { time, latestOrders } = snapshot;
  element('today').textContent = `${day(time)}, UTC`;
  write(element('revenue'), money(snapshot.revenueToday));
  write(element('orders'), number(snapshot.ordersToday));
  write(element('cancelled'), money(snapshot.cancelledToday));
  write(element('cancelled-orders'), number(snapshot.cancelledOrdersToday));
  write(element('rate'), number(snapshot.ordersPerMinute));
  const [newest] = latestOrders;
  // The time from the newest order to this snapshot. Orders from before the page was opened do not count.
  if (newest && latest && newest.id !== latest.latestOrders[0]?.id) {
    const seconds = Math.max(0, Date.parse(time) - Date.parse(newest.placedAt)) / 1000;
    element('lag').textContent = `${seconds.toFixed(2)} s`;
  }
  latest = snapshot;
  showRows('latest', latestOrders.map(({ id, placedAt, client, itemCount, total }) => ({
    key: id,
    cells: [moment(placedAt), client?.name ?? '', number(itemCount), money(total)],
  })));
}

await signIn();
void subscribe(
  CHANGED,
  ({ salesChanged }) => {
    showSnapshot(salesChanged);
    scheduleRefresh();
  },
  (state) => {
    markOld(LIVE, state === 'connected' ? undefined : latest?.time);
    const place = element('connection');
    if (place.textContent === STATES[state]) return; // screen readers would announce it again
    place.dataset['state'] = state;
    place.textContent = STATES[state];
  },
);
void refresh();
// The last hour moves on without orders, too.
setInterval(scheduleRefresh, 60_000);
element('ranges').addEventListener('change', refresh);
// The chart does not follow its size and its colours by itself.
new ResizeObserver(() => chart && chart.width !== element('chart').clientWidth && redraw()).observe(element('chart'));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
