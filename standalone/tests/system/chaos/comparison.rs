//! Compares what was acknowledged with the database, and the database with Redis.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sea_orm::ConnectionTrait;
use test_support::services::sql;

use super::writers::{Acknowledged, Placed};
use super::{CLIENTS, Chaos, client_key, product_key};

/// Messages that a killed projector had received are delivered again after 30 seconds.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

impl Chaos {
    /// Lets everything that has begun finish, and compares.
    pub async fn check_that_nothing_is_lost(&mut self, seed: u64, acknowledged: &Mutex<Acknowledged>) {
        // An armed process could still die: all start again.
        for index in 0..self.processes.len() {
            let lines = self.processes[index].restart(None);
            self.count_crashes(&lines);
        }
        let acknowledged = acknowledged.lock().unwrap().clone();
        self.check_database(seed, &acknowledged).await;
        let expected = self.expected_read_model().await;
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let projected = self.read_model().await;
            if projected == expected {
                break;
            }
            let wrong: Vec<_> = expected.iter().filter(|(key, value)| projected.get(*key) != Some(value)).collect();
            assert!(Instant::now() < deadline, "SEED={seed}: {wrong:?} are {projected:?} in Redis");
            self.restart_dead();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        // `verify` finds no difference, there are no dead letters, and repeated events change nothing.
        self.stores.run("projector", &["verify", "--in-flight", "0s"]);
        assert_eq!(self.stores.run("projector", &["dead-letters", "list", "--json"]), "", "SEED={seed}: dead letters");
        self.stores.run("projector", &["rebuild", "start", "--keep", "0s"]);
        assert_eq!(self.read_model().await, expected, "SEED={seed}: a rebuild changed something");
        self.restart_dead();
    }

    /// Each acknowledged order is in the database once, with no others and no gaps in versions.
    async fn check_database(&self, seed: u64, acknowledged: &Acknowledged) {
        let rows = "SELECT orders.client_id, coalesce(key, '') AS key, orders.id::text AS id
                    FROM orders JOIN order_events USING (client_id, version)
                    LEFT JOIN idempotency_keys ON event_id = order_events.id";
        let mut orders: BTreeMap<(i64, String), Vec<String>> = BTreeMap::new();
        for row in self.db.query_all_raw(sql(rows)).await.unwrap() {
            let key = (row.try_get("", "client_id").unwrap(), row.try_get("", "key").unwrap());
            orders.entry(key).or_default().push(row.try_get("", "id").unwrap());
        }
        for Placed { client, key, order } in &acknowledged.placed {
            let found = orders.get(&(*client, key.clone()));
            assert_eq!(found, Some(&vec![order.clone()]), "SEED={seed}: an order of client {client}");
        }
        assert_eq!(
            orders.len(),
            acknowledged.placed.len(),
            "SEED={seed}: there are orders that were never acknowledged"
        );
        self.check_refunds(seed, acknowledged).await;

        let gaps = "SELECT count(*) FROM (SELECT client_id, product_id, count(*) AS events, max(version) AS newest
                    FROM order_events GROUP BY client_id, product_id) AS subjects WHERE events <> newest";
        let gaps: i64 = self.db.query_one_raw(sql(gaps)).await.unwrap().unwrap().try_get("", "count").unwrap();
        assert_eq!(gaps, 0, "SEED={seed}: gaps in versions");
    }

    /// Each acknowledged cancellation and refund is in the database, and the refunded amounts agree everywhere.
    async fn check_refunds(&self, seed: u64, acknowledged: &Acknowledged) {
        let count = async |from: String| -> i64 {
            let row = self.db.query_one_raw(sql(&format!("SELECT count(*) FROM {from}"))).await.unwrap().unwrap();
            row.try_get("", "count").unwrap()
        };
        let ids = acknowledged.cancelled.iter().map(|id| format!("'{id}'")).chain(["NULL".into()]);
        let ids = ids.collect::<Vec<_>>().join(", ");
        let lost = count(format!("orders WHERE id IN ({ids}) AND cancelled_at IS NULL")).await;
        assert_eq!(lost, 0, "SEED={seed}: cancellations");
        let refunds = count("order_refunds WHERE NOT cancels".into()).await;
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
            assert_eq!(count(from.into()).await, 0, "SEED={seed}: {wrong} of refunds");
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

    /// Each client and product as it is in Redis, read without the code under test; empty while Redis cannot be read.
    async fn read_model(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let Some((mut redis, live)) = self.live_generation().await else { return found };
        for client in 1..=CLIENTS {
            let key = client_key(&live, client);
            let fields = ["version", "orders", "total", "cancelled", "refunded", "name", "email"];
            let row = redis::cmd("HMGET").arg(key).arg(&fields).query_async::<[Option<String>; 7]>(&mut redis).await;
            if let Ok([Some(version), Some(orders), Some(total), cancelled, refunded, Some(name), Some(email)]) = row {
                // Not stored while nothing is refunded.
                let [cancelled, refunded] = [cancelled, refunded].map(|stored| stored.unwrap_or("0".into()));
                let row = format!("{version} {orders} {total} {cancelled} {refunded} {name} {email}");
                found.insert(format!("client {client}"), row);
            }
        }
        for product in 1..=3 {
            let row = redis::cmd("HGET").arg(product_key(&live, product)).arg(product).query_async(&mut redis).await;
            if let Ok(Some(value)) = row {
                found.insert(format!("product {product}"), value);
            }
        }
        found
    }
}
