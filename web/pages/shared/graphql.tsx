// The GraphQL client: a normalised cache, tokens that are renewed, retries, and subscriptions. It sends only the documents that
// `npm run build` has written to the manifest, each by its hash.
import { authExchange } from '@urql/exchange-auth';
import { cacheExchange, type CacheExchangeOpts, type Resolver } from '@urql/exchange-graphcache';
import { relayPagination } from '@urql/exchange-graphcache/extras';
import { persistedExchange } from '@urql/exchange-persisted';
import { retryExchange } from '@urql/exchange-retry';
import { createClient as createSocket, type Sink } from 'graphql-ws';
import { createContext, useContext, useState, type ReactNode } from 'react';
import { Client, fetchExchange, type Exchange, type Operation, Provider, subscriptionExchange, type SubscriptionOperation } from 'urql';
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

function createGraphql(session: Session, onConnected: (isConnected: boolean) => void, options: CacheExchangeOpts) {
  const socket = connect(session, onConnected);
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
          subscribe: (sink) => ({ unsubscribe: socket.subscribe({ ...request, query: '' }, sink as Sink) }),
        }),
      }),
    ],
  });
  return { client: through(cacheExchange({ ...cache, ...options })), uncached: through() };
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

const ConnectedContext = createContext(true);

/** Whether subscriptions are connected. True if there is none. */
export const useIsConnected = (): boolean => useContext(ConnectedContext);

/** The client of a session. `options` are what a page adds to the cache, such as optimistic results. */
export function GraphqlProvider({ session, options = {}, children }: {
  session: Session;
  options?: CacheExchangeOpts;
  children: ReactNode;
}) {
  const [isConnected, setIsConnected] = useState(true);
  const [{ client, uncached }] = useState(() => createGraphql(session, setIsConnected, options));
  return (
    <ConnectedContext value={isConnected}>
      <UncachedContext value={uncached}>
        <Provider value={client}>{children}</Provider>
      </UncachedContext>
    </ConnectedContext>
  );
}
