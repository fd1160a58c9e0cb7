// The same two operations as the order service, on the same stores, with the servers that a Node.js team would choose:
//   node server.js mercurius|apollo|yoga PORT
// Each reads clients with ioredis, whose auto-pipelining sends the commands of one turn of the event loop in one write. Each
// verifies tokens with fast-jwt and its cache, and places an order with its event and outbox row in one transaction.

import { createServer } from "node:http";
import { randomUUID } from "node:crypto";
import DataLoader from "dataloader";
import { createVerifier } from "fast-jwt";
import Redis from "ioredis";
import pg from "pg";

const [kind, port] = process.argv.slice(2);
const redis = new Redis(process.env.REDIS_URL, { enableAutoPipelining: true });
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 16 });
const verify = createVerifier({ key: process.env.JWT_SECRET, cache: true });

const typeDefs = `
  type Money { amount: String! currencyCode: String! }
  type Client {
    id: ID! name: String! email: String! total: Money! orderCount: Int! lastPurchase: String version: Int!
  }
  input OrderItemInput { productId: ID! quantity: Int! }
  input PlaceOrderInput { clientId: ID! items: [OrderItemInput!]! idempotencyKey: String }
  type Order { id: ID! total: Money! }
  type PlaceOrderPayload { order: Order clientVersion: Int replayed: Boolean! }
  type Query { client(id: ID!): Client clientsByIds(ids: [ID!]!): [Client]! }
  type Mutation { placeOrder(input: PlaceOrderInput!): PlaceOrderPayload! }
`;

const money = (minor) => ({ amount: (Number(minor) / 100).toFixed(2), currencyCode: "USD" });
const fields = ["name", "email", "total", "orders", "last_purchase", "version"];

async function readClient(id) {
  const [name, email, total, orders, last, version] = await redis.hmget(`orders:{p${id % 16}}:g1:client:${id}`, fields);
  if (name === null) return null;
  const lastPurchase = last && new Date(Number(last)).toISOString();
  return { id, name, email, total: money(total), orderCount: Number(orders), lastPurchase, version: Number(version) };
}

function identify(header) {
  if (!header?.startsWith("Bearer ")) throw new Error("no token");
  return verify(header.slice(7));
}

function allow(context, scope) {
  if (!context.identity.scope.split(" ").includes(scope)) throw new Error("forbidden");
}

const contextOf = (header) => ({
  identity: identify(header),
  clients: new DataLoader((ids) => Promise.all(ids.map(readClient))),
});

// The statements are those of bench/order.sql.
const statement = (name, text) => (db, values) => db.query({ name, text, values });
const lockClient = statement("client", "SELECT id, name, email, version FROM clients WHERE id = $1 FOR UPDATE");
const products = statement("products", "SELECT id, name, price FROM products WHERE id = ANY($1::bigint[])");
const insertOrder = statement("order", "INSERT INTO orders (id, client_id, version, placed_at, total) VALUES ($1, $2, $3, $4, $5)");
const insertItems = statement(
  "items",
  `INSERT INTO order_items (order_id, line, product_id, unit_price, quantity)
   SELECT $1, * FROM UNNEST($2::int[], $3::bigint[], $4::bigint[], $5::int[])`,
);
const insertEvent = statement(
  "event",
  `INSERT INTO order_events (id, client_id, version, type, payload, occurred_at)
   VALUES ($1, $2, $3, 'orders.OrderPlaced.v1', $4, $5)`,
);
const insertPending = statement("pending", "INSERT INTO outbox (event_id) VALUES ($1)");
const raiseVersion = statement("version", "UPDATE clients SET version = $2 WHERE id = $1");

async function placeOrder({ clientId, items }) {
  const db = await pool.connect();
  try {
    await db.query("BEGIN");
    const client = (await lockClient(db, [clientId])).rows[0];
    const found = (await products(db, [items.map((item) => item.productId)])).rows;
    const byId = new Map(found.map((product) => [product.id, product]));
    const lines = items.map(({ productId, quantity }) => {
      const product = byId.get(productId);
      return { productId, name: product.name, unitPrice: Number(product.price), quantity };
    });
    const total = lines.reduce((sum, line) => sum + line.unitPrice * line.quantity, 0);
    const [id, now, version] = [randomUUID(), new Date(), client.version + 1];
    await insertOrder(db, [id, clientId, version, now, total]);
    const column = (name) => lines.map((line) => line[name]);
    await insertItems(db, [id, lines.map((_, line) => line), column("productId"), column("unitPrice"), column("quantity")]);
    const payload = { clientId, clientName: client.name, clientEmail: client.email, orderId: id, total, lines };
    const event = randomUUID();
    await insertEvent(db, [event, clientId, version, JSON.stringify(payload), now]);
    await insertPending(db, [event]);
    await raiseVersion(db, [clientId, version]);
    await db.query("COMMIT");
    return { order: { id, total: money(total) }, clientVersion: version, replayed: false };
  } catch (error) {
    await db.query("ROLLBACK");
    throw error;
  } finally {
    db.release();
  }
}

const resolvers = {
  Query: {
    client(_, { id }, context) {
      allow(context, "clients:read");
      return readClient(id);
    },
    clientsByIds(_, { ids }, context) {
      allow(context, "clients:read");
      return context.clients.loadMany(ids);
    },
  },
  Mutation: {
    placeOrder(_, { input }, context) {
      allow(context, "orders:place");
      return placeOrder(input);
    },
  },
};

const servers = {
  async mercurius() {
    const [{ default: fastify }, { default: mercurius }] = [await import("fastify"), await import("mercurius")];
    const app = fastify();
    const context = (request) => contextOf(request.headers.authorization);
    // Compiled after the first request of a document.
    await app.register(mercurius, { schema: typeDefs, resolvers, context, jit: 1 });
    await app.listen({ port, host: "127.0.0.1" });
  },
  async apollo() {
    const [{ ApolloServer }, { startStandaloneServer }] = [await import("@apollo/server"), await import("@apollo/server/standalone")];
    const context = async ({ req }) => contextOf(req.headers.authorization);
    await startStandaloneServer(new ApolloServer({ typeDefs, resolvers }), { listen: { port: Number(port), host: "127.0.0.1" }, context });
  },
  async yoga() {
    const { createSchema, createYoga } = await import("graphql-yoga");
    const context = ({ request }) => contextOf(request.headers.get("authorization"));
    const yoga = createYoga({ schema: createSchema({ typeDefs, resolvers }), context, logging: false });
    await new Promise((listening) => createServer(yoga).listen(port, "127.0.0.1", listening));
  },
};

await servers[kind]();
console.log(`${kind} is ready`);
