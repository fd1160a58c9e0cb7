//! Scopes, tokens for one client, and invalid tokens.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{ALL_SCOPES, Api, code, sqlite};

#[tokio::test]
async fn each_operation_requires_its_scope_and_a_client_token_only_reaches_its_client() {
    let api = Api::start(&sqlite().await).await;
    let operations = [
        ("clients:read", "{ client(id: \"1\") { id } }"),
        ("clients:read", "{ clientsByIds(ids: [\"1\"]) { id } }"),
        ("products:read", "{ product(id: \"1\") { id } }"),
        ("products:read", "{ products { nodes { id } } }"),
        ("orders:read", "{ order(id: \"1\") { id } }"),
        ("orders:cancel", "mutation { cancelOrder(input: { orderId: \"1\", reason: \"x\" }) { replayed } }"),
        (
            "orders:refund",
            "mutation { refundOrder(input: { orderId: \"1\", amount: \"1\", reason: \"x\" }) { replayed } }",
        ),
        ("orders:place", "mutation { placeOrder(input: { clientId: \"1\", items: [] }) { replayed } }"),
    ];
    for (scope, operation) in operations {
        let others: Vec<&str> = ALL_SCOPES.split(' ').filter(|other| *other != scope).collect();
        assert_eq!(code(&api.graphql("", operation, json!({})).await), "UNAUTHENTICATED", "{operation}");
        let refused = api.graphql(&api.token(&others.join(" "), None), operation, json!({})).await;
        let error = &refused["errors"][0];
        assert_eq!(error["extensions"], json!({ "code": "FORBIDDEN", "requiredScope": scope }));
        assert_eq!(error["message"], format!("The token needs the scope `{scope}`."));
        assert_eq!(code(&api.graphql(&api.token(scope, None), operation, json!({})).await), "none", "{operation}");
        assert_eq!(code(&api.graphql(&api.token(scope, Some("1")), operation, json!({})).await), "none", "{operation}");
    }
    let of_two = api.token(ALL_SCOPES, Some("2"));
    for operation in [
        "{ client(id: \"1\") { id } }",
        "{ client(id: \"02\") { id } }",
        "{ clientsByIds(ids: [\"2\", \"1\"]) { id } }",
        "mutation { placeOrder(input: { clientId: \"1\", items: [] }) { replayed } }",
    ] {
        let response = api.graphql(&of_two, operation, json!({})).await;
        assert_eq!(code(&response), "FORBIDDEN", "{operation}");
        assert_eq!(response["errors"][0]["message"], json!("The token is limited to client 2."));
        assert_eq!(response["errors"][0]["extensions"], json!({ "code": "FORBIDDEN" }), "nothing else is revealed");
    }
    assert_eq!(
        code(&api.graphql(&api.token(ALL_SCOPES, Some("")), "{ client(id: \"1\") { id } }", json!({})).await),
        "FORBIDDEN"
    );
}

