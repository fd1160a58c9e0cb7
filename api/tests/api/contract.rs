//! The GraphQL contract over HTTP.

use entity::{Event, order_event, product};
use futures::FutureExt;
use reqwest::StatusCode;
use sea_orm::{ConnectionTrait, EntityTrait, QueryOrder};
use serde_json::{Value, json};
use winterbaume_sqs::SqsService;

use crate::support::{ALL, Api, Db, code, queue, redis, sqlite};

const PLACE: &str = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) {
    order { id clientId placedAt total { amount currencyCode } items { productId name unitPrice { amount } quantity lineTotal { amount } } }
    clientVersion replayed userErrors { code message field } } }";

fn order(client: &str, items: &[(&str, i32)], key: Option<&str>) -> Value {
    let items: Vec<Value> =
        items.iter().map(|(id, quantity)| json!({ "productId": id, "quantity": quantity })).collect();
    json!({ "input": { "clientId": client, "items": items, "idempotencyKey": key } })
}

/// What the projector would do, without the queue between.
async fn project(db: &Db, api: &Api) {
    for row in order_event::Entity::find().all(&db.connection).await.unwrap() {
        api.read_model.apply(&[Event::from_row(row, "USD").unwrap()]).await.remove(0).unwrap();
    }
}

#[tokio::test]
async fn an_order_is_placed_and_read() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let token = api.token(ALL, None);
    let query = "{ client(id: \"1\") { id name email total { amount currencyCode } orderCount lastPurchase version } }";
    assert_eq!(api.graphql(&token, query, json!({})).await, json!({ "data": { "client": null } }));

    let answer = api.graphql(&token, PLACE, order("1", &[("1", 1), ("2", 3)], None)).await;
    let placed = &answer["data"]["placeOrder"];
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
        (&json!(1), &json!(false), &json!([]))
    );
    let placed_at = placed["order"]["placedAt"].as_str().unwrap();
    assert!(placed_at.len() == 24 && placed_at.ends_with('Z'), "{placed_at}");

    project(&db, &api).await;
    assert_eq!(
        api.graphql(&token, query, json!({})).await["data"]["client"],
        json!({
            "id": "1", "name": "Bob", "email": "bob@anemailprovider.com",
            "total": { "amount": "3000.00", "currencyCode": "USD" },
            "orderCount": 1, "lastPurchase": placed_at, "version": 1,
        })
    );
    let several = api.graphql(&token, "{ clientsByIds(ids: [\"3\", \"1\", \"x\", \"1\"]) { id } }", json!({})).await;
    assert_eq!(several["data"]["clientsByIds"], json!([null, { "id": "1" }, null, { "id": "1" }]));
}

#[tokio::test]
async fn faults_are_reported_together_each_with_its_field() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let token = api.token(ALL, None);
    let faults = async |variables: Value| -> Vec<(String, String)> {
        let answer = api.graphql(&token, PLACE, variables).await;
        let placed = &answer["data"]["placeOrder"];
        assert_eq!((&placed["order"], &placed["clientVersion"]), (&Value::Null, &Value::Null), "{answer}");
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
async fn reading_your_write_waits_and_then_says_how_far_it_is() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let token = api.token(ALL, None);
    api.graphql(&token, PLACE, order("1", &[("1", 1)], None)).await;
    let behind = api.graphql(&token, "{ client(id: \"1\", minVersion: 1) { version } }", json!({})).await;
    assert_eq!((code(&behind), &behind["errors"][0]["extensions"]["version"]), ("READ_MODEL_BEHIND", &json!(0)));
    assert_eq!(behind["data"], json!({ "client": null }), "a nullable field fails alone");

    let (read, ()) = tokio::join!(
        api.graphql(&token, "{ client(id: \"1\", minVersion: 1) { version } }", json!({})),
        project(&db, &api)
    );
    assert_eq!(read["data"]["client"]["version"], json!(1));
}

