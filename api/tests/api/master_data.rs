//! Registering and changing clients and products, on both databases.

use std::time::Duration;

use chrono::{SubsecRound, TimeDelta, Utc};
use entity::event::{CLIENT_REGISTERED, CLIENT_UPDATED, ORDER_PLACED, PRODUCT_CREATED, PRODUCT_UPDATED};
use entity::order_event::least_id_at;
use entity::{Event, client, order_event, order_item, product};
use futures::future::{join_all, select_all};
use sea_orm::{ConnectionTrait, EntityTrait, QueryOrder, QuerySelect, TransactionTrait};
use serde_json::{Value, json};
use test_support::postgres::shift_clock;

use crate::outbox::number;
use crate::support::{ALL_SCOPES, Api, Db, code, migrate, open, postgres, sqlite, until};

const REGISTER: &str = "mutation($input: RegisterClientInput!) { registerClient(input: $input) {
    client { id name email } clientVersion userErrors { code field } } }";
const UPDATE: &str = "mutation($input: UpdateClientInput!) { updateClient(input: $input) {
    client { id name email } clientVersion userErrors { code field } } }";
const CREATE: &str = "mutation($input: CreateProductInput!) { createProduct(input: $input) {
    product { id name price { amount } } userErrors { code field } } }";
const CHANGE: &str = "mutation($input: UpdateProductInput!) { updateProduct(input: $input) {
    product { id price { amount } } userErrors { code field } } }";
const PLACE: &str = "mutation($input: PlaceOrderInput!) { placeOrder(input: $input) {
    order { id total { amount } } clientVersion userErrors { code } } }";

/// The payload of a mutation.
async fn change(api: &Api, mutation: &str, input: Value) -> Value {
    let response = api.graphql(&api.token(ALL_SCOPES, None), mutation, json!({ "input": input })).await;
    assert_eq!(response["errors"], Value::Null, "{input}");
    response["data"].as_object().unwrap().values().next().unwrap().clone()
}

/// The log after the events of the sample data.
async fn log(db: &Db) -> Vec<order_event::Model> {
    let log = order_event::Entity::find().order_by_asc(order_event::Column::Id).all(&db.connection).await.unwrap();
    log.into_iter().skip(6).collect()
}

/// Applies all events, as the projector does.
async fn project(api: &Api, db: &Db) {
    let events: Vec<Event> = log(db).await.into_iter().map(|row| Event::from_row(row, "USD").unwrap()).collect();
    assert!(api.read_model.apply(&events).await.iter().all(Result::is_ok));
}

/// Whatever the clock of the api says.
#[tokio::test]
async fn an_event_has_the_time_of_the_database() {
    let database = test_support::postgres::database().await;
    migrate(&database.url).await;
    shift_clock(&database.url, "-1 hour").await;
    let db = Db::on(open(&database.url).await);
    let api = Api::start(&db).await;
    let began = Utc::now().trunc_subsecs(3) - TimeDelta::hours(1);
    change(&api, REGISTER, json!({ "name": "Zoë", "email": "zoe@anemailprovider.com" })).await;
    change(&api, UPDATE, json!({ "id": "4", "name": "Zoe" })).await;
    change(&api, CREATE, json!({ "name": "Lamp", "price": "1.00" })).await;
    change(&api, CHANGE, json!({ "id": "4", "price": "2.00" })).await;
    let order = json!({ "clientId": "4", "items": [{ "productId": "4", "quantity": 2 }] });
    let placed = change(&api, PLACE, order).await;
    let refund = json!({ "orderId": placed["order"]["id"], "amount": "1.00", "reason": "late" });
    change(&api, "mutation($input: RefundOrderInput!) { refundOrder(input: $input) { clientVersion } }", refund).await;
    let forget = "mutation($input: ForgetClientInput!) { forgetClient(input: $input) { clientVersion } }";
    change(&api, forget, json!({ "id": "4" })).await;

    let ended = Utc::now() - TimeDelta::hours(1);
    let events = order_event::Entity::find().order_by_asc(order_event::Column::Id).all(&db.connection).await.unwrap();
    let events: Vec<_> = events.into_iter().filter(|row| row.actor.is_some()).collect();
    assert_eq!(events.len(), 7);
    assert!(events.iter().all(|row| (began..=ended).contains(&row.occurred_at)), "{began} to {ended}: {events:#?}");
    assert!(events.iter().all(|row| row.id >= least_id_at(row.occurred_at)), "{events:#?}");
    assert!(events.is_sorted_by_key(|row| row.occurred_at), "ids have the same sequence: {events:#?}");
}

