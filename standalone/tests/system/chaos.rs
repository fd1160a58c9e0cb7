//! Whatever crashes, repeats, reorders or is down: every order that was acknowledged is in the database once, and in the
//! read model once.
//!
//! Eight writers place orders with idempotency keys and repeat whatever is not answered, while a seeded schedule kills and
//! restarts processes, also at named points within them, and disturbs each store. `SEED` and `ROUNDS` set it: `make chaos`.
//!
//! In the first half nothing heals the read model, and Redis loses nothing: each event must be counted once as it comes. In
//! the second half Redis is damaged and lost as well, and projectors heal it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use redis::aio::MultiplexedConnection;
use redis_test::server::RedisServer;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement, TransactionTrait};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::process::{ALL, Process, free_address, until};
use crate::services::Stores;

const WRITERS: usize = 8;
const CLIENTS: i64 = 20;
/// Orders that must be acknowledged before the next round begins, or so much time.
const PER_ROUND: usize = 25;
const ROUND: Duration = Duration::from_secs(4);

/// Where a process can be made to die: of api, of projector, of its commands.
const OF_API: [&str; 5] =
    ["order-before-commit", "order-after-commit", "change-before-commit", "relay-mid-batches", "relay-before-marking"];
const OF_PROJECTOR: [&str; 2] = ["projector-before-apply", "projector-before-delete"];
const OF_REPLAY: [&str; 1] = ["replay-mid-log"];
const OF_REPAIR: [&str; 3] = ["repair-mid-log", "repair-before-replace", "repair-product"];
const OF_REBUILD: [&str; 2] = ["rebuild-before-replay", "rebuild-before-switch"];
/// What was received by a projector that was killed comes again after 30 seconds.
const SETTLED: Duration = Duration::from_secs(120);
/// After so many rounds each point must have been met.
const ENOUGH: u64 = 200;

/// What stands between the processes and the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Works,
    /// Each call fails.
    IsDown,
    /// No call is answered for as long as anybody waits.
    Hangs,
    /// What was sent has arrived, but that is not told.
    AcceptsAndFails,
    /// Some of what was sent has arrived; the rest is reported as failed.
    TakesHalf,
    /// All has arrived; half of it is reported as failed.
    TakesAllAndSaysHalf,
    DeliversTwice,
    /// It arrives a second later, and in another order.
    DeliversLate,
}

#[derive(Clone)]
struct Proxy {
    endpoint: String,
    http: reqwest::Client,
    state: Arc<Mutex<(Queue, StdRng)>>,
}

impl Proxy {
    async fn start(endpoint: String, seed: u64) -> (Proxy, String) {
        let state = Arc::new(Mutex::new((Queue::Works, StdRng::seed_from_u64(seed))));
        let proxy = Proxy { endpoint, http: reqwest::Client::new(), state };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/", post(Proxy::call)).with_state(proxy.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (proxy, address)
    }

    fn set(&self, mode: Queue) {
        self.state.lock().unwrap().0 = mode;
    }

    async fn forward(&self, headers: &HeaderMap, body: Bytes) -> Response {
        let mut request = self.http.post(&self.endpoint).body(body);
        for (name, value) in headers.iter().filter(|(name, _)| *name != "host" && *name != "content-length") {
            request = request.header(name, value);
        }
        match request.send().await {
            Ok(answer) => {
                let (status, headers) = (answer.status(), answer.headers().clone());
                (status, headers, answer.bytes().await.unwrap_or_default()).into_response()
            }
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }

    async fn call(State(proxy): State<Proxy>, headers: HeaderMap, body: Bytes) -> Response {
        let mode = proxy.state.lock().unwrap().0;
        let sends = headers.get("x-amz-target").is_some_and(|target| target == "AmazonSQS.SendMessageBatch");
        match mode {
            Queue::Works => proxy.forward(&headers, body).await,
            Queue::Hangs => {
                tokio::time::sleep(Duration::from_secs(10)).await;
                StatusCode::SERVICE_UNAVAILABLE.into_response()
            }
            Queue::IsDown => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Queue::AcceptsAndFails => {
                proxy.forward(&headers, body).await;
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
            _ if !sends => proxy.forward(&headers, body).await,
            Queue::DeliversTwice => {
                proxy.forward(&headers, body.clone()).await;
                proxy.forward(&headers, body).await
            }
            Queue::TakesHalf | Queue::TakesAllAndSaysHalf | Queue::DeliversLate => {
                let mut request: Value = serde_json::from_slice(&body).unwrap();
                let all = request["Entries"].as_array().unwrap().clone();
                let failed: Vec<Value> = match mode {
                    Queue::DeliversLate => Vec::new(),
                    _ => all.iter().filter(|_| proxy.state.lock().unwrap().1.random_bool(0.5)).cloned().collect(),
                };
                let told: Vec<&Value> = all.iter().filter(|entry| !failed.contains(entry)).collect();
                let answer = json!({
                    "Successful": told.iter().map(|entry| json!({ "Id": entry["Id"], "MessageId": "x", "MD5OfMessageBody": "x" }))
                        .collect::<Vec<_>>(),
                    "Failed": failed.iter().map(|entry| json!({ "Id": entry["Id"], "Code": "InternalError", "SenderFault": false }))
                        .collect::<Vec<_>>(),
                });
                if mode == Queue::TakesHalf {
                    request["Entries"] = json!(told);
                }
                if mode == Queue::DeliversLate {
                    request["Entries"].as_array_mut().unwrap().reverse();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        proxy.forward(&headers, request.to_string().into()).await;
                    });
                } else if !request["Entries"].as_array().unwrap().is_empty() {
                    proxy.forward(&headers, request.to_string().into()).await;
                }
                ([("content-type", "application/x-amz-json-1.0")], answer.to_string()).into_response()
            }
        }
    }
}

