//! Cancelling and refunding orders, on both databases.

use std::collections::BTreeMap;

use api::commands::place_order::place_at;
use chrono::{SubsecRound, TimeDelta, Utc};
use entity::event::{ORDER_CANCELLED, ORDER_PLACED, ORDER_REFUNDED};
use entity::{Change, Event, Refund, client, order, order_event, order_refund, order_refund_item, outbox};
use futures::future::join_all;
use iso_currency::Currency;
use sea_orm::{ConnectionTrait, DatabaseConnection, EntityTrait, PaginatorTrait, QueryOrder, TransactionTrait};
use serde_json::{Value, json};
use test_support::services::sql;

use crate::support::{ALL_SCOPES, Api, Db, code, command, placed, postgres, sqlite, until};

const FIELDS: &str = "order { id status refunded { amount } net { amount } cancelledAt cancelReason }
                      clientVersion replayed userErrors { code message field }";

/// The response to a mutation. It is repeated while many others keep all connections to the database busy.
async fn answer(api: &Api, token: &str, mutation: &str, input: Value) -> Value {
    loop {
        let response = api.graphql(token, mutation, json!({ "input": input })).await;
        if !["COMMAND_STORE_UNAVAILABLE", "SERVER_BUSY"].contains(&code(&response)) {
            return response;
        }
    }
}

/// The payload of `placeOrder` of a client: 1 × 1500.00 and 3 × 500.00.
async fn place(api: &Api, client: &str) -> Value {
    let input = json!({ "clientId": client, "idempotencyKey": "key",
        "items": [{ "productId": "1", "quantity": 1 }, { "productId": "2", "quantity": 3 }] });
    let mutation = format!("mutation ($input: PlaceOrderInput!) {{ placeOrder(input: $input) {{ {FIELDS} }} }}");
    let response = api.graphql(&api.token(ALL_SCOPES, None), &mutation, json!({ "input": input })).await;
    response["data"]["placeOrder"].clone()
}

async fn place_id(api: &Api, client: &str) -> String {
    place(api, client).await["order"]["id"].as_str().unwrap().to_owned()
}

async fn cancel(api: &Api, token: &str, id: &str, reason: &str) -> Value {
    let mutation = format!("mutation ($input: CancelOrderInput!) {{ cancelOrder(input: $input) {{ {FIELDS} }} }}");
    answer(api, token, &mutation, json!({ "orderId": id, "reason": reason })).await
}

async fn refund(api: &Api, token: &str, id: &str, amount: &str, reason: &str) -> Value {
    let mutation = format!("mutation ($input: RefundOrderInput!) {{ refundOrder(input: $input) {{ {FIELDS} }} }}");
    let input = json!({ "orderId": id, "amount": amount, "reason": reason });
    answer(api, token, &mutation, input).await
}

/// The payload of a cancellation or a refund with all scopes.
async fn cancel_or_refund(api: &Api, id: &str, amount: Option<&str>) -> Value {
    let token = api.token(ALL_SCOPES, None);
    let response = match amount {
        None => cancel(api, &token, id, "damaged").await,
        Some(amount) => refund(api, &token, id, amount, "late").await,
    };
    assert_eq!(response["errors"], Value::Null, "{response}");
    response["data"].as_object().unwrap().values().next().unwrap().clone()
}

fn codes(payload: &Value) -> Vec<&str> {
    payload["userErrors"].as_array().unwrap().iter().map(|error| error["code"].as_str().unwrap()).collect()
}

async fn refunds(db: &DatabaseConnection) -> Vec<order_refund::Model> {
    order_refund::Entity::find().order_by_asc(order_refund::Column::Version).all(db).await.unwrap()
}

async fn events(db: &DatabaseConnection) -> Vec<order_event::Model> {
    order_event::Entity::find().order_by_asc(order_event::Column::Version).all(db).await.unwrap()
}

/// The event of a cancellation or a refund.
fn refund_of(row: &order_event::Model) -> Refund {
    match Event::from_row(row.clone(), "USD").unwrap().data {
        Change::OrderCancelled(refund) | Change::OrderRefunded(refund) => refund,
        other => panic!("{other:?}"),
    }
}

