//! Stores that are down, silent or set back, and processes that stop or are replaced, under load.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::{StreamExt, stream};
use rand::seq::IndexedRandom;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::chaos::sql;
use crate::process::{ALL, EXAMPLE, Process, User, mebibytes, until};
use crate::services::{Services, Stores};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    Open,
    /// Connections are refused, and those that there were are gone.
    Closed,
    /// Nothing gets through, and nobody is told.
    Silent,
}

/// Stands before a store.
struct Gate {
    address: String,
    passage: watch::Sender<Passage>,
}

impl Gate {
    async fn before(store: &str) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let passage = watch::Sender::new(Passage::Open);
        tokio::spawn(keep(listener, store.to_owned(), passage.subscribe()));
        Gate { address, passage }
    }

    fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }
}

async fn keep(listener: TcpListener, store: String, mut passage: watch::Receiver<Passage>) {
    let (address, mut listener) = (listener.local_addr().unwrap(), Some(listener));
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await.unwrap().0,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outside = accepted => {
                if let Ok(inside) = TcpStream::connect(&store).await {
                    let ((from_outside, to_outside), (from_inside, to_inside)) = (outside.into_split(), inside.into_split());
                    tokio::spawn(pass(from_outside, to_inside, passage.clone()));
                    tokio::spawn(pass(from_inside, to_outside, passage.clone()));
                }
            }
            changed = passage.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = *passage.borrow_and_update();
                listener = match now {
                    Passage::Closed => None,
                    _ if listener.is_some() => listener,
                    _ => Some(TcpListener::bind(address).await.unwrap()),
                };
            }
        }
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut passage: watch::Receiver<Passage>) {
    let mut closed = passage.clone();
    let through = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            drop(passage.wait_for(|passage| *passage == Passage::Open).await);
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = through => {}
        () = async { drop(closed.wait_for(|passage| *passage == Passage::Closed).await) } => {}
    }
}

/// An api and a projector, behind a gate before each store.
struct Gated {
    stores: Stores,
    redis: Gate,
    postgres: Gate,
    queue: Gate,
    api: Process,
    projector: Process,
    user: User,
    /// Connected to the database itself.
    db: DatabaseConnection,
    acknowledged: Mutex<Vec<String>>,
}

impl Gated {
    async fn start() -> Gated {
        let mut stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
        let [redis_url, database_url, endpoint] =
            ["REDIS_URL", "DATABASE_URL", "AWS_ENDPOINT_URL"].map(|name| stores.get(name).to_owned());
        let redis = Gate::before(redis_url.trim_start_matches("redis://")).await;
        let queue = Gate::before(endpoint.trim_start_matches("http://")).await;
        let host = database_url.split('@').next_back().unwrap().split('/').next().unwrap().to_owned();
        let postgres = Gate::before(&host).await;
        stores.set("REDIS_URL", &format!("redis://{}", redis.address));
        stores.set("DATABASE_URL", &database_url.replace(&host, &postgres.address));
        stores.set("AWS_ENDPOINT_URL", &format!("http://{}", queue.address));
        stores.set("OPERATION_TIMEOUT", "5s");
        stores.set("READ_WAIT", "2s");
        let mut api = Process::start("api", &[], &stores.variables());
        let mut projector = Process::start("projector", &[], &stores.variables());
        let address = api.line_with("ready address=");
        projector.line_with("ready health=");
        let token = stores.run("api", &["token", "--scope", ALL]);
        let user = User::new(&address, token.trim());
        let db = Database::connect(&database_url).await.unwrap();
        Gated { stores, redis, postgres, queue, api, projector, user, db, acknowledged: Mutex::default() }
    }

    /// The code that an operation fails with, if it does, and how long that takes.
    async fn ask(&self, query: &str) -> (Option<String>, Duration) {
        let began = Instant::now();
        let answer = self.user.graphql(query).await;
        if let Some(order) = answer["data"]["placeOrder"]["order"]["id"].as_str() {
            self.acknowledged.lock().unwrap().push(order.to_owned());
        }
        (answer["errors"][0]["extensions"]["code"].as_str().map(str::to_owned), began.elapsed())
    }

