//! Compares what was acknowledged with the database, and the database with Redis.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use sea_orm::ConnectionTrait;
use test_support::services::sql;

use super::writers::{Acknowledged, Placed};
use super::{Chaos, client_key, product_key};

/// Messages that a killed projector had received are delivered again after 30 seconds, and a Redis that was lost is repaired client by
/// client.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(600);

impl Chaos {
    /// Lets everything that has begun finish, and compares.
    pub async fn check_that_nothing_is_lost(&mut self) {
        let seed = self.seed;
        // An armed process could still die: all start again.
        for index in 0..self.processes.len() {
            let lines = self.processes[index].restart(None);
            self.count_crashes(&lines);
        }
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        self.check_database(&acknowledged).await;
        let expected = self.expected_read_model().await;
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let projected = self.read_model(&expected).await;
            if projected == expected {
                break;
            }
            let wrong: Vec<_> = expected.iter().filter(|(key, value)| projected.get(*key) != Some(value)).collect();
            assert!(Instant::now() < deadline, "SEED={seed}: {wrong:?} are {projected:?} in Redis");
            self.restart_dead();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        self.check_forgotten(&acknowledged.clients).await;

        // `verify` finds no difference, there are no dead letters, and repeated events change nothing.
        self.stores.run("projector", &["verify", "--in-flight", "0s"]);
        assert_eq!(self.stores.run("projector", &["dead-letters", "list", "--json"]), "", "SEED={seed}: dead letters");
        self.stores.run("projector", &["rebuild", "start", "--keep", "0s"]);
        assert_eq!(self.read_model(&expected).await, expected, "SEED={seed}: a rebuild changed something");
        self.check_redis_forgot(&acknowledged.clients).await;
        self.restart_dead();
    }