/// Each client has the events of the versions from 1 to its own.
async fn assert_no_gaps(db: &DatabaseConnection) {
    let mut versions: BTreeMap<i64, Vec<i32>> = BTreeMap::new();
    for event in events(db).await {
        if let Some(client) = event.client_id {
            versions.entry(client).or_default().push(event.version);
        }
    }
    for client in client::Entity::find().all(db).await.unwrap() {
        assert!(versions[&client.id].iter().copied().eq(1..=client.version), "{client:?}: {versions:?}");
    }
}

#[tokio::test]
async fn a_cancellation_and_its_event_are_written_together_once() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        let (db, token) = (&db.connection, api.token(ALL_SCOPES, None));
        let id = place_id(&api, "1").await;
        let rename = "mutation { updateClient(input: { id: 1, name: \"Robert\" }) { clientVersion } }";
        api.graphql(&token, rename, json!({})).await;
        db.execute_unprepared("UPDATE products SET name = 'New', price = 1").await.unwrap();

        let cancelled = cancel_or_refund(&api, &id, None).await;
        let (order, version) = (&cancelled["order"], &cancelled["clientVersion"]);
        assert_eq!((&order["status"], &order["cancelReason"]), (&json!("CANCELLED"), &json!("damaged")), "{cancelled}");
        assert_eq!((&order["refunded"]["amount"], &order["net"]["amount"]), (&json!("3000.00"), &json!("0.00")));
        assert_eq!((version, &cancelled["replayed"]), (&json!(4), &json!(false)));

        let row = order::Entity::find().one(db).await.unwrap().unwrap();
        assert_eq!((row.refunded, row.cancel_reason.as_deref()), (300_000, Some("damaged")));
        let [refund] = &refunds(db).await[..] else { panic!("one refund") };
        assert_eq!((refund.order_id, refund.client_id, refund.version), (row.id, 1, 4));
        assert_eq!((refund.amount, refund.cancels, Some(refund.refunded_at)), (300_000, true, row.cancelled_at));
        let items =
            order_refund_item::Entity::find().order_by_asc(order_refund_item::Column::Line).all(db).await.unwrap();
        let items: Vec<_> = items.iter().map(|item| (item.product_id, item.quantity, item.amount)).collect();
        assert_eq!(items, [(1, 1, 150_000), (2, 3, 150_000)]);
        let event = events(db).await.into_iter().find(|event| event.id == refund.id).unwrap();
        assert_eq!((&*event.r#type, event.version, event.occurred_at), (ORDER_CANCELLED, 4, refund.refunded_at));
        let data = refund_of(&event);
        // The newest event of a client determines its name; the lines are as ordered.
        assert_eq!((&*data.order.client_name, &*data.order.lines[0].name), ("Robert", "Computer"));
        assert_eq!((data.placed_at, data.placed_version), (row.placed_at, row.version));
        until("the event is published", async || outbox::Entity::find().count(db).await.unwrap() == 0).await;

        // Repeated, also with another reason.
        let mut again = cancel(&api, &token, &id, "changed my mind").await["data"]["cancelOrder"].clone();
        assert_eq!(again["replayed"], true);
        again["replayed"] = json!(false);
        assert_eq!(again, cancelled);
        assert_eq!(codes(&cancel_or_refund(&api, &id, Some("1")).await), ["ORDER_CANCELLED"]);
        assert_eq!(refunds(db).await.len(), 1);
        let placed_again = place(&api, "1").await;
        assert_eq!((&placed_again["replayed"], &placed_again["order"]["status"]), (&json!(true), &json!("CANCELLED")));
        assert_eq!(api::orders::versions(db, row.id).await.unwrap(), [2, 4]);
        assert_no_gaps(db).await;
    }
}

