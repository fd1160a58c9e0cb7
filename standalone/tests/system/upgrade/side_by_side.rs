//! All programs of the release before beside those of this one.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{Days, Utc};
use sea_orm::{ConnectionTrait, Database};
use serde_json::{Value, json};
use test_support::load::Load;
use test_support::process::Process;
use test_support::services::{Stores, sql};
use test_support::subscription::Subscription;
use test_support::until;
use test_support::user::{ALL_SCOPES, SAMPLE_ORDER, User};
use tokio::task::block_in_place;
use uuid::Uuid;

use super::{prepared_by_previous, start_previous};
use crate::balancer::Balancer;

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    placed: Vec<String>,
    cancelled: usize,
    refunded: usize,
    requests: usize,
    slowest: Duration,
}

/// Sends operations, each of which must succeed.
#[derive(Clone)]
struct Writer {
    user: User,
    acknowledged: Arc<Mutex<Acknowledged>>,
}

impl Writer {
    /// Returns the data of the response.
    async fn send(&self, operation: &str) -> Value {
        let began = Instant::now();
        let mut response = self.user.graphql(operation).await;
        assert!(response["errors"].is_null(), "{operation}: {response}");
        let mut acknowledged = self.acknowledged.lock().unwrap();
        acknowledged.requests += 1;
        acknowledged.slowest = acknowledged.slowest.max(began.elapsed());
        response["data"].take()
    }

    /// Returns the payload of a mutation.
    async fn change(&self, mutation: &str) -> Value {
        let selection = "order { id } clientVersion replayed userErrors { code message }";
        let mut data = self.send(&format!("mutation {{ result: {mutation} {{ {selection} }} }}")).await;
        assert_eq!(data["result"]["userErrors"], json!([]), "{mutation}");
        data["result"].take()
    }

    /// Places an order, repeats the request, cancels or refunds some orders, and reads the results: each perhaps at another api.
    async fn place(self, writer: usize, turn: usize) {
        let (client, key) = (writer % 3 + 1, Uuid::new_v4());
        let [(one, n), (other, m)] = SAMPLE_ORDER;
        let items = format!("{{ productId: {one}, quantity: {n} }}, {{ productId: {other}, quantity: {m} }}");
        let place = format!("placeOrder(input: {{ clientId: {client}, items: [{items}], idempotencyKey: \"{key}\" }})");
        let (placed, repeated) = (self.change(&place).await, self.change(&place).await);
        assert_eq!((&placed["replayed"], &repeated["replayed"]), (&json!(false), &json!(true)));
        assert_eq!(placed["order"], repeated["order"]);
        let id = placed["order"]["id"].as_str().unwrap().to_owned();
        let mut changed = None;
        if turn % 4 == 1 {
            changed =
                Some(self.change(&format!("cancelOrder(input: {{ orderId: \"{id}\", reason: \"late\" }})")).await);
            self.acknowledged.lock().unwrap().cancelled += 1;
        } else if turn % 4 == 3 {
            let input = format!("{{ orderId: \"{id}\", amount: \"1.00\", reason: \"scratch\" }}");
            changed = Some(self.change(&format!("refundOrder(input: {input})")).await);
            self.acknowledged.lock().unwrap().refunded += 1;
        }
        let version = changed.as_ref().unwrap_or(&placed)["clientVersion"].as_i64().unwrap();
        let read = self
            .send(&format!(
                "{{ client(id: {client}, minVersion: {version}) {{ version recentOrders {{ id }} }}
                   order(id: \"{id}\") {{ id status }} orders(first: 3) {{ nodes {{ id }} }} }}"
            ))
            .await;
        assert!(read["client"]["version"].as_i64() >= Some(version), "{read}");
        let status = ["PLACED", "CANCELLED", "PLACED", "PARTIALLY_REFUNDED"][turn % 4];
        assert_eq!(read["order"], json!({ "id": id, "status": status }));
        self.acknowledged.lock().unwrap().placed.push(id);
    }

    fn start(&self) -> Load {
        let writer = self.clone();
        Load::start_with(std::slice::from_ref(&self.user), 6, move |_, number, turn| writer.clone().place(number, turn))
    }
}

/// What a subscriber has seen, who subscribes again when its api stops.
#[derive(Default)]
struct Watched {
    version: AtomicI64,
    subscriptions: AtomicUsize,
}

impl Watched {
    async fn watch(self: Arc<Watched>, user: User) {
        loop {
            let watch = "subscription { clientChanged(id: 1) { version } }";
            let mut subscription = Subscription::start(&user, watch).await;
            self.subscriptions.fetch_add(1, Ordering::SeqCst);
            while let Some(result) = subscription.next().await {
                let version = result["data"]["clientChanged"]["version"].as_i64();
                self.version.store(version.unwrap_or_else(|| panic!("{result}")), Ordering::SeqCst);
            }
        }
    }
}

/// Two apis and a projector of one release.
struct Release {
    processes: Vec<Process>,
    /// One of each api.
    users: Vec<User>,
}

impl Release {
    /// Starts the apis first: in that order, projectors of the other release get their events.
    async fn start(start: impl Fn(&str) -> Process, balancer: &Balancer, token: &str) -> Release {
        let (mut processes, mut users) = (vec![start("api"), start("api")], Vec::new());
        for api in &mut processes {
            let address = api.line_with("ready address=");
            balancer.add(&address).await;
            users.push(User::new(&address, token));
        }
        let mut projector = start("projector");
        projector.line_with("ready health=");
        processes.push(projector);
        Release { processes, users }
    }

