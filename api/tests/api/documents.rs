//! Every valid spelling of a document is executed, and means the same.

use apollo_parser::Lexer;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::support::{ALL_SCOPES, Api, Socket, code, sqlite};

const IGNORED: [&str; 8] = [" ", ",", "\n", "\r", "\r\n", "\u{feff}", "\t", "# } \"\n"];

async fn start() -> (Api, String) {
    let api = Api::start_with(&sqlite().await, &["--rate-limit", "0"]).await;
    let token = api.token(ALL_SCOPES, None);
    (api, token)
}

#[tokio::test]
async fn ignored_tokens_change_nothing() {
    let (api, token) = start().await;
    let variables = json!({ "input": { "clientId": 1, "items": [{ "productId": 1, "quantity": 2 }], "idempotencyKey": "variable" } });
    let documents = [
        (
            "mutation Place($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } userErrors { code } } }",
            variables,
        ),
        (
            r#"mutation { first: placeOrder(input: { clientId: 1, items: [{ productId: "2", quantity: 1 }], idempotencyKey: """key""" })
              { order { total { amount } } clientVersion } }"#,
            json!({}),
        ),
        (
            r#"query Shop($ids: [ID!]! = [1, "2"], $first: Int = -1, $show: Boolean!) {
              clientsByIds(ids: $ids) { ...fields @include(if: $show) ... on Client { name } }
              products(first: 2) { nodes { id price { amount } } } failing: products(first: $first) { nodes { id } } }
            fragment fields on Client { id recentOrders(first: 1) { id } }"#,
            json!({ "show": true }),
        ),
    ];
    for (document, variables) in documents {
        // The first order is placed; all others repeat it.
        let expected = api.graphql(&token, document, variables.clone()).await;
        let places: Vec<usize> = Lexer::new(document).map(|token| token.unwrap().index()).collect();
        let variants = places.iter().flat_map(|at| {
            IGNORED.iter().map(|ignored| {
                let (before, after) = document.split_at(*at);
                format!("{before}{ignored}{after}")
            })
        });
        let variants: Vec<String> = variants.collect();
        let responses = stream::iter(&variants)
            .map(async |variant| (variant, api.graphql(&token, variant, variables.clone()).await));
        let mut responses = responses.buffer_unordered(8);
        while let Some((variant, mut response)) = responses.next().await {
            // Places in the text differ.
            for error in response.get_mut("errors").and_then(Value::as_array_mut).into_iter().flatten() {
                error["locations"] = expected["errors"][0]["locations"].clone();
            }
            assert_eq!(response, expected, "{variant:?}");
        }
    }
}

