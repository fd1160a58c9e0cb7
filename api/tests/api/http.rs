//! GraphQL over HTTP: requests, headers, persisted queries and shutdown.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Api, code, sqlite};

#[tokio::test]
async fn a_malformed_request_gets_a_clear_error() {
    let api = Api::start(&sqlite().await).await;
    let post = async |content_type: &str, body: String| {
        let response = api.request().header("content-type", content_type).body(body).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let good = json!({ "query": "{ __typename }" }).to_string();
    for content_type in [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
        "application/json; odata=verbose; charset=\"utf-8\"",
        "application/json; profile",
        "application/json;",
    ] {
        assert_eq!(post(content_type, good.clone()).await, (200, json!({ "data": { "__typename": "Query" } })));
    }
    let marked = format!("\u{feff}{good}");
    assert_eq!(post("application/json", marked).await.0, 200, "a byte order mark is ignored");
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/json; version=1; Charset = latin1",
        "",
    ] {
        assert_eq!(post(content_type, good.clone()).await.0, 415, "{content_type}");
    }
    for body in
        ["", "{", "null", "7", "[]", "{}", "{\"query\":null}", "{\"query\":7}", "\u{0}", "{\"query\":\"\\ud800\"}"]
    {
        let (status, response) = post("application/json", body.into()).await;
        assert_eq!((status, code(&response)), (400, "BAD_REQUEST"), "{body:?}");
    }
    for body in [format!("[{good}]"), good.replace('}', ", \"variables\": [1]}"), "[".repeat(60_000)] {
        assert_eq!(post("application/json", body).await.0, 400);
    }
    let (status, response) = post("application/json", json!({ "query": " ".repeat(65 * 1024) }).to_string()).await;
    assert_eq!(status, 413);
    assert!(response["errors"][0]["message"].as_str().unwrap().contains("65536"));

    let get = async |query: &str| api.get(&format!("/graphql?query={query}")).send().await.unwrap().status().as_u16();
    assert_eq!((get("").await, get("%7B__typename%7D").await, get("mutation%7B__typename%7D").await), (400, 200, 405));
    let page = api.get("/graphql").header("accept", "text/html").send().await.unwrap();
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    assert_eq!(api.get("/nothing").send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn every_response_has_a_request_id_and_security_headers() {
    let flags = ["--cors-origins", "*"];
    let api = Api::start_with(&sqlite().await, &flags).await;
    let id = async |given: Option<&str>| {
        let mut request = api.request().json(&json!({ "query": "{ __typename }" }));
        if let Some(given) = given {
            request = request.header("x-request-id", given);
        }
        request.send().await.unwrap().headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(id(Some("abc-123")).await, "abc-123");
    for given in [None, Some(""), Some("a b"), Some("<script>"), Some(&*"x".repeat(65))] {
        assert_eq!(id(given).await.len(), 36, "{given:?}");
    }
    for path in ["/graphql", "/health/live", "/graphiql/", "/graphiql/config.json", "/nothing"] {
        let response = api.get(path).header("origin", "https://evil.example.com").send().await.unwrap();
        let headers = response.headers();
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert!(headers.contains_key("content-security-policy") && headers.contains_key("cache-control"), "{path}");
        let shared = headers.contains_key("access-control-allow-origin");
        assert_eq!(
            shared,
            path == "/graphql",
            "{path}: only GraphQL is for other origins, never the token of the page"
        );
    }
    let graphql = api.http.request(Method::PUT, format!("{}/graphql", api.address)).send().await.unwrap();
    assert_eq!(
        (graphql.status(), &graphql.headers()["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"GET, HEAD, POST".parse().unwrap())
    );
    assert!(
        graphql.text().await.unwrap().contains("distinct connections mode"),
        "graphql-sse begins its other mode with PUT"
    );
}

#[tokio::test]
async fn only_configured_origins_are_allowed_and_get_can_be_disabled() {
    let db = sqlite().await;
    let allowed_for = async |api: &Api, origin: &str| {
        let request = reqwest::Client::new().request(reqwest::Method::OPTIONS, format!("{}/graphql", api.address));
        let request = request.header("origin", origin).header("access-control-request-method", "POST");
        let response =
            request.header("access-control-request-headers", "authorization,content-type").send().await.unwrap();
        response.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned())
    };
    let closed = Api::start(&db).await;
    assert_eq!(allowed_for(&closed, "https://shop.example.com").await, None);
    let flags = ["--cors-origins", "https://shop.example.com,http://localhost:3000", "--graphql-get", "false"];
    let open = Api::start_with(&db, &flags).await;
    for origin in ["https://shop.example.com", "http://localhost:3000"] {
        assert_eq!(allowed_for(&open, origin).await.as_deref(), Some(origin));
    }
    assert_eq!(allowed_for(&open, "https://evil.example.com").await, None);
    let pattern = Api::start_with(&db, &["--cors-origins", "https://*.example.com"]).await;
    let sub_domain = "https://shop.example.com";
    assert_eq!(allowed_for(&pattern, sub_domain).await.as_deref(), Some(sub_domain));
    assert_eq!(allowed_for(&pattern, "https://example.com.evil.test").await, None);

    let query = "/graphql?query=%7B__typename%7D";
    assert_eq!(closed.get(query).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(open.get(query).send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn pages_may_send_the_usual_headers_or_the_configured_ones() {
    let db = sqlite().await;
    let allowed = async |flags: &[&str], header: &str| {
        let api = Api::start_with(&db, &[&["--cors-origins", "https://shop.example.com"], flags].concat()).await;
        let request = api.http.request(Method::OPTIONS, format!("{}/graphql", api.address));
        let request = request.header("origin", "https://shop.example.com");
        let request = request.header("access-control-request-method", "POST");
        let response = request.header("access-control-request-headers", header).send().await.unwrap();
        response.headers()["access-control-allow-headers"].to_str().unwrap().to_owned()
    };
    let usual = allowed(&[], "authorization").await;
    for header in [
        "accept",
        "authorization",
        "content-type",
        "apollographql-client-name",
        "apollographql-client-version",
        "apollo-require-preflight",
        "baggage",
        "traceparent",
        "tracestate",
        "x-request-id",
    ] {
        assert!(usual.split(',').any(|allowed| allowed == header), "{header}: {usual}");
    }
    assert!(!usual.contains("x-own"));
    assert_eq!(allowed(&["--cors-headers", "X-Own, Authorization"], "x-own").await, "x-own,authorization");
    assert_eq!(allowed(&["--cors-headers", "*"], "x-any,authorization").await, "x-any,authorization");
}

#[tokio::test]
async fn large_responses_are_compressed_when_the_client_accepts_gzip() {
    let api = Api::start(&sqlite().await).await;
    let ask = async |query: &str, accept: &str| {
        let request = api.request().json(&json!({ "query": query })).header("accept-encoding", accept);
        request
            .send()
            .await
            .unwrap()
            .headers()
            .get("content-encoding")
            .map(|encoding| encoding.to_str().unwrap().to_owned())
    };
    let large = "{ __schema { types { name description fields { name description } } } }";
    assert_eq!(ask(large, "gzip, br").await.as_deref(), Some("gzip"));
    assert_eq!(ask(large, "identity").await, None);
    assert_eq!(ask("{ __typename }", "gzip").await, None);
}

#[tokio::test]
async fn persisted_queries_work_over_get_and_post() {
    use sha2::Digest;
    let api = Api::start(&sqlite().await).await;
    let query = "{ __typename }";
    let extensions = |hash: &str| json!({ "persistedQuery": { "version": 1, "sha256Hash": hash } });
    let hash = format!("{:x}", sha2::Sha256::digest(query));
    let ask = async |body: Value| api.request().json(&body).send().await.unwrap().json::<Value>().await.unwrap();
    let missing = ask(json!({ "extensions": extensions(&hash) })).await;
    assert_eq!(
        (code(&missing), &missing["errors"][0]["message"]),
        ("PERSISTED_QUERY_NOT_FOUND", &json!("PersistedQueryNotFound"))
    );
    let known = json!({ "data": { "__typename": "Query" } });
    assert_eq!(ask(json!({ "query": query, "extensions": extensions(&hash) })).await, known);
    assert_eq!(ask(json!({ "extensions": extensions(&hash) })).await, known);
    assert_eq!(ask(json!({ "documentId": format!("sha256:{hash}") })).await, known);
    let url =
        reqwest::Url::parse_with_params("http://x/graphql", [("extensions", extensions(&hash).to_string())]).unwrap();
    let response = api.get(&format!("/graphql?{}", url.query().unwrap())).send().await.unwrap();
    assert_eq!(response.json::<Value>().await.unwrap(), known);
    assert_eq!(code(&ask(json!({ "query": query, "extensions": extensions("0000") })).await), "BAD_REQUEST");
    let as_float = json!({ "persistedQuery": { "version": 1.0, "sha256Hash": hash } });
    assert_eq!(ask(json!({ "extensions": as_float })).await, known);
    for wrong in
        [json!(7), json!({}), json!({ "version": 2, "sha256Hash": hash }), json!({ "version": 1, "sha256Hash": 7 })]
    {
        assert_eq!(
            code(&ask(json!({ "query": query, "extensions": { "persistedQuery": wrong } })).await),
            "BAD_REQUEST"
        );
    }
}

#[tokio::test]
async fn a_stopping_service_is_not_ready_but_still_responds() {
    let api = Api::start_with(&sqlite().await, &["--drain-delay", "1s"]).await;
    let ready = async || api.get("/health/ready").send().await.map(|response| response.status().as_u16()).ok();
    assert_eq!(ready().await, Some(200));
    api.stop();
    let mut responses = 0;
    while let Some(status) = ready().await {
        assert_eq!(status, 503, "a load balancer stops sending requests");
        let request = api.request().json(&json!({ "query": "{ __typename }" })).send().await;
        responses += u32::from(request.is_ok_and(|response| response.status() == 200));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(responses > 5, "requests that still arrive get a response: {responses}");
}

#[tokio::test]
async fn a_response_is_sent_whatever_encodings_are_accepted() {
    let api = Api::start(&sqlite().await).await;
    for accepted in ["identity;q=0", "*;q=0", "gzip;q=0, *;q=0", "gzip;q=0, identity;q=0.0", "br, IDENTITY ; q=0"] {
        let request = api.request().header("accept-encoding", accepted);
        let response = request.json(&json!({ "query": "{ __typename }" })).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{accepted}");
    }
}
