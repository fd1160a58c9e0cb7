// The GraphQL client: a normalised cache, tokens that are renewed, retries, and subscriptions. It sends only the documents that
// `npm run build` has written to the manifest, each by its hash.
import { authExchange } from '@urql/exchange-auth';
import { cacheExchange, type CacheExchangeOpts, type Resolver } from '@urql/exchange-graphcache';
import { relayPagination } from '@urql/exchange-graphcache/extras';
import { persistedExchange } from '@urql/exchange-persisted';
import { retryExchange } from '@urql/exchange-retry';
import { createClient as createSocket, type Client as Socket, type Sink, type SubscribePayload } from 'graphql-ws';
import { createContext, useContext, useState, type ReactNode } from 'react';
import { Client, CombinedError, fetchExchange, type Exchange, type Operation, Provider, subscriptionExchange, type SubscriptionOperation } from 'urql';
import { codesOf, isPassing } from './errors';
import type { Session } from './session';

/** Without an answer for so long, a request has failed and a connection is lost. In milliseconds. */
const TIMEOUT = 15_000;
const PING_INTERVAL = 10_000;
const PONG_TIMEOUT = 5_000;
/** The close code with which the service refuses a token. */
const FORBIDDEN = 4403;
/** The close code after the last subscription has ended. */
const UNUSED = 1000;
/** The shortest and the longest pause before an interrupted subscription is sent again. In milliseconds. */
const PAUSES = [1_000, 3_000] as const;

/** Values without an id are stored with the object that contains them. */
const EMBEDDED = [
  'ClientPayload', 'ClientReport', 'ClientSales', 'DeadLetters', 'DeadLettersPayload', 'FieldChange', 'HistoryEntry', 'Money', 'OrderItem',
  'OrderPayload', 'Outbox', 'PlaceOrderPayload', 'PreviousGeneration', 'ProductPayload', 'ProductSales', 'Projection', 'Projector', 'Queue',
  'ReadModel', 'Rebuild', 'SalesPoint', 'SalesReport', 'SalesSnapshot', 'Store', 'Sweep', 'System', 'UserError',
];

/** What was read in a list need not be read again by its id. Null stays null. */
export const byId = (type: string): Resolver => (_, args, cache, { parentKey, fieldName }) =>
  cache.resolve(parentKey, fieldName, args) === null ? null : { __typename: type, id: args['id'] as string };

const cache: CacheExchangeOpts = {
  keys: Object.fromEntries(EMBEDDED.map((type) => [type, () => null])),
  resolvers: {
    Query: {
      // All pages that were read so far are one list.
      clients: relayPagination(),
      orders: relayPagination(),
      products: relayPagination(),
      order: byId('Order'),
      product: byId('Product'),
    },
  },
  updates: {
    Mutation: {
      // A new order moves the others to other pages.
      placeOrder: (_result, _arguments, cache) => {
        for (const { fieldName, fieldKey } of cache.inspectFields('Query')) {
          if (fieldName === 'orders') cache.invalidate('Query', fieldKey);
        }
      },
    },
  },
};

const hasIdempotencyKey = ({ input }: { input?: { idempotencyKey?: string } }) => input?.idempotencyKey !== undefined;

/** The token that an operation was sent with. */
const tokenOf = ({ context }: Operation) =>
  new Headers((context.fetchOptions as RequestInit).headers).get('Authorization')!.slice('Bearer '.length);

/**
 * How subscriptions get their changes.
 * - `lost`: the service cannot be reached
 * - `interrupted`: the service has ended a subscription, for example while the read model is unavailable
 */
export type Connection = 'connected' | 'lost' | 'interrupted';

function createGraphql(session: Session, onConnection: (connection: Connection) => void, options: CacheExchangeOpts) {
  const interrupted = new Set<object>();
  let isConnected = true;
  const report = () => onConnection(!isConnected ? 'lost' : interrupted.size > 0 ? 'interrupted' : 'connected');
  const socket = connect(session, (now) => {
    isConnected = now;
    report();
  });
  const onInterruption = (subscription: object, isInterrupted: boolean) => {
    if (isInterrupted) interrupted.add(subscription);
    else interrupted.delete(subscription);
    report();
  };
  const through = (...exchanges: Exchange[]) => new Client({
    url: '/graphql',
    preferGetMethod: false,
    fetch: (input, init) => {
      const signals = [AbortSignal.timeout(TIMEOUT), ...(init?.signal ? [init.signal] : [])];
      return fetch(input, { ...init, signal: AbortSignal.any(signals) });
    },
    exchanges: [
      ...exchanges,
      authExchange(async ({ appendHeaders }) => {
        let refused = session.token;
        return {
          addAuthToOperation: (operation) => appendHeaders(operation, { Authorization: `Bearer ${session.token}` }),
          didAuthError: (error, operation) => {
            if (!codesOf(error).includes('UNAUTHENTICATED')) return false;
            refused = tokenOf(operation);
            return true;
          },
          // The socket may have replaced it already.
          refreshAuth: () => session.renew(refused),
        };
      }),
      retryExchange({
        initialDelayMs: 300,
        maxDelayMs: 3_000,
        maxNumberAttempts: 3,
        // A repeated mutation with a key makes the change only once.
        retryIf: (error, { kind, variables }) => isPassing(error) && (kind === 'query' || hasIdempotencyKey(variables as object)),
      }),
      persistedExchange({
        preferGetForPersistedQueries: false,
        enforcePersistedQueries: true,
        enableForMutation: true,
        enableForSubscriptions: true,
        generateHash: async (_, document) => (document as { __meta__?: { hash: string } }).__meta__!.hash,
      }),
      fetchExchange,
      subscriptionExchange({
        forwardSubscription: (request: SubscriptionOperation) => ({
          subscribe: (sink) => ({ unsubscribe: subscribe(socket, { ...request, query: '' }, sink as Sink, onInterruption) }),
        }),
      }),
    ],
  });
  return { client: through(cacheExchange({ ...cache, ...options })), uncached: through() };
}

