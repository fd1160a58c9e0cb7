//! Placing an order and reading the result over HTTP.

use entity::event::ORDER_PLACED;
use entity::{Event, order_event};
use runtime::logging::is_traceparent;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder};
use serde_json::{Value, json};

use crate::support::{ALL_SCOPES, Api, Db, PLACE, code, order, postgres, sqlite};

/// Applies all events, as the projector does.
async fn project(db: &Db, api: &Api) {
    for row in order_event::Entity::find().all(&db.connection).await.unwrap() {
        api.read_model.apply(&[Event::from_row(row, "USD").unwrap()]).await.remove(0).unwrap();
    }
}

#[tokio::test]
async fn a_placed_order_appears_in_the_clients_total() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let token = api.token(ALL_SCOPES, None);
    let query = "{ client(id: \"1\") { id name email total { amount currencyCode } orderCount lastPurchase version } }";
    assert_eq!(api.graphql(&token, query, json!({})).await, json!({ "data": { "client": null } }));

    let response = api.graphql(&token, PLACE, order("1", &[("1", 1), ("2", 3)], None)).await;
    let placed = &response["data"]["placeOrder"];
    assert_eq!(placed["order"]["total"], json!({ "amount": "3000.00", "currencyCode": "USD" }));
    assert_eq!(
        placed["order"]["items"],
        json!([
            { "productId": "1", "name": "Computer", "unitPrice": { "amount": "1500.00" }, "quantity": 1, "lineTotal": { "amount": "1500.00" } },
            { "productId": "2", "name": "Phone", "unitPrice": { "amount": "500.00" }, "quantity": 3, "lineTotal": { "amount": "1500.00" } },
        ])
    );
    assert_eq!(
        (&placed["clientVersion"], &placed["replayed"], &placed["userErrors"]),
        (&json!(2), &json!(false), &json!([]))
    );
    let placed_at = placed["order"]["placedAt"].as_str().unwrap();
    assert!(placed_at.len() == 24 && placed_at.ends_with('Z'), "{placed_at}");

    project(&db, &api).await;
    assert_eq!(
        api.graphql(&token, query, json!({})).await["data"]["client"],
        json!({
            "id": "1", "name": "Bob", "email": "bob@anemailprovider.com",
            "total": { "amount": "3000.00", "currencyCode": "USD" },
            "orderCount": 1, "lastPurchase": placed_at, "version": 2,
        })
    );
    let several = api.graphql(&token, "{ clientsByIds(ids: [\"3\", \"1\", \"x\", \"1\"]) { id } }", json!({})).await;
    assert_eq!(several["data"]["clientsByIds"], json!([{ "id": "3" }, { "id": "1" }, null, { "id": "1" }]));
}

#[tokio::test]
async fn all_problems_of_an_order_are_reported_together_with_their_fields() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let token = api.token(ALL_SCOPES, None);
    let faults = async |variables: Value| -> Vec<(String, String)> {
        let response = api.graphql(&token, PLACE, variables).await;
        let placed = &response["data"]["placeOrder"];
        assert_eq!((&placed["order"], &placed["clientVersion"]), (&Value::Null, &Value::Null), "{response}");
        let fault = |error: &Value| {
            assert!(!error["message"].as_str().unwrap().is_empty());
            let path: Vec<&str> =
                error["field"].as_array().unwrap().iter().map(|part| part.as_str().unwrap()).collect();
            (error["code"].as_str().unwrap().to_owned(), path.join("."))
        };
        placed["userErrors"].as_array().unwrap().iter().map(fault).collect()
    };
    let expect = |list: &[(&str, &str)]| list.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>();

    assert_eq!(
        faults(order("nobody", &[("1", 0), ("99", 1)], Some(""))).await,
        expect(&[
            ("INVALID_IDEMPOTENCY_KEY", "input.idempotencyKey"),
            ("CLIENT_NOT_FOUND", "input.clientId"),
            ("QUANTITY_OUT_OF_RANGE", "input.items.0.quantity"),
            ("PRODUCT_NOT_FOUND", "input.items.1.productId"),
        ])
    );
    assert_eq!(faults(order("1", &[], None)).await, expect(&[("EMPTY_ORDER", "input.items")]));
    assert_eq!(faults(order("1", &[("1", 1); 101], None)).await, expect(&[("TOO_MANY_ITEMS", "input.items")]));
    db.connection.execute_unprepared("UPDATE products SET price = 9223372036854775807 WHERE id = 3").await.unwrap();
    assert_eq!(faults(order("1", &[("3", 1)], None)).await, expect(&[("TOTAL_OUT_OF_RANGE", "input.items")]));

    let first = api.graphql(&token, PLACE, order("1", &[("1", 1)], Some("k"))).await;
    assert_eq!(
        faults(order("1", &[("1", 2)], Some("k"))).await,
        expect(&[("IDEMPOTENCY_KEY_REUSED", "input.idempotencyKey")])
    );
    let mut again = api.graphql(&token, PLACE, order("1", &[("1", 1)], Some("k"))).await;
    assert_eq!(again["data"]["placeOrder"]["replayed"], json!(true));
    again["data"]["placeOrder"]["replayed"] = json!(false);
    assert_eq!(again, first);
}