#[tokio::test]
async fn parts_of_an_order_are_refunded_until_nothing_is_left() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        let db = &db.connection;
        let id = place_id(&api, "2").await;
        let state = |payload: &Value| {
            let order = &payload["order"];
            let amount = |field: &str| order[field]["amount"].as_str().unwrap_or_default().to_owned();
            (order["status"].as_str().unwrap_or_default().to_owned(), amount("refunded"), amount("net"))
        };
        let expected =
            |status: &str, refunded: &str, net: &str| (status.to_owned(), refunded.to_owned(), net.to_owned());
        let first = cancel_or_refund(&api, &id, Some("0.01")).await;
        assert_eq!(state(&first), expected("PARTIALLY_REFUNDED", "0.01", "2999.99"));
        assert_eq!((&first["clientVersion"], &first["order"]["cancelledAt"]), (&json!(3), &Value::Null));
        assert_eq!(
            state(&cancel_or_refund(&api, &id, Some("1000")).await),
            expected("PARTIALLY_REFUNDED", "1000.01", "1999.99")
        );
        for amount in ["0", "-1", "0.001", "2000.00", "92233720368547758.08"] {
            let rejected = cancel_or_refund(&api, &id, Some(amount)).await;
            assert_eq!((codes(&rejected), &rejected["order"]), (vec!["REFUND_OUT_OF_RANGE"], &Value::Null), "{amount}");
            assert_eq!(rejected["userErrors"][0]["field"], json!(["input", "amount"]));
            let message = rejected["userErrors"][0]["message"].as_str().unwrap();
            assert!(message.starts_with("At most 1999.99 is left to refund."), "{message}");
        }
        assert_eq!(state(&cancel_or_refund(&api, &id, Some("1999.99")).await), expected("REFUNDED", "3000.00", "0.00"));
        let rejected = cancel_or_refund(&api, &id, Some("0.01")).await;
        assert_eq!(codes(&rejected), ["REFUND_OUT_OF_RANGE"]);
        assert_eq!(rejected["userErrors"][0]["message"], "Nothing of the order is left to refund.");
        let cancelled = cancel_or_refund(&api, &id, None).await;
        assert_eq!(state(&cancelled), expected("CANCELLED", "3000.00", "0.00"));

        let events: Vec<_> = events(db).await.into_iter().filter(|event| event.client_id == Some(2)).collect();
        let types: Vec<&str> = events[1..].iter().map(|event| &*event.r#type).collect();
        assert_eq!(types, [ORDER_PLACED, ORDER_REFUNDED, ORDER_REFUNDED, ORDER_REFUNDED, ORDER_CANCELLED]);
        let mut of_lines = [0, 0];
        for event in &events[2..] {
            let Refund { amount, amounts, .. } = refund_of(event);
            assert_eq!(amounts.iter().sum::<i64>(), amount);
            of_lines.iter_mut().zip(amounts).for_each(|(sum, amount)| *sum += amount);
        }
        assert_eq!(of_lines, [150_000, 150_000]);
        let quantities: Vec<(bool, i64)> = refunds(db).await.iter().map(|row| (row.cancels, row.amount)).collect();
        assert_eq!(quantities, [(false, 1), (false, 100_000), (false, 199_999), (true, 0)]);
        let of_cancellation = order_refund_item::Entity::find().all(db).await.unwrap();
        assert_eq!(of_cancellation.iter().map(|item| item.quantity).sum::<i32>(), 4, "units only count once");
        assert_no_gaps(db).await;
    }
}

#[tokio::test]
async fn an_invalid_cancellation_or_refund_is_rejected_and_writes_nothing() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start_with(&db, &["--cancel-window", "1h"]).await;
        let (connection, token) = (&db.connection, api.token(ALL_SCOPES, None));
        let order = [command(1, &[(1, 1)], None)];
        let mut ids = Vec::new();
        for minutes in [61, 59] {
            let time = Utc::now() - TimeDelta::minutes(minutes);
            let outcome = place_at(connection, Currency::USD, &order, time).await.unwrap().outcomes.remove(0);
            ids.push(placed(outcome).data.order_id.to_string());
        }
        let (old, id) = (&ids[0], &ids[1]);
        let rejected = async |token: &str, id: &str, amount: Option<&str>, reason: &str| {
            let response = match amount {
                None => cancel(&api, token, id, reason).await,
                Some(amount) => refund(&api, token, id, amount, reason).await,
            };
            let payload = response["data"].as_object().unwrap_or_else(|| panic!("{response}")).values().next().unwrap();
            codes(payload).join(" ")
        };
        for unknown in ["00000000-0000-0000-0000-000000000007", "7", "", &id.to_uppercase()] {
            assert_eq!(rejected(&token, unknown, None, "x").await, "ORDER_NOT_FOUND", "{unknown}");
            assert_eq!(rejected(&token, unknown, Some("1"), "").await, "ORDER_NOT_FOUND INVALID_REASON");
        }
        for reason in ["", " ", "a\nb", "a\u{200b}b", &"x".repeat(201)] {
            assert_eq!(rejected(&token, id, None, reason).await, "INVALID_REASON", "{reason:?}");
            assert_eq!(rejected(&token, id, Some("0"), reason).await, "REFUND_OUT_OF_RANGE INVALID_REASON");
        }
        assert_eq!(rejected(&token, old, None, "x").await, "CANCEL_WINDOW_PASSED");
        for another in ["2", "01", "x"] {
            let narrowed = api.token(ALL_SCOPES, Some(another));
            assert_eq!(rejected(&narrowed, id, None, "x").await, "ORDER_NOT_FOUND", "{another}");
            assert_eq!(rejected(&narrowed, id, Some("1"), "x").await, "ORDER_NOT_FOUND", "{another}");
        }
        let without = api.token(&ALL_SCOPES.replace("orders:cancel", ""), None);
        assert_eq!(code(&cancel(&api, &without, id, "x").await), "FORBIDDEN");
        // A client cannot refund an order that it can no longer cancel.
        let of_client = api.token("orders:place orders:cancel", Some("1"));
        assert_eq!(rejected(&of_client, old, None, "x").await, "CANCEL_WINDOW_PASSED");
        assert_eq!(code(&refund(&api, &of_client, old, "1", "x").await), "FORBIDDEN");
        assert_eq!(code(&refund(&api, "", id, "1", "x").await), "UNAUTHENTICATED");
        assert!(refunds(connection).await.is_empty());
        assert_eq!(order_event::Entity::find().count(connection).await.unwrap(), 8, "two orders and the sample data");

        assert_eq!(rejected(&token, old, Some("1"), "x").await, "", "refunds have no window");
        assert_eq!(rejected(&api.token("orders:cancel", Some("1")), id, None, &"é".repeat(200)).await, "");
        assert_no_gaps(connection).await;
    }
}

