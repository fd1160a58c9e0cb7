// The GraphQL clients that frontends use, over each transport.
import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';
import path from 'node:path';
import { before } from 'node:test';
import { ApolloClient, ApolloLink, gql, HttpLink, InMemoryCache } from '@apollo/client';
import { PersistedQueryLink } from '@apollo/client/link/persisted-queries';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { Client as UrqlClient, fetchExchange, subscriptionExchange } from '@urql/core';
import { createClient as createSseClient } from 'graphql-sse';
import { createClient as createWsClient } from 'graphql-ws';
import { WebSocket } from 'ws';
import { bearer, orderOf, PLACE_ORDER, start, temporaryDirectory, test } from './support.js';

const CLIENT = `query Client($id: ID!, $minVersion: Int) {
  client(id: $id, minVersion: $minVersion) { version orderCount }
}`;
const CLIENT_CHANGED = `subscription ClientChanged($id: ID!) {
  clientChanged(id: $id) { version orderCount }
}`;

let service;
before(async () => {
  service = await start();
});

test('graphql-ws places orders, queries and subscribes', async (t) => {
  await placesQueriesAndSubscribes(iterating(wsClient(t, service)));
});

test('graphql-ws closes an idle connection', async (t) => {
  const client = wsClient(t, service);
  const closed = new Promise((resolve) => client.on('closed', resolve));
  await iterating(client).execute(CLIENT, { id: '1' });
  assert.equal((await closed).code, 1000);
});

test('the service closes the connection of graphql-ws with 4403 when the token is invalid', async (t) => {
  const client = iterating(wsClient(t, withBadToken(service)));
  await assert.rejects(client.execute(CLIENT, { id: '1' }), { code: 4403 });
});

test('graphql-ws reconnects after a restart of the service', async (t) => {
  const directory = await temporaryDirectory();
  const lasting = { DATABASE_URL: `sqlite://${path.join(directory, 'orders.db')}`, JWT_SECRET: randomUUID() };
  const first = await start(lasting);
  const client = wsClient(t, first, {
    retryAttempts: Infinity,
    shouldRetry: () => true,
    retryWait: () => new Promise((resolve) => setTimeout(resolve, 50)),
  });
  const closed = new Promise((resolve) => client.on('closed', resolve));
  const placed = await first.placeOrder('1');
  const changes = iterating(client).subscribe(CLIENT_CHANGED, { id: '1' });
  let state = await changes.next();
  while (state.value.clientChanged.version < placed) state = await changes.next();

  const next = changes.next();
  await first.stop();
  assert.equal((await closed).code, 1001);
  const second = await start({ ...lasting, LISTEN_ADDR: new URL(first.url).host });
  assert.deepEqual(await next, state);
  const version = await second.placeOrder('1');
  assert.equal((await changes.next()).value.clientChanged.version, version);
});

test('graphql-sse places orders, queries and subscribes', async (t) => {
  await placesQueriesAndSubscribes(iterating(sseClient(t, service)));
});

test('graphql-sse gets 401 when the token is invalid', async (t) => {
  const client = iterating(sseClient(t, withBadToken(service)));
  await assert.rejects(client.execute(CLIENT, { id: '1' }), ({ response }) => response.status === 401);
});

// The protocol has no other way to say that a subscription is invalid. A client that took it for a lost connection would retry
// without end.
for (const [problem, query, variables, code] of [
  ['an unknown field', 'subscription { nothing }', {}, 'GRAPHQL_VALIDATION_FAILED'],
  ['a missing variable', CLIENT_CHANGED, {}, 'BAD_USER_INPUT'],
  ['a query where it subscribes', '{ nothing }', {}, 'GRAPHQL_VALIDATION_FAILED'],
]) {
  test(`graphql-sse reports ${problem} and does not retry`, async (t) => {
    let requests = 0;
    const client = createSseClient({
      url: service.url,
      headers: service.headers,
      retryAttempts: 100,
      retry: () => Promise.resolve(),
      fetchFn: (...args) => {
        requests++;
        return fetch(...args);
      },
    });
    t.after(() => client.dispose());
    const results = [];
    for await (const result of client.iterate({ query, variables })) results.push(result);
    assert.deepEqual(results.map(({ errors }) => errors[0].extensions.code), [code]);
    assert.equal(requests, 1);
  });
}

test("a subscription over Apollo's HttpLink is refused with the transports that work", async (t) => {
  const client = apolloClient(t, new HttpLink({ uri: service.url, headers: service.headers }));
  const changes = client.subscribe({ query: gql(CLIENT_CHANGED), variables: { id: '1' } });
  const { error } = await new Promise((resolve) => changes.subscribe(resolve));
  assert.match(error.message, /Subscriptions need a WebSocket \(graphql-transport-ws\) or `Accept: text\/event-stream`\./);
});

test('Apollo Client places orders, queries and subscribes', async (t) => {
  const client = apolloClient(t, ApolloLink.split(
    ({ operationType }) => operationType === 'subscription',
    new GraphQLWsLink(wsClient(t, service)),
    new HttpLink({ uri: service.url, headers: service.headers }),
  ));
  await placesQueriesAndSubscribes({
    async execute(text, variables) {
      const document = gql(text);
      const { data } = text.startsWith('mutation')
        ? await client.mutate({ mutation: document, variables })
        : await client.query({ query: document, variables });
      return data;
    },
    subscribe(text, variables) {
      const changes = client.subscribe({ query: gql(text), variables });
      return iteratorOf((next) => changes.subscribe(({ data, error }) => next(error ?? data)));
    },
  });
});