#[tokio::test]
async fn an_idempotency_key_is_the_same_however_it_is_written() {
    let (api, token) = start().await;
    let place = |key: &str| {
        format!(
            "placeOrder(input: {{ clientId: 1, items: [{{ productId: 1, quantity: 1 }}], idempotencyKey: {key} }}) {{ replayed order {{ id }} }}"
        )
    };
    let documents = [
        format!("mutation {{ {} }}", place(r#""cle\"é-😀""#)),
        format!("mutation {{ {} }}", place(r#""cl\u0065\u{22}\u00e9\u{2D}\uD83D\uDE00""#)),
        format!("mutation {{ {} }}", place("\"\"\"\n    cle\"é-😀\n  \"\"\"")),
        format!("mutation($key: String!) {{ {} }}", place("$key")),
    ];
    let mut orders = Vec::new();
    for (number, document) in documents.iter().enumerate() {
        let response = api.graphql(&token, document, json!({ "key": "cle\"é-😀" })).await;
        let placed = &response["data"]["placeOrder"];
        assert_eq!(placed["replayed"], number > 0, "{document}: {response}");
        orders.push(placed["order"]["id"].clone());
    }
    orders.dedup();
    assert_eq!(orders.len(), 1);
}

#[tokio::test]
async fn strings_have_the_value_of_the_specification() {
    let (api, token) = start().await;
    let cases = [
        (r#""""a \""" b""""#, r#"a """ b"#),
        (r#""""a \n \\ b""""#, r"a \n \\ b"),
        (r#""\u{1F600}\u{000041}""#, "😀A"),
        (r#""\uD83D\uDE00 \u00E9""#, "😀 é"),
        (r#""\"\\\/""#, r#""\/"#),
    ];
    for (number, (literal, value)) in cases.into_iter().enumerate() {
        let document = format!(
            "mutation {{ registerClient(input: {{ name: {literal}, email: \"{number}@example.com\" }}) {{ client {{ name }} }} }}"
        );
        let response = api.graphql(&token, &document, json!({})).await;
        assert_eq!(response["data"]["registerClient"]["client"]["name"], value, "{literal}: {response}");
    }
    for lone in [r#""\uD83D""#, r#""\uDE00""#, r#""\u{D83D}""#, r#""\u{110000}""#] {
        let response = api.graphql(&token, &format!("{{ product(id: {lone}) {{ id }} }}"), json!({})).await;
        assert_eq!(code(&response), "GRAPHQL_PARSE_FAILED", "{lone}");
    }
}

#[tokio::test]
async fn numbers_have_the_value_of_the_specification() {
    let (api, token) = start().await;
    for document in [
        "{ products(first: -0) { nodes { id } } }",
        "query ($first: Int = -0) { products(first: $first) { nodes { id } } }",
    ] {
        let response = api.graphql(&token, document, json!({})).await;
        assert_eq!(response["errors"][0]["message"], "`first` is 0: it must be from 1 to 100.", "{response}");
        assert_eq!(code(&response), "BAD_USER_INPUT");
    }
    for id in ["-0", "9223372036854775808", "123456789012345678901234567890"] {
        for document in [
            format!("{{ product(id: {id}) {{ id }} }}"),
            format!("query ($id: ID! = {id}) {{ product(id: $id) {{ id }} }}"),
        ] {
            let response = api.graphql(&token, &document, json!({})).await;
            assert_eq!(response, json!({ "data": { "product": null } }), "{document}");
        }
    }
    let response = api.graphql(&token, "{ products(first: 2147483648) { nodes { id } } }", json!({})).await;
    assert_eq!(code(&response), "GRAPHQL_VALIDATION_FAILED");
}

#[tokio::test]
async fn unusual_syntax_is_executed() {
    let (api, token) = start().await;
    let product = json!({ "data": { "product": { "name": "Computer" } } });
    for document in [
        "query ($id:ID !) { product(id: $id) { name } }",
        "query ($id: # the id\n ID,!, = 1) { product(id: $id) { name } }",
        "{ product(id: 1) { ... on #c\nProduct { name } } }",
        "{ product(id: 1) { ... #c\n@include(if: true) { name } } }",
        "\"\"\"The first product.\"\"\" query Q { product(id: 1) { name } }",
        "query (\"The product.\" $id: ID! = \"1\") { product(id: $id) { name } }",
        "\"Products.\" fragment f on Product { name } query { product(id: 1) { ...f } }",
    ] {
        assert_eq!(api.graphql(&token, document, json!({ "id": 1 })).await, product, "{document}");
    }
    let document = "query ($ids: [ ID!] !) { clientsByIds(ids: $ids) { id } }";
    let response = api.graphql(&token, document, json!({ "ids": [] })).await;
    assert_eq!(response, json!({ "data": { "clientsByIds": [] } }));
}

#[tokio::test]
async fn an_absent_variable_leaves_the_default_of_its_argument() {
    let (api, token) = start().await;
    let document =
        "query ($first: Int, $granularity: Granularity) { ...f ... { products(first: $first) { nodes { id } } } }
        fragment f on Query { clients(first: $first) { nodes { id } }
            sales(from: \"2024-01-01\", to: \"2024-01-02\", granularity: $granularity) { points { orderCount } } }";
    let response = api.graphql(&token, document, json!({})).await;
    assert_eq!(response["errors"], Value::Null, "{response}");
    assert_eq!(response["data"]["sales"]["points"].as_array().unwrap().len(), 2, "by day");
    assert_eq!(response["data"]["products"]["nodes"].as_array().unwrap().len(), 3);

    let update =
        "mutation ($name: String, $email: String) { updateClient(input: { id: 1, name: $name, email: $email }) {
        client { name email } userErrors { code } } }";
    let response = api.graphql(&token, update, json!({ "email": "new@example.com" })).await;
    assert_eq!(response["data"]["updateClient"]["client"]["email"], "new@example.com", "{response}");
    assert_ne!(response["data"]["updateClient"]["client"]["name"], Value::Null);
}

#[tokio::test]
async fn fragments_at_the_root_of_a_subscription_are_executed() {
    let (api, token) = start().await;
    let mut socket = Socket::acknowledged(&api, &token).await;
    let document = "subscription { ... { ...f } } fragment f on Subscription { live: salesChanged { ordersToday } }";
    socket.subscribe("1", document).await;
    let next = json!({ "id": "1", "type": "next", "payload": { "data": { "live": { "ordersToday": 0 } } } });
    assert_eq!(socket.receive().await, next);
}
