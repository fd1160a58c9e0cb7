//! Whatever crashes, repeats, reorders or is down: every order that was acknowledged is in the database once, and in the
//! read model once.
//!
//! Eight writers place orders with idempotency keys and repeat whatever is not answered, while a seeded schedule kills and
//! restarts processes, also at named points within them, and disturbs each store. `SEED` and `ROUNDS` set it: `make chaos`.
//!
//! In the first half nothing heals the read model, and Redis loses nothing: each event must be counted once as it comes. In
//! the second half Redis is damaged and lost as well, and projectors heal it.

mod faults;
mod supervised;
mod writers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use faults::{Fault, HARMFUL, HARMLESS, OF_API, OF_PROJECTOR, OF_REBUILD, OF_REPAIR, OF_REPLAY};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::aio::MultiplexedConnection;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use serde_json::Value;
use supervised::Kept;
use test_support::process::free_address;
use test_support::queue_proxy::{Proxy, Queue};
use test_support::services::{Stores, sql};
use test_support::until;
use test_support::user::ALL;
use tokio::task::JoinHandle;
use writers::{Acknowledged, write};

const CLIENTS: i64 = 20;
const WRITERS: usize = 8;

/// Orders that must be acknowledged before the next round begins, or so much time.
const PER_ROUND: usize = 25;
const ROUND: Duration = Duration::from_secs(4);

/// What was received by a projector that was killed comes again after 30 seconds.
const SETTLED: Duration = Duration::from_secs(120);

/// After so many rounds each point must have been met.
const ENOUGH: u64 = 200;

