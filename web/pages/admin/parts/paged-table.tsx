// A table that reads a page at a time. Each page is a query of its own, so more rows neither read nor render the others again.
import { ActionIcon, Button, Loader, Skeleton, Table, Text, Tooltip } from '@mantine/core';
import { useDidUpdate } from '@mantine/hooks';
import { IconRefresh } from '@tabler/icons-react';
import { memo, useState, type ReactNode } from 'react';
import { useQuery, type TypedDocumentNode } from 'urql';
import { useHistoryState } from 'wouter/use-browser-location';
import { Problem } from '../../shared/errors';
import { useFormat } from '../../shared/format';
import { newKey } from '../../shared/keys';
import classes from './parts.module.css';

type Cursor = string | null;
type Policy = 'cache-and-network' | 'cache-first';

export type Page<Row> = { nodes: Row[]; pageInfo: { hasNextPage: boolean; endCursor?: string | null } };

export type Column<Row> = {
  header: string;
  cell: (row: Row) => ReactNode;
  isNumber?: boolean;
  /** In rem. Columns without a width share the rest. */
  width?: number;
};

/** What a table shows. All of it must be the same object while it means the same, so that rows are not rendered again. */
export type Source<Data, Row> = {
  // The variables differ from table to table.
  query: TypedDocumentNode<Data, any>;
  /** Without `after`. `first` is the size of a page. */
  variables: { first: number };
  pageOf: (data: Data) => Page<Row> | null | undefined;
  keyOf: (row: Row) => string | number;
  columns: Column<Row>[];
};

/**
 * `label` names the table, `unit` one row and several. `empty` is shown instead of no rows. A new `revision` means that the rows may have
 * changed. `name` is that of the table in the entry of the history, which remembers the pages for the way back.
 */
export function PagedTable<Data, Row>({ label, name, unit, source, empty, revision }: {
  label: string;
  name: string;
  unit: [one: string, many: string];
  source: Source<Data, Row>;
  empty: ReactNode;
  revision?: string | number;
}) {
  const { count } = useFormat();
  const [pages, setPages] = usePages(name);
  const last = pages.at(-1)!;
  // Rows that were read with older cursors would have gaps after a first page that is read again.
  const policy = pages.length === 1 ? 'cache-and-network' : 'cache-first';
  const { page, error, isFetching, isLoading, read } = usePage(source, last.after, policy);
  const refresh = () => (pages.length > 1 ? setPages(FIRST) : read());
  useDidUpdate(refresh, [revision]);

  // Until the next page has been read, `page` is the one before it.
  const isNext = isLoading && pages.length > 1;
  const shown = last.before + (isNext ? 0 : (page?.nodes.length ?? 0));
  const isEmpty = shown === 0 && page !== undefined;
  const hasMore = page?.pageInfo.hasNextPage ?? false;
  return (
    <section aria-label={label} className={classes.paged}>
      <div className={classes.bar}>
        <Text size="sm" c="dimmed" role="status">
          {page && !isEmpty && `${count(shown, ...unit)}${hasMore ? ' shown, there are more' : ''}`}
        </Text>
        <Tooltip label="Refresh" withinPortal={false}>
          <ActionIcon variant="subtle" color="gray" aria-label={`Refresh: ${label}`} onClick={refresh}>
            {isFetching ? <Loader size={16} aria-hidden /> : <IconRefresh size={18} aria-hidden />}
          </ActionIcon>
        </Tooltip>
      </div>
      {isEmpty ? empty : (
        <div className={classes.scroll}>
          <Table role="table" aria-label={label} aria-busy={isFetching} layout="fixed" className={classes.table}>
            <Table.Thead role="rowgroup">
              <Table.Tr role="row">
                {source.columns.map(({ header, isNumber, width }) => (
                  <Table.Th key={header} role="columnheader" scope="col" data-number={isNumber} w={width && `${width}rem`}>{header}</Table.Th>
                ))}
              </Table.Tr>
            </Table.Thead>
            {pages.map(({ after }) => <Rows key={after ?? 'first'} source={source} after={after} />)}
            {isFetching && !page && <SkeletonRows columns={source.columns.length} />}
          </Table>
        </div>
      )}
      {isFetching && !page && <span role="status" className="visually-hidden">Loading: {label}</span>}
      {error && <Problem title={`${page ? 'These may be out of date' : 'These cannot be shown'}: ${label}`} error={error} onRetry={read} />}
      {hasMore && (
        // A button that is disabled meanwhile would lose the focus.
        <Button
          variant="default"
          className={classes.more}
          leftSection={isFetching && <Loader size={16} aria-hidden />}
          onClick={() => !isFetching && setPages([...pages, { after: page!.pageInfo.endCursor!, before: shown }])}
        >
          Load more
        </Button>
      )}
    </section>
  );
}

/** A page that is shown: the cursor and the number of rows before it. */
type Start = { after: Cursor; before: number };
const FIRST: Start[] = [{ after: null, before: 0 }];

/**
 * The pages that are shown. They are in the entry of the history, so the way back finds them, and the cache has their rows. A reload begins
 * with the first page, because it would have to read all of them again at once.
 */
function usePages(name: string) {
  const state = useHistoryState<{ visit?: string; pages?: Record<string, Start[]> } | null>();
  const known = state?.visit === VISIT ? state.pages : undefined;
  const set = (pages: Start[]) => history.replaceState({ ...history.state, visit: VISIT, pages: { ...known, [name]: pages } }, '');
  return [known?.[name] ?? FIRST, set] as const;
}
const VISIT = newKey();

function usePage<Data, Row>({ query, variables, pageOf }: Source<Data, Row>, after: Cursor, requestPolicy: Policy) {
  const [{ data, error, fetching, stale }, read] = useQuery<Data>({ query, variables: { ...variables, after }, requestPolicy });
  const shown = useKept(fetching ? undefined : data, JSON.stringify([variables, after])) ?? data;
  return {
    page: (shown && pageOf(shown)) ?? undefined,
    error,
    isFetching: fetching || stale,
    /** There is no result yet. `page` is that of the variables before. */
    isLoading: fetching,
    read: () => read({ requestPolicy: 'network-only' }),
  };
}

/** The value, or the latest one with the same key: rows stay visible while it fails to read them again. */
function useKept<T>(value: T | undefined, key: string): T | undefined {
  const [kept, keep] = useState<{ key: string; value: T }>();
  if (value !== undefined && (value !== kept?.value || key !== kept.key)) keep({ key, value });
  return value ?? (kept?.key === key ? kept.value : undefined);
}

function RowsOfPage<Data, Row>({ source, after }: { source: Source<Data, Row>; after: Cursor }) {
  const { page } = usePage(source, after, 'cache-first');
  return (
    // Plain elements: those of Mantine would take several times as long, which thousands of rows make noticeable.
    <tbody role="rowgroup">
      {page?.nodes.map((row) => (
        <tr key={source.keyOf(row)} role="row">
          {source.columns.map(({ header, cell, isNumber }) => (
            <td key={header} role="cell" data-label={header} data-number={isNumber}>{cell(row)}</td>
          ))}
        </tr>
      ))}
    </tbody>
  );
}
const Rows = memo(RowsOfPage) as typeof RowsOfPage;

const SkeletonRows = ({ columns }: { columns: number }) => (
  <Table.Tbody aria-hidden>
    {Array.from({ length: 8 }, (_, row) => (
      <Table.Tr key={row}>
        {Array.from({ length: columns }, (_, column) => <Table.Td key={column}><Skeleton height={16} my={3} /></Table.Td>)}
      </Table.Tr>
    ))}
  </Table.Tbody>
);
