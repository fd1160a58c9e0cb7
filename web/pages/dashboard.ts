// The dashboard. A subscription brings today's sums and the recent orders; after each change, the chart and the rankings are
// queried again.
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { element, money, number, orders, request, showProblem, showRows, signIn, subscribe } from './api';
import { graphql } from './generated';
import type { Granularity, SalesQuery } from './generated/graphql';

const SALES = graphql(`
  query Sales($from: Date!, $to: Date!, $granularity: Granularity!) {
    sales(from: $from, to: $to, granularity: $granularity) {
      total { amount currencyCode }
      orderCount
      points { start orderCount revenue { amount currencyCode } }
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
/** The first day, and the formats of times in the table (`title`) and below the chart (`short`). */
type Range = { granularity: Granularity; from: () => string; title: Format; short: Format };
const HOURS: Format = { hour: '2-digit', minute: '2-digit' };
const DAYS: Format = { month: 'short', day: 'numeric' };
const RANGES: Record<string, Range> = {
  hours: { granularity: 'HOUR', from: () => ago(1), title: { ...DAYS, ...HOURS }, short: HOURS },
  days: { granularity: 'DAY', from: () => ago(29), title: { year: 'numeric', ...DAYS }, short: DAYS },
  months: { granularity: 'MONTH', from: months, title: { year: 'numeric', month: 'long' }, short: { year: '2-digit', month: 'short' } },
};
const formatter = (format: Format) => {
  const utc = new Intl.DateTimeFormat('en', { ...format, timeZone: 'UTC', hourCycle: 'h23' });
  return (milliseconds: number) => utc.format(milliseconds);
};

/** The day this number of days ago, in UTC. */
function ago(days: number): string {
  return new Date(Date.now() - days * DAY).toISOString().slice(0, 10);
}

/** The first day of the month 23 months ago. */
function months(): string {
  const now = new Date();
  return new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - 23)).toISOString().slice(0, 10);
}

function range(): Range {
  const chosen = document.querySelector<HTMLInputElement>('#ranges input:checked');
  return RANGES[chosen?.value ?? 'days']!;
}

let chart: uPlot | undefined;

function draw({ sales }: SalesQuery, { title, short }: Range): void {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const place = element('chart');
  const data: uPlot.AlignedData = [
    sales.points.map(({ start }) => Date.parse(start) / 1000),
    sales.points.map(({ revenue }) => Number(revenue.amount)),
  ];
  const half = ((data[0][1] ?? 0) - (data[0][0] ?? 0)) / 2;
  const currency = sales.total.currencyCode;
  const compact = new Intl.NumberFormat('en', { style: 'currency', currency, notation: 'compact' });
  const [long, brief] = [formatter(title), formatter(short)];
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
      // Leaves room for half a bar before the first point and after the last.
      scales: { x: { range: (_, first, last) => [first - half, last + half] }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
      axes: [
        { ...axis, grid: { show: false }, space: 70, values: (_, times) => times.map((time) => brief(time * 1000)) },
        { ...axis, size: 70, values: (_, values) => values.map((value) => compact.format(value)) },
      ],
      series: [{}, { width: 0, fill: colour('--accent'), ...(bars && { paths: bars }), points: { show: false } }],
    },
    data,
    place,
  );
  showRows('points', sales.points.toReversed().map(({ start, orderCount, revenue }) => ({
    key: start,
    cells: [long(Date.parse(start)), number(orderCount), money(revenue)],
  })));
  const total = `${money(sales.total)} in ${orders(sales.orderCount)}`;
  element('over-time-total').textContent = total;
  place.setAttribute('aria-label', `Revenue over time: ${total}`);
}

let shown: [SalesQuery, Range] | undefined;
let refreshes = 0;

/** Queries the chart and the rankings. */
async function refresh(): Promise<void> {
  const [mine, chosen] = [++refreshes, range()];
  try {
    const [sales, top] = await Promise.all([
      request(SALES, { from: chosen.from(), to: ago(0), granularity: chosen.granularity }),
      request(TOP, { from: ago(29), to: ago(0) }),
    ]);
    if (mine !== refreshes) return; // a newer refresh has begun
    shown = [sales, chosen];
    draw(...shown);
    showRows('clients', top.clients.nodes.map(({ id, name, orderCount, total }) => ({
      key: id,
      cells: [name, number(orderCount), money(total)],
    })));
    showRows('products', top.topProducts.map(({ product, units, revenue }) => ({
      key: product.id,
      cells: [product.name, number(units), money(revenue)],
    })));
    showProblem();
  } catch (error) {
    if (mine === refreshes) showProblem((error as Error).message);
  }
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

await signIn();
let newest: string | undefined;
void subscribe(
  CHANGED,
  ({ salesChanged: { time, revenueToday, ordersToday, ordersPerMinute, latestOrders } }) => {
    element('revenue').textContent = money(revenueToday);
    element('orders').textContent = number(ordersToday);
    element('rate').textContent = number(ordersPerMinute);
    const [last] = latestOrders;
    // The time from the newest order to this snapshot. Orders from before the page was opened do not count.
    if (last && newest !== undefined && newest !== last.id) {
      const seconds = Math.max(0, Date.parse(time) - Date.parse(last.placedAt)) / 1000;
      element('lag').textContent = `${seconds.toFixed(2)} s`;
    }
    newest = last?.id ?? '';
    showRows('latest', latestOrders.map(({ id, placedAt, client, itemCount, total }) => ({
      key: id,
      cells: [placedAt.slice(11, 19), client?.name ?? '', number(itemCount), money(total)],
    })));
    scheduleRefresh();
  },
  (state) => {
    const place = element('connection');
    const text = { connecting: 'connecting …', connected: 'live', closed: 'not connected' }[state];
    if (place.textContent === text) return; // screen readers would announce it again
    place.dataset['state'] = state;
    place.textContent = text;
  },
);
void refresh();
element('ranges').addEventListener('change', refresh);
// The chart does not follow its size and its colours by itself.
const redraw = () => shown && draw(...shown);
new ResizeObserver(() => chart && chart.width !== element('chart').clientWidth && redraw()).observe(element('chart'));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