#[tokio::test]
async fn min_version_waits_and_then_reports_the_current_version() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let token = api.token(ALL_SCOPES, None);
    api.graphql(&token, PLACE, order("1", &[("1", 1)], None)).await;
    let behind = api.graphql(&token, "{ client(id: \"1\", minVersion: 2) { version } }", json!({})).await;
    assert_eq!((code(&behind), &behind["errors"][0]["extensions"]["version"]), ("READ_MODEL_BEHIND", &json!(0)));
    assert_eq!(behind["data"], json!({ "client": null }), "a nullable field fails alone");

    let (read, ()) = tokio::join!(
        api.graphql(&token, "{ client(id: \"1\", minVersion: 2) { version } }", json!({})),
        project(&db, &api)
    );
    assert_eq!(read["data"]["client"]["version"], json!(2));
}

#[tokio::test]
async fn products_are_paginated() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token(ALL_SCOPES, None);
    let query = "query ($first: Int, $after: String) { products(first: $first, after: $after) {
        nodes { id name price { amount } } edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage endCursor } } }";
    let mut names = Vec::new();
    let mut variables = json!({ "first": 2 });
    loop {
        let response = api.graphql(&token, query, variables.clone()).await;
        let page = &response["data"]["products"];
        names.extend(page["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned()));
        if page["pageInfo"]["hasNextPage"] == json!(false) {
            break;
        }
        variables["after"] = page["pageInfo"]["endCursor"].clone();
    }
    assert_eq!(names, ["Computer", "Phone", "TV"]);
    let all = api.graphql(&token, query, json!({})).await;
    assert_eq!(all["data"]["products"]["nodes"].as_array().unwrap().len(), 3);
    for bad in [json!({ "first": 0 }), json!({ "first": 101 }), json!({ "first": -1 }), json!({ "after": "x" })] {
        let query =
            "query ($first: Int, $after: String) { products(first: $first, after: $after) { pageInfo { endCursor } } }";
        assert_eq!(code(&api.graphql(&token, query, bad.clone()).await), "BAD_USER_INPUT", "{bad}");
    }
    let one = api.graphql(&token, "{ product(id: \"3\") { name price { amount } } }", json!({})).await;
    assert_eq!(one["data"]["product"], json!({ "name": "TV", "price": { "amount": "1000.00" } }));
    for id in ["4", "01", "x", ""] {
        let none = api.graphql(&token, "query ($id: ID!) { product(id: $id) { name } }", json!({ "id": id })).await;
        assert_eq!(none, json!({ "data": { "product": null } }));
    }
}

#[tokio::test]
async fn an_event_carries_the_trace_context_of_its_request() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for traceparent in [context, "00-x-y-01", "", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"] {
        let request = json!({ "query": PLACE, "variables": order("1", &[("1", 1)], None) });
        let request =
            api.request().bearer_auth(api.token(ALL_SCOPES, None)).header("traceparent", traceparent).json(&request);
        assert!(request.send().await.unwrap().text().await.unwrap().contains("\"userErrors\":[]"));
    }
    let rows = order_event::Entity::find().filter(order_event::Column::Type.eq(ORDER_PLACED));
    let rows = rows.order_by_asc(order_event::Column::Version).all(&db.connection).await.unwrap();
    assert!(rows[0].message().contains(&format!("\"traceparent\":\"{context}\"")));
    let new: Vec<&str> = rows[1..].iter().filter_map(|row| row.traceparent.as_deref()).collect();
    assert!(
        new.iter().all(|new| is_traceparent(new) && new[3..35] != context[3..35]),
        "malformed values are ignored: {new:?}"
    );
    assert!(new.len() == 3 && new[0] != new[1] && new[1] != new[2], "each request has its own: {new:?}");
}

#[tokio::test]
async fn an_order_can_be_read_right_after_it_was_placed_by_those_allowed_to_see_it() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        let token = api.token(ALL_SCOPES, None);
        let response = api.graphql(&token, PLACE, order("1", &[("1", 1), ("2", 3)], None)).await;
        let id = response["data"]["placeOrder"]["order"]["id"].as_str().unwrap().to_owned();
        // The order keeps the names and prices that it was placed with.
        db.connection.execute_unprepared("UPDATE products SET name = 'New', price = 1").await.unwrap();
        let read = async |token: &str, id: &str| {
            let query = "query ($id: ID!) { order(id: $id) {
                clientId total { amount } items { productId name quantity lineTotal { amount } } } }";
            api.graphql(token, query, json!({ "id": id })).await
        };
        let expected = json!({
            "clientId": "1",
            "total": { "amount": "3000.00" },
            "items": [
                { "productId": "1", "name": "Computer", "quantity": 1, "lineTotal": { "amount": "1500.00" } },
                { "productId": "2", "name": "Phone", "quantity": 3, "lineTotal": { "amount": "1500.00" } },
            ],
        });
        assert_eq!(read(&token, &id).await["data"]["order"], expected);
        assert_eq!(read(&api.token(ALL_SCOPES, Some("1")), &id).await["data"]["order"], expected);
        for another in ["2", "01", "x"] {
            assert_eq!(
                read(&api.token(ALL_SCOPES, Some(another)), &id).await["data"]["order"],
                Value::Null,
                "{another}"
            );
        }
        for absent in ["00000000-0000-0000-0000-000000000007", "7", ""] {
            assert_eq!(read(&token, absent).await["data"]["order"], Value::Null, "{absent}");
        }
        assert_eq!(code(&read(&api.token("clients:read", None), &id).await), "FORBIDDEN");
    }
}
