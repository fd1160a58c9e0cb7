//! Idempotency keys of all mutations, on both databases.

use std::collections::BTreeSet;

use entity::event::CLIENT_UPDATED;
use entity::order_event;
use futures::future::join_all;
use sea_orm::{ConnectionTrait, EntityTrait, PaginatorTrait, QueryOrder};
use serde_json::{Value, json};

use crate::support::{ALL_SCOPES, Api, Db, postgres, sqlite};

/// A mutation, and two inputs that differ.
struct Case {
    field: &'static str,
    input_type: &'static str,
    /// What the payload has.
    selection: &'static str,
    one: Value,
    other: Value,
}

fn cases() -> Vec<Case> {
    let client = "client { id } clientVersion";
    let case =
        |field, input_type, selection, one: Value, other: Value| Case { field, input_type, selection, one, other };
    vec![
        case(
            "placeOrder",
            "PlaceOrderInput",
            "order { id } clientVersion",
            json!({ "clientId": "1", "items": [{ "productId": "1", "quantity": 1 }] }),
            json!({ "clientId": "1", "items": [{ "productId": "1", "quantity": 2 }] }),
        ),
        case(
            "registerClient",
            "RegisterClientInput",
            client,
            json!({ "name": "Zoë", "email": "zoe@example.com" }),
            json!({ "name": "Zoë", "email": "zoe@example.org" }),
        ),
        case(
            "updateClient",
            "UpdateClientInput",
            client,
            json!({ "id": "1", "name": "Robert" }),
            json!({ "id": "1", "name": "Rob" }),
        ),
        // It changes nothing.
        case(
            "updateClient",
            "UpdateClientInput",
            client,
            json!({ "id": "2", "name": "Alice" }),
            json!({ "id": "2", "name": "Alicia" }),
        ),
        case(
            "createProduct",
            "CreateProductInput",
            "product { id sku }",
            json!({ "name": "Lamp", "price": "5.00", "sku": "LAMP-1" }),
            json!({ "name": "Lamp", "price": "5.00", "sku": "LAMP-2" }),
        ),
        case(
            "updateProduct",
            "UpdateProductInput",
            "product { id name available }",
            json!({ "id": "2", "price": "5.00", "available": false }),
            json!({ "id": "2", "price": "5.00", "available": true }),
        ),
    ]
}

impl Case {
    /// The payload of a request with this key.
    async fn send(&self, api: &Api, token: &str, input: &Value, key: &str) -> Value {
        let (field, input_type, selection) = (self.field, self.input_type, self.selection);
        let mutation = format!(
            "mutation ($input: {input_type}!) {{ {field}(input: $input) {{ {selection} replayed userErrors {{ code field }} }} }}"
        );
        let mut input = input.clone();
        input["idempotencyKey"] = json!(key);
        let response = api.graphql(token, &mutation, json!({ "input": input })).await;
        assert_eq!(response["errors"], Value::Null, "{response}");
        response["data"][field].clone()
    }
}

async fn both(check: impl AsyncFn(&Api, &Db)) {
    for db in [sqlite().await, postgres().await] {
        check(&Api::start_with(&db, &["--rate-limit=0"]).await, &db).await;
    }
}

async fn events(db: &Db) -> u64 {
    order_event::Entity::find().count(&db.connection).await.unwrap()
}

fn codes(payload: &Value) -> Value {
    payload["userErrors"].as_array().unwrap().iter().map(|error| error["code"].clone()).collect()
}

#[tokio::test]
async fn fifty_concurrent_requests_with_one_key_change_something_once() {
    both(async |api, db| {
        let token = api.token(ALL_SCOPES, None);
        for case in cases() {
            let (before, key) = (events(db).await, format!("racing {}", case.one));
            let payloads = join_all((0..50).map(|_| case.send(api, &token, &case.one, &key))).await;
            let first = payloads.iter().filter(|payload| payload["replayed"] == false).count();
            assert_eq!(first, 1, "{}: {payloads:?}", case.field);
            let mut results = BTreeSet::new();
            for mut payload in payloads {
                payload.as_object_mut().unwrap().remove("replayed");
                results.insert(payload.to_string());
            }
            assert_eq!(results.len(), 1, "all get the same result: {results:?}");
            let written = u64::from(case.one["name"] != "Alice");
            assert_eq!(events(db).await, before + written, "{}", case.field);
        }
    })
    .await;
}