/**
 * Subscribes until `unsubscribe`. The service ends a subscription with an error. If this is one that passes, the sink does not see it, so that
 * the page keeps what it shows, and the subscription is sent again.
 */
function subscribe(
  socket: Socket,
  payload: SubscribePayload,
  sink: Sink,
  onInterruption: (subscription: object, isInterrupted: boolean) => void,
): () => void {
  let isWanted = true;
  let unsubscribe: () => void;
  let pause: ReturnType<typeof setTimeout> | undefined;
  const passes = (errors: unknown) => Array.isArray(errors) && isPassing(new CombinedError({ graphQLErrors: errors }));
  const interrupt = () => {
    if (!isWanted) return;
    onInterruption(sink, true);
    clearTimeout(pause);
    pause = setTimeout(send, PAUSES[0] + Math.random() * (PAUSES[1] - PAUSES[0]));
  };
  const send = () => {
    let hasEnded = false;
    unsubscribe = socket.subscribe(payload, {
      next: (result) => {
        hasEnded = passes(result.errors);
        onInterruption(sink, hasEnded);
        if (!hasEnded) sink.next(result);
      },
      error: (error) => (passes(error) ? interrupt() : sink.error(error)),
      complete: () => (hasEnded ? interrupt() : sink.complete()),
    });
  };
  send();
  return () => {
    isWanted = false;
    clearTimeout(pause);
    onInterruption(sink, false);
    unsubscribe();
  };
}

/** A connection for subscriptions. It is opened again for ever, and closed while there are none. */
function connect(session: Session, onConnected: (isConnected: boolean) => void) {
  let used: string | undefined;
  let isRefused = false;
  let pong: ReturnType<typeof setTimeout> | undefined;
  const socket = createSocket({
    url: new URL('/graphql', location.href.replace(/^http/, 'ws')).href,
    connectionParams: async () => {
      if (isRefused && used) await session.renew(used);
      used = session.token;
      return { Authorization: `Bearer ${used}` };
    },
    keepAlive: PING_INTERVAL,
    retryAttempts: Infinity,
    retryWait: (retries) => new Promise((resolve) => setTimeout(resolve, Math.min(2_000, 250 * 2 ** retries) * (0.5 + Math.random()))),
    shouldRetry: () => true,
    on: {
      connected: () => {
        isRefused = false;
        onConnected(true);
      },
      ping: (isReceived) => {
        if (!isReceived) pong = setTimeout(() => socket.terminate(), PONG_TIMEOUT);
      },
      pong: (isReceived) => isReceived && clearTimeout(pong),
      closed: (event) => {
        clearTimeout(pong);
        const { code } = event as CloseEvent;
        isRefused = code === FORBIDDEN;
        onConnected(code === UNUSED);
      },
    },
  });
  return socket;
}

const UncachedContext = createContext<Client | undefined>(undefined);

/** A client that keeps nothing, for results that are too large for the cache. */
export const useUncachedClient = (): Client => useContext(UncachedContext)!;

const ConnectionContext = createContext<Connection>('connected');

/** The connection of the subscriptions. `connected` if there is none. */
export const useConnection = (): Connection => useContext(ConnectionContext);

/** The client of a session. `options` are what a page adds to the cache, such as optimistic results. */
export function GraphqlProvider({ session, options = {}, children }: {
  session: Session;
  options?: CacheExchangeOpts;
  children: ReactNode;
}) {
  const [connection, setConnection] = useState<Connection>('connected');
  const [{ client, uncached }] = useState(() => createGraphql(session, setConnection, options));
  return (
    <ConnectionContext value={connection}>
      <UncachedContext value={uncached}>
        <Provider value={client}>{children}</Provider>
      </UncachedContext>
    </ConnectionContext>
  );
}
