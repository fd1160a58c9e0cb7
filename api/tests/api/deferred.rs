//! Orders that are accepted while the database is away.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use read_model::Memory;
use sea_orm::{DatabaseConnection, EntityTrait, PaginatorTrait};
use serde_json::{Value, json};
use test_support::gate::{Gate, Passage};
use test_support::postgres;

use crate::support::{ALL_SCOPES, Api, Db, PLACE, code, migrate, open, order, queue, sqlite, until};

const DEFER: &str = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input, mode: DEFERRED) {
    order { id } request { id status order { id } userErrors { code } } replayed userErrors { code } } }";
const REQUEST: &str = "query ($id: ID!) { orderRequest(id: $id) {
    id status order { id clientId items { quantity } } userErrors { code field } } }";

/// An api with a gate in front of its database, whose intake is a queue of its own.
struct Deferring {
    api: Api,
    gate: Gate,
    /// Past the gate.
    db: DatabaseConnection,
    token: String,
    _database: postgres::PostgresDatabase,
}

async fn deferring() -> Deferring {
    let database = postgres::database().await;
    let db = migrate(&database.url).await;
    let (login, rest) = database.url.split_once('@').unwrap();
    let (host, name) = rest.split_once('/').unwrap();
    let gate = Gate::in_front_of(host).await;
    let behind_gate = open(&format!("{login}@{}/{name}", gate.address)).await;
    let queue = queue().await;
    let intake = queue.client.create_queue().queue_name("intake").send().await.unwrap().queue_url.unwrap();
    let flags = ["--intake-queue-url", &intake, "--rate-limit", "0"];
    let api = Api::start_on(&Db::on(behind_gate), Arc::new(Memory::default()), queue, &flags).await;
    let token = api.token(ALL_SCOPES, None);
    Deferring { api, gate, db, token, _database: database }
}

impl Deferring {
    async fn defer(&self, order: Value) -> Value {
        self.api.graphql(&self.token, DEFER, order).await
    }

    async fn request(&self, id: &str) -> Value {
        self.api.graphql(&self.token, REQUEST, json!({ "id": id })).await["data"]["orderRequest"].clone()
    }

    /// The state of a request, when it has a result.
    async fn result(&self, id: &str) -> Value {
        let has_result = async || matches!(self.request(id).await["status"].as_str(), Some("PLACED" | "REJECTED"));
        until("the request has a result", has_result).await;
        self.request(id).await
    }
}

#[tokio::test]
async fn orders_that_arrive_while_the_database_is_away_are_placed_once_when_it_is_back() {
    let service = deferring().await;
    let items = [("1", 1), ("2", 3)];
    service.gate.set(Passage::Closed);
    // Each key three times, two of them at once.
    let keys: Vec<String> = (0..20).map(|n| format!("key: {n}")).collect();
    let orders = keys.iter().flat_map(|key| [key, key]).map(|key| service.defer(order("1", &items, Some(key))));
    let accepted = join_all(orders).await;
    let ids: BTreeSet<&str> = accepted
        .iter()
        .map(|response| {
            let payload = &response["data"]["placeOrder"];
            let request = &payload["request"];
            assert_eq!((&request["status"], &payload["order"]), (&json!("PENDING"), &json!(null)), "{response}");
            request["id"].as_str().unwrap()
        })
        .collect();
    assert_eq!(ids.len(), keys.len());
    let rejected = service.defer(order("2", &[("99", 1)], Some("no product"))).await;
    let rejected = rejected["data"]["placeOrder"]["request"]["id"].as_str().unwrap().to_owned();

    service.gate.set(Passage::Open);
    for id in &ids {
        let request = service.result(id).await;
        let (status, client) = (&request["status"], &request["order"]["clientId"]);
        assert_eq!((status, client), (&json!("PLACED"), &json!("1")), "{request}");
    }
    for key in &keys {
        let again = service.defer(order("1", &items, Some(key))).await;
        assert_eq!(again["data"]["placeOrder"]["replayed"], true, "{again}");
    }
    assert_eq!(entity::order::Entity::find().count(&service.db).await.unwrap(), keys.len() as u64);
    let request = service.result(&rejected).await;
    let error = json!([{ "code": "PRODUCT_NOT_FOUND", "field": ["input", "items", "0", "productId"] }]);
    assert_eq!((&request["status"], &request["userErrors"]), (&json!("REJECTED"), &error), "{request}");
    assert!(request["order"].is_null());
}

#[tokio::test]
async fn an_order_that_can_be_placed_is_not_deferred_and_only_its_client_sees_it() {
    let service = deferring().await;
    let placed = service.defer(order("1", &[("1", 1)], Some("now"))).await;
    let payload = &placed["data"]["placeOrder"];
    assert!(payload["order"]["id"].is_string() && payload["request"].is_null(), "{placed}");
    assert_eq!(service.request("1:now").await["order"]["id"], payload["order"]["id"]);
    let rejected = service.defer(order("1", &[("99", 1)], Some("wrong"))).await;
    assert_eq!(rejected["data"]["placeOrder"]["userErrors"][0]["code"], "PRODUCT_NOT_FOUND", "{rejected}");
    assert_eq!(service.request("1:never").await["status"], "PENDING");
    for id in ["", "1", "1:", "x:now", "01:now", ":"] {
        assert!(service.request(id).await.is_null(), "{id}");
    }
    let narrow = service.api.token(ALL_SCOPES, Some("2"));
    for (document, variables) in [(REQUEST, json!({ "id": "1:now" })), (DEFER, order("1", &[("1", 1)], Some("x")))] {
        assert_eq!(code(&service.api.graphql(&narrow, document, variables).await), "FORBIDDEN");
    }
}

#[tokio::test]
async fn only_orders_that_may_be_valid_and_have_a_key_are_accepted_for_later() {
    let service = deferring().await;
    service.gate.set(Passage::Closed);
    let without_key = service.defer(order("1", &[("1", 1)], None)).await;
    assert_eq!(code(&without_key), "BAD_USER_INPUT", "{without_key}");
    for invalid in [order("1", &[], Some("empty")), order("x", &[("1", 1)], Some("client")), order("1", &[("1", 1)], Some(""))] {
        let response = service.defer(invalid).await;
        assert_eq!(code(&response), "COMMAND_STORE_UNAVAILABLE", "{response}");
    }
    let now = service.api.graphql(&service.token, PLACE, order("1", &[("1", 1)], Some("now"))).await;
    assert_eq!(code(&now), "COMMAND_STORE_UNAVAILABLE", "{now}");

    let api = Api::start(&sqlite().await).await;
    let response = api.graphql(&api.token(ALL_SCOPES, None), DEFER, order("1", &[("1", 1)], Some("key"))).await;
    assert_eq!(code(&response), "BAD_USER_INPUT", "{response}");
}