#[tokio::test]
async fn racing_cancellations_and_refunds_count_each_amount_once() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start_with(&db, &["--rate-limit", "0", "--operation-timeout", "60s"]).await;
        let id = place_id(&api, "1").await;
        // Each refunds a tenth: ten of fifty succeed, beside new orders of the client.
        let racing = (0..50).map(async |n| {
            let refunded = cancel_or_refund(&api, &id, Some("300.00")).await;
            if n % 5 == 0 {
                let items = json!([{ "productId": "1", "quantity": 1 }]);
                let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { clientVersion } }";
                let input = json!({ "clientId": "1", "items": items });
                let response = answer(&api, &api.token(ALL_SCOPES, None), place, input).await;
                assert!(response["data"]["placeOrder"]["clientVersion"].is_i64(), "{response}");
            }
            codes(&refunded).join(" ")
        });
        let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
        for outcome in join_all(racing).await {
            *outcomes.entry(outcome).or_default() += 1;
        }
        assert_eq!(outcomes, BTreeMap::from([(String::new(), 10), ("REFUND_OUT_OF_RANGE".into(), 40)]));
        assert_eq!(refunds(&db.connection).await.iter().map(|refund| refund.amount).sum::<i64>(), 300_000);

        // Fifty cancellations race with twenty refunds.
        let id = place_id(&api, "2").await;
        let cancelling = join_all((0..50).map(|_| cancel_or_refund(&api, &id, None)));
        let refunding = join_all((0..20).map(|_| cancel_or_refund(&api, &id, Some("0.07"))));
        let (cancelled, refunded) = tokio::join!(cancelling, refunding);
        let first: Vec<_> = cancelled.iter().filter(|payload| payload["replayed"] == false).collect();
        assert_eq!(first.len(), 1, "{cancelled:?}");
        let order = &first[0]["order"];
        assert!(cancelled.iter().all(|payload| payload["order"] == *order), "{cancelled:?}");
        let succeeded = refunded.iter().filter(|payload| codes(payload).is_empty()).count();
        assert!(refunded.iter().all(|payload| matches!(codes(payload)[..], [] | ["ORDER_CANCELLED"])), "{refunded:?}");
        let rows: Vec<_> = refunds(&db.connection).await.into_iter().filter(|row| row.client_id == 2).collect();
        assert_eq!((rows.len(), rows.iter().map(|row| row.amount).sum::<i64>()), (succeeded + 1, 300_000));
        assert!(rows.last().unwrap().cancels);
        assert_no_gaps(&db.connection).await;
    }
}