#[tokio::test]
async fn clients_appear_when_registered_and_updates_reach_queries() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        let registered = change(&api, REGISTER, json!({ "name": " Zoë ", "email": "Zoe@AnEmailProvider.com" })).await;
        let zoe = json!({ "id": "4", "name": "Zoë", "email": "zoe@anemailprovider.com" });
        assert_eq!(registered, json!({ "client": zoe, "clientVersion": 1, "userErrors": [] }));
        project(&api, &db).await;
        let all = "{ client(id: 4, minVersion: 1) { name total { amount } orderCount lastPurchase version }
            clients { nodes { id email } } latest: clients(sortBy: LAST_PURCHASE_DESC) { nodes { id } } }";
        let seen = api.graphql(&api.token(ALL_SCOPES, None), all, json!({})).await["data"].clone();
        let expected = json!({
            "name": "Zoë", "total": { "amount": "0.00" }, "orderCount": 0, "lastPurchase": null, "version": 1
        });
        assert_eq!(seen["client"], expected);
        assert_eq!(seen["clients"]["nodes"], json!([{ "id": "4", "email": "zoe@anemailprovider.com" }]));
        assert_eq!(seen["latest"]["nodes"], json!([{ "id": "4" }]));

        let order = json!({ "clientId": "4", "items": [{ "productId": "1", "quantity": 2 }] });
        assert_eq!(change(&api, PLACE, order).await["clientVersion"], 2);
        let updated = change(&api, UPDATE, json!({ "id": "4", "name": "Zoë B." })).await;
        assert_eq!((&updated["clientVersion"], &updated["client"]["email"]), (&json!(3), &zoe["email"]));
        // The read model does not include the order and the update yet, and the version in the result shows it.
        let fields = "client { email total { amount } orderCount version }";
        let update = UPDATE.replace("client { id name email }", fields);
        let unchanged = change(&api, &update, json!({ "id": "4" })).await;
        let email = &zoe["email"];
        let expected = json!({ "email": email, "total": { "amount": "0.00" }, "orderCount": 0, "version": 1 });
        assert_eq!((&unchanged["client"], &unchanged["clientVersion"]), (&expected, &json!(3)));
        // An update that changes nothing has no event.
        for same in [json!({ "id": "4" }), json!({ "id": "4", "name": "Zoë B.", "email": "ZOE@anemailprovider.com" })]
        {
            assert_eq!(change(&api, UPDATE, same).await["clientVersion"], 3);
        }
        let types: Vec<String> = log(&db).await.into_iter().map(|row| row.r#type).collect();
        assert_eq!(types, [CLIENT_REGISTERED, ORDER_PLACED, CLIENT_UPDATED]);
        project(&api, &db).await;
        let seen = api.graphql(&api.token(ALL_SCOPES, None), all, json!({})).await["data"]["client"].clone();
        assert_eq!((&seen["name"], &seen["version"], &seen["orderCount"]), (&json!("Zoë B."), &json!(3), &json!(1)));
        assert_eq!(seen["total"]["amount"], "3000.00");
        // The result includes the update itself and everything before it.
        let updated = change(&api, &update, json!({ "id": "4", "email": "z@example.com" })).await;
        let expected =
            json!({ "email": "z@example.com", "total": { "amount": "3000.00" }, "orderCount": 1, "version": 4 });
        assert_eq!(updated["client"], expected);
    }
}

