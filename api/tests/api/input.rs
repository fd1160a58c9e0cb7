//! Variables and strings of clients.

use entity::order;
use sea_orm::{EntityTrait, PaginatorTrait};
use serde_json::{Value, json};

use crate::support::{ALL_SCOPES, Api, code, postgres, sqlite};

#[tokio::test]
async fn variables_are_coerced_before_anything_is_executed() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token(ALL_SCOPES, None);
    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { replayed } }";
    let page =
        "query ($first: Int, $all: Boolean! = true) { products(first: $first) @include(if: $all) { nodes { id } } }";
    let item = |quantity: Value| json!({ "input": { "clientId": "1", "items": [{ "productId": "1", "quantity": quantity }] } });
    for (query, variables) in [
        (place, json!({})),
        (place, json!({ "input": null })),
        (place, json!({ "input": 7 })),
        (place, json!({ "input": { "clientId": "1" } })),
        (place, item(json!(1.5))),
        (place, item(json!(3_000_000_000_u64))),
        (place, item(json!("1"))),
        (place, json!({ "input": { "clientId": "1", "items": [], "surprise": 1 } })),
        (page, json!({ "first": "2" })),
        (page, json!({ "first": [2] })),
        (page, json!({ "all": null })),
    ] {
        let response = api.graphql(&token, query, variables.clone()).await;
        assert_eq!((code(&response), response.get("data")), ("BAD_USER_INPUT", None), "{variables}: {response}");
    }
    let response = api.graphql(&token, page, json!({ "first": 2, "unused": {} })).await;
    assert_eq!(response["data"]["products"]["nodes"].as_array().unwrap().len(), 2, "a default in a directive counts");
    let one = json!({ "input": { "clientId": 1, "items": { "productId": 1, "quantity": 1 } } });
    assert_eq!(
        api.graphql(&token, place, one).await["data"]["placeOrder"]["replayed"],
        json!(false),
        "one item is a list"
    );
}

#[tokio::test]
async fn hostile_strings_are_treated_as_plain_strings() {
    let db = postgres().await;
    let api = Api::start(&db).await;
    let token = api.token(ALL_SCOPES, None);
    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { replayed userErrors { code } } }";
    let client = "query ($id: ID!, $ids: [ID!]!) { client(id: $id) { id } clientsByIds(ids: $ids) { id } product(id: $id) { id } }";
    for hostile in [
        "1'; DROP TABLE orders; --",
        "1 OR 1=1",
        "\\'; SELECT pg_sleep(60)",
        "1\r\nFLUSHALL\r\n",
        "*\r\n$1",
        "$(reboot)",
        "${jndi:ldap://127.0.0.1/x}",
        "../../etc/passwd",
        "{p0}",
        "\u{202e}\u{0}\u{ffff}",
    ] {
        let response = api.graphql(&token, client, json!({ "id": hostile, "ids": [hostile] })).await;
        let nothing = json!({ "client": null, "clientsByIds": [null], "product": null });
        assert_eq!((code(&response), &response["data"]), ("none", &nothing), "{hostile}");
        let items = json!([{ "productId": 1, "quantity": 1 }]);
        let order = json!({ "input": { "clientId": 1, "items": items, "idempotencyKey": hostile } });
        for replayed in [false, true] {
            let response = api.graphql(&token, place, order.clone()).await;
            let placed = &response["data"]["placeOrder"];
            let expected = if hostile.contains(char::is_control) {
                json!({ "replayed": false, "userErrors": [{ "code": "INVALID_IDEMPOTENCY_KEY" }] })
            } else {
                json!({ "replayed": replayed, "userErrors": [] })
            };
            assert_eq!(placed, &expected, "{hostile}: {response}");
        }
    }
    assert_eq!(order::Entity::find().count(&db.connection).await.unwrap(), 7);
}