#[tokio::test]
async fn a_key_of_another_input_or_mutation_is_refused() {
    both(async |api, db| {
        let token = api.token(ALL_SCOPES, None);
        for case in cases() {
            let key = &format!("{} {}", case.field, case.one);
            let first = case.send(api, &token, &case.one, key).await;
            assert_eq!((&first["replayed"], &first["userErrors"]), (&json!(false), &json!([])));
            let before = events(db).await;
            let reused = case.send(api, &token, &case.other, key).await;
            assert_eq!((codes(&reused), &reused["replayed"]), (json!(["IDEMPOTENCY_KEY_REUSED"]), &json!(false)));
            assert_eq!(reused["userErrors"][0]["field"], json!(["input", "idempotencyKey"]));
            for invalid in ["", &"k".repeat(256), "a\0b"] {
                let refused = case.send(api, &token, &case.one, invalid).await;
                assert_eq!(codes(&refused), json!(["INVALID_IDEMPOTENCY_KEY"]), "{invalid:?}");
            }
            assert_eq!(events(db).await, before);
            // The same input with another key, or with none, is another request.
            let again = case.send(api, &token, &case.other, &format!("another {key}")).await;
            assert_eq!((&again["replayed"], codes(&again)), (&json!(false), json!([])), "{}", case.field);
        }
        let cases = cases();
        let (order, update) = (&cases[0], &cases[2]);
        order.send(api, &token, &order.one, "one").await;
        assert_eq!(codes(&update.send(api, &token, &update.one, "one").await), json!(["IDEMPOTENCY_KEY_REUSED"]));
        update.send(api, &token, &update.other, "other").await;
        assert_eq!(codes(&order.send(api, &token, &order.one, "other").await), json!(["IDEMPOTENCY_KEY_REUSED"]));
    })
    .await;
}

/// The second input agrees with the client or product after the first request, which did not change this attribute.
#[tokio::test]
async fn a_key_of_another_input_is_refused_although_it_agrees_with_the_result() {
    both(async |api, _| {
        let (token, cases) = (api.token(ALL_SCOPES, None), cases());
        let (client, product) = (&cases[2], &cases[5]);
        let email = "bob@anemailprovider.com";
        for (case, one, other) in [
            (client, json!({ "id": "1", "name": "Robert" }), json!({ "id": "1", "email": email })),
            (product, json!({ "id": "2", "price": "7.00" }), json!({ "id": "2", "available": true })),
        ] {
            assert_eq!(codes(&case.send(api, &token, &one, "k").await), json!([]));
            let again = case.send(api, &token, &one, "k").await;
            assert_eq!((codes(&again), &again["replayed"]), (json!([]), &json!(true)), "{again}");
            let reused = case.send(api, &token, &other, "k").await;
            assert_eq!(codes(&reused), json!(["IDEMPOTENCY_KEY_REUSED"]), "{other}");
            let unchanged = case.send(api, &token, &other, "another").await;
            assert_eq!(codes(&unchanged), json!([]), "it agrees");
        }
        // The same input, written in another way.
        let register = &cases[1];
        register.send(api, &token, &register.one, "r").await;
        let spaced = json!({ "name": " Zo\u{eb} ", "email": " ZOE@example.com" });
        assert_eq!(register.send(api, &token, &spaced, "r").await["replayed"], true);
    })
    .await;
}

/// Rows of older releases have no hash of their input.
#[tokio::test]
async fn a_key_without_a_stored_input_is_compared_with_the_result() {
    both(async |api, db| {
        let (token, cases) = (api.token(ALL_SCOPES, None), cases());
        for case in &cases[1..] {
            let key = case.one.to_string();
            case.send(api, &token, &case.one, &key).await;
            db.connection.execute_unprepared("UPDATE idempotency_keys SET input_hash = NULL").await.unwrap();
            assert_eq!(case.send(api, &token, &case.one, &key).await["replayed"], true, "{key}");
            assert_eq!(codes(&case.send(api, &token, &case.other, &key).await), json!(["IDEMPOTENCY_KEY_REUSED"]));
        }
    })
    .await;
}

