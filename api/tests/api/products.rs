//! Creating, changing and withdrawing products, on both databases.

use std::sync::atomic::{AtomicBool, Ordering};

use entity::event::{PRODUCT_CREATED, PRODUCT_UPDATED};
use entity::order_event;
use futures::future::join_all;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, TransactionTrait};
use serde_json::{Value, json};

use crate::support::{ALL_SCOPES, Api, Db, PLACE, order, postgres, project_products, sqlite};

const CREATE: &str = "mutation($input: CreateProductInput!) { createProduct(input: $input) {
    product { id name price { amount } available sku } userErrors { code field } } }";
const UPDATE: &str = "mutation($input: UpdateProductInput!) { updateProduct(input: $input) {
    product { id name price { amount } available sku } userErrors { code field } } }";

/// The payload of a mutation.
async fn change(api: &Api, mutation: &str, input: Value) -> Value {
    let response = api.graphql(&api.token(ALL_SCOPES, None), mutation, json!({ "input": input })).await;
    assert_eq!(response["errors"], Value::Null, "{input}");
    response["data"].as_object().unwrap().values().next().unwrap().clone()
}

/// The product in the payload of an update.
async fn update(api: &Api, input: Value) -> Value {
    let payload = change(api, UPDATE, input).await;
    assert_eq!(payload["userErrors"], json!([]));
    payload["product"].clone()
}

/// The code and the field of the only problem.
async fn problem(api: &Api, mutation: &str, input: Value) -> (Value, Value) {
    let payload = change(api, mutation, input).await;
    assert_eq!((&payload["product"], payload["userErrors"].as_array().unwrap().len()), (&Value::Null, 1), "{payload}");
    (payload["userErrors"][0]["code"].clone(), payload["userErrors"][0]["field"].clone())
}

/// Places an order of one product, and returns its problems.
async fn order_of(api: &Api, product: &str) -> Value {
    let placed = api.graphql(&api.token(ALL_SCOPES, None), PLACE, order("1", &[(product, 1)], None)).await;
    placed["data"]["placeOrder"]["userErrors"].clone()
}

/// The events of a product.
async fn events(db: &Db, product: i64) -> Vec<order_event::Model> {
    let of_product = order_event::Entity::find().filter(order_event::Column::ProductId.eq(product));
    of_product.order_by_asc(order_event::Column::Version).all(&db.connection).await.unwrap()
}

