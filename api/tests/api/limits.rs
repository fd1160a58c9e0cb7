//! The limits of documents and requests.

use reqwest::StatusCode;
use serde_json::json;

use crate::support::{ALL_SCOPES, Api, code, sqlite};

#[tokio::test]
async fn each_document_limit_has_an_error_code_and_a_setting() {
    let db = sqlite().await;
    let api = Api::start_with(&db, &["--max-response-bytes", "2000000"]).await;
    let generous = [
        ("--max-name-length", "9000"),
        ("--max-response-bytes", "99000000"),
        ("--max-tokens", "9000"),
        ("--max-nesting", "64"),
        ("--max-selections", "9000"),
        ("--max-aliases", "900"),
        ("--max-root-fields", "900"),
        ("--max-mutation-fields", "900"),
        ("--max-directives", "900"),
        ("--max-depth", "60"),
        ("--max-complexity", "999000"),
    ];
    let flags: Vec<&str> = generous.iter().flat_map(|(flag, value)| [*flag, *value]).collect();
    let open = Api::start_with(&db, &flags).await;
    let token = api.token(ALL_SCOPES, None);
    let names = |n: usize| " __typename".repeat(n);
    let place = |n: usize| format!("m{n}: placeOrder(input: {{ clientId: 0, items: [] }}) {{ replayed }} ");
    let inner = |selections: String| format!("{{ products {{ pageInfo {{ {selections} }} }} }}");
    let deep = "{ products { nodes { ... { ... { ".to_owned() + &"... { ".repeat(28) + "id" + &" }".repeat(33);
    let aliases: String = (0..29).map(|n| format!("{}{n}: name ", "a".repeat(98))).collect();
    let cases = [
        ("MAX_NAME_LENGTH_LIMIT", format!("{{ {}: __typename }}", "a".repeat(101))),
        (
            "MAX_RESPONSE_LIMIT",
            format!("{{ __schema {{ types {{ fields {{ type {{ fields {{ args {{ {aliases} }} }} }} }} }} }} }}"),
        ),
        ("MAX_TOKENS_LIMIT", format!("{{ products {{ nodes {{ {} }} }} }}", " id".repeat(2_000))),
        ("MAX_NESTING_LIMIT", deep),
        (
            "MAX_SELECTIONS_LIMIT",
            format!("{{ products {{ nodes {{ {} }} }} }} fragment f on Product {{ id id id }}", "...f ".repeat(700)),
        ),
        ("MAX_ALIASES_LIMIT", inner((0..31).map(|n| format!("a{n}: __typename ")).collect())),
        ("MAX_ROOT_FIELDS_LIMIT", format!("{{ {} }}", names(21))),
        ("MAX_ROOT_FIELDS_LIMIT", format!("mutation {{ {} }}", (0..11).map(place).collect::<String>())),
        ("MAX_DIRECTIVES_LIMIT", inner("... @include(if: true) { __typename }".repeat(21))),
        ("MAX_COMPLEXITY_LIMIT", "{ products(first: 100) { nodes { id name price { amount } } edges { cursor node { id name price { amount } } } } }".into()),
    ];
    for (limit, query) in cases {
        let response = api.graphql(&token, &query, json!({})).await;
        assert_eq!((code(&response), response.get("data")), (limit, None), "{query}");
        let response = open.graphql(&token, &query, json!({})).await;
        assert_eq!(code(&response), "none", "{limit} has no setting: {response}");
    }
    // In this schema only introspection can exceed the default depth.
    let shallow = Api::start_with(&db, &["--max-depth", "2"]).await;
    let query = "{ products { nodes { id } } }";
    assert_eq!(code(&shallow.graphql(&token, query, json!({})).await), "MAX_DEPTH_LIMIT");
}

#[tokio::test]
async fn too_deep_and_too_large_documents_are_rejected() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token(ALL_SCOPES, None);
    let deep = format!("{{ {} __typename {} }}", "products { nodes { ".repeat(20), "} } ".repeat(20));
    let wide: String = (0..600).map(|n| format!("a{n}: product(id: \"1\") {{ id }} ")).collect();
    let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    for query in [deep, format!("{{ {wide} }}"), "{".repeat(5_000)] {
        let response = api.graphql(&token, &query, json!({})).await;
        assert!(response["errors"].is_array(), "{response}");
    }
    let response =
        api.graphql(&token, "query ($ids: [ID!]!) { clientsByIds(ids: $ids) { id } }", json!({ "ids": many })).await;
    assert_eq!(code(&response), "BAD_USER_INPUT");
}

#[tokio::test]
async fn a_too_large_body_is_rejected() {
    let db = sqlite().await;
    let api = Api::start_with(&db, &["--max-body-bytes", "100"]).await;
    for (length, expected) in [(60, 200), (101, 413)] {
        let body = format!("{:<length$}", r#"{"query": "{ __typename }"}"#);
        let response = api.request().header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(response.status().as_u16(), expected);
        if expected == 413 {
            assert_eq!(code(&response.json().await.unwrap()), "MAX_BODY_LIMIT");
        }
    }
}

#[tokio::test]
async fn only_the_first_syntax_error_is_reported() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token("", None);
    let response = api.graphql(&token, &format!("{{\n  {}", "?".repeat(60_000)), json!({})).await;
    assert_eq!((code(&response), response["errors"].as_array().unwrap().len()), ("GRAPHQL_PARSE_FAILED", 1));
    assert_eq!(response["errors"][0]["locations"], json!([{ "line": 2, "column": 3 }]));
    let api = Api::start_with(&sqlite().await, &["--max-name-length", "20000"]).await;
    let long = format!("{{ {} {} }}", "a".repeat(20_000), "b".repeat(20_000));
    assert!(api.graphql(&token, &long, json!({})).await.to_string().len() < 2_000, "names in errors are shortened");
    let request = api.request().header("content-type", "application/json").header("content-encoding", "gzip");
    assert_eq!(request.body("{}").send().await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn no_error_repeats_a_long_text() {
    let api = Api::start(&sqlite().await).await;
    let long = "\u{1f4f1}".repeat(14_000);
    let query = |variables: serde_json::Value| {
        let document =
            "query ($id: ID, $n: Int, $day: Date) { product(id: $id) { id } products(first: $n) { nodes { id } }
                        sales(from: $day, to: $day) { orderCount } }";
        json!({ "query": document, "variables": variables })
    };
    let bodies = [
        json!({ "query": "query A { __typename }", "operationName": long }),
        json!({ "query": "{ __typename }", "variables": long }),
        json!({ "query": [long] }),
        json!({ "query": format!("{{ product(id: \"{long}\") {{ id }} }}") }),
        json!({ "query": format!("{{ products(first: \"{long}\") {{ nodes {{ id }} }} }}") }),
        json!({ "documentId": long }),
        query(json!({ "id": long })),
        query(json!({ "id": 1, "n": long })),
        query(json!({ "id": 1, "day": long })),
        query(json!({ "id": 1, "n": [long] })),
        json!({ (long.as_str()): 1 }),
    ];
    for body in bodies {
        let response = api.request().json(&body).send().await.unwrap().text().await.unwrap();
        assert!(response.len() < 2_500, "{} bytes: {}", response.len(), response.chars().take(300).collect::<String>());
    }
    let url = format!("/graphql?query={{__typename}}&variables={}", "x".repeat(10_000));
    assert!(api.get(&url).send().await.unwrap().text().await.unwrap().len() < 1_000);
}