    /// Waits until the read model has every order that is in the database, which has every one that was acknowledged.
    async fn until_all_is_projected(&self) -> Duration {
        let began = Instant::now();
        until("every order is projected", async || {
            let answer = self.user.graphql("{ client(id: \"1\") { orderCount } }").await;
            let rows = self.db.query_all_raw(sql("SELECT id::text AS id FROM orders".into())).await.unwrap();
            let placed: BTreeSet<String> = rows.iter().map(|row| row.try_get("", "id").unwrap()).collect();
            assert!(self.acknowledged.lock().unwrap().iter().all(|order| placed.contains(order)), "an order is lost");
            answer["data"]["client"]["orderCount"].as_u64() == Some(placed.len() as u64)
        })
        .await;
        began.elapsed()
    }
}

const QUERY: &str = "{ client(id: \"1\") { total { amount } } }";
const ORDER: &str = "mutation { placeOrder(input: { clientId: \"1\", items: [{ productId: \"1\", quantity: 1 }] }) {
    order { id } userErrors { code } } }";

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_are_down_or_silent_are_told_of_soon_and_nothing_is_lost() {
    let services = Gated::start().await;
    services.ask(ORDER).await;
    services.until_all_is_projected().await;
    for passage in [Passage::Closed, Passage::Silent] {
        // Longer than any wait that is allowed, and much shorter than for ever.
        let soon = Duration::from_secs(6);
        services.redis.set(passage);
        // What was read lately is known for a second.
        until("queries fail", async || {
            let (code, waited) = services.ask(QUERY).await;
            assert!(
                waited < Duration::from_secs(3) && code.as_deref().is_none_or(|code| code == "READ_MODEL_UNAVAILABLE")
            );
            code.is_some()
        })
        .await;
        let (code, waited) = services.ask(QUERY).await;
        assert_eq!(code.as_deref(), Some("READ_MODEL_UNAVAILABLE"), "Redis {passage:?}");
        println!("outages: Redis {passage:?}: a query fails after {waited:.2?}");
        for _ in 0..20 {
            let (code, waited) = services.ask(ORDER).await;
            assert!(code.is_none() && waited < soon, "{code:?} after {waited:?}");
        }
        services.redis.set(Passage::Open);
        let waited = services.until_all_is_projected().await;
        println!("outages: Redis {passage:?}: all is projected {waited:.2?} after it is back");
        assert!(waited < soon);

        services.postgres.set(passage);
        let (code, waited) = services.ask(ORDER).await;
        assert_eq!(code.as_deref(), Some("COMMAND_STORE_UNAVAILABLE"), "PostgreSQL {passage:?}");
        println!("outages: PostgreSQL {passage:?}: an order fails after {waited:.2?}");
        assert!(waited < soon);
        let (code, waited) = services.ask(QUERY).await;
        assert!(code.is_none() && waited < Duration::from_secs(1), "{code:?} after {waited:?}");
        services.postgres.set(Passage::Open);
        until("orders are taken again", async || services.ask(ORDER).await.0.is_none()).await;
        services.until_all_is_projected().await;

        services.queue.set(passage);
        let backlog = 500;
        let orders = stream::iter(0..backlog).map(|_| services.ask(ORDER)).buffer_unordered(32);
        let taken = |(code, waited): &(Option<String>, Duration)| code.is_none() && *waited < soon;
        assert!(orders.all(async |answer| taken(&answer)).await, "an order is refused, or waits: SQS is {passage:?}");
        services.queue.set(Passage::Open);
        let waited = services.until_all_is_projected().await;
        println!("outages: SQS {passage:?}: a backlog of {backlog} is projected {waited:.1?} after it is back");
    }
    assert_eq!(services.stores.run("projector", &["dead-letters", "list", "--json"]), "");
    services.stores.run("projector", &["verify", "--in-flight", "0s"]);
    for process in [&services.api, &services.projector] {
        let peak = mebibytes(process.id(), "VmHWM");
        println!("outages: {peak:.0} MiB at most");
        assert!(peak < 160.0, "{peak} MiB");
    }
}

/// Users who place orders all the time, until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub placed: Arc<AtomicUsize>,
    users: Vec<JoinHandle<()>>,
}

