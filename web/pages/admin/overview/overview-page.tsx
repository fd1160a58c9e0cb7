// How the shop sells: the figures of a period beside those of the period before, and the orders as they arrive.
import { useDocumentVisibility, useInterval } from '@mantine/hooks';
import { useCallback, useEffect, useRef, useState } from 'react';
import { useSubscription } from 'urql';
import { AdminClientReportDocument, AdminSalesChangedDocument, AdminSalesDocument } from '../../generated/graphql';
import { useFormat } from '../../shared/format';
import { useReport } from '../../shared/report';
import { Problem } from '../../shared/errors';
import { View } from '../view';
import { Freshness } from './freshness';
import { RecentOrders } from './recent-orders';
import { Sales } from './sales';
import { PeriodPicker } from './period-picker';
import { TopClients, TopProducts } from './top';
import { addDays, usePeriod } from './period';
import classes from './overview.module.css';

/** From a change to the next refresh: longer than the service returns the same report. In milliseconds. */
const PAUSE = 1_500;
/** Without changes, too: the current hour moves on. */
const REFRESH_EVERY = 15_000;

export default function OverviewPage() {
  const { timeZone } = useFormat();
  const chosen = usePeriod();
  const { period } = chosen;
  const { from, to, previous, granularity, isPartial, isCompared } = period;
  const sales = useReport(AdminSalesDocument, {
    from, to, granularity, timeZone, previousFrom: previous.from, previousTo: previous.to, isCompared, isPartial: isPartial && isCompared,
  });
  const fullTo = isPartial ? addDays(to, -1) : to;
  const hasFullDays = from <= fullTo;
  const clients = useReport(
    AdminClientReportDocument,
    {
      from, to, timeZone, fullTo, isPartial: isPartial && hasFullDays && isCompared, isCompared: isCompared && hasFullDays,
      previousFrom: previous.from, previousTo: isPartial && hasFullDays ? addDays(previous.to, -1) : previous.to,
    },
    period.isLong,
  );
  const [{ data: live }] = useSubscription({ query: AdminSalesChangedDocument });
  const changes = useChanges(live?.salesChanged.time, isPartial);
  useEffect(() => {
    if (changes === 0) return;
    sales.read();
    clients.read();
  }, [changes]);

  return (
    <View title="Overview" actions={<Freshness time={sales.time} />}>
      <PeriodPicker {...chosen} />
      {sales.error && <Problem title="The sales cannot be shown" error={sales.error} onRetry={sales.read} />}
      <Sales report={sales} clients={clients} period={period} />
      <div className={classes.columns}>
        <RecentOrders snapshot={live?.salesChanged} />
        <TopClients report={clients} period={period} />
        <TopProducts period={period} changes={changes} />
      </div>
    </View>
  );
}

/** A number that grows soon after each change of the sales, and from time to time, while the page is visible. */
function useChanges(lastChange: string | undefined, isCurrent: boolean): number {
  const [changes, setChanges] = useState(0);
  const due = useRef<ReturnType<typeof setTimeout>>(undefined);
  const isVisible = useDocumentVisibility() === 'visible';
  const isActive = isCurrent && isVisible;
  const schedule = useCallback(() => {
    due.current ??= setTimeout(() => {
      due.current = undefined;
      setChanges((count) => count + 1);
    }, PAUSE);
  }, []);
  useEffect(() => () => clearTimeout(due.current), []);
  const first = useRef(lastChange);
  useEffect(() => {
    if (lastChange && first.current && isActive) schedule();
    first.current ??= lastChange;
  }, [lastChange, isActive]);
  const { start, stop } = useInterval(schedule, REFRESH_EVERY);
  useEffect(() => {
    if (isActive) start();
    return stop;
  }, [isActive]);
  return changes;
}
