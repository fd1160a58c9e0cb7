-- A script of pgbench: one order in one transaction, with the statements that it needs.
\set client random(1, :clients)
\set q1 random(1, 5)
\set q2 random(1, 5)
BEGIN;
SELECT id, name, email, version + 1 AS version FROM clients WHERE id = :client FOR UPDATE \gset
SELECT id, name, price FROM products WHERE id IN (1, 2);
\set total :q1 * 150000 + :q2 * 50000
INSERT INTO orders (id, client_id, version, placed_at, total)
    VALUES (gen_random_uuid(), :client, :version, now(), :total) RETURNING id AS order_id \gset
INSERT INTO order_items (order_id, line, product_id, unit_price, quantity)
    VALUES (:order_id, 0, 1, 150000, :q1), (:order_id, 1, 2, 50000, :q2);
INSERT INTO order_events (id, client_id, version, type, payload, occurred_at)
    VALUES (gen_random_uuid(), :client, :version, 'orders.OrderPlaced.v1',
            jsonb_build_object('clientId', :client::bigint, 'clientName', :name::text, 'clientEmail', :email::text, 'orderId', :order_id::uuid,
                'currency', 'USD', 'total', :total::bigint, 'lines', jsonb_build_array(
                    jsonb_build_object('productId', 1, 'name', 'Computer', 'unitPrice', 150000, 'quantity', :q1::int),
                    jsonb_build_object('productId', 2, 'name', 'Phone', 'unitPrice', 50000, 'quantity', :q2::int))), now()) RETURNING id AS event_id \gset
INSERT INTO outbox (event_id) VALUES (:event_id);
UPDATE clients SET version = :version WHERE id = :client;
COMMIT;