impl Load {
    /// They read as well. Each answer must be one.
    fn start(users: &[User], writers: usize) -> Load {
        Load::of(users, writers, |user, writer, _| async move {
            user.place(&(writer % 3 + 1).to_string(), &EXAMPLE, None).await;
            let answer = user.graphql(QUERY).await;
            assert!(answer["errors"].is_null(), "{answer}");
        })
    }

    /// `place` is told the number of the writer and of its turn, and places one order.
    pub fn of<Placing: Future<Output = ()> + Send>(
        users: &[User],
        writers: usize,
        place: impl Fn(User, usize, usize) -> Placing + Copy + Send + 'static,
    ) -> Load {
        let (stop, placed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let users = (0..writers).map(|writer| {
            let (user, stop, placed) = (users[writer % users.len()].clone(), stop.clone(), placed.clone());
            tokio::spawn(async move {
                let mut turns = 0..;
                while !stop.load(Ordering::Relaxed) {
                    place(user.clone(), writer, turns.next().unwrap()).await;
                    placed.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let users = users.collect();
        Load { stop, placed, users }
    }

    async fn more(&self) {
        self.more_than(20).await;
    }

    pub async fn more_than(&self, number: usize) {
        let before = self.placed.load(Ordering::Relaxed);
        until("more orders are placed", async || self.placed.load(Ordering::Relaxed) > before + number).await;
    }

    pub async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for user in self.users {
            user.await.unwrap();
        }
        self.placed.load(Ordering::Relaxed)
    }
}

/// A load balancer: asks each api every 20 ms whether it is ready, and sends requests to those that are.
#[derive(Clone)]
struct Balancer {
    http: reqwest::Client,
    ready: Arc<Mutex<BTreeMap<String, bool>>>,
}

impl Balancer {
    async fn start() -> (Balancer, String) {
        let balancer = Balancer { http: reqwest::Client::new(), ready: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = axum::Router::new().route("/graphql", post(Balancer::forward)).with_state(balancer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let checking = balancer.clone();
        tokio::spawn(async move {
            loop {
                let all: Vec<String> = checking.ready.lock().unwrap().keys().cloned().collect();
                for api in all {
                    let request =
                        checking.http.get(format!("http://{api}/health/ready")).timeout(Duration::from_secs(1));
                    let ready = request.send().await.is_ok_and(|answer| answer.status().is_success());
                    checking.ready.lock().unwrap().insert(api, ready);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        (balancer, address)
    }

    /// Sends requests to this one as well, once it is ready.
    async fn add(&self, api: &str) {
        self.ready.lock().unwrap().insert(api.to_owned(), false);
        until("a new api is ready", async || self.ready.lock().unwrap()[api]).await;
    }

    async fn forward(State(balancer): State<Balancer>, mut headers: HeaderMap, body: Bytes) -> Response {
        headers.remove("host");
        let ready: Vec<String> = {
            let all = balancer.ready.lock().unwrap();
            all.iter().filter(|(_, ready)| **ready).map(|(api, _)| api.clone()).collect()
        };
        let Some(api) = ready.choose(&mut rand::rng()) else {
            return (StatusCode::SERVICE_UNAVAILABLE, "none is ready").into_response();
        };
        let request = balancer.http.post(format!("http://{api}/graphql")).headers(headers).body(body);
        match request.send().await {
            Ok(answer) => (answer.status(), answer.bytes().await.unwrap_or_default()).into_response(),
            Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:?}")).into_response(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_replaced_under_load_without_a_failed_request() {
    let mut stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    stores.set("DRAIN_DELAY", "2s");
    let (balancer, address) = Balancer::start().await;
    let mut running = Vec::new();
    for name in ["api", "api", "projector", "projector"] {
        let mut process = Process::start(name, &[], &stores.variables());
        if name == "api" {
            balancer.add(&process.line_with("ready address=")).await;
        }
        running.push((name, process));
    }
    let token = stores.run("api", &["token", "--scope", ALL]);
    let user = User::new(&address, token.trim());
    let load = Load::start(std::slice::from_ref(&user), 8);
    load.more().await;
    for (name, old) in std::mem::take(&mut running) {
        let mut new = Process::start(name, &[], &stores.variables());
        if name == "api" {
            balancer.add(&new.line_with("ready address=")).await;
        }
        let began = Instant::now();
        let status = tokio::task::block_in_place(|| old.terminate());
        assert!(status.success(), "{name}: {status}");
        println!("outages: {name} stopped after {:.2?}", began.elapsed());
        running.push((name, new));
        load.more().await;
    }
    let placed = load.end().await;
    let total = async || {
        let answer = user.graphql("{ clientsByIds(ids: [\"1\", \"2\", \"3\"]) { orderCount } }").await;
        let clients = answer["data"]["clientsByIds"].as_array().unwrap();
        clients.iter().map(|client| client["orderCount"].as_u64().unwrap()).sum::<u64>() as usize
    };
    until("every order is projected, once", async || total().await == placed).await;
    stores.run("projector", &["verify", "--in-flight", "0s"]);
    println!("outages: {placed} orders and as many queries while all processes were replaced, none failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lost_all_or_the_last_seconds_is_made_right_under_load() {
    let services = tokio::task::spawn_blocking(|| {
        let mut stores = Stores::prepared();
        stores.set("SWEEP_INTERVAL", "1h"); // nobody heals unless asked
        Services::on(stores, 1)
    })
    .await
    .unwrap();
    let load = Load::start(&services.users, 8);
    load.more().await;
    let mut redis = services.stores.redis_client().get_multiplexed_async_connection().await.unwrap();
    let run = |arguments: &[&str]| tokio::task::block_in_place(|| services.stores.run("projector", arguments));

    let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    load.more().await;
    run(&["replay"]);
    let placed_so_far = load.placed.load(Ordering::Relaxed);
    let total = async || {
        let answer = services.users[0].graphql("{ clientsByIds(ids: [\"1\", \"2\", \"3\"]) { orderCount } }").await;
        let clients = answer["data"]["clientsByIds"].as_array().unwrap().clone();
        clients.iter().map(|client| client["orderCount"].as_u64().unwrap()).sum::<u64>() as usize
    };
    until("all that was lost is there again", async || total().await >= placed_so_far).await;

    // What a replica holds that becomes the primary before it has received the last seconds.
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await.unwrap();
    let mut old = redis::pipe();
    old.atomic().cmd("FLUSHALL").ignore();
    let mut dumps = redis::pipe();
    dumps.atomic();
    for key in &keys {
        dumps.cmd("DUMP").arg(key);
    }
    let dumps: Vec<Vec<u8>> = dumps.query_async(&mut redis).await.unwrap();
    for (key, dump) in keys.iter().zip(dumps) {
        old.cmd("RESTORE").arg(key).arg(0).arg(dump).ignore();
    }
    for _ in 0..5 {
        load.more().await;
    }
    let () = old.query_async(&mut redis).await.unwrap();
    load.more().await;
    run(&["replay"]);
    let placed = load.end().await;
    services.stores.until_nothing_differs().await;
    println!("outages: {placed} orders while Redis was emptied and set back, none lost, none doubled");
}

/// Rather than live on by halves.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_dies_takes_its_process_with_it() {
    let services = Gated::start().await;
    for (name, point, says) in [
        ("api", "relay-before-marking", "the outbox relay stopped"),
        ("projector", "projector-before-apply", "a poller failed"),
    ] {
        let armed = format!("{point}=panic");
        let variables = [&services.stores.variables()[..], &[("FAILPOINTS", &armed)]].concat();
        let mut process = Process::start(name, &[], &variables);
        let address = process.line_with("ready ").split('=').nth(1).unwrap().to_owned();
        // Its own relay is woken by its own orders; the other projector leaves it some of the messages.
        let user = if name == "api" { User::new(&address, &services.user.token) } else { services.user.clone() };
        let output = process.output();
        until("it has ended", async || {
            let request = user.http.post(format!("http://{}/graphql", user.address)).bearer_auth(&user.token);
            let _ = request.json(&serde_json::json!({ "query": ORDER })).send().await;
            process.exited().is_some()
        })
        .await;
        assert_eq!(process.exited().unwrap().code(), Some(1));
        let last = output.all().pop().unwrap();
        assert!(last.starts_with("error: ") && last.contains(says), "{last}");
    }
}