#[tokio::test]
async fn a_failed_mutation_does_not_hide_the_order_placed_before_it() {
    let api = Api::start(&sqlite().await).await;
    let document = "mutation {
        placeOrder(input: { clientId: 1, items: [{ productId: 1, quantity: 1 }] }) { order { id } }
        registerClient(input: { name: \"Zoë\", email: \"zoe@example.com\" }) { client { id } } }";
    let result = api.graphql(&api.token("orders:place", None), document, json!({})).await;
    assert!(result["data"]["placeOrder"]["order"]["id"].is_string(), "{result}");
    assert_eq!(result["data"]["registerClient"], Value::Null);
    assert_eq!((code(&result), &result["errors"][0]["path"]), ("FORBIDDEN", &json!(["registerClient"])));
}

#[tokio::test]
async fn an_order_keeps_the_price_at_which_it_was_placed() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        let created = change(&api, CREATE, json!({ "name": "Lamp", "price": "19.9" })).await;
        let lamp = json!({ "id": "4", "name": "Lamp", "price": { "amount": "19.90" } });
        assert_eq!(created, json!({ "product": lamp, "userErrors": [] }));
        let order = json!({ "clientId": "1", "items": [{ "productId": "4", "quantity": 2 }] });
        assert_eq!(change(&api, PLACE, order.clone()).await["order"]["total"]["amount"], "39.80");
        for (price, version) in [("25.00", 2), ("25", 2), ("5.00", 3)] {
            change(&api, CHANGE, json!({ "id": "4", "price": price })).await;
            let row = product::Entity::find_by_id(4).one(&db.connection).await.unwrap().unwrap();
            assert_eq!(row.version, version, "{price}");
        }
        assert_eq!(change(&api, PLACE, order).await["order"]["total"]["amount"], "10.00");
        let items = order_item::Entity::find().order_by_asc(order_item::Column::OrderId).all(&db.connection).await;
        assert_eq!(items.unwrap().iter().map(|item| item.unit_price).collect::<Vec<_>>(), [1_990, 500]);
        let types: Vec<String> = log(&db).await.into_iter().map(|row| row.r#type).collect();
        assert_eq!(types, [PRODUCT_CREATED, ORDER_PLACED, PRODUCT_UPDATED, PRODUCT_UPDATED, ORDER_PLACED]);

        // Names and prices in reports come from the events, not from the database.
        project(&api, &db).await;
        let renamed = product::ActiveModel {
            id: sea_orm::ActiveValue::Set(4),
            name: sea_orm::ActiveValue::Set("Renamed by hand".into()),
            ..Default::default()
        };
        product::Entity::update(renamed).exec(&db.connection).await.unwrap();
        let today = chrono::Utc::now().format("%Y-%m-%d");
        let top = format!(
            "{{ topProducts(from: \"2026-01-01\", to: \"{today}\") {{ units product {{ name price {{ amount }} }} }} }}"
        );
        let top = api.graphql(&api.token(ALL_SCOPES, None), &top, json!({})).await["data"]["topProducts"].clone();
        let lamp = json!({ "name": "Lamp", "price": { "amount": "5.00" } });
        assert_eq!(top, json!([{ "units": 4, "product": lamp }]));
    }
}

#[tokio::test]
async fn invalid_changes_are_reported_and_change_nothing() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        let long = "x".repeat(201);
        for (mutation, input, codes) in [
            (REGISTER, json!({ "name": "", "email": "nobody" }), json!(["INVALID_NAME", "INVALID_EMAIL"])),
            (REGISTER, json!({ "name": long, "email": "a@example.com" }), json!(["INVALID_NAME"])),
            (REGISTER, json!({ "name": "B", "email": "BOB@anemailprovider.com" }), json!(["EMAIL_TAKEN"])),
            (UPDATE, json!({ "id": "9", "name": "B" }), json!(["CLIENT_NOT_FOUND"])),
            (UPDATE, json!({ "id": "x", "name": "B" }), json!(["CLIENT_NOT_FOUND"])),
            (UPDATE, json!({ "id": "1", "name": "a\u{0}b" }), json!(["INVALID_NAME"])),
            (UPDATE, json!({ "id": "1", "email": "alice@anemailprovider.com" }), json!(["EMAIL_TAKEN"])),
            (UPDATE, json!({ "id": "1", "name": "", "email": "" }), json!(["INVALID_NAME", "INVALID_EMAIL"])),
            (CREATE, json!({ "name": " ", "price": "10000000000.01" }), json!(["INVALID_NAME", "PRICE_OUT_OF_RANGE"])),
            (CREATE, json!({ "name": "Lamp", "price": "0.001" }), json!(["PRICE_OUT_OF_RANGE"])),
            (CREATE, json!({ "name": "Lamp", "price": "-1" }), json!(["PRICE_OUT_OF_RANGE"])),
            (CHANGE, json!({ "id": "9", "price": "0.001" }), json!(["PRODUCT_NOT_FOUND", "PRICE_OUT_OF_RANGE"])),
        ] {
            let response = change(&api, mutation, input.clone()).await;
            let errors = response["userErrors"].as_array().unwrap();
            assert_eq!(json!(errors.iter().map(|error| &error["code"]).collect::<Vec<_>>()), codes, "{input}");
            assert!(errors.iter().all(|error| error["field"][0] == "input"), "{response}");
        }
        for price in [json!(5), json!("five"), json!("1e3"), json!("")] {
            let input = json!({ "input": { "name": "Lamp", "price": price } });
            let response = api.graphql(&api.token(ALL_SCOPES, None), CREATE, input).await;
            assert_eq!(code(&response), "BAD_USER_INPUT", "{price}: {response}");
        }
        assert!(log(&db).await.is_empty());
        let clients = client::Entity::find().all(&db.connection).await.unwrap();
        assert!(clients.iter().all(|client| client.version == 1) && clients.len() == 3);
    }
}

