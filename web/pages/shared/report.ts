// Queries whose data stays visible.
import { useEffect, useState } from 'react';
import { useQuery, type AnyVariables, type CombinedError, type TypedDocumentNode } from 'urql';

export type Report<Data> = {
  data: Data | undefined;
  /** When the data was read, in milliseconds. */
  time: number | undefined;
  /** Whether the data is that of other variables, until it has been read. */
  isOther: boolean;
  error: CombinedError | undefined;
  /** Reads it again. */
  read: () => void;
};

/** Like `useQuery`, but the data stays while it is read again, and also if that fails. Nothing is read while `pause`. */
export function useReport<Data, Variables extends AnyVariables>(query: TypedDocumentNode<Data, Variables>, variables: Variables, pause = false): Report<Data> {
  const [result, execute] = useQuery<Data, AnyVariables>({ query, variables, pause, requestPolicy: 'cache-and-network' });
  const [kept, setKept] = useState<{ data: Data; key: string; time: number }>();
  const { data, error, fetching, stale, operation } = result;
  const key = JSON.stringify(variables);
  const resultKey = JSON.stringify(operation?.variables);
  useEffect(() => {
    if (data && !error && !fetching && !stale) setKept({ data, key: resultKey, time: Date.now() });
  }, [result]);
  const failure = resultKey === key ? error : undefined;
  const isOther = kept !== undefined && kept.key !== key;
  // The data of other variables would be wrong beside an error.
  const shown = pause || (isOther && failure) ? undefined : kept;
  return { data: shown?.data, time: shown?.time, isOther, error: failure, read: () => !pause && execute({ requestPolicy: 'network-only' }) };
}
