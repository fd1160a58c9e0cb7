//! What the edge refuses, bounds, hides and logs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::edge::pages::graphiql::Exploring;
use entity::{Event, order};
use futures::future::join_all;
use futures::stream::{BoxStream, StreamExt};
use read_model::sales::{OrderSummary, StoredOrder, Sum};
use read_model::{Applied, Client, Error, Memory, Product, RankPosition, Ranking, ReadModel};
use reqwest::{Method, StatusCode};
use sea_orm::{EntityTrait, PaginatorTrait, QuerySelect, TransactionTrait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;
use winterbaume_sqs::SqsService;

use crate::support::{ALL, Api, PROTOCOL, Socket, code, postgres, queue, sqlite, until};

/// A read model that never answers.
struct Silent;

#[async_trait::async_trait]
impl ReadModel for Silent {
    async fn apply(&self, _: &[Event]) -> Vec<Result<Applied, Error>> {
        std::future::pending().await
    }

    async fn clients(&self, _: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        std::future::pending().await
    }

    async fn ranked_clients(&self, _: Ranking, _: Option<RankPosition>, _: usize) -> Result<Vec<RankPosition>, Error> {
        std::future::pending().await
    }

    async fn recent_orders(&self, _: &[i64], _: usize) -> Result<Vec<Vec<OrderSummary>>, Error> {
        std::future::pending().await
    }

    async fn order(&self, _: Uuid, _: Option<i64>) -> Result<Option<StoredOrder>, Error> {
        std::future::pending().await
    }

    async fn products(&self, _: &[i64]) -> Result<Vec<Option<Product>>, Error> {
        std::future::pending().await
    }

    async fn buckets(&self, _: &[String]) -> Result<Vec<Vec<Sum>>, Error> {
        std::future::pending().await
    }

    async fn product_sales(&self, _: &[String]) -> Result<HashMap<i64, Sum>, Error> {
        std::future::pending().await
    }

    async fn changes(&self) -> Result<BoxStream<'static, i64>, Error> {
        Ok(futures::stream::pending().boxed())
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn every_limit_of_a_document_has_a_code_and_can_be_set() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let generous = [
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
    let token = api.token(ALL, None);
    let names = |n: usize| " __typename".repeat(n);
    let place = |n: usize| format!("m{n}: placeOrder(input: {{ clientId: 0, items: [] }}) {{ replayed }} ");
    let inner = |selections: String| format!("{{ products {{ pageInfo {{ {selections} }} }} }}");
    let deep = "{ products { nodes { ... { ... { ".to_owned() + &"... { ".repeat(28) + "id" + &" }".repeat(33);
    let cases = [
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
        let answer = api.graphql(&token, &query, json!({})).await;
        assert_eq!((code(&answer), answer.get("data")), (limit, None), "{query}");
        let answer = open.graphql(&token, &query, json!({})).await;
        assert_eq!(code(&answer), "none", "{limit} cannot be set: {answer}");
    }
    // Introspection alone nests so deep here.
    let shallow = Api::start_with(&db, &["--max-depth", "2"]).await;
    let query = "{ products { nodes { id } } }";
    assert_eq!(code(&shallow.graphql(&token, query, json!({})).await), "MAX_DEPTH_LIMIT");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let db = sqlite().await;
    let api = Api::start_with(&db, &["--max-body-bytes", "100"]).await;
    for (length, expected) in [(60, 200), (101, 413)] {
        let body = format!("{:<length$}", r#"{"query": "{ __typename }"}"#);
        let answer = api.request().header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), expected);
        if expected == 413 {
            assert_eq!(code(&answer.json().await.unwrap()), "MAX_BODY_LIMIT");
        }
    }
}

#[tokio::test]
async fn a_fault_of_the_first_character_is_all_that_is_told() {
    let api = Api::start(&sqlite().await).await;
    let answer = api.graphql("", &format!("{{\n  {}", "?".repeat(60_000)), json!({})).await;
    assert_eq!((code(&answer), answer["errors"].as_array().unwrap().len()), ("GRAPHQL_PARSE_FAILED", 1));
    assert_eq!(answer["errors"][0]["locations"], json!([{ "line": 2, "column": 3 }]));
    let long = format!("{{ {} {} }}", "a".repeat(20_000), "b".repeat(20_000));
    assert!(api.graphql("", &long, json!({})).await.to_string().len() < 2_000, "names come from the request");
    let request = api.request().header("content-type", "application/json").header("content-encoding", "gzip");
    assert_eq!(request.body("{}").send().await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn nobody_is_waited_for_for_ever() {
    let api = Api::start(&sqlite().await).await;
    let says = async |text: &str| {
        let mut socket = TcpStream::connect(api.address.trim_start_matches("http://")).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // Until the server hangs up; what keeps the connection open fails the test.
        let _ = tokio::time::timeout(Duration::from_secs(60), socket.read_to_string(&mut answer)).await.unwrap();
        answer
    };
    let headers = says("GET /health/live HTTP/1.1\r\nhost:");
    let head = "POST /graphql HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
    let begun = format!("{head}\r\ncontent-length: 50\r\n\r\n{{");
    let body = says(&begun);
    let silent = async { Socket::acknowledged(&api, &api.token(ALL, None)).await.pinged().await };
    let (headers, body, ()) = tokio::join!(headers, body, silent);
    assert!(headers.is_empty() || headers.starts_with("HTTP/1.1 408"), "{headers}");
    assert!(body.starts_with("HTTP/1.1 408") && body.contains("REQUEST_TIMEOUT"), "{body}");
}

#[tokio::test]
async fn an_operation_has_its_time_but_an_order_is_never_cut_in_half() {
    let db = postgres().await;
    let api = Api::start_on(
        &db,
        Arc::new(Silent),
        queue(SqsService::new()).await,
        &["--read-wait", "10ms", "--operation-timeout", "300ms"],
    )
    .await;
    let token = api.token(ALL, None);
    let answer = api.graphql(&token, "{ client(id: 1) { id } }", json!({})).await;
    assert_eq!(code(&answer), "OPERATION_TIMEOUT");

    // Somebody holds the client for longer than that.
    let other = db.connection.begin().await.unwrap();
    entity::client::Entity::find_by_id(1).lock_exclusive().one(&other).await.unwrap();
    let place = "mutation { placeOrder(input: { clientId: 1, items: [{ productId: 1, quantity: 1 }] }) { replayed } }";
    let answer = api.graphql(&token, place, json!({})).await;
    assert_eq!(code(&answer), "OPERATION_TIMEOUT");
    assert!(answer["errors"][0]["message"].as_str().unwrap().contains("idempotencyKey"), "{answer}");
    other.rollback().await.unwrap();
    until("the order stands", async || order::Entity::find().count(&db.connection).await.unwrap() == 1).await;
}

#[tokio::test]
async fn too_many_at_once_are_told_to_come_again() {
    let db = sqlite().await;
    let flags = ["--max-concurrent-operations", "2", "--operation-timeout", "2s"];
    let api = Api::start_on(&db, Arc::new(Silent), queue(SqsService::new()).await, &flags).await;
    let token = api.token(ALL, None);
    let ask = async || {
        let request = api.request().bearer_auth(&token).json(&json!({ "query": "{ client(id: 1) { id } }" }));
        let answer = request.send().await.unwrap();
        let (status, retry) = (answer.status(), answer.headers().get("retry-after").cloned());
        (status, retry.is_some(), code(&answer.json().await.unwrap()).to_owned())
    };
    let mut answers = join_all((0..5).map(|_| ask())).await;
    answers.sort_by_key(|(status, ..)| *status);
    let timeout = (StatusCode::OK, false, "OPERATION_TIMEOUT".into());
    let busy = (StatusCode::SERVICE_UNAVAILABLE, true, "SERVER_BUSY".into());
    assert_eq!(answers, [timeout.clone(), timeout.clone(), busy.clone(), busy.clone(), busy]);
    assert_eq!(ask().await, timeout, "there is room again");

    // Nor can one caller take all the room.
    let flags = ["--max-operations-per-caller", "1", "--operation-timeout", "2s"];
    let api = Api::start_on(&db, Arc::new(Silent), queue(SqsService::new()).await, &flags).await;
    let token = api.token(ALL, None);
    let waits = async || api.graphql(&token, "{ client(id: 1) { id } }", json!({})).await;
    let (one, two, other) = tokio::join!(waits(), waits(), api.graphql("", "{ __typename }", json!({})));
    let mut codes = [code(&one), code(&two)];
    codes.sort();
    assert_eq!((codes, code(&other)), (["OPERATION_TIMEOUT", "SERVER_BUSY"], "none"));
}

#[tokio::test]
async fn each_subject_and_each_address_has_its_share() {
    let db = sqlite().await;
    let flags = ["--rate-limit", "1", "--max-complexity", "100", "--trusted-proxies", "2"];
    let api = Api::start_with(&db, &flags).await;
    let ask = async |token: &str, query: &str, forwarded: &str| {
        let mut request = api.request().header("x-forwarded-for", forwarded).json(&json!({ "query": query }));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        let retry = answer.headers().get("retry-after").map(|after| after.to_str().unwrap().parse::<u64>().unwrap());
        (answer.status().as_u16(), retry, code(&answer.json().await.unwrap()).to_owned())
    };
    let of = |subject: &str| api.tokens.mint(subject, ALL, None, Duration::from_secs(60)).unwrap();
    let (one, other) = (of("one"), of("other"));
    let dear = "{ products(first: 20) { nodes { id name } } }"; // 61 of 100, and 10 to prepare it
    assert_eq!(ask(&one, dear, "").await, (200, None, "none".into()));
    let (status, retry, code) = ask(&one, dear, "").await;
    assert_eq!((status, &*code), (429, "RATE_LIMITED"));
    assert!((20..=33).contains(&retry.unwrap()), "{retry:?}");
    assert_eq!(ask(&one, "{ __typename }", "").await.0, 200, "what is cheap still has room");
    assert_eq!(ask(&other, dear, "").await.0, 200, "others do not suffer");

    // By the address that the outermost of two proxies has seen; what is further left anybody can write.
    for n in 0..10 {
        assert_eq!(ask("", "{ nothing }", &format!("{n}.{n}.{n}.{n}, 192.0.2.1:{n}, 10.0.0.1")).await.0, 200, "{n}");
    }
    assert_eq!(ask("", "{ nothing }", "192.0.2.1, 10.0.0.1").await.0, 429, "mistakes are charged too");
    assert_eq!(ask("", "{ nothing }", "192.0.2.2, 10.0.0.1").await.0, 200);
    for n in 0..10 {
        assert_eq!(
            ask("x", "{ __typename }", &format!("[2001:db8::{n}], 10.0.0.1")).await.0,
            401,
            "tokens can be guessed"
        );
    }
    assert_eq!(ask("x", "{ __typename }", "2001:db8::99, 10.0.0.1").await.0, 429, "a network is one address");
    let open = async || Socket::open(&api, &[PROTOCOL, ("x-forwarded-for", "192.0.2.9, 10.0.0.1")]).await.err();
    for _ in 0..10 {
        assert_eq!(open().await, None);
    }
    assert_eq!(open().await, Some(429), "opening sockets is charged");

    let unlimited = Api::start_with(&db, &["--rate-limit", "0"]).await;
    for _ in 0..200 {
        assert_eq!(
            super::support::code(&unlimited.graphql("", "{ nothing }", json!({})).await),
            "GRAPHQL_VALIDATION_FAILED"
        );
    }
}

#[tokio::test]
async fn variables_are_coerced_before_anything_is_executed() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token(ALL, None);
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
        let answer = api.graphql(&token, query, variables.clone()).await;
        assert_eq!((code(&answer), answer.get("data")), ("BAD_USER_INPUT", None), "{variables}: {answer}");
    }
    let answer = api.graphql(&token, page, json!({ "first": 2, "unused": {} })).await;
    assert_eq!(answer["data"]["products"]["nodes"].as_array().unwrap().len(), 2, "a default in a directive counts");
    let one = json!({ "input": { "clientId": 1, "items": { "productId": 1, "quantity": 1 } } });
    assert_eq!(
        api.graphql(&token, place, one).await["data"]["placeOrder"]["replayed"],
        json!(false),
        "one item is a list"
    );
}

#[tokio::test]
async fn the_schema_and_the_page_are_shown_only_where_that_is_switched_on() {
    let db = sqlite().await;
    let start = async |exploring| {
        Api::start_exploring(&db, Arc::new(Memory::default()), queue(SqsService::new()).await, &[], exploring).await
    };
    let closed = start(Exploring::Off).await;
    let schema = "{ __schema { queryType { name } } }";
    let answer = closed.graphql(&closed.token(ALL, None), schema, json!({})).await;
    assert_eq!((code(&answer), answer.get("data")), ("INTROSPECTION_DISABLED", None));
    assert_eq!(closed.graphql("", "{ __typename }", json!({})).await["data"]["__typename"], json!("Query"));
    let misspelt = closed.graphql("", "{ clyent(id: 1) { id } }", json!({})).await;
    assert!(!misspelt.to_string().contains("client"), "no suggestions: {misspelt}");
    for path in ["/", "/graphiql/", "/graphiql/config.json", "/dashboard", "/shop", "/pages/config.json"] {
        assert_eq!(closed.get(path).send().await.unwrap().status(), StatusCode::NOT_FOUND, "{path}");
    }
    let readable = start(Exploring::Introspection).await;
    assert_eq!(readable.graphql("", schema, json!({})).await["data"]["__schema"]["queryType"]["name"], json!("Query"));
    assert_eq!(readable.get("/graphiql/").send().await.unwrap().status(), StatusCode::NOT_FOUND);

    let open = start(Exploring::Graphiql { token: Some("of-the-page".into()) }).await;
    let page = open.get("/").header("accept", "text/html").send().await.unwrap();
    assert_eq!((page.status(), page.url().path()), (StatusCode::OK, "/graphiql/"));
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'self'") && !policy.contains("unsafe-eval"), "{policy}");
    assert!(page.text().await.unwrap().contains("GraphiQL"));
    let config = open.get("/graphiql/config.json").send().await.unwrap().json::<Value>().await.unwrap();
    assert_eq!(config["headers"], json!({ "Authorization": "Bearer of-the-page" }));
    for example in config["examples"].as_array().unwrap() {
        let request = open.request().header("accept", "text/event-stream, application/json;q=0.5");
        let mut answer = request.json(&json!({ "query": example })).send().await.unwrap();
        let first = answer.chunk().await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&first).contains("UNAUTHENTICATED"), "an example is not valid: {example}");
    }
    let rebound = open.get("/graphiql/config.json").header("host", "evil.example.com").send().await.unwrap();
    assert_eq!(rebound.json::<Value>().await.unwrap()["headers"], json!({}), "a page of another name gets no token");

    // Of the pages as well, which a browser opens in pages.test.js.
    let page = Exploring::Graphiql { token: Some("of-the-page".into()) };
    let (memory, queue) = (Arc::new(Memory::default()), queue(SqsService::new()).await);
    let pages = Api::start_exploring(&db, memory, queue, &["--dashboard"], page).await;
    let config = async |host: &str| {
        let answer = pages.get("/pages/config.json").header("host", host).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["headers"].clone()
    };
    assert_eq!(config("127.0.0.1").await, json!({ "Authorization": "Bearer of-the-page" }));
    assert_eq!(config("evil.example.com").await, json!({}));
    for path in ["/graphiql/../Cargo.toml", "/graphiql/%2e%2e/Cargo.toml", "/graphiql/assets/none.js"] {
        assert_eq!(open.get(path).send().await.unwrap().status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn every_answer_has_an_id_and_harmless_headers() {
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
        let answer = api.get(path).header("origin", "https://evil.example.com").send().await.unwrap();
        let headers = answer.headers();
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert!(headers.contains_key("content-security-policy") && headers.contains_key("cache-control"), "{path}");
        let shared = headers.contains_key("access-control-allow-origin");
        assert_eq!(shared, path == "/graphql", "{path}: only GraphQL is for other origins, never the page's token");
    }
    let graphql = api.http.request(Method::PUT, format!("{}/graphql", api.address)).send().await.unwrap();
    assert_eq!(graphql.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_service_that_stops_says_so_before_it_does() {
    let api = Api::start_with(&sqlite().await, &["--drain-delay", "1s"]).await;
    let ready = async || api.get("/health/ready").send().await.map(|answer| answer.status().as_u16()).ok();
    assert_eq!(ready().await, Some(200));
    api.stop();
    let mut answers = 0;
    while let Some(status) = ready().await {
        assert_eq!(status, 503, "a load balancer looks elsewhere");
        let request = api.request().json(&json!({ "query": "{ __typename }" })).send().await;
        answers += u32::from(request.is_ok_and(|answer| answer.status() == 200));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(answers > 5, "what still comes is answered: {answers}");
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_can_read_that() {
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
    let answer = api.get(&format!("/graphql?{}", url.query().unwrap())).send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap(), known);
    assert_eq!(code(&ask(json!({ "query": query, "extensions": extensions("0000") })).await), "BAD_REQUEST");
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
async fn hostile_strings_are_only_strings() {
    let db = postgres().await;
    let api = Api::start(&db).await;
    let token = api.token(ALL, None);
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
        let answer = api.graphql(&token, client, json!({ "id": hostile, "ids": [hostile] })).await;
        let nothing = json!({ "client": null, "clientsByIds": [null], "product": null });
        assert_eq!((code(&answer), &answer["data"]), ("none", &nothing), "{hostile}");
        let items = json!([{ "productId": 1, "quantity": 1 }]);
        let order = json!({ "input": { "clientId": 1, "items": items, "idempotencyKey": hostile } });
        for replayed in [false, true] {
            let answer = api.graphql(&token, place, order.clone()).await;
            let placed = &answer["data"]["placeOrder"];
            let expected = if hostile.contains(char::is_control) {
                json!({ "replayed": false, "userErrors": [{ "code": "INVALID_IDEMPOTENCY_KEY" }] })
            } else {
                json!({ "replayed": replayed, "userErrors": [] })
            };
            assert_eq!(placed, &expected, "{hostile}: {answer}");
        }
    }
    assert_eq!(order::Entity::find().count(&db.connection).await.unwrap(), 7);
}