#[tokio::test]
async fn a_repeated_key_refunds_nothing_and_belongs_to_one_request() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start_with(&db, &["--rate-limit", "0", "--operation-timeout", "60s"]).await;
        let (id, token) = (place_id(&api, "1").await, api.token(ALL_SCOPES, None));
        let send = async |input: Value, key: &str| {
            let (field, r#type) = match input["amount"].is_null() {
                true => ("cancelOrder", "CancelOrderInput"),
                false => ("refundOrder", "RefundOrderInput"),
            };
            let mutation = format!("mutation ($input: {type}!) {{ {field}(input: $input) {{ {FIELDS} }} }}");
            let mut input = input;
            if input["orderId"].is_null() {
                input["orderId"] = json!(id);
            }
            input["idempotencyKey"] = json!(key);
            let response = answer(&api, &token, &mutation, input).await;
            assert_eq!(response["errors"], Value::Null, "{response}");
            response["data"][field].clone()
        };
        let refund = json!({ "amount": "10", "reason": "late" });
        let payloads = join_all((0..50).map(|_| send(refund.clone(), "k"))).await;
        assert_eq!(payloads.iter().filter(|payload| payload["replayed"] == false).count(), 1, "{payloads:?}");
        for payload in &payloads {
            assert_eq!((&payload["clientVersion"], codes(payload)), (&json!(3), vec![]), "{payload}");
            assert_eq!(payload["order"]["refunded"]["amount"], "10.00");
        }
        for other in [
            json!({ "amount": "11", "reason": "late" }),
            json!({ "amount": "10", "reason": "x" }),
            json!({ "reason": "late" }),
        ] {
            assert_eq!(codes(&send(other.clone(), "k").await), ["IDEMPOTENCY_KEY_REUSED"], "{other}");
        }
        assert_eq!(
            codes(&send(json!({ "amount": "0", "reason": "x" }), "").await),
            ["REFUND_OUT_OF_RANGE", "INVALID_IDEMPOTENCY_KEY"]
        );
        assert_eq!(codes(&send(json!({ "reason": "x" }), "a\nb").await), ["INVALID_IDEMPOTENCY_KEY"]);
        let unknown = send(json!({ "reason": "", "orderId": "7" }), "").await;
        assert_eq!(codes(&unknown), ["ORDER_NOT_FOUND", "INVALID_REASON", "INVALID_IDEMPOTENCY_KEY"]);
        // A rejected request leaves its key free.
        assert_eq!(codes(&send(json!({ "amount": "9000", "reason": "x" }), "other").await), ["REFUND_OUT_OF_RANGE"]);
        assert_eq!(send(refund.clone(), "other").await["clientVersion"], 4);
        let cancelled = send(json!({ "reason": "x" }), "cancel").await;
        assert_eq!((&cancelled["clientVersion"], &cancelled["replayed"]), (&json!(5), &json!(false)));
        // To cancel it again keeps the key, whatever the reason.
        for (key, reason) in [("second", "y"), ("second", "y"), ("cancel", "y")] {
            let again = send(json!({ "reason": reason }), key).await;
            assert_eq!((&again["clientVersion"], &again["replayed"]), (&json!(5), &json!(true)), "{again}");
        }
        assert_eq!(codes(&send(refund.clone(), "second").await), ["IDEMPOTENCY_KEY_REUSED"]);
        let invalid = send(json!({ "reason": " " }), "a\nb").await;
        assert_eq!(codes(&invalid), ["INVALID_REASON", "INVALID_IDEMPOTENCY_KEY"]);
        // The version is that of the request, the order that of now.
        let again = send(refund, "k").await;
        assert_eq!((&again["replayed"], &again["clientVersion"]), (&json!(true), &json!(3)));
        assert_eq!(again["order"]["status"], "CANCELLED");
        assert_no_gaps(&db.connection).await;
    }
}

#[tokio::test]
async fn a_repeated_request_reads_no_refunds_of_the_order() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        let (id, token) = (place_id(&api, "1").await, api.token(ALL_SCOPES, None));
        let rename = async |from: &str, to: &str| {
            db.connection.execute_unprepared(&format!("ALTER TABLE {from} RENAME TO {to}")).await.unwrap();
        };
        let refund = async || {
            let mutation =
                format!("mutation ($input: RefundOrderInput!) {{ refundOrder(input: $input) {{ {FIELDS} }} }}");
            let input = json!({ "orderId": id, "amount": "10", "reason": "late", "idempotencyKey": "k" });
            let response = answer(&api, &token, &mutation, input).await;
            response["data"]["refundOrder"].as_object().unwrap_or_else(|| panic!("{response}")).clone()
        };
        assert_eq!(refund().await["replayed"], false);
        rename("order_refund_items", "other").await;
        let again = refund().await;
        assert_eq!((&again["replayed"], &again["order"]["refunded"]["amount"]), (&json!(true), &json!("10.00")));
        rename("other", "order_refund_items").await;
        assert_eq!(cancel_or_refund(&api, &id, None).await["replayed"], false);
        rename("order_refund_items", "other").await;
        let again = cancel_or_refund(&api, &id, None).await;
        assert_eq!((&again["replayed"], &again["clientVersion"]), (&json!(true), &json!(4)));
        assert_eq!(codes(&cancel_or_refund(&api, &id, Some("1")).await), ["ORDER_CANCELLED"]);
    }
}

