//! Compares what was acknowledged with the database, and the database with Redis.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sea_orm::ConnectionTrait;
use test_support::services::sql;

use super::writers::Acknowledged;
use super::{CLIENTS, Chaos, client_key, product_key};

/// Messages that a killed projector had received are delivered again after 30 seconds.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

impl Chaos {
    /// Lets everything that has begun finish, and compares.
    pub async fn check_that_nothing_is_lost(&mut self, seed: u64, acknowledged: &Mutex<Vec<Acknowledged>>) {
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
    async fn check_database(&self, seed: u64, acknowledged: &[Acknowledged]) {
        let rows = "SELECT orders.client_id, coalesce(key, '') AS key, orders.id::text AS id
                    FROM orders JOIN order_events USING (client_id, version)
                    LEFT JOIN idempotency_keys ON event_id = order_events.id";
        let mut orders: BTreeMap<(i64, String), Vec<String>> = BTreeMap::new();
        for row in self.db.query_all_raw(sql(rows)).await.unwrap() {
            let key = (row.try_get("", "client_id").unwrap(), row.try_get("", "key").unwrap());
            orders.entry(key).or_default().push(row.try_get("", "id").unwrap());
        }
        for Acknowledged { client, key, order } in acknowledged {
            let found = orders.get(&(*client, key.clone()));
            assert_eq!(found, Some(&vec![order.clone()]), "SEED={seed}: an order of client {client}");
        }
        assert_eq!(orders.len(), acknowledged.len(), "SEED={seed}: there are orders that were never acknowledged");

        let gaps = "SELECT count(*) FROM (SELECT client_id, product_id, count(*) AS events, max(version) AS newest
                    FROM order_events GROUP BY client_id, product_id) AS subjects WHERE events <> newest";
        let gaps: i64 = self.db.query_one_raw(sql(gaps)).await.unwrap().unwrap().try_get("", "count").unwrap();
        assert_eq!(gaps, 0, "SEED={seed}: gaps in versions");
    }

    /// Each client and product as it must be in Redis, computed from the database by SQL alone.
    async fn expected_read_model(&self) -> BTreeMap<String, String> {
        let rows = "SELECT 'client ' || c.id AS key,
                        concat_ws(' ', c.version, count(o.id), coalesce(sum(o.total), 0), c.name, c.email) AS value
                    FROM clients c LEFT JOIN orders o ON o.client_id = c.id WHERE c.version > 0 GROUP BY c.id
                    UNION ALL
                    SELECT 'product ' || id, concat_ws(' ', version, price, name) FROM products WHERE version > 0";
        let rows = self.db.query_all_raw(sql(rows)).await.unwrap();
        rows.iter().map(|row| (row.try_get("", "key").unwrap(), row.try_get("", "value").unwrap())).collect()
    }

    /// Each client and product as it is in Redis, read without the code under test; empty while Redis cannot be read.
    async fn read_model(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let Some((mut redis, live)) = self.live_generation().await else { return found };
        for client in 1..=CLIENTS {
            let key = client_key(&live, client);
            let fields = ["version", "orders", "total", "name", "email"];
            let row = redis::cmd("HMGET").arg(key).arg(&fields).query_async::<[Option<String>; 5]>(&mut redis).await;
            if let Ok([Some(version), Some(orders), Some(total), Some(name), Some(email)]) = row {
                found.insert(format!("client {client}"), format!("{version} {orders} {total} {name} {email}"));
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
