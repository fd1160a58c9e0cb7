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

#[tokio::test]
async fn a_malformed_argument_is_refused_before_anything_is_executed() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let token = api.token(ALL_SCOPES, None);
    let place = "a: placeOrder(input: { clientId: 1, items: [{ productId: 1, quantity: 1 }] }) { order { id } }";
    let create = |variables: &str, price: &str| {
        let create = format!("b: createProduct(input: {{ name: \"P\", price: {price} }}) {{ userErrors {{ code }} }}");
        format!("mutation {variables} {{ {place} {create} }}")
    };
    for price in ["\"abc\"", "\"\"", "5", "1.5", "true", "{ a: 1 }", "[\"1\"]", "ENUM", "null"] {
        let response = api.graphql(&token, &create("", price), json!({})).await;
        assert_eq!((code(&response), response.get("data")), ("GRAPHQL_VALIDATION_FAILED", None), "{price}: {response}");
        assert_eq!(response["errors"][0]["locations"][0]["line"], 1, "{price}: {response}");
    }
    for price in [json!("abc"), json!(5), json!(0.1), json!(true), json!({}), json!(["1"]), json!(null)] {
        let response = api.graphql(&token, &create("($price: Decimal!)", "$price"), json!({ "price": price })).await;
        assert_eq!((code(&response), response.get("data")), ("BAD_USER_INPUT", None), "{price}: {response}");
    }
    let create_input = format!(
        "mutation ($input: CreateProductInput!) {{ {place} createProduct(input: $input) {{ userErrors {{ code }} }} }}"
    );
    let malformed = json!({ "input": { "name": "P", "price": "1,5" } });
    let response = api.graphql(&token, &create_input, malformed).await;
    assert_eq!((code(&response), response.get("data")), ("BAD_USER_INPUT", None), "{response}");
    assert_eq!(order::Entity::find().count(&db.connection).await.unwrap(), 0);

    // A price that is well-formed but not allowed is the user's problem, and the other field keeps its result.
    for price in ["-1", "-0.01", "1.005", "99999999999999999999"] {
        let response = api.graphql(&token, &create("($price: Decimal!)", "$price"), json!({ "price": price })).await;
        assert!(response["data"]["a"]["order"]["id"].is_string(), "{price}: {response}");
        assert_eq!(response["data"]["b"], json!({ "userErrors": [{ "code": "PRICE_OUT_OF_RANGE" }] }), "{price}");
    }
}

#[tokio::test]
async fn a_null_stands_for_the_default_of_an_argument() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token(ALL_SCOPES, None);
    let sales = "sales(from: \"2026-01-01\", to: \"2026-01-02\"";
    for (field, argument, ty, rest) in [
        ("products(", "first", "Int", "{ nodes { id } }"),
        ("clients(", "sortBy", "ClientSort", "{ nodes { id } }"),
        (sales, ", granularity", "Granularity", "{ points { start } }"),
        (sales, ", timeZone", "String", "{ points { start } }"),
        ("orders(", "first", "Int", "{ nodes { id } }"),
        ("topProducts(from: \"2026-01-01\", to: \"2026-01-02\"", ", sortBy", "ProductSort", "{ units }"),
    ] {
        let without = format!("{{ f: {field}) {rest} }}").replace("()", "");
        let expected = api.graphql(&token, &without, json!({})).await;
        assert_eq!(code(&expected), "none", "{without}: {expected}");
        for query in [
            format!("query ($x: {ty}) {{ f: {field}{argument}: $x) {rest} }}"),
            format!("query ($x: {ty} = null) {{ f: {field}{argument}: $x) {rest} }}"),
            format!("{{ f: {field}{argument}: null) {rest} }}"),
        ] {
            for variables in [json!({ "x": null }), json!({})] {
                assert_eq!(api.graphql(&token, &query, variables).await, expected, "{query}");
            }
        }
    }
    let query = "query ($x: Boolean = true) { products @skip(if: $x) { nodes { id } } }";
    let response = api.graphql(&token, query, json!({ "x": null })).await;
    assert_eq!((code(&response), response.get("data")), ("BAD_USER_INPUT", None), "{response}");
}

#[tokio::test]
async fn variables_must_fit_inside_lists_and_input_objects() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token(ALL_SCOPES, None);
    let place = |variable: &str, item: &str| {
        format!("mutation ({variable}) {{ placeOrder(input: {{ clientId: 1, items: [{item}] }}) {{ replayed }} }}")
    };
    for query in [
        "query ($x: ID) { clientsByIds(ids: [$x]) { id } }".to_owned(),
        place("$x: Int", "{ productId: 1, quantity: $x }"),
        place("$x: String!", "{ productId: $x, quantity: 1 }"),
        place("$x: OrderItemInput", "$x"),
        place("$x: Int! = 1", "{ productId: 1, quantity: 1, quantity: $x }"),
        place("$x: Int = 1", "{ productId: 1, productId: 2, quantity: $x }"),
    ] {
        let response = api.graphql(&token, &query, json!({ "x": 1 })).await;
        assert_eq!(code(&response), "GRAPHQL_VALIDATION_FAILED", "{query}: {response}");
    }
    let with_default = place("$x: Int = 1", "{ productId: 1, quantity: $x }");
    let response = api.graphql(&token, &with_default, json!({})).await;
    assert_eq!(response["data"]["placeOrder"]["replayed"], json!(false), "{response}");
}

#[tokio::test]
async fn json_numbers_without_a_fraction_are_integers() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token(ALL_SCOPES, None);
    let query = "query ($first: Int!) { products(first: $first) { nodes { id } } }";
    for (number, expected) in [("2.0", 2), ("2e0", 2), ("20e-1", 2), ("1", 1), ("-0", 0)] {
        let body = format!(r#"{{ "query": "{query}", "operationName": "", "variables": {{ "first": {number} }} }}"#);
        let response: Value = api
            .request()
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        match expected {
            0 => assert_eq!(code(&response), "BAD_USER_INPUT", "{number}: {response}"),
            _ => assert_eq!(
                response["data"]["products"]["nodes"].as_array().unwrap().len(),
                expected,
                "{number}: {response}"
            ),
        }
    }
}
