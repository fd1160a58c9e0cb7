//! Stores that are unreachable or silent, and processes whose tasks panic.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use runtime::crash_points::{PROJECTOR_BEFORE_APPLY, RELAY_BEFORE_DELETE};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use test_support::gate::{Gate, Passage};
use test_support::load::QUERY;
use test_support::process::{Process, memory_mebibytes};
use test_support::services::{Stores, sql};
use test_support::until;
use test_support::user::{ALL_SCOPES, User};

const ORDER: &str = "mutation { placeOrder(input: { clientId: \"1\", items: [{ productId: \"1\", quantity: 1 }] }) {
    order { id } userErrors { code } } }";
/// Longer than each timeout of the service, and much shorter than a user waits.
const SOON: Duration = Duration::from_secs(6);
const BACKLOG: usize = 500;

/// An api and a projector, with a gate in front of each store.
struct GatedService {
    stores: Stores,
    redis: Gate,
    postgres: Gate,
    queue: Gate,
    api: Process,
    projector: Process,
    user: User,
    /// Connected without a gate.
    db: DatabaseConnection,
    acknowledged: Mutex<Vec<String>>,
}

impl GatedService {
    async fn start() -> GatedService {
        let mut stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
        let [redis_url, database_url, endpoint] =
            ["REDIS_URL", "DATABASE_URL", "AWS_ENDPOINT_URL"].map(|name| stores.get(name).to_owned());
        let redis = Gate::in_front_of(redis_url.trim_start_matches("redis://")).await;
        let queue = Gate::in_front_of(endpoint.trim_start_matches("http://")).await;
        let host = database_url.split('@').next_back().unwrap().split('/').next().unwrap().to_owned();
        let postgres = Gate::in_front_of(&host).await;
        stores.set("REDIS_URL", &format!("redis://{}", redis.address));
        stores.set("DATABASE_URL", &database_url.replace(&host, &postgres.address));
        stores.set("AWS_ENDPOINT_URL", &format!("http://{}", queue.address));
        stores.set("OPERATION_TIMEOUT", "5s");
        stores.set("READ_WAIT", "2s");
        let mut api = Process::start("api", &[], &stores.variables());
        let mut projector = Process::start("projector", &[], &stores.variables());
        let address = api.line_with("ready address=");
        projector.line_with("ready health=");
        let user = User::new(&address, &stores.token(ALL_SCOPES, "1h"));
        let db = Database::connect(&database_url).await.unwrap();
        GatedService { stores, redis, postgres, queue, api, projector, user, db, acknowledged: Mutex::default() }
    }

    /// Runs an operation. Returns its error code, if it failed, and how long it took.
    async fn ask(&self, query: &str) -> (Option<String>, Duration) {
        let began = Instant::now();
        let response = self.user.graphql(query).await;
        if let Some(order) = response["data"]["placeOrder"]["order"]["id"].as_str() {
            self.acknowledged.lock().unwrap().push(order.to_owned());
        }
        (response["errors"][0]["extensions"]["code"].as_str().map(str::to_owned), began.elapsed())
    }

    /// Waits until the read model has every order in the database, which must have every acknowledged order.
    async fn until_all_is_projected(&self) -> Duration {
        let began = Instant::now();
        until("every order is projected", async || {
            let response = self.user.graphql("{ client(id: \"1\") { orderCount } }").await;
            let rows = self.db.query_all_raw(sql("SELECT id::text AS id FROM orders")).await.unwrap();
            let placed: BTreeSet<String> = rows.iter().map(|row| row.try_get("", "id").unwrap()).collect();
            assert!(self.acknowledged.lock().unwrap().iter().all(|order| placed.contains(order)), "an order is lost");
            response["data"]["client"]["orderCount"].as_u64() == Some(placed.len() as u64)
        })
        .await;
        began.elapsed()
    }