/// Runs a check with an api on each database.
async fn both(check: impl AsyncFn(&Api, &Db)) {
    for db in [sqlite().await, postgres().await] {
        check(&Api::start(&db).await, &db).await;
    }
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_nothing_else() {
    both(async |api, db| {
        let created = change(api, CREATE, json!({ "name": "Lamp", "price": "19.90", "sku": " LAMP-1 " })).await;
        let lamp =
            json!({ "id": "4", "name": "Lamp", "price": { "amount": "19.90" }, "available": true, "sku": "LAMP-1" });
        assert_eq!(created, json!({ "product": lamp, "userErrors": [] }));
        let mut expected = lamp;
        for (field, value, seen) in [
            ("name", json!(" Red lamp "), json!("Red lamp")),
            ("price", json!("5"), json!({ "amount": "5.00" })),
            ("available", json!(false), json!(false)),
            ("sku", json!("lamp-1"), json!("lamp-1")),
        ] {
            expected[field] = seen;
            assert_eq!(update(api, json!({ "id": "4", field: value })).await, expected);
        }
        // An update that changes nothing has no event.
        let null = json!({ "id": "4", "name": null, "price": null, "available": null, "sku": null });
        let same = json!({ "id": "4", "name": "Red lamp", "price": "5.00", "available": false, "sku": "lamp-1" });
        for nothing in [json!({ "id": "4" }), null, same] {
            assert_eq!(update(api, nothing).await, expected);
        }
        let log = events(db, 4).await;
        let types: Vec<&str> = log.iter().map(|event| &*event.r#type).collect();
        assert_eq!(types, [&[PRODUCT_CREATED][..], &[PRODUCT_UPDATED; 4]].concat());
        let data = json!({
            "productId": 4, "name": "Red lamp", "price": 500, "currency": "USD", "available": false, "sku": "lamp-1"
        });
        assert_eq!((&log[4].payload, log[4].version), (&data, 5));

        // Queries see the last state.
        project_products(db, &*api.read_model).await;
        let query = "{ product(id: 4) { id name price { amount } available sku } }";
        let seen = api.graphql(&api.token("products:read", None), query, json!({})).await;
        assert_eq!(seen["data"]["product"], expected);
    })
    .await;
}

#[tokio::test]
async fn a_sku_belongs_to_one_product_in_any_case() {
    both(async |api, db| {
        let create = |sku: &str| json!({ "name": "Lamp", "price": "1", "sku": sku });
        let racing = join_all((0..10).map(async |_| change(api, CREATE, create("LAMP-1")).await)).await;
        assert_eq!(racing.iter().filter(|payload| payload["product"] != Value::Null).count(), 1);
        let taken = (json!("SKU_TAKEN"), json!(["input", "sku"]));
        for sku in ["LAMP-1", "lamp-1"] {
            assert_eq!(problem(api, CREATE, create(sku)).await, taken);
            assert_eq!(problem(api, UPDATE, json!({ "id": "1", "sku": sku })).await, taken);
        }
        for sku in ["", " ", "A B", "LÄMP", "a\u{0}b", &"x".repeat(65)] {
            assert_eq!(problem(api, CREATE, create(sku)).await.0, "INVALID_SKU", "{sku:?}");
            assert_eq!(problem(api, UPDATE, json!({ "id": "1", "sku": sku })).await.0, "INVALID_SKU", "{sku:?}");
        }
        for sku in ["!~", &"x".repeat(64)] {
            assert_eq!(change(api, CREATE, create(sku)).await["product"]["sku"], sku);
        }
        // An idempotency key says that a request is a repeat.
        let keyed = json!({ "name": "Desk", "price": "1", "sku": "DESK", "idempotencyKey": "k" });
        let desk = change(api, CREATE, keyed.clone()).await;
        update(api, json!({ "id": desk["product"]["id"], "name": "Table", "sku": "TABLE" })).await;
        assert_eq!(change(api, CREATE, keyed).await, desk);
        // Any number of products have none.
        for _ in 0..2 {
            assert_eq!(change(api, CREATE, json!({ "name": "Lamp", "price": "1" })).await["userErrors"], json!([]));
        }
        assert_eq!(
            problem(api, UPDATE, json!({ "id": "99" })).await,
            (json!("PRODUCT_NOT_FOUND"), json!(["input", "id"]))
        );
        assert_eq!(events(db, 1).await.len(), 1);
    })
    .await;
}

/// The index of the SKUs is written last, and after a pause, so that both have changed their rows when they look for the other SKU.
#[tokio::test]
async fn two_products_that_swap_their_skus_are_both_refused() {
    let db = postgres().await;
    let api = Api::start(&db).await;
    for (id, sku) in [("1", "A"), ("2", "B")] {
        update(&api, json!({ "id": id, "sku": sku })).await;
    }
    for statement in [
        "CREATE FUNCTION slow(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN PERFORM pg_sleep(0.2); RETURN $1; END $$",
        "DROP INDEX products_sku",
        "CREATE INDEX slow ON products (slow(sku))",
        "CREATE UNIQUE INDEX products_sku ON products (lower(sku))",
    ] {
        db.connection.execute_unprepared(statement).await.unwrap();
    }
    let taken = (json!("SKU_TAKEN"), json!(["input", "sku"]));
    let swap = async |id: &str, sku: &str| problem(&api, UPDATE, json!({ "id": id, "sku": sku })).await;
    assert_eq!(tokio::join!(swap("1", "B"), swap("2", "A")), (taken.clone(), taken));
    assert_eq!(update(&api, json!({ "id": "1", "sku": "a" })).await["sku"], "a", "it is its own");
}

#[tokio::test]
async fn a_withdrawn_product_refuses_orders_and_stays_readable() {
    both(async |api, db| {
        let keyed = order("1", &[("1", 1)], Some("k"));
        let token = api.token(ALL_SCOPES, None);
        let placed = api.graphql(&token, PLACE, keyed.clone()).await["data"]["placeOrder"].clone();
        assert_eq!(update(api, json!({ "id": "1", "available": false })).await["available"], false);
        let refused = order_of(api, "1").await;
        let field = json!(["input", "items", "0", "productId"]);
        assert_eq!((&refused[0]["code"], &refused[0]["field"]), (&json!("PRODUCT_NOT_AVAILABLE"), &field));
        let replayed = api.graphql(&token, PLACE, keyed).await["data"]["placeOrder"].clone();
        assert_eq!((&replayed["order"], &replayed["replayed"]), (&placed["order"], &json!(true)));
        let new = change(api, CREATE, json!({ "name": "Soon", "price": "1", "available": false })).await;
        let new = new["product"]["id"].as_str().unwrap().to_owned();
        assert_eq!(order_of(api, &new).await[0]["code"], "PRODUCT_NOT_AVAILABLE");

        project_products(db, &*api.read_model).await;
        let query = "{ product(id: 1) { name available } order(id: ID) { items { name } } }";
        let query = query.replace("ID", &placed["order"]["id"].to_string());
        let seen = api.graphql(&token, &query, json!({})).await["data"].clone();
        assert_eq!(seen["product"], json!({ "name": "Computer", "available": false }));
        assert_eq!(seen["order"]["items"], json!([{ "name": "Computer" }]));
        for product in ["1", &new] {
            update(api, json!({ "id": product, "available": true })).await;
            assert_eq!(order_of(api, product).await, json!([]));
        }
    })
    .await;
}

/// Orders that run at the same time as the update may be placed or refused.
#[tokio::test]
async fn each_order_that_is_sent_after_a_product_was_withdrawn_is_refused() {
    both(async |api, _| {
        let is_withdrawn = AtomicBool::new(false);
        let buy = join_all((0..10).map(async |_| {
            loop {
                let is_late = is_withdrawn.load(Ordering::SeqCst);
                let problems = order_of(api, "1").await;
                if problems != json!([]) {
                    return assert_eq!(problems[0]["code"], "PRODUCT_NOT_AVAILABLE");
                }
                assert!(!is_late, "it was placed");
            }
        }));
        let withdraw = async {
            assert_eq!(order_of(api, "1").await, json!([]));
            update(api, json!({ "id": "1", "available": false })).await;
            is_withdrawn.store(true, Ordering::SeqCst);
        };
        tokio::join!(buy, withdraw);
    })
    .await;
}

/// An order does not wait for an update that is not committed: it takes the state of before.
#[tokio::test]
async fn an_order_waits_for_no_update_of_its_product() {
    let db = postgres().await;
    let api = Api::start(&db).await;
    let withdrawal = db.connection.begin().await.unwrap();
    for statement in [
        "SELECT 1 FROM products WHERE id = 1 FOR NO KEY UPDATE",
        "UPDATE products SET available = false, price = 1, version = 2 WHERE id = 1",
    ] {
        withdrawal.execute_unprepared(statement).await.unwrap();
    }
    assert_eq!(order_of(&api, "1").await, json!([]));
    withdrawal.commit().await.unwrap();
    assert_eq!(order_of(&api, "1").await[0]["code"], "PRODUCT_NOT_AVAILABLE");

    // Nor does an update wait for an order that is not committed, whose items refer to the product.
    let order = db.connection.begin().await.unwrap();
    order.execute_unprepared("SELECT 1 FROM products WHERE id = 2 FOR KEY SHARE").await.unwrap();
    assert_eq!(update(&api, json!({ "id": "2", "price": "2" })).await["price"]["amount"], "2.00");
    assert_eq!(update(&api, json!({ "id": "2", "sku": "PHONE" })).await["sku"], "PHONE");
    order.rollback().await.unwrap();
}
