//! Two apis and two projectors as processes of their own, on one PostgreSQL, one Redis and one SQS endpoint.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use pgtemp::{PgTempDB, PgTempDBBuilder};
use redis_test::server::RedisServer;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::process::{ALL, EXAMPLE, Process, SECRET, User, assert_is_bob, command, sqs, status, until};

/// The stores, found by URL. Any others would do.
pub struct Stores {
    pub postgres: PgTempDB,
    pub redis: RedisServer,
    _queue: Process,
    variables: Vec<(&'static str, String)>,
}

pub struct Services {
    pub stores: Stores,
    pub apis: Vec<Process>,
    pub projectors: Vec<Process>,
    pub users: Vec<User>,
    health: Vec<String>,
}

impl Stores {
    pub fn start() -> Stores {
        Stores::start_with(&[])
    }

    /// With these settings of PostgreSQL.
    fn start_with(settings: &[(&str, &str)]) -> Stores {
        // Nobody reads what it would say on standard error, and it would wait for that.
        let mut postgres = PgTempDBBuilder::new().with_config_param("logging_collector", "on");
        // What a test writes by itself is there after a crash, as on any server that is not only for tests.
        postgres = postgres.with_config_param("synchronous_commit", "on");
        for (name, value) in settings {
            postgres = postgres.with_config_param(name, value);
        }
        if let Some(programs) = postgres_programs() {
            postgres = postgres.with_bin_path(programs);
        }
        let (postgres, redis) = (postgres.start(), RedisServer::new());
        let mut queue = Process::start("standalone", &["queue"], &[("QUEUE_LISTEN_ADDR", "127.0.0.1:0")]);
        let endpoint = queue.line_with("AWS_ENDPOINT_URL=").split(' ').next().unwrap().to_owned();
        let (host, port) = redis.host_and_port().unwrap();
        let variables = vec![
            ("DATABASE_URL", postgres.connection_uri()),
            ("REDIS_URL", format!("redis://{host}:{port}")),
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", "any".into()),
            ("AWS_SECRET_ACCESS_KEY", "any".into()),
            ("JWT_SECRET", SECRET.into()),
            ("LISTEN_ADDR", "127.0.0.1:0".into()),
        ];
        Stores { postgres, redis, _queue: queue, variables }
    }

    pub fn variables(&self) -> Vec<(&str, &str)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// What a variable is set to.
    pub fn get(&self, name: &str) -> &str {
        &self.variables.iter().find(|(other, _)| *other == name).unwrap().1
    }

    pub fn set(&mut self, name: &'static str, value: &str) {
        self.variables.retain(|(other, _)| *other != name);
        self.variables.push((name, value.to_owned()));
    }

    pub fn redis_client(&self) -> redis::Client {
        redis::Client::open(self.redis.connection_info()).unwrap()
    }

    /// Runs a command to its end and returns what it printed.
    pub fn run(&self, name: &str, arguments: &[&str]) -> String {
        output(&mut command(name, arguments, &self.variables()))
    }

    /// Waits until the read model is what the database says, with nothing on its way.
    pub async fn until_nothing_differs(&self) {
        until("nothing differs", async || {
            let verify = Process::start("projector", &["verify", "--in-flight", "0s"], &self.variables());
            tokio::task::block_in_place(|| verify.end()).success()
        })
        .await;
    }

    /// With what the processes need.
    pub fn prepared() -> Stores {
        Stores::prepared_with(&[])
    }

    pub fn prepared_with(settings: &[(&str, &str)]) -> Stores {
        let mut stores = Stores::start_with(settings);
        stores.prepare();
        stores
    }

    /// Creates what the processes need, and tells them of the queue.
    pub fn prepare(&mut self) {
        assert!(self.run("migration", &["up"]).contains("up to date"));
        let created = self.run("projector", &["queues", "create"]);
        let url = created.lines().next().unwrap().split_whitespace().last().unwrap().to_owned();
        self.set("QUEUE_URL", &url);
    }
}

/// Where Debian keeps the programs of PostgreSQL.
fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin")).max()
}