for (const method of ['POST', 'GET']) {
  test(`Apollo Client sends the text of a query once and then only its hash by ${method}`, async (t) => {
    const exchanges = [];
    const client = apolloClient(t, ApolloLink.from([
      new PersistedQueryLink({
        sha256: (text) => createHash('sha256').update(text).digest('hex'),
        useGETForHashedQueries: method === 'GET',
      }),
      new HttpLink({
        uri: service.url,
        headers: service.headers,
        async fetch(url, options) {
          const response = await fetch(url, options);
          const request = options.body ? JSON.parse(options.body) : Object.fromEntries(new URL(url).searchParams);
          const { errors } = await response.clone().json();
          exchanges.push({ method: options.method, sent: 'query' in request, error: errors?.[0].extensions.code });
          return response;
        },
      }),
    ]));
    const query = gql(`query By${method} { products { nodes { name } } }`);
    for (let times = 0; times < 2; times++) {
      const { data } = await client.query({ query });
      assert.equal(data.products.nodes.length, 3);
    }
    assert.deepEqual(exchanges, [
      { method, sent: false, error: 'PERSISTED_QUERY_NOT_FOUND' },
      { method: 'POST', sent: true, error: undefined },
      { method, sent: false, error: undefined },
    ]);
  });
}

for (const over of ['WebSocket', 'SSE']) {
  test(`urql places orders, queries and subscribes over ${over}`, async (t) => {
    const socket = wsClient(t, service);
    const forwardSubscription = (request) => ({
      subscribe: (sink) => ({ unsubscribe: socket.subscribe(request, sink) }),
    });
    const client = new UrqlClient({
      url: service.url,
      fetchOptions: { headers: service.headers },
      fetchSubscriptions: over === 'SSE',
      exchanges: over === 'SSE' ? [fetchExchange] : [subscriptionExchange({ forwardSubscription }), fetchExchange],
      async fetch(url, options) {
        const response = await fetch(url, options);
        // urql accepts an event stream for any operation, but prefers the first type that it names.
        const [preferred] = options.headers.accept.split(',');
        assert.equal(response.headers.get('content-type').split(';')[0], preferred);
        return response;
      },
    });
    await placesQueriesAndSubscribes({
      async execute(text, variables) {
        const { data, error } = text.startsWith('mutation')
          ? await client.mutation(text, variables)
          : await client.query(text, variables);
        assert.equal(error, undefined);
        return data;
      },
      subscribe(text, variables) {
        const changes = client.subscription(text, variables);
        return iteratorOf((next) => changes.subscribe(({ data, error }) => next(error ?? data)));
      },
    });
  });
}

/** What every client must be able to do. `execute` resolves to the data, `subscribe` iterates over data. */
async function placesQueriesAndSubscribes({ execute, subscribe }) {
  const place = async () => {
    const { placeOrder } = await execute(PLACE_ORDER, orderOf('1'));
    assert.deepEqual(placeOrder.userErrors, []);
    return placeOrder.clientVersion;
  };
  const version = await place();
  const { client } = await execute(CLIENT, { id: '1', minVersion: version });
  assert.equal(client.version, version);

  const changes = subscribe(CLIENT_CHANGED, { id: '1' });
  const { value } = await changes.next();
  assert.deepEqual(value.clientChanged, client, 'the current state comes first');
  const fields = Object.keys(value.clientChanged).filter((field) => field !== '__typename');
  assert.deepEqual(fields, ['version', 'orderCount'], 'fields keep the order of the query');
  const next = changes.next();
  const changed = await place();
  const { clientChanged } = (await next).value;
  assert.equal(clientChanged.version, changed);
  assert.equal(clientChanged.orderCount, client.orderCount + 1);
  await changes.return();
}

/** A client of graphql-ws or graphql-sse, both of which iterate over results. */
function iterating(client) {
  async function* subscribe(query, variables) {
    for await (const { data, errors } of client.iterate({ query, variables })) {
      assert.equal(errors, undefined);
      yield data;
    }
  }
  return {
    subscribe,
    async execute(query, variables) {
      for await (const data of subscribe(query, variables)) return data;
    },
  };
}

/** Iterates over what a subscription calls `next` with. */
function iteratorOf(subscribe) {
  let subscription;
  return new ReadableStream({
    start: (controller) => {
      subscription = subscribe((value) => controller.enqueue(value));
    },
    cancel: () => subscription.unsubscribe(),
  }).values();
}

function wsClient(t, { url, headers }, options = { retryAttempts: 0 }) {
  const client = createWsClient({
    url: url.replace('http', 'ws'),
    connectionParams: headers,
    webSocketImpl: WebSocket,
    ...options,
  });
  t.after(() => client.dispose());
  return client;
}

function sseClient(t, { url, headers }) {
  const client = createSseClient({ url, headers, retryAttempts: 0 });
  t.after(() => client.dispose());
  return client;
}

function apolloClient(t, link) {
  const uncached = { fetchPolicy: 'no-cache' };
  const client = new ApolloClient({
    link,
    cache: new InMemoryCache(),
    defaultOptions: { query: uncached, mutate: uncached },
  });
  t.after(() => client.stop());
  return client;
}

const withBadToken = ({ url }) => ({ url, headers: bearer('wrong') });