/// A process that is started again whenever it has died.
struct Kept {
    name: &'static str,
    variables: Vec<(String, String)>,
    /// There, but while it is started again.
    process: Option<Process>,
    /// Whether it may die at a named point.
    armed: bool,
}

impl Kept {
    fn start(name: &'static str, variables: Vec<(String, String)>) -> Kept {
        let mut kept = Kept { name, variables, process: None, armed: false };
        kept.restart(None);
        kept
    }

    /// Kills it, as `kill -9` does, and starts it again, maybe armed; returns what it had said.
    fn restart(&mut self, failpoints: Option<&str>) -> Vec<String> {
        // It must be gone before the next one listens where it did.
        let said = self.process.take().map(|process| {
            let output = process.output();
            drop(process);
            output.all()
        });
        let mut variables: Vec<(&str, &str)> = self.variables.iter().map(|(name, value)| (&**name, &**value)).collect();
        variables.extend(failpoints.map(|failpoints| ("FAILPOINTS", failpoints)));
        self.process = Some(Process::start(self.name, &[], &variables));
        self.armed = failpoints.is_some();
        let said = said.unwrap_or_default();
        assert!(!said.iter().any(|line| line.contains("panicked at")), "{}: {said:#?}", self.name);
        said
    }

    /// Starts it again if it has died; returns what it had said.
    fn revive(&mut self) -> Option<Vec<String>> {
        let status = self.process.as_mut()?.exited()?;
        let armed = self.armed;
        let said = self.restart(None);
        let crashed = armed && said.iter().any(|line| line.starts_with("crashed at"));
        // One that cannot reach a store when it starts ends, and is started again until it can.
        let starting = said.iter().any(|line| line.starts_with("error: cannot"));
        assert!(crashed || starting, "{} ended with {status}: {said:#?}", self.name);
        Some(said)
    }
}

/// An order that was acknowledged.
#[derive(Clone, Debug)]
struct Acknowledged {
    client: i64,
    key: String,
    order: String,
}

/// What a writer asks for: each answers with what is there then.
const PLACE: &str =
    "mutation ($input: PlaceOrderInput!) { it: placeOrder(input: $input) { is: order { id } userErrors { code } } }";
const UPDATE: &str = "mutation ($input: UpdateClientInput!) { it: updateClient(input: $input) { is: client { id } userErrors { code } } }";
const CHANGE: &str = "mutation ($input: ChangePriceInput!) { it: changePrice(input: $input) { is: product { id } userErrors { code } } }";