#[tokio::test]
async fn products_come_in_pages() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token(ALL, None);
    let query = "query ($first: Int, $after: String) { products(first: $first, after: $after) {
        nodes { id name price { amount } } edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage endCursor } } }";
    let mut names = Vec::new();
    let mut variables = json!({ "first": 2 });
    loop {
        let answer = api.graphql(&token, query, variables.clone()).await;
        let page = &answer["data"]["products"];
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
async fn every_operation_needs_its_scope_and_a_narrowed_token_its_client() {
    let api = Api::start(&sqlite().await).await;
    let operations = [
        ("clients:read", "{ client(id: \"1\") { id } }"),
        ("clients:read", "{ clientsByIds(ids: [\"1\"]) { id } }"),
        ("products:read", "{ product(id: \"1\") { id } }"),
        ("products:read", "{ products { nodes { id } } }"),
        ("orders:place", "mutation { placeOrder(input: { clientId: \"1\", items: [] }) { replayed } }"),
    ];
    for (scope, operation) in operations {
        let others: Vec<&str> = ALL.split(' ').filter(|other| *other != scope).collect();
        assert_eq!(code(&api.graphql("", operation, json!({})).await), "UNAUTHENTICATED", "{operation}");
        assert_eq!(code(&api.graphql(&api.token(&others.join(" "), None), operation, json!({})).await), "FORBIDDEN");
        assert_eq!(code(&api.graphql(&api.token(scope, None), operation, json!({})).await), "none", "{operation}");
        assert_eq!(code(&api.graphql(&api.token(scope, Some("1")), operation, json!({})).await), "none", "{operation}");
    }
    let of_two = api.token(ALL, Some("2"));
    for operation in [
        "{ client(id: \"1\") { id } }",
        "{ client(id: \"02\") { id } }",
        "{ clientsByIds(ids: [\"2\", \"1\"]) { id } }",
        "mutation { placeOrder(input: { clientId: \"1\", items: [] }) { replayed } }",
    ] {
        let answer = api.graphql(&of_two, operation, json!({})).await;
        assert_eq!(code(&answer), "FORBIDDEN", "{operation}");
        assert_eq!(answer["errors"][0]["message"], json!("The token does not allow this."));
        assert_eq!(answer["errors"][0]["extensions"], json!({ "code": "FORBIDDEN" }), "nothing else is revealed");
    }
    assert_eq!(
        code(&api.graphql(&api.token(ALL, Some("")), "{ client(id: \"1\") { id } }", json!({})).await),
        "FORBIDDEN"
    );
}

#[tokio::test]
async fn a_token_that_proves_nothing_ends_the_request() {
    let api = Api::start(&sqlite().await).await;
    for header in ["Bearer x", "Bearer", "Basic eDp5", "x", ""] {
        let request = api.request().header("authorization", header).json(&json!({ "query": "{ __typename }" }));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{header:?}");
        assert!(answer.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        let body: Value = answer.json().await.unwrap();
        assert_eq!(code(&body), "UNAUTHENTICATED");
        assert!(body.get("data").is_none());
    }
}

#[tokio::test]
async fn what_is_not_a_graphql_request_gets_a_clear_error() {
    let api = Api::start(&sqlite().await).await;
    let post = async |content_type: &str, body: String| {
        let answer = api.request().header("content-type", content_type).body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let good = json!({ "query": "{ __typename }" }).to_string();
    for content_type in ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"] {
        assert_eq!(post(content_type, good.clone()).await, (200, json!({ "data": { "__typename": "Query" } })));
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", ""] {
        assert_eq!(post(content_type, good.clone()).await.0, 415, "{content_type}");
    }
    for body in ["", "{", "null", "7", "[]", "{}", "{\"query\":null}", "{\"query\":7}", "\u{0}"] {
        let (status, answer) = post("application/json", body.into()).await;
        assert_eq!((status, code(&answer)), (400, "BAD_REQUEST"), "{body:?}");
    }
    for body in [format!("[{good}]"), good.replace('}', ", \"variables\": [1]}"), "[".repeat(60_000)] {
        assert_eq!(post("application/json", body).await.0, 400);
    }
    let (status, answer) = post("application/json", json!({ "query": " ".repeat(65 * 1024) }).to_string()).await;
    assert_eq!(status, 413);
    assert!(answer["errors"][0]["message"].as_str().unwrap().contains("65536"));

    let get = async |query: &str| api.get(&format!("/graphql?query={query}")).send().await.unwrap().status().as_u16();
    assert_eq!((get("").await, get("%7B__typename%7D").await, get("mutation%7B__typename%7D").await), (400, 200, 405));
    let page = api.get("/graphql").header("accept", "text/html").send().await.unwrap();
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    assert_eq!(api.get("/nothing").send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn other_origins_are_let_in_only_where_they_are_named_and_get_can_be_switched_off() {
    let db = sqlite().await;
    let allowed_for = async |api: &Api, origin: &str| {
        let request = reqwest::Client::new().request(reqwest::Method::OPTIONS, format!("{}/graphql", api.address));
        let request = request.header("origin", origin).header("access-control-request-method", "POST");
        let answer =
            request.header("access-control-request-headers", "authorization,content-type").send().await.unwrap();
        answer.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned())
    };
    let closed = Api::start(&db).await;
    assert_eq!(allowed_for(&closed, "https://shop.example.com").await, None);
    let flags = ["--cors-origins", "https://shop.example.com,http://localhost:3000", "--graphql-get", "false"];
    let open = Api::start_with(&db, &flags).await;
    for origin in ["https://shop.example.com", "http://localhost:3000"] {
        assert_eq!(allowed_for(&open, origin).await.as_deref(), Some(origin));
    }
    assert_eq!(allowed_for(&open, "https://evil.example.com").await, None);

    let query = "/graphql?query=%7B__typename%7D";
    assert_eq!(closed.get(query).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(open.get(query).send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn deep_and_huge_documents_are_refused() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token(ALL, None);
    let deep = format!("{{ {} __typename {} }}", "products { nodes { ".repeat(20), "} } ".repeat(20));
    let wide: String = (0..600).map(|n| format!("a{n}: product(id: \"1\") {{ id }} ")).collect();
    let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    for query in [deep, format!("{{ {wide} }}"), "{".repeat(5_000)] {
        let answer = api.graphql(&token, &query, json!({})).await;
        assert!(answer["errors"].is_array(), "{answer}");
    }
    let answer =
        api.graphql(&token, "query ($ids: [ID!]!) { clientsByIds(ids: $ids) { id } }", json!({ "ids": many })).await;
    assert_eq!(code(&answer), "BAD_USER_INPUT");
}

#[tokio::test]
async fn outages_have_codes_and_health_tells_them() {
    let db = sqlite().await;
    let (mut server, redis) = redis().await;
    let api = Api::start_on(&db, redis, queue(SqsService::new()).await, &[]).await;
    let token = api.token(ALL, None);
    let ready = async || {
        let answer = api.get("/health/ready").send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let up = json!({ "database": "reachable", "readModel": "reachable", "queue": "reachable" });
    assert_eq!(ready().await, (200, up.clone()));
    assert_eq!(api.get("/health/live").send().await.unwrap().status(), StatusCode::OK);

    server.stop();
    assert_eq!(code(&api.graphql(&token, "{ client(id: \"1\") { id } }", json!({})).await), "READ_MODEL_UNAVAILABLE");
    let placed = api.graphql(&token, PLACE, order("1", &[("1", 1)], None)).await;
    assert_eq!(placed["data"]["placeOrder"]["clientVersion"], json!(1), "orders are taken all the same");
    let (status, told) = ready().await;
    assert_eq!((status, &told["readModel"], &told["database"]), (503, &json!("unreachable"), &json!("reachable")));

    db.connection.clone().close().await.unwrap();
    assert_eq!(code(&api.graphql(&token, PLACE, order("1", &[("1", 1)], None)).await), "COMMAND_STORE_UNAVAILABLE");
    assert_eq!(ready().await.1["database"], json!("unreachable"));
    assert_eq!(api.get("/health/live").send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_unexpected_is_masked_under_an_id() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    db.connection.execute_unprepared("DROP TABLE order_items").await.unwrap();
    let answer = api.graphql(&api.token(ALL, None), PLACE, order("1", &[("1", 1)], None)).await;
    assert_eq!(code(&answer), "INTERNAL_SERVER_ERROR");
    assert!(!answer.to_string().contains("order_items"), "{answer}");
    let id = answer["errors"][0]["extensions"]["id"].as_str().unwrap();
    assert!(answer["errors"][0]["message"].as_str().unwrap().contains(id));
}

#[tokio::test]
async fn a_failing_field_that_cannot_be_null_nulls_its_parent_and_keys_keep_their_order() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token("products:read", None);
    let query = "{ b: __typename a: product(id: \"1\") { name id } products { nodes { id } } c: clientsByIds(ids: [\"1\"]) { id } }";
    let answer = api.graphql(&token, query, json!({})).await;
    assert_eq!((code(&answer), &answer["data"]), ("FORBIDDEN", &Value::Null));
    let request = api
        .request()
        .bearer_auth(&token)
        .json(&json!({ "query": "{ b: __typename a: product(id: \"1\") { name id } }" }));
    let text = request.send().await.unwrap().text().await.unwrap();
    assert_eq!(text, r#"{"data":{"b":"Query","a":{"name":"Computer","id":"1"}}}"#);
}

/// A refused field cancels its siblings wherever they are. A database in memory ends with its only connection, now and then:
/// sqlx opens the next one at once. So this counts connections instead of looking for what is in the database.
#[tokio::test]
async fn a_cancelled_request_does_not_take_the_only_connection_along() {
    let db = sqlite().await;
    let pool = db.connection.get_sqlite_connection_pool();
    for polls in 1..50 {
        while pool.num_idle() < 1 {
            tokio::task::yield_now().await;
        }
        let mut find = product::Entity::find_by_id(1).one(&db.connection).boxed();
        for _ in 0..polls {
            if (&mut find).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(find);
        assert_eq!(pool.size(), 1, "after {polls} polls");
    }
    // The above cancels nothing that waits for SQLite's thread where that always answers within a poll.
    assert!(!pool.options().get_test_before_acquire());
}

#[tokio::test]
async fn the_trace_context_of_a_request_goes_on_with_its_event() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for traceparent in [context, "00-x-y-01", "", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"] {
        let request = json!({ "query": PLACE, "variables": order("1", &[("1", 1)], None) });
        let request = api.request().bearer_auth(api.token(ALL, None)).header("traceparent", traceparent).json(&request);
        assert!(request.send().await.unwrap().text().await.unwrap().contains("\"userErrors\":[]"));
    }
    let rows =
        order_event::Entity::find().order_by_asc(order_event::Column::Version).all(&db.connection).await.unwrap();
    assert!(rows[0].message().contains(&format!("\"traceparent\":\"{context}\"")));
    assert!(rows[1..].iter().all(|row| row.traceparent.is_none()), "what is malformed is ignored");
}

#[tokio::test]
async fn the_schema_can_be_explored_and_describes_everything() {
    let api = Api::start(&sqlite().await).await;
    // As deep as GraphiQL asks: types are wrapped up to nine times.
    let of_type = (0..9).fold("name".to_owned(), |inner, _| format!("kind name ofType {{ {inner} }}"));
    let query = format!(
        "{{ __schema {{ types {{ name description specifiedByURL
            fields {{ name description args {{ name description type {{ {of_type} }} }} type {{ {of_type} }} }}
            inputFields {{ name description type {{ {of_type} }} }} enumValues {{ name description }} }} }} }}"
    );
    let answer = api.graphql("", &query, json!({})).await;
    let mut undescribed = Vec::new();
    let mut look = |path: String, thing: &Value| {
        if thing["description"].as_str().is_none_or(str::is_empty) {
            undescribed.push(path);
        }
    };
    for kind in answer["data"]["__schema"]["types"].as_array().unwrap_or_else(|| panic!("{answer}")) {
        let name = kind["name"].as_str().unwrap();
        if name.starts_with("__") || ["Boolean", "Float", "ID", "Int", "String"].contains(&name) {
            continue;
        }
        look(name.into(), kind);
        for members in ["fields", "inputFields", "enumValues"] {
            for member in kind[members].as_array().into_iter().flatten() {
                look(format!("{name}.{}", member["name"]), member);
                for argument in member["args"].as_array().into_iter().flatten() {
                    look(format!("{name}.{}({})", member["name"], argument["name"]), argument);
                }
            }
        }
    }
    assert_eq!(undescribed, [""; 0]);
}
