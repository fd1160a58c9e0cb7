// Functions that both pages use: requests, subscriptions, and tables.
import { createClient, type Client } from 'graphql-ws';
import type { TypedDocumentString } from './generated/graphql';

type Config = { headers: Record<string, string> };
export type Money = { amount: string; currencyCode: string };

let headers: Record<string, string> = {};

/** Fetches the token that a service on the same machine gives to its pages. It changes when the service restarts. */
async function fetchToken(): Promise<void> {
  const response = await fetch('/pages/config.json').catch(() => undefined);
  const config = response?.ok ? ((await response.json()) as Config) : undefined;
  if (config?.headers['Authorization']) ({ headers } = config);
}

/** Resolves when there is a token: from the service, or typed in. */
export async function signIn(): Promise<void> {
  await fetchToken();
  if (!headers['Authorization']) await promptForToken();
}

/** Resolves when a token has been typed in. */
function promptForToken(): Promise<void> {
  const form = element<HTMLFormElement>('sign-in');
  form.hidden = false;
  return new Promise<void>((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      headers = { Authorization: `Bearer ${element<HTMLInputElement>('token').value.trim()}` };
      form.hidden = true;
      showProblem();
      resolve();
    };
  });
}

/** A failed request, with the message and the code of the service. */
export class Failure extends Error {
  constructor(message: string, readonly code?: string) {
    super(message);
  }
}

type GraphQLResponse<Result> = { data?: Result; errors?: { message: string; extensions?: { code?: string } }[] };

/** Only the hash of a document is sent, because the service knows the documents of its pages. */
const persisted = (document: TypedDocumentString<unknown, never>) => ({
  extensions: { persistedQuery: { version: 1, sha256Hash: document.__meta__?.['hash'] as string } },
});

/** Executes a query or a mutation. Throws a {@link Failure} if any field fails. */
export async function request<Result, Variables>(
  document: TypedDocumentString<Result, Variables>,
  variables: Variables,
): Promise<Result> {
  const init = {
    method: 'POST',
    headers: { ...headers, 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...persisted(document), variables }),
  };
  let response: GraphQLResponse<Result>;
  try {
    response = (await (await fetch('/graphql', init)).json()) as GraphQLResponse<Result>;
  } catch {
    throw new Failure('The service cannot be reached.');
  }
  const [error] = response.errors ?? [];
  if (error) throw new Failure(error.message, error.extensions?.code);
  if (!response.data) throw new Failure('The response of the service has no data.');
  return response.data;
}

type ConnectionState = 'connecting' | 'connected' | 'closed';
const isRefused = (reason: unknown) => reason instanceof CloseEvent && reason.code === 4403;

/** Subscribes for ever: connects again after the connection is lost or the token has expired. Reports each state. */
export async function subscribe<Result>(
  document: TypedDocumentString<Result, Record<string, never>>,
  onResult: (result: Result) => void,
  onState: (state: ConnectionState) => void,
): Promise<void> {
  const client: Client = createClient({
    url: new URL('/graphql', location.href.replace(/^http/, 'ws')).href,
    connectionParams: () => headers,
    keepAlive: 10_000,
    retryAttempts: Infinity,
    retryWait: (retries) => wait(Math.min(2_000, 250 * 2 ** retries) * (0.5 + Math.random())),
    shouldRetry: (reason) => !isRefused(reason),
    on: { connecting: () => onState('connecting'), closed: () => onState('closed') },
  });
  let refusals = 0;
  const once = () =>
    new Promise<void>((resolve, reject) => {
      client.subscribe<Result>({ query: '', ...persisted(document) }, {
        next: ({ data, errors }) => {
          if (errors?.[0]) return showProblem(errors[0].message);
          onState('connected');
          refusals = 0;
          if (data) onResult(data);
        },
        error: reject,
        complete: resolve,
      });
    });
  for (;;) {
    try {
      await once();
      onState('closed');
    } catch (reason) {
      onState('closed');
      if (isRefused(reason)) {
        // The service may have restarted, so the token that it gives now is tried once.
        if (refusals++ === 0) await fetchToken();
        else {
          showProblem('The token was refused.');
          await promptForToken();
        }
      }
    }
    await wait(1_000);
  }
}

const wait = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

export function element<Kind extends HTMLElement>(id: string): Kind {
  const found = document.getElementById(id);
  if (!found) throw new Error(`there is no #${id}`);
  return found as Kind;
}

/** Shows a problem, or hides the last one. */
export function showProblem(message?: string): void {
  const place = element('problem');
  place.hidden = !message;
  place.textContent = message ?? '';
}

export const money = ({ amount, currencyCode }: Money): string =>
  new Intl.NumberFormat('en', { style: 'currency', currency: currencyCode }).format(amount as unknown as number);

export const number = (value: number): string => new Intl.NumberFormat('en').format(value);

/** For example "1 order" or "2,000 orders". */
export const orders = (count: number): string => `${number(count)} ${count === 1 ? 'order' : 'orders'}`;

/** Fills the body of a table. Rows with a new key get the class `new`. */
export function showRows(table: string, all: { key: string; cells: string[] }[]): void {
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
