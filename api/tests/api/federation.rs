//! The schema as a subgraph of Apollo Federation 2.

use api::graphql::federation::subgraph_sdl;
use entity::{Event, order_event};
use read_model::Redis;
use sea_orm::{ConnectionTrait, EntityTrait};
use serde_json::{Value, json};

use crate::support::{ALL_SCOPES, Api, Db, PLACE, code, order, queue, redis, sqlite};

const ENTITIES: &str = "query ($of: [_Any!]!) { _entities(representations: $of) {
    __typename
    ... on Client { name orderCount }
    ... on Product { id price { amount } }
    ... on Order { clientId items { name quantity } } } }";

/// A subgraph on a database with an order of Bob, and the id of the order. The read model has all events.
async fn subgraph(db: &Db) -> (Api, String) {
    let api = Api::start_with(db, &["--federation"]).await;
    let placed = api.graphql(&api.token(ALL_SCOPES, None), PLACE, order("1", &[("1", 1), ("2", 3)], None)).await;
    let rows = order_event::Entity::find().all(&db.connection).await.unwrap();
    let events: Vec<Event> = rows.into_iter().map(|row| Event::from_row(row, "USD").unwrap()).collect();
    assert!(api.read_model.apply(&events).await.iter().all(Result::is_ok));
    (api, placed["data"]["placeOrder"]["order"]["id"].as_str().unwrap().to_owned())
}

async fn entities(api: &Api, token: &str, of: Value) -> Value {
    api.graphql(token, ENTITIES, json!({ "of": of })).await
}

#[tokio::test]
async fn only_a_subgraph_has_the_fields_of_a_gateway() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let token = api.token("products:read", None);
    let response = entities(&api, &token, json!([])).await;
    assert_eq!(code(&response), "GRAPHQL_VALIDATION_FAILED");
    let names = |response: &Value| response["data"]["__type"]["fields"].to_string();
    let fields = "{ __type(name: \"Query\") { fields { name } } }";
    assert!(!names(&api.graphql(&token, fields, json!({})).await).contains("_entities"));

    let (subgraph, _) = subgraph(&db).await;
    let all = names(&subgraph.graphql(&token, fields, json!({})).await);
    assert!(all.contains("_entities") && all.contains("_service") && all.contains("clientsByIds"), "{all}");
    let service = "{ __typename _service { sdl } }";
    assert_eq!(
        subgraph.graphql(&token, service, json!({})).await["data"],
        json!({ "__typename": "Query", "_service": { "sdl": subgraph_sdl() } })
    );
    assert_eq!(code(&subgraph.graphql("", service, json!({})).await), "UNAUTHENTICATED");
}

