//! Despite crashes, outages, and repeated or reordered messages, every acknowledged order is in the database once and in the
//! read model once.
//!
//! Eight writers place orders with idempotency keys, cancel and refund some, change clients and products, forget clients and register others
//! with their addresses, and repeat each request until it is acknowledged. Meanwhile a seeded schedule kills and restarts processes, also at crash points, and disturbs each store. `SEED` and `ROUNDS` set it:
//! `make chaos`.
//!
//! In the first half nothing repairs the read model, and Redis loses nothing: each event must be counted once when it is
//! consumed. In the second half Redis is also damaged and lost, and the projectors repair it.

mod clients;
mod comparison;
mod faults;
mod forgotten;
mod supervised;
mod writers;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use faults::{API_POINTS, Fault, HARMFUL, HARMLESS, PROJECTOR_POINTS, REBUILD_POINTS, REPAIR_POINTS};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::aio::MultiplexedConnection;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use serde_json::Value;
use supervised::Supervised;
use test_support::process::free_address;
use test_support::queue_proxy::{Mode, QueueProxy};
use test_support::services::{Stores, sql};
use test_support::sns;
use test_support::until;
use test_support::user::ALL_SCOPES;
use tokio::task::JoinHandle;
use writers::{Acknowledged, Writer};

const WRITERS: usize = 8;
const CLIENTS: i64 = 20;
/// A round ends after so many acknowledged orders, or after so much time.
const ORDERS_PER_ROUND: usize = 25;
const ROUND: Duration = Duration::from_secs(4);
/// With so many rounds, each crash point must be reached.
const ROUNDS_FOR_ALL_POINTS: u64 = 200;

struct Chaos {
    seed: u64,
    random: StdRng,
    stores: Stores,
    proxy: QueueProxy,
    db: DatabaseConnection,
    /// Two apis, then two projectors.
    processes: Vec<Supervised>,
    /// The addresses of the apis.
    apis: Vec<String>,
    token: String,
    acknowledged: Arc<Mutex<Acknowledged>>,
    /// How often each crash point was armed, and how often a process died there.
    armed: BTreeMap<&'static str, usize>,
    crashes: BTreeMap<String, usize>,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_or_counted_twice_whatever_fails() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let (seed, rounds) = (variable("SEED").unwrap_or(now), variable("ROUNDS").unwrap_or(16));
    println!("chaos: SEED={seed} ROUNDS={rounds}");
    let mut chaos = Chaos::start(seed).await;
    for (phase, faults) in [(0, HARMLESS.to_vec()), (1, [&HARMLESS[..], &HARMFUL].concat())] {
        if phase == 1 {
            chaos.let_projectors_repair();
        }
        let rounds = rounds * phase / 2 + 1..=(rounds * (phase + 1)) / 2;
        chaos.rage(rounds, &faults, seed + phase).await;
        chaos.check_that_nothing_is_lost().await;
    }

    let Acknowledged { placed, cancelled, refunds, clients, .. } = chaos.acknowledged.lock().unwrap().clone();
    println!(
        "chaos: {} orders, {} cancellations, {refunds} refunds and {} forgotten clients in {rounds} rounds with {} restarts of processes: \
         none lost, none counted twice",
        placed.len(),
        cancelled.len(),
        clients.forgotten.len(),
        chaos.processes.iter().map(|process| process.restarts).sum::<usize>()
    );
    let points = [&API_POINTS[..], &PROJECTOR_POINTS, &REPAIR_POINTS, &REBUILD_POINTS].concat();
    for point in points {
        let crashes = chaos.crashes.get(point).copied().unwrap_or(0);
        println!("chaos: {crashes:>4} crashes at {point}");
        assert!(crashes > 0 || rounds < ROUNDS_FOR_ALL_POINTS, "SEED={seed}: {point} was never reached");
    }
}

/// A number in the environment.
fn variable(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a parameter of the test, not a setting")]
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    value.map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value:?}")))
}