pub fn postgres_program(name: &str) -> PathBuf {
    postgres_programs().map_or_else(|| name.into(), |programs| programs.join(name))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl Services {
    pub fn start(each: usize) -> Services {
        Services::on(Stores::prepared(), each)
    }

    pub fn on(stores: Stores, each: usize) -> Services {
        let start = |name: &str| Process::start(name, &[], &stores.variables());
        let mut apis: Vec<Process> = (0..each).map(|_| start("api")).collect();
        let mut projectors: Vec<Process> = (0..each).map(|_| start("projector")).collect();
        let of_apis: Vec<String> = apis.iter_mut().map(|api| api.line_with("ready address=")).collect();
        let of_projectors = projectors
            .iter_mut()
            .map(|projector| projector.line_with("ready health=").split(' ').next().unwrap().to_owned());
        let health = of_apis.iter().cloned().chain(of_projectors).collect();
        let token = stores.run("api", &["token", "--scope", ALL]);
        let users = of_apis.iter().map(|address| User::new(address, token.trim())).collect();
        Services { stores, apis, projectors, users, health }
    }
}

#[tokio::test]
async fn the_example_works_across_all_processes() {
    let services = Services::start(2);
    let [one, other] = &services.users[..] else { panic!("two apis") };
    for n in 1..=5 {
        let (writer, reader) = if n % 2 == 0 { (one, other) } else { (other, one) };
        let (placed, version) = writer.place("1", &EXAMPLE, None).await;
        assert_eq!((&placed["order"]["total"]["amount"], version), (&"3000.00".into(), n));
        let total = format!("{}.00", 3_000 * n);
        assert_is_bob(&reader.client_at("1", version).await, &total, n, &placed["order"]["placedAt"]);
    }
    for address in &services.health {
        assert_eq!((status(address, "/health/live").await, status(address, "/health/ready").await), (200, 200));
    }

    // One key, fifty requests, two processes: one order.
    let racing: Vec<_> = (0..50)
        .map(|n| {
            let user = services.users[n % 2].clone();
            tokio::spawn(async move { user.place("2", &EXAMPLE, Some("once")).await })
        })
        .collect();
    let mut placed: Vec<Value> = Vec::new();
    for request in racing {
        placed.push(request.await.unwrap().0);
    }
    assert_eq!(placed.iter().filter(|placed| placed["replayed"] == false).count(), 1);
    assert!(placed.iter().all(|other| other["order"] == placed[0]["order"]));
    assert_eq!(one.client_at("2", 1).await["total"]["amount"], "3000.00");

    // A token for one client.
    let narrow = services.stores.run("api", &["token", "--scope", ALL, "--client", "2", "--ttl", "1m"]);
    let narrow = User::new(&one.address, narrow.trim());
    assert_eq!(narrow.client_at("2", 1).await["orderCount"], 1);
    assert_eq!(narrow.graphql("{ client(id: \"1\") { id } }").await["errors"][0]["extensions"]["code"], "FORBIDDEN");

    for process in services.apis.into_iter().chain(services.projectors) {
        assert!(process.terminate().success());
    }
}

#[tokio::test]
async fn a_foreign_message_is_logged_once_and_ends_in_the_dead_letter_queue() {
    let services = Services::start(2);
    let (endpoint, orders) = (services.stores.get("AWS_ENDPOINT_URL"), services.stores.get("QUEUE_URL"));
    let dead_letters = format!("{orders}-dead-letters");
    let sqs = async |action: &str, body: Value| sqs(&services.users[0].http, endpoint, action, body).await;
    // Delivered again at once, so that this need not take five times 30 seconds.
    sqs("SetQueueAttributes", json!({ "QueueUrl": orders, "Attributes": { "VisibilityTimeout": "0" } })).await;
    let sent = sqs("SendMessage", json!({ "QueueUrl": orders, "MessageBody": "not an event" })).await;
    let id = sent["MessageId"].as_str().unwrap();
    let (_, version) = services.users[0].place("1", &EXAMPLE, None).await;
    services.users[0].client_at("1", version).await;

    until("the message is a dead letter", async || {
        let received = sqs("ReceiveMessage", json!({ "QueueUrl": dead_letters })).await;
        received["Messages"]
            .as_array()
            .is_some_and(|messages| messages.first().is_some_and(|message| message["Body"] == "not an event"))
    })
    .await;
    let lines = services.projectors.iter().flat_map(Process::lines);
    let told: Vec<String> = lines.filter(|line| line.contains(id)).collect();
    assert!(matches!(&told[..], [line] if line.contains("WARN") && line.contains("not a CloudEvent")), "{told:?}");
}

/// While orders are placed and read: no client is ever missing, or older than the same api had it before.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_is_never_noticed() {
    let services = tokio::task::spawn_blocking(|| {
        let mut stores = Stores::prepared();
        stores.set("SWEEP_INTERVAL", "1h"); // nobody heals
        Services::on(stores, 2)
    })
    .await
    .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for n in 0..4 {
        let (user, stop) = (services.users[n % 2].clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                user.place(&(n % 3 + 1).to_string(), &EXAMPLE, None).await;
            }
        }));
    }
    for id in 1..=3 {
        services.users[0].client_at(&id.to_string(), 1).await;
    }
    for user in &services.users {
        let (user, stop) = (user.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            let mut before = vec![0; 3];
            while !stop.load(Ordering::Relaxed) {
                let answer = user.graphql("{ clientsByIds(ids: [\"1\", \"2\", \"3\"]) { version } }").await;
                let versions = answer["data"]["clientsByIds"].as_array().unwrap_or_else(|| panic!("{answer}"));
                let versions: Vec<i64> =
                    versions.iter().map(|client| client["version"].as_i64().unwrap_or(0)).collect();
                assert!(
                    before.iter().zip(&versions).all(|(before, now)| before <= now),
                    "{before:?}, then {versions:?}"
                );
                before = versions;
            }
        }));
    }

    let run = |arguments: &[&str]| tokio::task::block_in_place(|| services.stores.run("projector", arguments));
    let live = || {
        let told = run(&["rebuild", "--status"]);
        let live = told.lines().find(|line| line.ends_with(" live")).unwrap();
        live.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    for point in ["rebuild-before-replay", "rebuild-before-switch"] {
        let armed = format!("{point}=return");
        let variables = [&services.stores.variables()[..], &[("FAILPOINTS", &armed)]].concat();
        assert!(!Process::start("projector", &["rebuild"], &variables).end().success());
        assert_eq!(live(), 1);
    }
    let rebuild = |arguments: &[&str]| {
        let told = run(&[&["rebuild", "--json"], arguments].concat());
        serde_json::from_str::<Value>(&told).unwrap()["generation"].as_u64().unwrap()
    };
    assert_eq!((rebuild(&[]), live()), (2, 2), "what was begun is gone on with");
    assert_eq!(rebuild(&["--rollback"]), 1);
    assert_eq!((rebuild(&["--rollback"]), live()), (2, 2));
    assert_eq!((rebuild(&["--keep", "0s"]), live()), (3, 3));
    // Two at once.
    let (one, other) = std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| services.stores.run("projector", &["rebuild", "--keep", "0s"])));
        both.map(|one| one.join().unwrap()).into()
    });
    assert!(one.starts_with("generation 4 is live") && other.starts_with("generation 4 is live"), "{one}{other}");

    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    services.stores.until_nothing_differs().await;
    // What was given up goes by itself.
    assert!(run(&["rebuild", "--status"]).lines().count() > 1);
    until("the projectors have removed it", async || run(&["rebuild", "--status"]).lines().count() == 1).await;
    let mut redis = services.stores.redis_client().get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("orders:*client*").query_async(&mut redis).await.unwrap();
    assert!(keys.len() == 3 && keys.iter().all(|key| key.contains(":g4:")), "{keys:?}");
}