#[tokio::test]
async fn an_invalid_token_is_rejected_with_401() {
    let api = Api::start(&sqlite().await).await;
    for header in ["Bearer x", "Bearer", "Basic eDp5", "x", ""] {
        let request = api.request().header("authorization", header).json(&json!({ "query": "{ __typename }" }));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{header:?}");
        assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer error="));
        let body: Value = response.json().await.unwrap();
        assert_eq!(code(&body), "UNAUTHENTICATED");
        assert!(body.get("data").is_none());
    }
    let without = api.anonymous_request().json(&json!({ "query": "{ __typename }" })).send().await.unwrap();
    assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(without.headers()["www-authenticate"], "Bearer", "no token is not an invalid one");
    // A proxy could have checked the other one.
    let twice = api.request().bearer_auth(api.token(ALL_SCOPES, None)).bearer_auth(api.token(ALL_SCOPES, None));
    let twice = twice.json(&json!({ "query": "{ __typename }" })).send().await.unwrap();
    assert_eq!(twice.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_root_field_without_its_scope_is_null_and_the_others_remain() {
    let api = Api::start(&sqlite().await).await;
    let days = "from: \"2026-01-01\", to: \"2026-01-02\"";
    for (scope, field) in [
        ("clients:read", "clientsByIds(ids: [1]) { id }".to_owned()),
        ("sales:read", "clients { nodes { id } }".into()),
        ("clients:read", "clients(search: \"bo\") { nodes { id } }".into()),
        ("products:read", "products { nodes { id } }".into()),
        ("orders:read", "orders { nodes { id } }".into()),
        ("sales:read", format!("sales({days}) {{ orderCount }}")),
        ("sales:read", format!("topProducts({days}) {{ units }}")),
        ("sales:read", format!("clientReport({days}) {{ clientCount }}")),
    ] {
        let others: Vec<&str> = ALL_SCOPES.split(' ').filter(|other| *other != scope).collect();
        let query = format!("{{ f: {field} __typename }}");
        let response = api.graphql(&api.token(&others.join(" "), None), &query, json!({})).await;
        assert_eq!(response["data"], json!({ "f": null, "__typename": "Query" }), "{field}: {response}");
        assert_eq!((code(&response), &response["errors"][0]["path"]), ("FORBIDDEN", &json!(["f"])), "{field}");
    }
}

#[tokio::test]
async fn what_was_written_is_returned_only_with_the_scope_to_read_it() {
    let api = Api::start(&sqlite().await).await;
    let client = "clientId client { id name } clientVersion userErrors { code }";
    let product = "productId product { id name } userErrors { code }";
    let register = "registerClient(input: { name: \"Zoë\", email: \"zoe@example.com\", idempotencyKey: \"5f9c\" })";
    for (mutation, fields, write, read, [id, object]) in [
        (register, client, "clients:write", "clients:read", ["clientId", "client"]),
        (register, client, "clients:write", "clients:read", ["clientId", "client"]),
        ("updateClient(input: { id: 2 })", client, "clients:write", "clients:read", ["clientId", "client"]),
        ("forgetClient(input: { id: 3 })", client, "clients:forget", "clients:read", ["clientId", "client"]),
        ("updateProduct(input: { id: 1 })", product, "products:write", "products:read", ["productId", "product"]),
        (
            "createProduct(input: { name: \"Lamp\", price: \"5\", idempotencyKey: \"7a1d\" })",
            product,
            "products:write",
            "products:read",
            ["productId", "product"],
        ),
    ] {
        let mutation = format!("mutation {{ result: {mutation} {{ {fields} }} }}");
        let response = api.graphql(&api.token(write, None), &mutation, json!({})).await;
        let result = &response["data"]["result"];
        assert!(result[id].is_string() && result["userErrors"] == json!([]), "{response}");
        assert_eq!((&result[object], &response["errors"][0]["path"]), (&Value::Null, &json!(["result", object])));
        assert_eq!(code(&response), "FORBIDDEN");
        assert_eq!(response["errors"][0]["extensions"]["requiredScope"], read);
        let response = api.graphql(&api.token(&format!("{write} {read}"), None), &mutation, json!({})).await;
        let result = &response["data"]["result"];
        assert_eq!((code(&response), &result[object]["id"]), ("none", &result[id]), "{response}");
    }
}

#[tokio::test]
async fn a_field_without_its_scope_is_null_and_the_rest_remains() {
    let api = Api::start(&sqlite().await).await;
    let place =
        "mutation { placeOrder(input: { clientId: 1, items: [{ productId: 1, quantity: 1 }] }) { clientVersion } }";
    assert_eq!(code(&api.graphql(&api.token(ALL_SCOPES, None), place, json!({})).await), "none");
    let update = "mutation { updateClient(input: { id: 1, name: \"Robert\" }) {
        client { name recentOrders { id client { email } } } } }";
    let response = api.graphql(&api.token("clients:write clients:read", None), update, json!({})).await;
    assert_eq!(
        response["data"]["updateClient"]["client"],
        json!({ "name": "Robert", "recentOrders": null }),
        "{response}"
    );
    assert_eq!(code(&response), "FORBIDDEN");
    assert_eq!(response["errors"][0]["path"], json!(["updateClient", "client", "recentOrders"]));
}