struct Chaos {
    random: StdRng,
    stores: Stores,
    proxy: Proxy,
    db: DatabaseConnection,
    kept: Vec<Kept>,
    /// How often each point was armed in a process, and how often one died there.
    armed: BTreeMap<&'static str, usize>,
    crashes: BTreeMap<String, usize>,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_doubled_whatever_fails() {
    let number = |name: &str| {
        #[expect(clippy::disallowed_methods, reason = "a parameter of the test, not a setting")]
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        value.map(|value| value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is not a number: {value:?}")))
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let (seed, rounds) = (number("SEED").unwrap_or(now), number("ROUNDS").unwrap_or(16));
    println!("chaos: SEED={seed} ROUNDS={rounds}");

    let mut stores = tokio::task::spawn_blocking(Stores::start).await.unwrap();
    let endpoint = stores.get("AWS_ENDPOINT_URL").to_owned();
    let (proxy, address) = Proxy::start(endpoint, seed).await;
    stores.prepare();
    stores.set("AWS_ENDPOINT_URL", &address);
    let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
    let clients = format!(
        "INSERT INTO clients (name, email) SELECT 'Client ' || n, n || '@example.com' FROM generate_series(4, {CLIENTS}) n"
    );
    db.execute_unprepared(&clients).await.unwrap();
    let token = stores.run("api", &["token", "--scope", ALL, "--ttl", "7d"]).trim().to_owned();

    let (mut kept, mut apis) = (Vec::new(), Vec::new());
    for name in ["api", "api", "projector", "projector"] {
        let listen = free_address();
        stores.set("LISTEN_ADDR", &listen);
        let mut variables: Vec<_> = stores.variables().iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        // Few connections, so that there are too few at times.
        let own =
            [("SWEEP_INTERVAL", "500ms"), ("IN_FLIGHT", "3s"), ("OPERATION_TIMEOUT", "15s"), ("READ_WAIT", "10s")];
        variables.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        variables.push(("DATABASE_CONNECTIONS".into(), "3".into()));
        // To begin with, nothing heals.
        variables.retain(|(variable, _)| name == "api" || variable != "DATABASE_URL");
        kept.push(Kept::start(name, variables));
        if name == "api" {
            apis.push(listen);
        }
    }
    let mut chaos = Chaos {
        random: StdRng::seed_from_u64(seed),
        stores,
        proxy,
        db,
        kept,
        armed: BTreeMap::new(),
        crashes: BTreeMap::new(),
    };

    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    for (phase, faults) in [(0, HARMLESS.to_vec()), (1, [&HARMLESS[..], &HARMFUL].concat())] {
        if phase == 1 {
            let url = chaos.stores.get("DATABASE_URL").to_owned();
            for projector in &mut chaos.kept[2..] {
                projector.variables.push(("DATABASE_URL".into(), url.clone()));
                projector.restart(None);
            }
        }
        let rounds = rounds * phase / 2 + 1..=(rounds * (phase + 1)) / 2;
        chaos.rage(rounds, &faults, &apis, &token, seed + phase, &acknowledged).await;
        chaos.calm_down(seed, &acknowledged).await;
    }

    println!("chaos: {} orders in {rounds} rounds, none lost, none doubled", acknowledged.lock().unwrap().len());
    for point in OF_API.iter().chain(&OF_PROJECTOR).chain(&OF_REPLAY).chain(&OF_REPAIR).chain(&OF_REBUILD) {
        let crashes = chaos.crashes.get(*point).copied().unwrap_or(0);
        println!("chaos: {crashes:>4} crashes at {point}");
        assert!(crashes > 0 || rounds < ENOUGH, "SEED={seed}: {point} was never met");
    }
}

impl Chaos {
    /// Inflicts faults while orders are placed.
    async fn rage(
        &mut self,
        rounds: std::ops::RangeInclusive<u64>,
        kinds: &[Fault],
        apis: &[String],
        token: &str,
        seed: u64,
        acknowledged: &Arc<Mutex<Vec<Acknowledged>>>,
    ) {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<JoinHandle<()>> = (0..WRITERS)
            .map(|n| {
                let seed = seed.wrapping_mul(1_000) + n as u64;
                tokio::spawn(write(apis.to_vec(), token.to_owned(), seed, stop.clone(), acknowledged.clone()))
            })
            .collect();
        let mut faults = Vec::new();
        for round in rounds {
            // Each kind in turn before any comes again.
            if faults.is_empty() {
                faults = kinds.to_vec();
            }
            let fault = faults.swap_remove(self.random.random_range(0..faults.len()));
            let before = acknowledged.lock().unwrap().len();
            // Now and then the queue is disturbed besides, until another round ends that.
            match self.random.random_range(0..6) {
                0 => self.disturb_queue(),
                1..=2 => self.proxy.set(Queue::Works),
                _ => {}
            }
            self.inflict(fault).await;
            let began = Instant::now();
            while began.elapsed() < ROUND && acknowledged.lock().unwrap().len() < before + PER_ROUND {
                self.revive_all();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let placed = acknowledged.lock().unwrap().len();
            println!("chaos: round {round:>3}  {:<14} {placed:>6} orders", format!("{fault:?}"));
        }
        self.proxy.set(Queue::Works);
        stop.store(true, Ordering::Relaxed);
        until("every writer has its answer", async || {
            self.revive_all();
            writers.iter().all(JoinHandle::is_finished)
        })
        .await;
        for writer in writers {
            writer.await.unwrap();
        }
    }

    /// Lets all that was begun be finished, and compares.
    async fn calm_down(&mut self, seed: u64, acknowledged: &Mutex<Vec<Acknowledged>>) {
        // One that is armed may still die: all begin anew.
        for index in 0..self.kept.len() {
            let said = self.kept[index].restart(None);
            self.note(&said);
        }
        // In the database once, as acknowledged.
        let acknowledged = acknowledged.lock().unwrap().clone();
        let rows = "SELECT client_id, idempotency_key, id::text AS id FROM orders";
        let mut orders: BTreeMap<(i64, String), Vec<String>> = BTreeMap::new();
        for row in self.db.query_all_raw(sql(rows.into())).await.unwrap() {
            let key = (row.try_get("", "client_id").unwrap(), row.try_get("", "idempotency_key").unwrap());
            orders.entry(key).or_default().push(row.try_get("", "id").unwrap());
        }
        for Acknowledged { client, key, order } in &acknowledged {
            let found = orders.get(&(*client, key.clone()));
            assert_eq!(found, Some(&vec![order.clone()]), "SEED={seed}: an order of client {client}");
        }
        assert_eq!(orders.len(), acknowledged.len(), "SEED={seed}: there are orders that nobody was told of");

        let gaps = "SELECT count(*) FROM (SELECT client_id, product_id, count(*) AS events, max(version) AS newest
                    FROM order_events GROUP BY client_id, product_id) AS of_one WHERE events <> newest";
        let gaps: i64 = self.db.query_one_raw(sql(gaps.into())).await.unwrap().unwrap().try_get("", "count").unwrap();
        assert_eq!(gaps, 0, "SEED={seed}: gaps in versions");

        // In Redis once: read and compared here, not by what is under test.
        let rows = "SELECT 'client ' || c.id AS key, concat_ws(' ', c.version, count(o.id), coalesce(sum(o.total), 0), c.name, c.email) AS is
                    FROM clients c LEFT JOIN orders o ON o.client_id = c.id WHERE c.version > 0 GROUP BY c.id
                    UNION ALL SELECT 'product ' || id, concat_ws(' ', version, price, name) FROM products WHERE version > 0";
        let expected: BTreeMap<String, String> = self
            .db
            .query_all_raw(sql(rows.into()))
            .await
            .unwrap()
            .iter()
            .map(|row| (row.try_get("", "key").unwrap(), row.try_get("", "is").unwrap()))
            .collect();
        let deadline = Instant::now() + SETTLED;
        loop {
            let projected = self.projected().await;
            if projected == expected {
                break;
            }
            let wrong: Vec<_> = expected.iter().filter(|(key, is)| projected.get(*key) != Some(is)).collect();
            assert!(Instant::now() < deadline, "SEED={seed}: {wrong:?} are {projected:?} in Redis");
            self.revive_all();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        // It says so itself; nothing was given up; and what comes again changes nothing.
        self.stores.run("projector", &["verify", "--in-flight", "0s"]);
        assert_eq!(self.stores.run("projector", &["dead-letters", "list", "--json"]), "", "SEED={seed}: dead letters");
        self.stores.run("projector", &["replay"]);
        assert_eq!(self.projected().await, expected, "SEED={seed}: a replay changed something");
        self.revive_all();
    }

    async fn redis_command(&self, command: &[&str]) -> Option<String> {
        let mut redis = self.stores.redis_client().get_multiplexed_async_connection().await.ok()?;
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut redis).await.ok()
    }

    /// The generation that queries read; nothing when it cannot be told.
    async fn live_generation(&self) -> Option<(MultiplexedConnection, String)> {
        let mut redis = self.stores.redis_client().get_multiplexed_async_connection().await.ok()?;
        let stored = redis::cmd("HGET").arg("orders:meta").arg("generations").query_async::<String>(&mut redis).await;
        let stored: Value = serde_json::from_str(&stored.ok()?).ok()?;
        let (live, _) = stored["generations"].as_object()?.iter().find(|(_, one)| one["state"] == "live")?;
        Some((redis, live.clone()))
    }

    /// What each client and product is in Redis; nothing when it cannot be read.
    async fn projected(&self) -> BTreeMap<String, String> {
        let mut projected = BTreeMap::new();
        let Some((mut redis, live)) = self.live_generation().await else { return projected };
        for client in 1..=CLIENTS {
            let key = key(&live, client);
            let fields = ["version", "orders", "total", "name", "email"];
            let row = redis::cmd("HMGET").arg(key).arg(&fields).query_async::<[Option<String>; 5]>(&mut redis).await;
            if let Ok([Some(version), Some(orders), Some(total), Some(name), Some(email)]) = row {
                projected.insert(format!("client {client}"), format!("{version} {orders} {total} {name} {email}"));
            }
        }
        for product in 1..=3 {
            let row = redis::cmd("HGET").arg(catalogue(&live, product)).arg(product).query_async(&mut redis).await;
            if let Ok(Some(is)) = row {
                projected.insert(format!("product {product}"), is);
            }
        }
        projected
    }
}

fn key(generation: &str, client: i64) -> String {
    format!("orders:{{p{}}}:g{generation}:client:{client}", client % 16)
}

fn catalogue(generation: &str, product: i64) -> String {
    format!("orders:{{p{}}}:g{generation}:catalogue", product % 16)
}
