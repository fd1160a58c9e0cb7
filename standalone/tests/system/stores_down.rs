//! Stores that are down or silent.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use test_support::gate::{Gate, Passage};
use test_support::load::QUERY;
use test_support::process::{Process, mebibytes};
use test_support::services::{Stores, sql};
use test_support::until;
use test_support::user::{ALL, User};

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
