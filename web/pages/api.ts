// Functions of the dashboard: the token, requests, subscriptions, amounts, and tables.
import { createClient, type Client } from 'graphql-ws';
import type { TypedDocumentNode } from '@graphql-typed-document-node/core';

type Config = { headers: Record<string, string> };
export type Money = { amount: string; currencyCode: string };

/** The name of the typed token in the session storage. */
const STORED = 'authorization';

/** The header with the token. */
let authorization: string | undefined;

/** Asks for the token that a service on the same machine gives to its pages. It changes when the service restarts. */
async function fetchAuthorization(): Promise<string | undefined> {
  const response = await fetch('/pages/config.json').catch(() => undefined);
  const config = response?.ok ? ((await response.json()) as Config) : undefined;
  return config?.headers['Authorization'];
}

/** Resolves when there is a token: from the service, or typed in. */
export async function signIn(): Promise<void> {
  element('sign-out').onclick = () => {
    sessionStorage.removeItem(STORED);
    location.reload();
  };
  authorization = await fetchAuthorization();
  if (authorization) return showPage();
  authorization = sessionStorage.getItem(STORED) ?? undefined;
  if (!authorization) return promptForToken();
  element('sign-out').hidden = false;
  showPage();
}

const showPage = () => document.body.classList.remove('signed-out');

/** Resolves when a token has been typed in. Until then, the page shows nothing else. */
function promptForToken(): Promise<void> {
  const form = element<HTMLFormElement>('sign-in');
  form.hidden = false;
  document.body.classList.add('signed-out');
  element('token').focus();
  return new Promise<void>((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      authorization = `Bearer ${element<HTMLInputElement>('token').value.trim()}`;
      sessionStorage.setItem(STORED, authorization);
      form.reset();
      form.hidden = true;
      element('sign-out').hidden = false;
      showProblem();
      showPage();
      resolve();
    };
  });
}

let renewal: Promise<void> | undefined;

/** Replaces a refused token by a new one: from the service, which may have restarted, or typed in. */
function renewToken(refused: string | undefined): Promise<void> {
  if (authorization !== refused) return Promise.resolve(); // another request has replaced it
  const renew = async () => {
    const fetched = await fetchAuthorization();
    if (fetched && fetched !== refused) {
      authorization = fetched;
      return;
    }
    sessionStorage.removeItem(STORED);
    showProblem('The token was refused.');
    await promptForToken();
  };
  renewal ??= renew().finally(() => (renewal = undefined));
  return renewal;
}

/** A failed request, with the message and the code of the service. */
export class Failure extends Error {
  constructor(message: string, readonly code?: string) {
    super(message);
  }
}

type GraphQLResponse<Result> = { data?: Result; errors?: { message: string; extensions?: { code?: string } }[] };

/** Only the hash of a document is sent, because the service knows the documents of its pages. */
const persisted = (document: object) => ({
  extensions: { persistedQuery: { version: 1, sha256Hash: (document as { __meta__?: { hash: string } }).__meta__?.hash } },
});

/** Executes a query or a mutation, with a new token if the service refuses the token. Throws a {@link Failure} if any field fails. */
export async function request<Result, Variables>(
  document: TypedDocumentNode<Result, Variables>,
  variables: Variables,
): Promise<Result> {
  const used = authorization;
  const init = {
    method: 'POST',
    headers: { Authorization: used ?? '', 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...persisted(document), variables }),
    signal: AbortSignal.timeout(15_000),
  };
  let response: GraphQLResponse<Result>;
  try {
    response = (await (await fetch('/graphql', init)).json()) as GraphQLResponse<Result>;
  } catch {
    throw new Failure('The service cannot be reached.');
  }
  const [error] = response.errors ?? [];
  const code = error?.extensions?.code;
  if (code === 'UNAUTHENTICATED') {
    await renewToken(used);
    return request(document, variables);
  }
  if (code === 'PERSISTED_QUERY_NOT_FOUND') throw new Failure('The service has been updated. Reload this page.', code);
  if (error) throw new Failure(error.message, code);
  if (!response.data) throw new Failure('The response of the service has no data.');
  return response.data;
}

