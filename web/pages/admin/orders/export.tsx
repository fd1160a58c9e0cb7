// All orders of the filters as a CSV file. A page is written as soon as it is read, so the size of the file is not limited by memory.
import { Button, Loader, Paper, Text } from '@mantine/core';
import { IconDownload } from '@tabler/icons-react';
import { useEffect, useRef, useState } from 'react';
import type { CombinedError } from 'urql';
import { AdminOrderExportDocument, type AdminOrderExportQuery } from '../../generated/graphql';
import { Problem } from '../../shared/errors';
import { useFormat } from '../../shared/format';
import { useUncachedClient } from '../../shared/graphql';
import { csvLine, openFile, type CsvFile } from '../parts/csv';
import { today } from '../parts/days';
import type { Filters } from './filters';
import classes from './orders.module.css';
import { useListVariables } from './orders-table';

/** Of 1000 that an operation may cost, each order costs 27. */
const PAGE = 35;

type Row = NonNullable<AdminOrderExportQuery['orders']>['nodes'][number];

const COLUMNS: [header: string, value: (order: Row) => string | null | undefined][] = [
  ['id', ({ id }) => id],
  ['placed_at', ({ placedAt }) => placedAt],
  ['status', ({ status }) => status],
  ['client_id', ({ clientId }) => clientId],
  ['client_name', ({ client }) => client?.name],
  ['client_email', ({ client }) => client?.email],
  ['currency', ({ total }) => total.currencyCode],
  ['total', ({ total }) => total.amount],
  ['refunded', ({ refunded }) => refunded.amount],
  ['net', ({ net }) => net.amount],
  ['cancelled_at', ({ cancelledAt }) => cancelledAt],
  ['cancel_reason', ({ cancelReason }) => cancelReason],
];

/** An export that is under way. `after` is the end of what is written. */
type Job = { file: CsvFile; variables: ReturnType<typeof useListVariables>; after: string | null; rows: number };

type State =
  | { is: 'idle' }
  | { is: 'running'; rows: number }
  | { is: 'failed'; rows: number; error: CombinedError }
  | { is: 'broken'; message: string }
  | { is: 'done'; rows: number };

export function useExport(filters: Filters) {
  const client = useUncachedClient();
  const variables = useListVariables(filters);
  const { count, timeZone } = useFormat();
  const [state, setState] = useState<State>({ is: 'idle' });
  const job = useRef<Job>(undefined);

  const run = async (current: Job) => {
    const isCurrent = () => job.current === current;
    try {
      for (;;) {
        setState({ is: 'running', rows: current.rows });
        const { data, error } = await client.query(AdminOrderExportDocument, { ...current.variables, first: PAGE, after: current.after }).toPromise();
        if (!isCurrent()) return;
        if (!data?.orders) return setState({ is: 'failed', rows: current.rows, error: error! });
        const { nodes, pageInfo } = data.orders;
        await current.file.write(nodes.map((order) => csvLine(COLUMNS.map(([, value]) => value(order)))).join(''));
        current.rows += nodes.length;
        current.after = pageInfo.endCursor ?? null;
        if (!isCurrent()) return;
        if (!pageInfo.hasNextPage) break;
      }
      job.current = undefined;
      await current.file.close();
      setState({ is: 'done', rows: current.rows });
    } catch (error) {
      if (isCurrent()) stop();
      fail(error);
    }
  };
  const start = async () => {
    try {
      const file = await openFile(`orders-${today(timeZone)}.csv`, csvLine(COLUMNS.map(([header]) => header)));
      if (!file) return;
      job.current = { file, variables, after: null, rows: 0 };
      await run(job.current);
    } catch (error) {
      fail(error);
    }
  };
  /** The disk is full, or the file may not be written. */
  const fail = (error: unknown) => setState({ is: 'broken', message: String(error) });
  const stop = () => {
    void job.current?.file.abort().catch(() => {});
    job.current = undefined;
    setState({ is: 'idle' });
  };
  useEffect(() => stop, []);

  const isBusy = state.is === 'running' || state.is === 'failed';
  const exportButton = (
    <Button variant="default" leftSection={<IconDownload size={18} aria-hidden />} onClick={start} disabled={isBusy || Boolean(filters.id)}>
      Export as CSV
    </Button>
  );
  const exportState = (
    <>
      {state.is === 'running' && (
        <Paper withBorder className={classes.export} component="section" aria-label="Export">
          <Text size="sm"><Loader size="xs" mr="xs" aria-hidden />{count(state.rows, 'order')} exported …</Text>
          <Button size="xs" variant="default" onClick={stop}>Stop the export</Button>
        </Paper>
      )}
      {state.is === 'failed' && (
        <Paper className={classes.export} component="section" aria-label="Export">
          <Problem title={`The export has paused after ${count(state.rows, 'order')}`} error={state.error} onRetry={() => run(job.current!)} />
          <Button size="xs" variant="default" onClick={stop}>Stop the export</Button>
        </Paper>
      )}
      <div role="status">
        {state.is === 'done' && <Paper withBorder className={classes.export}><Text size="sm">{count(state.rows, 'order')} exported.</Text></Paper>}
        {state.is === 'broken' && <Paper withBorder className={classes.export}><Text size="sm">The file could not be written. {state.message}</Text></Paper>}
      </div>
    </>
  );
  return { exportButton, exportState };
}