    async fn check_redis_outage(&self, passage: Passage) {
        self.redis.set(passage);
        // A client that was read recently is served from the cache for a second.
        until("queries fail", async || {
            let (code, took) = self.ask(QUERY).await;
            assert!(
                took < Duration::from_secs(3) && code.as_deref().is_none_or(|code| code == "READ_MODEL_UNAVAILABLE")
            );
            code.is_some()
        })
        .await;
        let (code, took) = self.ask(QUERY).await;
        assert_eq!(code.as_deref(), Some("READ_MODEL_UNAVAILABLE"), "Redis {passage:?}");
        println!("outages: Redis {passage:?}: a query fails after {took:.2?}");
        for _ in 0..20 {
            let (code, took) = self.ask(ORDER).await;
            assert!(code.is_none() && took < SOON, "{code:?} after {took:?}");
        }
        self.redis.set(Passage::Open);
        let took = self.until_all_is_projected().await;
        println!("outages: Redis {passage:?}: all is projected {took:.2?} after it is back");
        assert!(took < SOON);
    }

    async fn check_postgres_outage(&self, passage: Passage) {
        self.postgres.set(passage);
        let (code, took) = self.ask(ORDER).await;
        assert_eq!(code.as_deref(), Some("COMMAND_STORE_UNAVAILABLE"), "PostgreSQL {passage:?}");
        println!("outages: PostgreSQL {passage:?}: an order fails after {took:.2?}");
        assert!(took < SOON);
        let (code, took) = self.ask(QUERY).await;
        assert!(code.is_none() && took < Duration::from_secs(1), "{code:?} after {took:?}");
        self.postgres.set(Passage::Open);
        until("orders are accepted again", async || self.ask(ORDER).await.0.is_none()).await;
        self.until_all_is_projected().await;
    }

    async fn check_queue_outage(&self, passage: Passage) {
        self.queue.set(passage);
        let orders = stream::iter(0..BACKLOG).map(|_| self.ask(ORDER)).buffer_unordered(32);
        let accepted = |(code, took): &(Option<String>, Duration)| code.is_none() && *took < SOON;
        assert!(orders.all(async |result| accepted(&result)).await, "an order fails or waits while SQS is {passage:?}");
        self.queue.set(Passage::Open);
        let took = self.until_all_is_projected().await;
        println!("outages: SQS {passage:?}: a backlog of {BACKLOG} is projected {took:.1?} after it is back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_store_is_reported_within_seconds_and_no_order_is_lost() {
    let service = GatedService::start().await;
    service.ask(ORDER).await;
    service.until_all_is_projected().await;
    for passage in [Passage::Closed, Passage::Silent] {
        service.check_redis_outage(passage).await;
        service.check_postgres_outage(passage).await;
        service.check_queue_outage(passage).await;
    }
    assert_eq!(service.stores.run("projector", &["dead-letters", "list", "--json"]), "");
    service.stores.run("projector", &["verify", "--in-flight", "0s"]);
    for process in [&service.api, &service.projector] {
        let peak = memory_mebibytes(process.id(), "VmHWM");
        println!("outages: at most {peak:.0} MiB");
        assert!(peak < 160.0, "{peak} MiB");
    }
}

/// A process must not go on without one of its tasks. An api finishes its requests before.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_exits_when_one_of_its_tasks_panics() {
    let service = GatedService::start().await;
    for (name, point, error) in [
        ("api", RELAY_BEFORE_DELETE, "the outbox relay stopped"),
        ("projector", PROJECTOR_BEFORE_APPLY, "a poller failed"),
    ] {
        let armed = format!("{point}=panic");
        let variables = [&service.stores.variables()[..], &[("FAILPOINTS", &armed), ("DRAIN_DELAY", "2s")]].concat();
        let mut process = Process::start(name, &[], &variables);
        let address = process.line_with("ready ").split('=').nth(1).unwrap().to_owned();
        // An api's relay is woken by its own orders. A projector shares the messages with the one that runs already.
        let user = if name == "api" { User::new(&address, &service.user.token) } else { service.user.clone() };
        let output = process.output();
        let mut statuses = BTreeSet::new();
        until("it exits", async || {
            let ready = user.http.get(format!("http://{address}/health/ready")).send().await;
            statuses.extend(ready.map(|response| response.status().as_u16()));
            let request = user.http.post(format!("http://{}/graphql", user.address)).bearer_auth(&user.token);
            let _ = request.json(&serde_json::json!({ "query": ORDER })).send().await;
            process.exited().is_some()
        })
        .await;
        assert_eq!(process.exited().unwrap().code(), Some(1));
        if name == "api" {
            assert!(statuses.contains(&503), "a load balancer has time to notice: {statuses:?}");
        }
        let last = output.all().pop().unwrap();
        assert!(last.starts_with("error: ") && last.contains(error), "{last}");
    }
}
