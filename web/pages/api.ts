// What the pages have in common: asking the service, and following it.
import { createClient, type Client } from 'graphql-ws';
import type { TypedDocumentString } from './generated/graphql';

type Config = { headers: Record<string, string> };
export type Money = { amount: string; currencyCode: string };

let headers: Record<string, string> = {};

/** Resolves once there is a token: the one that the service gives to a page on its own machine, or one that is typed in. */
export async function signIn(): Promise<void> {
  const response = await fetch('/pages/config.json');
  if (response.ok) ({ headers } = (await response.json()) as Config);
  if (headers['Authorization']) return;
  const form = element<HTMLFormElement>('sign-in');
  form.hidden = false;
  await new Promise<void>((resolve) => {
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      headers = { Authorization: `Bearer ${element<HTMLInputElement>('token').value.trim()}` };
      form.hidden = true;
      resolve();
    });
  });
}

/** What went wrong with a request, as the service says it. */
export class Failure extends Error {
  constructor(message: string, readonly code?: string) {
    super(message);
  }
}

type Answer<Result> = { data?: Result; errors?: { message: string; extensions?: { code?: string } }[] };

/** Only the hash is sent: the service has the documents of its pages. */
const named = (document: TypedDocumentString<unknown, never>) => ({
  extensions: { persistedQuery: { version: 1, sha256Hash: document.__meta__?.['hash'] as string } },
});

/** Asks; fails with a {@link Failure}. */
export async function ask<Result, Variables>(
  document: TypedDocumentString<Result, Variables>,
  variables: Variables,
): Promise<Result> {
  const init = {
    method: 'POST',
    headers: { ...headers, 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...named(document), variables }),
  };
  let answer: Answer<Result>;
  try {
    answer = (await (await fetch('/graphql', init)).json()) as Answer<Result>;
  } catch {
    throw new Failure('The service cannot be reached.');
  }
  const [error] = answer.errors ?? [];
  if (error) throw new Failure(error.message, error.extensions?.code);
  if (!answer.data) throw new Failure('The service gave no answer.');
  return answer.data;
}

/** Follows a subscription for ever, however often the connection is lost; tells the state of the connection. */
export function follow<Result>(
  document: TypedDocumentString<Result, Record<string, never>>,
  next: (result: Result) => void,
  state: (state: 'connecting' | 'connected' | 'closed', problem?: string) => void,
): void {
  const client: Client = createClient({
    url: new URL('/graphql', location.href.replace(/^http/, 'ws')).href,
    connectionParams: () => headers,
    lazy: false,
    keepAlive: 10_000,
    retryAttempts: Infinity,
    retryWait: (retries) => new Promise((resolve) => setTimeout(resolve, Math.min(2_000, 250 * 2 ** retries) * (0.5 + Math.random()))),
    // A token that is refused stays refused.
    shouldRetry: (reason) => !(reason instanceof CloseEvent) || reason.code !== 4403,
    on: {
      connecting: () => state('connecting'),
      connected: () => state('connected'),
      closed: (reason) => state('closed', reason instanceof CloseEvent && reason.code === 4403 ? 'The token is refused.' : undefined),
    },
  });
  const subscribe = () => {
    const again = () => setTimeout(subscribe, 1_000);
    client.subscribe<Result>({ query: '', ...named(document) }, {
      next: ({ data, errors }) => {
        if (data) next(data);
        if (errors?.[0]) state('closed', errors[0].message);
      },
      error: again,
      complete: again,
    });
  };
  subscribe();
}

export function element<Kind extends HTMLElement>(id: string): Kind {
  const found = document.getElementById(id);
  if (!found) throw new Error(`there is no #${id}`);
  return found as Kind;
}

/** Shows what went wrong, or that nothing is wrong any more. */
export function problem(message?: string): void {
  const place = element('problem');
  place.hidden = !message;
  place.textContent = message ?? '';
}

export const money = ({ amount, currencyCode }: Money): string =>
  new Intl.NumberFormat('en', { style: 'currency', currency: currencyCode }).format(amount as unknown as number);

export const number = (value: number): string => new Intl.NumberFormat('en').format(value);

/** Fills the body of a table with rows of texts; those whose key is new are marked. */
export function rows(table: string, all: { key: string; cells: string[] }[]): void {
  const body = element<HTMLTableElement>(table).tBodies[0]!;
  const before = new Set([...body.rows].map((row) => row.dataset['key']));
  const numbers = [...element<HTMLTableElement>(table).tHead!.rows[0]!.cells].map((cell) => cell.className);
  body.replaceChildren(
    ...all.map(({ key, cells }) => {
      const row = document.createElement('tr');
      row.dataset['key'] = key;
      if (before.size > 0 && !before.has(key)) row.className = 'new';
      cells.forEach((text, index) => {
        const cell = row.insertCell();
        cell.className = numbers[index] ?? '';
        cell.textContent = text;
      });
      return row;
    }),
  );
}