/// A client that was not changed by a request, and then by others: the first result comes back, and nothing is changed.
#[tokio::test]
async fn a_repeated_request_has_the_first_result_whatever_has_happened_since() {
    both(async |api, db| {
        let token = api.token(ALL_SCOPES, None);
        let update = &cases()[2];
        let (one, other) = (json!({ "id": "1", "name": "Bob" }), json!({ "id": "1", "name": "Robert" }));
        assert_eq!(update.send(api, &token, &one, "unchanged").await["clientVersion"], 1);
        assert_eq!(update.send(api, &token, &other, "changed").await["clientVersion"], 2);
        let email = json!({ "id": "1", "email": "robert@example.com" });
        assert_eq!(update.send(api, &token, &email, "the address").await["clientVersion"], 3);
        for (input, key, version) in [(&one, "unchanged", 1), (&other, "changed", 2), (&email, "the address", 3)] {
            let again = update.send(api, &token, input, key).await;
            assert_eq!((&again["replayed"], &again["clientVersion"]), (&json!(true), &json!(version)), "{key}");
        }
        let log = order_event::Entity::find().all(&db.connection).await.unwrap();
        assert_eq!(log.iter().filter(|event| event.r#type == CLIENT_UPDATED).count(), 2);
        // A rejected request leaves its key free.
        let taken = json!({ "id": "1", "email": "alice@anemailprovider.com" });
        assert_eq!(codes(&update.send(api, &token, &taken, "free").await), json!(["EMAIL_TAKEN"]));
        assert_eq!(update.send(api, &token, &other, "free").await["replayed"], false);
    })
    .await;
}

#[tokio::test]
async fn keys_of_different_clients_and_callers_are_independent() {
    both(async |api, _| {
        let mint = |subject| api.tokens.mint(subject, ALL_SCOPES, None, std::time::Duration::from_secs(60)).unwrap();
        let (anne, bert) = (mint("anne"), mint("bert"));
        let (register, update) = (&cases()[1], &cases()[2]);
        let registered = register.send(api, &anne, &register.one, "k").await;
        assert_eq!(registered["client"]["id"], "4");
        let others = register.send(api, &bert, &register.one, "k").await;
        assert_eq!((codes(&others), &others["client"]), (json!(["EMAIL_TAKEN"]), &Value::Null));
        assert!(register.send(api, &bert, &register.other, "k").await["client"]["id"].is_string());
        assert_eq!(register.send(api, &anne, &register.one, "k").await["replayed"], true);
        // A key of a client is the same for all callers.
        update.send(api, &anne, &update.one, "k").await;
        assert_eq!(update.send(api, &bert, &update.one, "k").await["replayed"], true);
        let input = json!({ "id": "2", "name": "Robert" });
        assert_eq!(update.send(api, &bert, &input, "k").await["replayed"], false);
    })
    .await;
}

/// As if the row was deleted between the two statements that look for it.
#[tokio::test]
async fn a_key_that_is_deleted_during_the_request_is_free() {
    let db = postgres().await;
    let api = Api::start(&db).await;
    // The first row is not inserted.
    let lose = "CREATE SEQUENCE attempt;
        CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('attempt') = 1 THEN RETURN NULL; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER lose BEFORE INSERT ON idempotency_keys FOR EACH ROW EXECUTE FUNCTION lose();";
    db.connection.execute_unprepared(lose).await.unwrap();
    let (token, register) = (api.token(ALL_SCOPES, None), &cases()[1]);
    for replayed in [false, true] {
        let registered = register.send(&api, &token, &register.one, "k").await;
        assert_eq!((codes(&registered), &registered["replayed"]), (json!([]), &json!(replayed)), "{registered}");
    }
}

/// The token's subject is stored with each event.
#[tokio::test]
async fn an_event_names_the_caller() {
    both(async |api, db| {
        let token = api.token(ALL_SCOPES, None);
        for case in &cases()[..3] {
            case.send(api, &token, &case.one, case.field).await;
        }
        let log = order_event::Entity::find().all(&db.connection).await.unwrap();
        let (sample, rest): (Vec<_>, Vec<_>) = log.iter().partition(|event| event.actor.is_none());
        assert_eq!((sample.len(), rest.len()), (6, 3));
        for event in rest {
            assert_eq!(event.actor.as_deref(), Some("tester"));
            let message: Value = serde_json::from_str(&event.message()).unwrap();
            assert_eq!((&message["authid"], &message["authtype"]), (&json!("tester"), &json!("unknown")));
        }
        let narrowed = api.token(ALL_SCOPES, Some("1"));
        for case in [&cases()[0], &cases()[2]] {
            case.send(api, &narrowed, &case.other, &format!("narrowed {}", case.field)).await;
        }
        let log = order_event::Entity::find().order_by_asc(order_event::Column::Id).all(&db.connection).await.unwrap();
        assert!(log[9..].iter().all(|event| event.message().contains(r#""authtype":"app_user""#)), "{log:?}");
    })
    .await;
}