    /// Stops one process after the other while orders are placed.
    async fn drain(self, load: &Load) {
        for process in self.processes {
            let status = block_in_place(|| process.terminate());
            assert!(status.success(), "{status}");
            load.place_more(20).await;
        }
    }
}

/// Waits until all apis return the same, and all that was acknowledged.
async fn until_all_return(acknowledged: &Mutex<Acknowledged>, users: &[User]) {
    let (orders, cancelled) = {
        let acknowledged = acknowledged.lock().unwrap();
        (acknowledged.placed.len() as u64, acknowledged.cancelled as u64)
    };
    let today = Utc::now().date_naive();
    let days = format!("from: \"{}\", to: \"{}\"", today - Days::new(1), today + Days::new(1));
    let query = format!(
        "{{ sales({days}) {{ gross {{ amount }} net {{ amount }} orderCount cancelledCount points {{ net {{ amount }} }} }}
            topProducts({days}) {{ product {{ id }} units revenue {{ amount }} grossUnits }}
            clients(first: 10) {{ nodes {{ id name version orderCount cancelledCount total {{ amount }} recentOrders {{ id total {{ amount }} }} }} }}
            orders(first: 20) {{ nodes {{ id status total {{ amount }} refunded {{ amount }} items {{ quantity }} }} }}
            products(first: 10) {{ nodes {{ id name price {{ amount }} sku available }} }} }}"
    );
    until("all apis return the same", async || {
        let mut responses = Vec::new();
        for user in users {
            let response = user.graphql(&query).await;
            assert!(response["errors"].is_null(), "{response}");
            responses.push(response);
        }
        let sales = &responses[0]["data"]["sales"];
        let is_complete = sales["orderCount"] == orders && sales["cancelledCount"] == cancelled;
        is_complete && responses.iter().all(|response| *response == responses[0])
    })
    .await;
}

/// Fails unless the database has exactly the acknowledged orders.
async fn check_orders(stores: &Stores, acknowledged: &Acknowledged) {
    let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
    let count = async |orders: &str| {
        let row = db.query_one_raw(sql(&format!("SELECT count(*) FROM orders {orders}"))).await.unwrap().unwrap();
        row.try_get::<i64>("", "count").unwrap() as usize
    };
    let ids: Vec<String> = acknowledged.placed.iter().map(|id| format!("'{id}'")).collect();
    assert_eq!(count("").await, ids.len());
    assert_eq!(count(&format!("WHERE id IN ({})", ids.join(", "))).await, ids.len());
    assert_eq!(count("WHERE cancelled_at IS NOT NULL").await, acknowledged.cancelled);
    assert_eq!(count("WHERE cancelled_at IS NULL AND refunded = 100").await, acknowledged.refunded);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the release before: `make upgrade` builds them"]
async fn all_programs_are_replaced_side_by_side_under_load_and_back_without_a_failed_request() {
    let mut stores = tokio::task::spawn_blocking(prepared_by_previous).await.unwrap();
    stores.set("DRAIN_DELAY", "2s");
    let token = stores.token(ALL_SCOPES, "1h");
    let (balancer, address) = Balancer::start().await;
    let before = Release::start(|name| start_previous(name, &stores), &balancer, &token).await;
    let (user, watched, acknowledged) = (User::new(&address, &token), Arc::<Watched>::default(), Arc::default());
    let watching = tokio::spawn(watched.clone().watch(user.clone()));
    let writer = Writer { user, acknowledged };
    let load = writer.start();
    load.place_more(50).await;

    let migrated = block_in_place(|| stores.run("migration", &["up"]));
    println!("upgrade: {} migrations while the release before serves", migrated.matches("applied").count());
    load.place_more(50).await;
    let this = Release::start(|name| Process::start(name, &[], &stores.variables()), &balancer, &token).await;
    load.place_more(50).await;
    load.stop().await;
    let users = [&before.users[..], &this.users].concat();
    until_all_return(&writer.acknowledged, &users).await;
    let load = writer.start();
    before.drain(&load).await;
    // The way back.
    let again = Release::start(|name| start_previous(name, &stores), &balancer, &token).await;
    load.place_more(50).await;
    this.drain(&load).await;
    load.stop().await;

    until_all_return(&writer.acknowledged, &again.users).await;
    let last = again.users[0].graphql("{ client(id: 1) { version } }").await["data"]["client"]["version"].as_i64();
    until("the subscriber has the last change", async || Some(watched.version.load(Ordering::SeqCst)) == last).await;
    assert!(!watching.is_finished(), "{:?}", watching.await);
    watching.abort();
    let acknowledged = std::mem::take(&mut *writer.acknowledged.lock().unwrap());
    check_orders(&stores, &acknowledged).await;
    block_in_place(|| stores.run("projector", &["verify", "--in-flight", "0s"]));
    assert_eq!(block_in_place(|| stores.run("projector", &["dead-letters", "list", "--json"])), "");
    let Acknowledged { placed, cancelled, refunded, requests, slowest } = acknowledged;
    println!(
        "upgrade: {requests} requests with {} orders, {cancelled} cancellations and {refunded} refunds while all programs were \
         replaced and back: none failed, none lost, the slowest took {slowest:.1?}; {} subscriptions",
        placed.len(),
        watched.subscriptions.load(Ordering::SeqCst)
    );
}
