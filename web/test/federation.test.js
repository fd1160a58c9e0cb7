// A gateway that composes this service with another subgraph (Apollo Federation 2).
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, before } from 'node:test';
import { createGatewayRuntime } from '@graphql-hive/gateway-runtime';
import { composeServices } from '@theguild/federation-composition';
import { buildSchema, parse } from 'graphql';
import { createHandler } from 'graphql-http/lib/use/http';
import { program, run, start, test } from './support.js';

/** A subgraph that adds ratings to products, and wishes to clients. */
const RATINGS = `
  type Query { bestRated: [Product!]! }
  type Product @key(fields: "id") { id: ID! stars: Int }
  type Client @key(fields: "id") { id: ID! wishes: [Product!]! }
`;
const LINK = 'extend schema @link(url: "https://specs.apollo.dev/federation/v2.3", import: ["@key"])';
const STARS = { 1: 4, 2: 5, 3: 3 };

const product = (id) => ({ __typename: 'Product', id, stars: STARS[id] });
const ROOT = {
  bestRated: () => ['2', '1', '3'].map(product),
  _entities: ({ representations }) =>
    representations.map(({ __typename, id }) =>
      __typename === 'Product' ? product(id) : { __typename, id, wishes: [product('2'), product('1')] }),
};

const secret = { JWT_SECRET: randomUUID() };
let service;
let gateway;
const servers = [];
before(async () => {
  service = await start({ FEDERATION: 'yes', ...secret });
  const schema = buildSchema(`
    directive @key(fields: String!) on OBJECT
    ${RATINGS}
    scalar _Any
    union _Entity = Product | Client
    extend type Query { _entities(representations: [_Any!]!): [_Entity]! }
  `);
  const ratings = createServer(createHandler({ schema, rootValue: ROOT })).listen(0, '127.0.0.1');
  servers.push(ratings);
  await once(ratings, 'listening');
  const { data } = await service.post({ query: '{ _service { sdl } }' });
  const { supergraphSdl, errors } = composeServices([
    { name: 'orders', typeDefs: parse(data._service.sdl), url: service.url },
    { name: 'ratings', typeDefs: parse(`${LINK}\n${RATINGS}`), url: `http://127.0.0.1:${ratings.address().port}/` },
  ]);
  assert.equal(errors, undefined);
  gateway = createGatewayRuntime({
    supergraph: supergraphSdl,
    logging: false,
    maskedErrors: false,
    // The rights of the caller apply.
    propagateHeaders: { fromClientToSubgraphs: ({ request }) => ({ authorization: request.headers.get('authorization') }) },
  });
}, { timeout: 60_000 });
after(async () => {
  await gateway?.dispose();
  servers.forEach((server) => server.close());
});

async function query(text, token = service.token) {
  const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` };
  const response = await gateway.fetch('http://gateway/graphql', { method: 'POST', headers, body: JSON.stringify({ query: text }) });
  return response.json();
}

test('a gateway joins the fields of both subgraphs, in both directions', async () => {
  const best = await query('{ bestRated { stars name price { amount } } }');
  assert.deepEqual(best, {
    data: {
      bestRated: [
        { stars: 5, name: 'Phone', price: { amount: '500.00' } },
        { stars: 4, name: 'Computer', price: { amount: '1500.00' } },
        { stars: 3, name: 'TV', price: { amount: '1000.00' } },
      ],
    },
  });
  assert.deepEqual(await query('{ client(id: "1") { name wishes { name stars } } }'), {
    data: { client: { name: 'Bob', wishes: [{ name: 'Phone', stars: 5 }, { name: 'Computer', stars: 4 }] } },
  });
  const place = 'mutation { placeOrder(input: { clientId: "2", items: [{ productId: "2", quantity: 1 }] }) { order { total { amount } } } }';
  assert.deepEqual(await query(place), { data: { placeOrder: { order: { total: { amount: '500.00' } } } } });
});

test('a gateway passes on what the token does not allow', async () => {
  const { stdout } = await run(program('api'), ['token', '--scope', 'clients:read'], { env: secret });
  const { data, errors } = await query('{ bestRated { stars name } }', stdout.trim());
  assert.equal(data, null);
  assert.equal(errors[0].message, 'The token needs the scope `products:read`.');
});