    /// Each acknowledged order is in the database once, with no others and no gaps in versions.
    async fn check_database(&self, acknowledged: &Acknowledged) {
        let seed = self.seed;
        let rows = "SELECT orders.client_id, key, orders.id::text AS id
                    FROM orders JOIN order_events USING (client_id, version)
                    LEFT JOIN idempotency_keys ON event_id = order_events.id";
        let mut orders: BTreeMap<String, (i64, Option<String>)> = BTreeMap::new();
        for row in self.db.query_all_raw(sql(rows)).await.unwrap() {
            let order = (row.try_get("", "client_id").unwrap(), row.try_get("", "key").unwrap());
            orders.insert(row.try_get("", "id").unwrap(), order);
        }
        let forgotten = &acknowledged.clients.forgotten;
        for Placed { client, key, order } in &acknowledged.placed {
            // The keys of orders are deleted when their client is forgotten.
            let key = Some(key.clone()).filter(|_| !forgotten.contains(client));
            assert_eq!(orders.remove(order), Some((*client, key)), "SEED={seed}: an order of client {client}");
        }
        orders.retain(|_, (client, _)| !forgotten.contains(client));
        assert_eq!(orders, BTreeMap::new(), "SEED={seed}: there are orders that were never acknowledged");
        let stored = self.count("orders").await as usize;
        let least = acknowledged.placed.len();
        assert!((least..=least + acknowledged.uncertain).contains(&stored), "SEED={seed}: {stored} orders");
        self.check_refunds(acknowledged).await;

        let gaps = "(SELECT client_id, product_id, count(*) AS events, max(version) AS newest
                    FROM order_events GROUP BY client_id, product_id) AS subjects WHERE events <> newest";
        assert_eq!(self.count(gaps).await, 0, "SEED={seed}: gaps in versions");
    }

    /// Each acknowledged cancellation and refund is in the database, and the refunded amounts agree everywhere.
    async fn check_refunds(&self, acknowledged: &Acknowledged) {
        let seed = self.seed;
        let ids = acknowledged.cancelled.iter().map(|id| format!("'{id}'")).chain(["NULL".into()]);
        let ids = ids.collect::<Vec<_>>().join(", ");
        let lost = self.count(&format!("orders WHERE id IN ({ids}) AND cancelled_at IS NULL")).await;
        assert_eq!(lost, 0, "SEED={seed}: cancellations");
        let refunds = self.count("order_refunds WHERE NOT cancels").await;
        assert_eq!(refunds, acknowledged.refunds as i64, "SEED={seed}: refunds");
        for (wrong, from) in [
            (
                "orders",
                "(SELECT o.id FROM orders o LEFT JOIN order_refunds r ON r.order_id = o.id GROUP BY o.id
                  HAVING o.refunded <> coalesce(sum(r.amount), 0) OR o.refunded > o.total
                      OR (o.cancelled_at IS NOT NULL) <> (count(*) FILTER (WHERE r.cancels) = 1)
                      OR (o.cancelled_at IS NOT NULL AND o.refunded <> o.total)) AS wrong",
            ),
            (
                "items",
                "(SELECT r.id FROM order_refunds r LEFT JOIN order_refund_items i ON i.refund_id = r.id GROUP BY r.id
                  HAVING r.amount <> coalesce(sum(i.amount), 0)) AS wrong",
            ),
            (
                "events",
                "(SELECT id FROM order_refunds) AS r FULL JOIN (SELECT id FROM order_events
                  WHERE type IN ('orders.OrderCancelled.v1', 'orders.OrderRefunded.v1')) AS e USING (id)
                  WHERE r.id IS NULL OR e.id IS NULL",
            ),
        ] {
            assert_eq!(self.count(from).await, 0, "SEED={seed}: {wrong} of refunds");
        }
    }

    /// Each client and product as it must be in Redis, computed from the database by SQL alone.
    async fn expected_read_model(&self) -> BTreeMap<String, String> {
        let rows = "SELECT 'client ' || c.id AS key,
                        concat_ws(' ', c.version, count(o.id), coalesce(sum(o.total), 0), count(o.cancelled_at),
                            coalesce(sum(o.refunded), 0), c.name, c.email) AS value
                    FROM clients c LEFT JOIN orders o ON o.client_id = c.id WHERE c.version > 0 GROUP BY c.id
                    UNION ALL
                    SELECT 'product ' || id, concat_ws(' ', version, price, name) || CASE WHEN available AND sku IS NULL THEN ''
                        ELSE chr(9) || CASE WHEN available THEN '+' ELSE '-' END || coalesce(sku, '') END
                    FROM products WHERE version > 0";
        let rows = self.db.query_all_raw(sql(rows)).await.unwrap();
        rows.iter().map(|row| (row.try_get("", "key").unwrap(), row.try_get("", "value").unwrap())).collect()
    }

    /// Each of these clients and products as it is in Redis, read without the code under test; empty while Redis cannot be read.
    async fn read_model(&self, expected: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let Some((mut redis, live)) = self.live_generation().await else { return found };
        for subject in expected.keys() {
            let (kind, id) = subject.split_once(' ').unwrap();
            let id = id.parse().unwrap();
            let stored = match kind {
                "client" => stored_client(&mut redis, client_key(&live, id)).await,
                _ => {
                    redis::cmd("HGET").arg(product_key(&live, id)).arg(id).query_async(&mut redis).await.ok().flatten()
                }
            };
            found.extend(stored.map(|stored| (subject.clone(), stored)));
        }
        found
    }
}

async fn stored_client(redis: &mut MultiplexedConnection, key: String) -> Option<String> {
    let fields = ["version", "orders", "total", "cancelled", "refunded", "name", "email"];
    let row = redis::cmd("HMGET").arg(key).arg(&fields).query_async::<[Option<String>; 7]>(redis).await;
    let Ok([version, orders, total, cancelled, refunded, name, email]) = row else { return None };
    // Not stored while nothing is refunded.
    let [cancelled, refunded] = [cancelled, refunded].map(|stored| stored.unwrap_or("0".into()));
    Some([version?, orders?, total?, cancelled, refunded, name?, email?].join(" "))
}