#[tokio::test]
async fn entities_are_returned_in_sequence_and_each_fails_alone() {
    let (api, id) = subgraph(&sqlite().await).await;
    let token = api.token(ALL_SCOPES, None);
    let of = json!([
        { "__typename": "Product", "id": "3" },
        { "__typename": "Order", "id": id },
        { "__typename": "Client", "id": 1 },
        { "__typename": "Client" },
        { "__typename": "Money", "id": "1" },
        "Client",
        { "__typename": "Client", "id": { "id": "1" } },
        { "__typename": "Client", "id": "9" },
        { "__typename": "Order", "id": "1" },
        { "__typename": "Product", "id": "0" },
        { "__typename": "Product", "id": "3" },
    ]);
    let response = entities(&api, &token, of).await;
    let tv = json!({ "__typename": "Product", "id": "3", "price": { "amount": "1000.00" } });
    let items = json!([{ "name": "Computer", "quantity": 1 }, { "name": "Phone", "quantity": 3 }]);
    assert_eq!(
        response["data"]["_entities"],
        json!([
            tv, { "__typename": "Order", "clientId": "1", "items": items }, { "__typename": "Client", "name": "Bob", "orderCount": 1 },
            null, null, null, null, null, null, null, tv,
        ]),
        "{response}"
    );
    let errors = response["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 4, "an entity that does not exist is no error: {errors:?}");
    for index in 3..7 {
        let error = errors.iter().find(|error| error["path"] == json!(["_entities", index])).unwrap();
        assert_eq!(error["extensions"]["code"], "BAD_USER_INPUT");
        assert!(error["message"].as_str().unwrap().contains("__typename"), "{error}");
    }
    let literal = "query ($id: ID!) { _entities(representations: [{ __typename: \"Client\", id: $id }]) { ... on Client { name } } }";
    assert_eq!(
        api.graphql(&token, literal, json!({ "id": "1" })).await["data"]["_entities"],
        json!([{ "name": "Bob" }])
    );
    let many = json!({ "of": vec![json!({ "__typename": "Client", "id": "1" }); 101] });
    let names = "query ($of: [_Any!]!) { _entities(representations: $of) { __typename } }";
    assert_eq!(code(&api.graphql(&token, names, many).await), "BAD_USER_INPUT");
}

/// The rest may be any JSON, which would take 70 bytes for each value.
#[tokio::test]
async fn only_the_key_of_a_representation_is_kept() {
    let api = Api::start_with(&sqlite().await, &["--federation", "--max-response-bytes", "100000"]).await;
    let token = api.token(ALL_SCOPES, None);
    let many = vec![json!({}); 20_000];
    for (representation, expected) in [
        (json!({ "__typename": "Product", "id": "3", "x": many }), "none"),
        (json!({ "__typename": "Product", "id": many }), "BAD_USER_INPUT"),
        (json!(many), "BAD_USER_INPUT"),
    ] {
        let response = entities(&api, &token, json!([representation])).await;
        assert_eq!(code(&response), expected);
        let one = "query ($of: _Any!) { _entities(representations: [$of]) { ... on Product { id } } }";
        assert_eq!(code(&api.graphql(&token, one, json!({ "of": representation })).await), expected);
    }
    // As a value of another type they count.
    let query = "query ($x: [[ID]]) { _entities(representations: [{ __typename: \"Product\", id: \"3\", x: $x }]) { __typename } }";
    let response = api.graphql(&token, query, json!({ "x": vec![json!([]); 20_000] })).await;
    assert_eq!(code(&response), "MAX_RESPONSE_LIMIT", "{response}");
}

#[tokio::test]
async fn entities_require_the_rights_of_the_root_fields() {
    let (api, id) = subgraph(&sqlite().await).await;
    let of = json!([
        { "__typename": "Client", "id": "1" },
        { "__typename": "Client", "id": "2" },
        { "__typename": "Product", "id": "1" },
        { "__typename": "Order", "id": id },
    ]);
    for (scope, client, allowed, found) in [
        ("clients:read", None, [true, true, false, false], [true, true, false, false]),
        ("clients:read", Some("1"), [true, false, false, false], [true, false, false, false]),
        ("products:read", Some("2"), [false, false, true, false], [false, false, true, false]),
        ("orders:read", None, [false, false, false, true], [false, false, false, true]),
        ("orders:read", Some("1"), [false, false, false, true], [false, false, false, true]),
        // An order of another client looks as if it did not exist.
        ("orders:read", Some("2"), [false, false, false, true], [false, false, false, false]),
        ("orders:read", Some("none"), [false, false, false, true], [false, false, false, false]),
    ] {
        let response = entities(&api, &api.token(scope, client), of.clone()).await;
        let entities = response["data"]["_entities"].as_array().unwrap();
        let is_found: Vec<bool> = entities.iter().map(|entity| !entity.is_null()).collect();
        assert_eq!(is_found, found, "{scope} {client:?}: {response}");
        for (index, allowed) in allowed.into_iter().enumerate() {
            let path = json!(["_entities", index]);
            let error = response["errors"].as_array().unwrap().iter().find(|error| error["path"] == path);
            assert_eq!(error.map(|error| error["extensions"]["code"].clone()), (!allowed).then(|| json!("FORBIDDEN")));
        }
    }
}

#[tokio::test]
async fn a_damaged_order_fails_alone_and_only_for_its_client() {
    let db = sqlite().await;
    let (api, id) = subgraph(&db).await;
    let placed = api.graphql(&api.token(ALL_SCOPES, None), PLACE, order("2", &[("1", 1)], None)).await;
    let damaged = placed["data"]["placeOrder"]["order"]["id"].as_str().unwrap();
    let damage = "UPDATE order_events SET payload = '{}' WHERE client_id = 2 AND version = 2";
    db.connection.execute_unprepared(damage).await.unwrap();
    let of = json!([{ "__typename": "Order", "id": damaged }, { "__typename": "Order", "id": id }]);
    let by_id = |fields: &str| format!("{{ order(id: \"{damaged}\") {{ {fields} }} }}");
    for (client, expected) in [(None, "INTERNAL_SERVER_ERROR"), (Some("1"), "none")] {
        let token = api.token(ALL_SCOPES, client);
        let response = entities(&api, &token, of.clone()).await;
        let entities = &response["data"]["_entities"];
        assert_eq!((&entities[0], &entities[1]["clientId"]), (&Value::Null, &json!("1")), "{response}");
        assert_eq!(code(&response), expected, "{response}");
        assert_eq!(code(&api.graphql(&token, &by_id("items { name }"), json!({})).await), expected);
        assert_eq!(code(&api.graphql(&token, &by_id("id status"), json!({})).await), "none");
    }
}

/// The number of times that Redis has read from a connection.
async fn reads(url: &str) -> u64 {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let statistics: String = redis::cmd("INFO").arg("stats").query_async(&mut connection).await.unwrap();
    statistics.lines().find_map(|line| line.strip_prefix("total_reads_processed:")).unwrap().parse().unwrap()
}

#[tokio::test]
async fn entities_of_a_type_are_read_in_one_round_trip() {
    let db = sqlite().await;
    let (server, read_model) = redis().await;
    let rows = order_event::Entity::find().all(&db.connection).await.unwrap();
    let events: Vec<Event> = rows.into_iter().map(|row| Event::from_row(row, "USD").unwrap()).collect();
    assert!(read_model::Projection::apply(&*read_model, &events).await.iter().all(Result::is_ok));
    let api = Api::start_on(&db, read_model as std::sync::Arc<Redis>, queue().await, &["--federation"]).await;
    let of: Vec<Value> = (1..=50)
        .flat_map(|id| ["Client", "Product"].map(|ty| json!({ "__typename": ty, "id": id.to_string() })))
        .collect();
    let before = reads(&server.url).await;
    let names =
        "query ($of: [_Any!]!) { _entities(representations: $of) { ... on Client { name } ... on Product { name } } }";
    let response = api.graphql(&api.token(ALL_SCOPES, None), names, json!({ "of": of })).await;
    let during = reads(&server.url).await - before;
    let entities = response["data"]["_entities"].as_array().unwrap();
    assert_eq!(entities.iter().filter(|entity| !entity.is_null()).count(), 6, "{response}");
    assert!(during < 20, "Redis has read {during} times"); // with those of the checks of each second, and of this test
}
