// What the pages have in common: asking the service, and following it.
import { createClient, type Client } from 'graphql-ws';
import type { TypedDocumentString } from './generated/graphql';

type Config = { headers: Record<string, string> };
export type Money = { amount: string; currencyCode: string };

let headers: Record<string, string> = {};

/** Takes the token that the service gives to a page on its own machine, which is another after it was started anew. */
async function askForToken(): Promise<void> {
  const response = await fetch('/pages/config.json').catch(() => undefined);
  const config = response?.ok ? ((await response.json()) as Config) : undefined;
  if (config?.headers['Authorization']) ({ headers } = config);
}

/** Resolves once there is a token: that one, or one that is typed in. */
export async function signIn(): Promise<void> {
  await askForToken();
  if (!headers['Authorization']) await askForAnother();
}

/** Resolves once a token was typed in. */
function askForAnother(): Promise<void> {
  const form = element<HTMLFormElement>('sign-in');
  form.hidden = false;
  return new Promise<void>((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      headers = { Authorization: `Bearer ${element<HTMLInputElement>('token').value.trim()}` };
      form.hidden = true;
      problem();
      resolve();
    };
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

type State = 'connecting' | 'connected' | 'closed';
const isRefused = (reason: unknown) => reason instanceof CloseEvent && reason.code === 4403;

/** Follows a subscription for ever, however often the connection is lost or the token ends; tells its state. */
export async function follow<Result>(
  document: TypedDocumentString<Result, Record<string, never>>,
  next: (result: Result) => void,
  state: (state: State) => void,
): Promise<void> {
  const client: Client = createClient({
    url: new URL('/graphql', location.href.replace(/^http/, 'ws')).href,
    connectionParams: () => headers,
    keepAlive: 10_000,
    retryAttempts: Infinity,
    retryWait: (retries) => wait(Math.min(2_000, 250 * 2 ** retries) * (0.5 + Math.random())),
    shouldRetry: (reason) => !isRefused(reason),
    on: { connecting: () => state('connecting'), closed: () => state('closed') },
  });
  let refused = 0;
  const once = () =>
    new Promise<void>((resolve, reject) => {
      client.subscribe<Result>({ query: '', ...named(document) }, {
        next: ({ data, errors }) => {
          if (errors?.[0]) return problem(errors[0].message);
          state('connected');
          refused = 0;
          if (data) next(data);
        },
        error: reject,
        complete: resolve,
      });
    });
  for (;;) {
    try {
      await once();
      state('closed');
    } catch (reason) {
      state('closed');
      if (isRefused(reason)) {
        // It may be of a process that is gone; what this one gives is tried once.
        if (refused++ === 0) await askForToken();
        else {
          problem('The token is refused.');
          await askForAnother();
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