#[tokio::test]
async fn a_failed_cancellation_leaves_nothing_behind() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        let id = place_id(&api, "1").await;
        let Db { connection: db, .. } = &db;
        db.execute_unprepared("ALTER TABLE order_refund_items RENAME TO other").await.unwrap();
        let response = cancel(&api, &api.token(ALL_SCOPES, None), &id, "x").await;
        assert_eq!(code(&response), "INTERNAL_SERVER_ERROR", "{response}");
        db.execute_unprepared("ALTER TABLE other RENAME TO order_refund_items").await.unwrap();
        assert_eq!(order::Entity::find().one(db).await.unwrap().unwrap().refunded, 0);
        assert!(refunds(db).await.is_empty());
        assert_no_gaps(db).await;
        assert_eq!(cancel_or_refund(&api, &id, None).await["clientVersion"], 3);
    }
}

#[tokio::test]
async fn an_order_can_be_refunded_a_hundred_times_and_then_only_be_cancelled() {
    let db = sqlite().await;
    let api = Api::start_with(&db, &["--rate-limit", "0"]).await;
    let id = place_id(&api, "1").await;
    for _ in 0..100 {
        assert_eq!(codes(&cancel_or_refund(&api, &id, Some("0.01")).await), [""; 0]);
    }
    assert_eq!(codes(&cancel_or_refund(&api, &id, Some("0.01")).await), ["TOO_MANY_REFUNDS"]);
    let cancelled = cancel_or_refund(&api, &id, None).await;
    assert_eq!((&cancelled["order"]["status"], &cancelled["clientVersion"]), (&json!("CANCELLED"), &json!(103)));
}

/// So that the times and ids of a client's events are in the sequence of its versions.
#[tokio::test]
async fn the_time_of_an_event_is_taken_after_the_wait_for_its_client() {
    let db = postgres().await;
    let api = Api::start(&db).await;
    let (id, token) = (place_id(&api, "1").await, api.token(ALL_SCOPES, None));
    let locked = db.connection.begin().await.unwrap();
    locked.execute_unprepared("SELECT 1 FROM clients WHERE id = 1 FOR UPDATE").await.unwrap();
    let waiting = "SELECT count(*) AS waiting FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let release = async {
        until("a request waits for the lock", async || {
            let row = db.connection.query_one_raw(sql(waiting)).await.unwrap().unwrap();
            row.try_get::<i64>("", "waiting").unwrap() >= 1
        })
        .await;
        let released = Utc::now();
        locked.commit().await.unwrap();
        released
    };
    let order = json!({ "clientId": "1", "items": [{ "productId": "1", "quantity": 1 }] });
    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { clientVersion } }";
    let update = "mutation ($input: UpdateClientInput!) { updateClient(input: $input) { clientVersion } }";
    let (released, ..) = tokio::join!(
        release,
        answer(&api, &token, place, json!(order)),
        refund(&api, &token, &id, "1", "late"),
        answer(&api, &token, update, json!({ "id": "1", "name": "Robert" })),
    );
    let of_client = events(&db.connection).await.into_iter().filter(|row| row.client_id == Some(1) && row.version > 2);
    let of_client: Vec<_> = of_client.collect();
    assert_eq!(of_client.len(), 3);
    assert!(of_client.iter().all(|row| row.occurred_at >= released.trunc_subsecs(3)), "{released}: {of_client:?}");
    assert!(of_client.is_sorted_by_key(|row| row.occurred_at), "{of_client:?}");
    assert!(of_client.iter().all(|row| id_time(row.id) >= released.timestamp_millis()), "{released}: {of_client:?}");
}

/// The time in an id, in ms since 1970.
fn id_time(id: uuid::Uuid) -> i64 {
    (id.as_u128() >> 80) as i64
}