#[tokio::test]
async fn ten_thousand_orders_from_32_connections_are_all_counted() {
    let services = Services::start(2);
    const ORDERS: i64 = 10_000;
    const CLIENTS: i64 = 100;
    let db = sea_orm::Database::connect(services.stores.postgres.connection_uri()).await.unwrap();
    let clients =
        "INSERT INTO clients (name, email) SELECT 'Client ' || n, n || '@example.com' FROM generate_series(4, 100) n";
    db.execute_unprepared(clients).await.unwrap();

    let next = Arc::new(AtomicI64::new(0));
    let connections: Vec<_> = (0..32)
        .map(|n| {
            let (user, next) = (services.users[n % 2].clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let order = next.fetch_add(1, Ordering::Relaxed);
                    if order >= ORDERS {
                        return;
                    }
                    user.place(&(order % CLIENTS + 1).to_string(), &EXAMPLE, None).await;
                }
            })
        })
        .collect();
    for connection in connections {
        connection.await.unwrap();
    }
    let ids: Vec<String> = (1..=CLIENTS).map(|id| format!("\"{id}\"")).collect();
    let query = format!("{{ clientsByIds(ids: [{}]) {{ version orderCount total {{ amount }} }} }}", ids.join(" "));
    until("all orders are projected", async || {
        let answer = services.users[0].graphql(&query).await;
        let clients = answer["data"]["clientsByIds"].as_array().unwrap();
        clients.iter().map(|client| client["version"].as_i64().unwrap_or(0)).sum::<i64>() == ORDERS
    })
    .await;
    let answer = services.users[1].graphql(&query).await;
    for client in answer["data"]["clientsByIds"].as_array().unwrap() {
        let each = ORDERS / CLIENTS;
        assert_eq!((client["orderCount"].as_i64(), client["version"].as_i64()), (Some(each), Some(each)));
        assert_eq!(client["total"]["amount"], format!("{}.00", 3_000 * each));
    }
}