#[tokio::test]
async fn a_client_or_product_without_a_version_left_cannot_change() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        for table in ["clients", "products"] {
            let exhaust = format!("UPDATE {table} SET version = {} WHERE id = 1", i32::MAX);
            db.connection.execute_unprepared(&exhaust).await.unwrap();
        }
        let order = |client: &str| json!({ "clientId": client, "items": [{ "productId": "1", "quantity": 1 }] });
        let (alice, bob) = tokio::join!(change(&api, PLACE, order("2")), change(&api, PLACE, order("1")));
        assert_eq!((&alice["userErrors"], &alice["clientVersion"]), (&json!([]), &json!(2)));
        let update = change(&api, UPDATE, json!({ "id": "1", "name": "Robert" })).await;
        let price = change(&api, CHANGE, json!({ "id": "1", "price": "5.00" })).await;
        for response in [bob, update, price] {
            assert_eq!(response["userErrors"][0]["code"], "VERSION_LIMIT_REACHED", "{response}");
        }
        assert_eq!(log(&db).await.len(), 1);
    }
}

#[tokio::test]
async fn changes_require_their_scopes() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let register = json!({ "name": "Zoë", "email": "zoe@example.com" });
    let (update, other) = (json!({ "id": "1", "name": "Robert" }), json!({ "id": "2", "name": "Alicia" }));
    let create = json!({ "name": "Lamp", "price": "5.00" });
    let price = json!({ "id": "1", "price": "5.00" });
    let read_only = "orders:place clients:read products:read sales:read";
    for (scope, client, mutation, input, expected) in [
        (read_only, None, REGISTER, &register, "FORBIDDEN"),
        (read_only, None, UPDATE, &update, "FORBIDDEN"),
        ("clients:write", None, CREATE, &create, "FORBIDDEN"),
        ("clients:write", None, CHANGE, &price, "FORBIDDEN"),
        ("products:write", None, UPDATE, &update, "FORBIDDEN"),
        (ALL_SCOPES, Some("1"), REGISTER, &register, "FORBIDDEN"),
        (ALL_SCOPES, Some("1"), UPDATE, &other, "FORBIDDEN"),
        (ALL_SCOPES, Some("1"), CREATE, &create, "FORBIDDEN"),
        (ALL_SCOPES, Some("1"), CHANGE, &price, "FORBIDDEN"),
        ("clients:write clients:read", Some("1"), UPDATE, &update, "none"),
        ("clients:write clients:read", None, REGISTER, &register, "none"),
        ("products:write products:read", None, CREATE, &create, "none"),
        ("products:write products:read", None, CHANGE, &price, "none"),
    ] {
        let response = api.graphql(&api.token(scope, client), mutation, json!({ "input": input })).await;
        assert_eq!(code(&response), expected, "{scope} {client:?} {input}");
    }
    let response = api.graphql("", REGISTER, json!({ "input": register })).await;
    assert_eq!(code(&response), "UNAUTHENTICATED");
}