/// Places orders until told to stop, and changes clients and prices now and then, each until it is acknowledged.
async fn write(
    apis: Vec<String>,
    token: String,
    seed: u64,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
) {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let (client, key) = (random.random_range(1..=CLIENTS), format!("{:032x}", random.random::<u128>()));
        let (product, number) = (random.random_range(1..=3), random.random_range(1..=5));
        let (query, input) = match random.random_range(0..12) {
            0 => (UPDATE, json!({ "id": client, "name": key, "email": format!("{key}@example.com") })),
            1 => (CHANGE, json!({ "productId": product, "price": format!("{number}.50") })),
            _ => {
                let items = json!([{ "productId": product, "quantity": number }]);
                (PLACE, json!({ "clientId": client, "items": items, "idempotencyKey": key }))
            }
        };
        let body = json!({ "query": query, "variables": { "input": input } });
        loop {
            let api = apis.choose(&mut random).unwrap();
            let request = http.post(format!("http://{api}/graphql")).bearer_auth(&token).json(&body);
            let answer: Option<Value> = match request.send().await {
                Ok(answer) => answer.json().await.ok(),
                Err(_) => None,
            };
            if let Some(id) = answer.as_ref().and_then(|answer| answer["data"]["it"]["is"]["id"].as_str()) {
                if query == PLACE {
                    acknowledged.lock().unwrap().push(Acknowledged { client, key, order: id.into() });
                }
                break;
            }
            // Not acknowledged is one thing, refused another: nothing is wrong with it.
            let refused = answer.map_or(Value::Null, |answer| answer["data"]["it"]["userErrors"].clone());
            assert!(refused.is_null(), "{input} was refused: {refused}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillApi,
    KillProjector,
    ArmApi,
    ArmProjector,
    KillReplay,
    KillRepair,
    KillRebuild,
    LoseRedis,
    CrashPostgres,
    FreezePostgres,
    LockClients,
    DisturbQueue,
    /// It stops for a while.
    FreezeRedis,
    /// Its connections are gone, in the middle of whatever was sent.
    CutRedis,
}

/// Those that neither take anything from what is live in Redis nor put back what it lacks, and the others. (A rebuild puts
/// another in its place: what is applied from then on to both must be right.)
const HARMLESS: [Fault; 11] = [
    Fault::KillApi,
    Fault::KillProjector,
    Fault::ArmApi,
    Fault::ArmProjector,
    Fault::CrashPostgres,
    Fault::FreezePostgres,
    Fault::LockClients,
    Fault::DisturbQueue,
    Fault::FreezeRedis,
    Fault::CutRedis,
    Fault::KillRebuild,
];
const HARMFUL: [Fault; 3] = [Fault::KillReplay, Fault::KillRepair, Fault::LoseRedis];

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

impl Chaos {
    async fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::KillApi | Fault::KillProjector => {
                let index = self.of(matches!(fault, Fault::KillApi));
                let said = self.kept[index].restart(None);
                self.note(&said);
            }
            Fault::ArmApi | Fault::ArmProjector => {
                let is_api = matches!(fault, Fault::ArmApi);
                let point = self.next_point(if is_api { &OF_API } else { &OF_PROJECTOR });
                let index = self.of(is_api);
                let said = self.kept[index].restart(Some(&format!("{point}=20%return")));
                self.note(&said);
            }
            Fault::KillReplay => self.run_armed(&["replay"], &format!("{}=return", OF_REPLAY[0])),
            Fault::KillRepair => {
                let point = self.next_point(&OF_REPAIR);
                // Something to repair: a partition that is gone, or a client whose total is wrong.
                if let Some((mut redis, live)) = self.live_generation().await {
                    let client = self.random.random_range(1..=CLIENTS);
                    let key = key(&live, client);
                    let damage = match point {
                        "repair-mid-log" => {
                            let script =
                                "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";
                            let partition = key.replace(&format!("client:{client}"), "*");
                            redis::cmd("EVAL").arg(script).arg(0).arg(partition).to_owned()
                        }
                        "repair-product" => {
                            let product = self.random.random_range(1..=3);
                            redis::cmd("HDEL").arg(catalogue(&live, product)).arg(product).to_owned()
                        }
                        _ => redis::cmd("HINCRBY").arg(key).arg("total").arg(7).to_owned(),
                    };
                    let _: Result<Option<i64>, _> = damage.query_async(&mut redis).await;
                }
                self.run_armed(&["verify", "--repair", "--in-flight", "0s"], &format!("{point}=return"));
            }
            Fault::KillRebuild => {
                // It dies on the way; another goes on, or gives up what it left.
                let point = self.next_point(&OF_REBUILD);
                self.run_armed(&["rebuild"], &format!("{point}=return"));
                let then: &[&[&str]] = match self.random.random_range(0..3) {
                    0 => &[&["rebuild", "--abort"]],
                    1 => &[&["rebuild", "--keep", "0s"]],
                    _ => &[&["rebuild"], &["rebuild", "--rollback"]],
                };
                // The stores are there, and nobody takes anything from them now.
                for arguments in then {
                    self.stores.run("projector", arguments);
                }
            }
            Fault::LoseRedis => {
                let (host, port) =
                    self.stores.redis.host_and_port().map(|(host, port)| (host.to_owned(), port)).unwrap();
                self.stores.redis.stop();
                tokio::time::sleep(Duration::from_millis(self.random.random_range(100..1_500))).await;
                // Empty: as after a failover to a replica that had nothing yet.
                let address = redis::ConnectionAddr::Tcp(host, port);
                self.stores.redis = RedisServer::new_with_addr_and_modules(address, &[], false);
            }
            Fault::CrashPostgres => {
                // One backend that dies takes all connections with it, and the server recovers from its log.
                let row = self.db.query_one_raw(sql("SELECT pg_backend_pid() AS pid".into())).await;
                if let Ok(Some(row)) = row {
                    signal(row.try_get::<i32>("", "pid").unwrap(), "KILL");
                }
            }
            Fault::FreezePostgres => {
                let pids =
                    self.db.query_all_raw(sql("SELECT pid FROM pg_stat_activity".into())).await.unwrap_or_default();
                let pids: Vec<i32> = pids.iter().map(|row| row.try_get("", "pid").unwrap()).collect();
                pids.iter().for_each(|pid| signal(*pid, "STOP"));
                tokio::time::sleep(Duration::from_millis(self.random.random_range(500..2_500))).await;
                pids.iter().for_each(|pid| signal(*pid, "CONT"));
            }
            Fault::LockClients => {
                if let Ok(transaction) = self.db.begin().await {
                    let _ = transaction.execute_unprepared("LOCK TABLE clients IN EXCLUSIVE MODE").await;
                    tokio::time::sleep(Duration::from_millis(self.random.random_range(500..2_000))).await;
                    let _ = transaction.rollback().await;
                }
            }
            Fault::FreezeRedis => {
                let pid = self
                    .redis_command(&["INFO", "server"])
                    .await
                    .and_then(|told| told.lines().find_map(|line| line.strip_prefix("process_id:"))?.parse().ok());
                if let Some(pid) = pid {
                    signal(pid, "STOP");
                    tokio::time::sleep(Duration::from_millis(self.random.random_range(500..2_500))).await;
                    signal(pid, "CONT");
                }
            }
            Fault::CutRedis => {
                for _ in 0..5 {
                    self.redis_command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
                    tokio::time::sleep(Duration::from_millis(self.random.random_range(10..100))).await;
                }
            }
            Fault::DisturbQueue => {
                self.disturb_queue();
                tokio::time::sleep(Duration::from_millis(self.random.random_range(500..2_000))).await;
                self.proxy.set(Queue::Works);
            }
        }
    }

    fn disturb_queue(&mut self) {
        let modes = [
            Queue::IsDown,
            Queue::Hangs,
            Queue::AcceptsAndFails,
            Queue::TakesHalf,
            Queue::TakesAllAndSaysHalf,
            Queue::DeliversTwice,
            Queue::DeliversLate,
        ];
        self.proxy.set(*modes.choose(&mut self.random).unwrap());
    }

    /// Each in turn.
    fn next_point(&mut self, points: &[&'static str]) -> &'static str {
        let point = points.iter().min_by_key(|point| self.armed.get(*point).copied().unwrap_or(0)).unwrap();
        *self.armed.entry(point).or_default() += 1;
        point
    }

    fn of(&mut self, api: bool) -> usize {
        let number = self.random.random_range(0..2);
        if api { number } else { 2 + number }
    }

    /// Runs a command of the projector that is to die on its way, unless it has nothing to do.
    fn run_armed(&mut self, arguments: &[&str], failpoints: &str) {
        let variables = [&self.stores.variables()[..], &[("FAILPOINTS", failpoints)]].concat();
        let process = Process::start("projector", arguments, &variables);
        let output = process.output();
        process.end();
        self.note(&output.all());
    }

    fn note(&mut self, lines: &[String]) {
        for point in lines.iter().filter_map(|line| line.strip_prefix("crashed at ")) {
            *self.crashes.entry(point.to_owned()).or_default() += 1;
        }
    }

    fn revive_all(&mut self) {
        for index in 0..self.kept.len() {
            if let Some(said) = self.kept[index].revive() {
                self.note(&said);
            }
        }
    }
}

fn key(generation: &str, client: i64) -> String {
    format!("orders:{{p{}}}:g{generation}:client:{client}", client % 16)
}

fn catalogue(generation: &str, product: i64) -> String {
    format!("orders:{{p{}}}:g{generation}:catalogue", product % 16)
}

pub fn sql(text: String) -> Statement {
    Statement::from_string(DbBackend::Postgres, text)
}

fn signal(pid: i32, name: &str) {
    let _ = std::process::Command::new("sh").args(["-c", &format!("kill -s {name} {pid}")]).status();
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
