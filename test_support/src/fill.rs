//! A large store, written by SQL alone.

use sea_orm::{ConnectionTrait, DatabaseConnection, TransactionTrait};

/// Products that are sold in turn.
const PRODUCTS: i64 = 1_000;

/// Fills a PostgreSQL database with nothing but these clients, products, and orders of two lines, evenly over the last year.
/// `orders` is a multiple of `clients`. All events are published. Then it collects statistics, as autovacuum does on a running
/// server.
pub async fn fill(db: &DatabaseConnection, clients: i64, orders: i64) {
    let versions = orders / clients;
    let transaction = db.begin().await.unwrap();
    for statement in [
        ID_OF.to_owned(),
        "TRUNCATE clients, products, orders, order_items, order_events, outbox RESTART IDENTITY CASCADE".to_owned(),
        "SET LOCAL session_replication_role = replica".to_owned(), // the references are right
        format!(
            "INSERT INTO products (name, price, version) SELECT 'Product ' || n, n, 0 FROM generate_series(1, {PRODUCTS}) n"
        ),
        format!(
            "INSERT INTO clients (name, email, version)
             SELECT 'Client ' || n, n || '@example.com', {versions} FROM generate_series(1, {clients}) n"
        ),
        format!(
            "CREATE TABLE filled AS
             SELECT n, 1 + (n * 7919) % {clients} AS client_id, 1 + (n / {clients})::int AS version, time,
                    id_of(time, n::text) AS id, 1 + n % {PRODUCTS} AS one, 1 + (n * 31 + 7) % {PRODUCTS} AS other
             FROM (SELECT n, date_trunc('milliseconds', now() - interval '365 days' * (1 - n / {orders}.0)) AS time
                   FROM generate_series(0::bigint, {orders} - 1) n) placed"
        ),
        "INSERT INTO orders (id, client_id, version, placed_at, total)
         SELECT id, client_id, version, time, one + 3 * other FROM filled ORDER BY n"
            .to_owned(),
        "INSERT INTO order_items (order_id, line, product_id, unit_price, quantity)
         SELECT id, line, CASE line WHEN 0 THEN one ELSE other END, CASE line WHEN 0 THEN one ELSE other END, 1 + 2 * line
         FROM filled, generate_series(0, 1) line ORDER BY n, line"
            .to_owned(),
        "INSERT INTO order_events (id, client_id, version, type, payload, occurred_at)
         SELECT id_of(time, 'event ' || n), client_id, version, 'orders.OrderPlaced.v1', jsonb_build_object(
             'clientId', client_id, 'clientName', 'Client ' || client_id, 'clientEmail', client_id || '@example.com',
             'orderId', id, 'currency', 'USD', 'total', one + 3 * other, 'lines', jsonb_build_array(
                 jsonb_build_object('productId', one, 'name', 'Product ' || one, 'unitPrice', one, 'quantity', 1),
                 jsonb_build_object('productId', other, 'name', 'Product ' || other, 'unitPrice', other, 'quantity', 3))), time
         FROM filled ORDER BY n"
            .to_owned(),
        "DROP TABLE filled".to_owned(),
    ] {
        transaction.execute_unprepared(&statement).await.unwrap();
    }
    transaction.commit().await.unwrap();
    db.execute_unprepared("VACUUM ANALYZE").await.unwrap();
}

/// A UUID of version 7 (RFC 9562) of a time.
const ID_OF: &str =
    "CREATE OR REPLACE FUNCTION id_of(moment timestamptz, seed text) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '7' || substr(md5(seed), 1, 3) || '8'
            || substr(md5(seed), 4, 15))::uuid $$";