/// All changes of a client have contiguous versions, and an e-mail address belongs to one client.
#[tokio::test]
async fn concurrent_changes_leave_no_version_gap_and_an_email_address_goes_to_one_client() {
    let db = postgres().await;
    let api = Api::start(&db).await;
    let order = json!({ "clientId": "1", "items": [{ "productId": "1", "quantity": 1 }] });
    let changes = join_all((0..60).map(async |n| match n % 3 {
        0 => change(&api, PLACE, order.clone()).await,
        1 => change(&api, UPDATE, json!({ "id": "1", "name": format!("Bob {n}") })).await,
        _ => change(&api, CHANGE, json!({ "id": "1", "price": format!("{n}.00") })).await,
    }));
    let registrations = join_all((0..10).map(async |n| {
        change(&api, REGISTER, json!({ "name": format!("Zoë {n}"), "email": "zoe@example.com" })).await
    }));
    let (changes, registrations) = tokio::join!(changes, registrations);
    assert!(changes.iter().all(|response| response["userErrors"] == json!([])), "{changes:?}");
    assert_eq!(registrations.iter().filter(|response| response["client"] != Value::Null).count(), 1);
    let log = log(&db).await;
    let versions = |is_of: fn(&order_event::Model) -> bool| {
        let mut versions: Vec<i32> = log.iter().filter(|row| is_of(row)).map(|row| row.version).collect();
        versions.sort_unstable();
        versions
    };
    assert_eq!(versions(|row| row.client_id == Some(1)), (2..=41).collect::<Vec<_>>());
    assert_eq!(versions(|row| row.product_id == Some(1)), (2..=21).collect::<Vec<_>>());
}

#[tokio::test]
async fn changes_that_wait_for_a_locked_client_leave_the_connections_to_others() {
    let db = postgres().await;
    let api = Api::start_with(&db, &["--operation-timeout", "60s"]).await;
    let other = db.connection.begin().await.unwrap();
    client::Entity::find_by_id(2).lock_exclusive().one(&other).await.unwrap();
    let update = |id: i64, name: String| change(&api, UPDATE, json!({ "id": id.to_string(), "name": name }));
    let mut waiting = select_all((0..60).map(|n| Box::pin(update(2, format!("Name {n}")))));
    let waits = "SELECT count(*) AS number FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let of_another_client = async {
        until("a change waits for the lock", async || number(&db.connection, waits).await > 0).await;
        update(3, "Carol".into()).await
    };
    tokio::select! {
        biased;
        (response, ..) = &mut waiting => panic!("the lock is still held: {response}"),
        response = of_another_client => assert_eq!(response["client"]["name"], "Carol"),
    }
    other.rollback().await.unwrap();
    let (_, _, others) = waiting.await;
    join_all(others).await;
    let client = client::Entity::find_by_id(2).one(&db.connection).await.unwrap().unwrap();
    assert_eq!(client.version, 61, "each change has a version");
}

/// A caller that uses all of its connections for other statements.
#[tokio::test]
async fn a_caller_without_connections_keeps_no_turn_from_others() {
    let db = postgres().await;
    let api = Api::start_with(&db, &["--operation-timeout", "60s", "--rate-limit", "0"]).await;
    let locked = db.connection.begin().await.unwrap();
    locked.execute_unprepared("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let greedy = api.tokens.mint("greedy", ALL_SCOPES, None, Duration::from_secs(60)).unwrap();
    let list = "{ orders(first: 1) { nodes { id } } }";
    let reads = (0..8).map(|_| api.graphql(&greedy, list, json!({})));
    let update = "mutation { updateClient(input: { id: 2, name: \"Greedy\" }) { clientVersion } }";
    let updates = (0..8).map(|_| api.graphql(&greedy, update, json!({})));
    let mut attack = Box::pin(async { tokio::join!(join_all(reads), join_all(updates)) });
    let waits = "SELECT count(*) AS number FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let of_another = async {
        until("the caller uses its connections", async || number(&db.connection, waits).await >= 4).await;
        for n in 0..5 {
            let name = json!({ "id": "2", "name": format!("Name {n}") });
            assert_eq!(change(&api, UPDATE, name).await["client"]["name"], format!("Name {n}"));
        }
    };
    tokio::select! {
        biased;
        _ = &mut attack => panic!("the table is still locked"),
        () = of_another => {}
    }
    locked.rollback().await.unwrap();
    attack.await;
}