impl Chaos {
    /// Starts all processes.
    async fn start(seed: u64) -> Chaos {
        let mut stores = tokio::task::spawn_blocking(Stores::start).await.unwrap();
        let endpoint = stores.get("AWS_ENDPOINT_URL").to_owned();
        let (proxy, address) = QueueProxy::start(endpoint, seed).await;
        stores.prepare();
        stores.set("AWS_ENDPOINT_URL", &sns::serve(address).await);
        let created = stores.run("projector", &["queues", "create", "--topic", "orders"]);
        let topic = created.split_whitespace().last().unwrap().to_owned();
        let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
        stores.add_clients(CLIENTS).await;

        let (mut processes, mut apis) = (Vec::new(), Vec::new());
        for name in ["api", "api", "projector", "projector"] {
            let listen = free_address();
            stores.set("LISTEN_ADDR", &listen);
            let mut variables: Vec<_> =
                stores.variables().iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let own = [
                ("SWEEP_INTERVAL", "500ms"),
                ("IN_FLIGHT", "3s"),
                ("OPERATION_TIMEOUT", "15s"),
                ("READ_WAIT", "10s"),
                // Sometimes too few.
                ("DATABASE_CONNECTIONS", "3"),
            ];
            variables.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
            // The other api sends to the queue itself.
            if name == "api" && apis.is_empty() {
                variables.push(("TOPIC_ARN".to_owned(), topic.clone()));
            }
            // A projector without a database repairs nothing.
            variables.retain(|(variable, _)| name == "api" || variable != "DATABASE_URL");
            processes.push(Supervised::start(name, variables));
            if name == "api" {
                apis.push(listen);
            }
        }
        let (random, token) = (StdRng::seed_from_u64(seed), stores.token(ALL_SCOPES, "7d"));
        let (acknowledged, armed, crashes) = Default::default();
        let mut chaos = Chaos { seed, random, stores, proxy, db, processes, apis, token, acknowledged, armed, crashes };
        chaos.add_clients().await;
        chaos
    }

    /// The clients that exist, for the writers.
    async fn add_clients(&mut self) {
        let rows = self.db.query_all_raw(sql("SELECT id, email FROM clients")).await.unwrap();
        let mut acknowledged = self.acknowledged.lock().unwrap();
        for row in rows {
            acknowledged.clients.add(row.try_get("", "id").unwrap(), [row.try_get("", "email").unwrap()]);
        }
    }

    async fn count(&self, from: &str) -> i64 {
        let row = self.db.query_one_raw(sql(&format!("SELECT count(*) FROM {from}"))).await.unwrap().unwrap();
        row.try_get("", "count").unwrap()
    }

    fn let_projectors_repair(&mut self) {
        let url = self.stores.get("DATABASE_URL").to_owned();
        for projector in &mut self.processes[2..] {
            projector.variables.push(("DATABASE_URL".into(), url.clone()));
            projector.restart(None);
        }
    }

    /// Causes faults while orders are placed.
    async fn rage(&mut self, rounds: RangeInclusive<u64>, kinds: &[Fault], seed: u64) {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<JoinHandle<()>> = (0..WRITERS)
            .map(|n| {
                let random = StdRng::seed_from_u64(seed.wrapping_mul(1_000) + n as u64);
                let (apis, token, acknowledged) = (self.apis.clone(), self.token.clone(), self.acknowledged.clone());
                tokio::spawn(Writer { apis, token, random, acknowledged }.write(stop.clone()))
            })
            .collect();
        let mut faults = Vec::new();
        for round in rounds {
            // Each kind of fault once, in random order, before any is repeated.
            if faults.is_empty() {
                faults = kinds.to_vec();
            }
            let fault = faults.swap_remove(self.random.random_range(0..faults.len()));
            let before = self.placed();
            // Sometimes the queue is disturbed as well, until a later round ends that.
            match self.random.random_range(0..6) {
                0 => self.disturb_queue(),
                1..=2 => self.proxy.set(Mode::Works),
                _ => {}
            }
            self.cause(fault).await;
            let began = Instant::now();
            while began.elapsed() < ROUND && self.placed() < before + ORDERS_PER_ROUND {
                self.restart_dead();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            println!("chaos: round {round:>3}  {:<14} {:>6} orders", format!("{fault:?}"), self.placed());
        }
        self.proxy.set(Mode::Works);
        stop.store(true, Ordering::Relaxed);
        until("every writer has its response", async || {
            self.restart_dead();
            writers.iter().all(JoinHandle::is_finished)
        })
        .await;
        for writer in writers {
            writer.await.unwrap();
        }
    }

    fn placed(&self) -> usize {
        self.acknowledged.lock().unwrap().placed.len()
    }

    async fn redis_command(&self, command: &[&str]) -> Option<String> {
        let mut redis = self.stores.redis_client().get_multiplexed_async_connection().await.ok()?;
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut redis).await.ok()
    }

    /// The number of the live generation; `None` while it cannot be read.
    async fn live_generation(&self) -> Option<(MultiplexedConnection, String)> {
        let mut redis = self.stores.redis_client().get_multiplexed_async_connection().await.ok()?;
        let stored = redis::cmd("HGET").arg("orders:meta").arg("generations").query_async::<String>(&mut redis).await;
        let stored: Value = serde_json::from_str(&stored.ok()?).ok()?;
        let (live, _) =
            stored["generations"].as_object()?.iter().find(|(_, generation)| generation["state"] == "live")?;
        Some((redis, live.clone()))
    }
}

fn client_key(generation: &str, client: i64) -> String {
    format!("orders:{{p{}}}:g{generation}:client:{client}", client % 16)
}

fn product_key(generation: &str, product: i64) -> String {
    format!("orders:{{p{}}}:g{generation}:catalogue", product % 16)
}