type ConnectionState = 'connecting' | 'connected' | 'closed';
const isRefused = (reason: unknown) => reason instanceof CloseEvent && reason.code === 4403;

/** Subscribes for ever: connects again after the connection is lost or the token has expired. Reports each state. */
export async function subscribe<Result>(
  document: TypedDocumentNode<Result, Record<string, never>>,
  onResult: (result: Result) => void,
  onState: (state: ConnectionState) => void,
): Promise<void> {
  let used: string | undefined;
  let hangs: ReturnType<typeof setTimeout> | undefined;
  const client: Client = createClient({
    url: new URL('/graphql', location.href.replace(/^http/, 'ws')).href,
    connectionParams: () => ({ Authorization: (used = authorization) }),
    keepAlive: 10_000,
    retryAttempts: Infinity,
    retryWait: (retries) => wait(Math.min(2_000, 250 * 2 ** retries) * (0.5 + Math.random())),
    shouldRetry: (reason) => !isRefused(reason),
    on: {
      connecting: () => onState('connecting'),
      // Without a response to a ping, the figures are old, although the connection is still open.
      ping: (isReceived) => {
        if (!isReceived) hangs = setTimeout(() => client.terminate(), 5_000);
      },
      pong: (isReceived) => isReceived && clearTimeout(hangs),
      closed: () => {
        clearTimeout(hangs);
        onState('closed');
      },
    },
  });
  const once = () =>
    new Promise<void>((resolve, reject) => {
      client.subscribe<Result>({ query: '', ...persisted(document) }, {
        next: ({ data, errors }) => {
          if (errors?.[0]) return showProblem(errors[0].message);
          onState('connected');
          if (data) onResult(data);
        },
        error: reject,
        complete: resolve,
      });
    });
  for (;;) {
    const reason: unknown = await once().catch((reason) => reason);
    onState('closed');
    if (isRefused(reason)) await renewToken(used);
    if (Array.isArray(reason)) showProblem(reason[0]?.message); // the operation is refused
    await wait(1_000);
  }
}

const wait = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

export function element<Kind extends HTMLElement>(id: string): Kind {
  const found = document.getElementById(id);
  if (!found) throw new Error(`there is no #${id}`);
  return found as Kind;
}

/** Shows a problem at the top of the page, or hides the last one. */
export const showProblem = (message = ''): void => showAlert('problem', message);

/** Shows an alert, or hides it if there is no message. */
export function showAlert(id: string, message: string): void {
  const place = element(id);
  place.hidden = message === '';
  place.textContent = message;
}

export const money = ({ amount, currencyCode }: Money): string =>
  new Intl.NumberFormat('en', { style: 'currency', currency: currencyCode }).format(amount as unknown as number);

/** The exact sum of amounts, each times its number. All have the same currency, and so as many decimal places. */
export function sum(all: [Money, number][]): Money | undefined {
  if (!all[0]) return undefined;
  const [{ amount, currencyCode }] = all[0];
  const places = amount.split('.')[1]?.length ?? 0;
  const units = all.reduce((sum, [{ amount }, times]) => sum + BigInt(amount.replace('.', '')) * BigInt(times), 0n);
  const [sign, digits] = [units < 0n ? '-' : '', String(units < 0n ? -units : units).padStart(places + 1, '0')];
  const point = digits.length - places;
  return { amount: sign + digits.slice(0, point) + (places ? `.${digits.slice(point)}` : ''), currencyCode };
}

export const number = (value: number): string => new Intl.NumberFormat('en').format(value);

/** For example "1 order" or "2,000 orders". */
export const orders = (count: number): string => `${number(count)} ${count === 1 ? 'order' : 'orders'}`;

/** Writes text whose long numbers may wrap at their commas, as they must on a narrow screen. */
export function write(place: HTMLElement, text: string): void {
  const [first, ...others] = text.split(/(?<=,)(?=\d)/);
  place.replaceChildren(first ?? '', ...others.flatMap((part) => [document.createElement('wbr'), part]));
}

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
        write(cell, text);
      });
      return row;
    }),
  );
}
