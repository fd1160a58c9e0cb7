//! The history of clients, orders and products, and clients as they were at a version, on both databases.

use api::history::{client_at, page};
use entity::{Event, Subject, order_event};
use runtime::database;
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, QueryOrder};
use serde_json::{Value, json};
use test_support::fill::fill;
use test_support::services::sql;

use crate::reports::{ask, error_code};
use crate::support::{ALL_SCOPES, Api, Db, postgres, sqlite};

/// Runs a check with an api on each database.
async fn both(check: impl AsyncFn(&Api, &Db)) {
    for db in [sqlite().await, postgres().await] {
        check(&Api::start(&db).await, &db).await;
    }
}

async fn project(api: &Api, db: &Db) {
    let log = order_event::Entity::find().order_by_asc(order_event::Column::Id).all(&db.connection).await.unwrap();
    let events: Vec<Event> = log.into_iter().map(|row| Event::from_row(row, "USD").unwrap()).collect();
    assert!(api.read_model.apply(&events).await.iter().all(Result::is_ok));
}

/// Renames Bob, whose order is cancelled and another one refunded. Returns the ids of the two orders.
async fn a_life(api: &Api, token: &str) -> [String; 2] {
    let change = async |mutation: &str| {
        let response = api.graphql(token, &format!("mutation {{ {mutation} }}"), json!({})).await;
        assert_eq!(response["errors"], Value::Null, "{mutation}: {response}");
        response["data"].as_object().unwrap().values().next().unwrap().clone()
    };
    let place = "placeOrder(input: { clientId: 1, items: [{ productId: 2, quantity: 2 }] }) { order { id } }";
    let one = change(place).await["order"]["id"].as_str().unwrap().to_owned();
    change("updateClient(input: { id: 1, name: \"Robert\" }) { clientVersion }").await;
    let other = change(place).await["order"]["id"].as_str().unwrap().to_owned();
    let refund = format!("refundOrder(input: {{ orderId: \"{other}\", amount: \"0.50\", reason: \"a scratch\" }})");
    change(&format!("{refund} {{ clientVersion userErrors {{ code }} }}")).await;
    let cancel = format!("cancelOrder(input: {{ orderId: \"{one}\", reason: \"too late\" }})");
    change(&format!("{cancel} {{ clientVersion userErrors {{ code }} }}")).await;
    [one, other]
}

const ENTRY: &str = "type version actor orderId amount { amount } reason changes { field before after }";

#[tokio::test]
async fn a_history_says_what_happened_by_whom_and_what_it_changed() {
    both(async |api, db| {
        let [one, other] = a_life(api, &api.token(ALL_SCOPES, None)).await;
        project(api, db).await;
        let query = format!(
            "{{ client(id: 1) {{ history {{ nodes {{ time {ENTRY} }} }} }} order(id: \"{other}\") {{ history {{ {ENTRY} }} }} }}"
        );
        let data = ask(api, &query).await;
        let mut nodes = data["client"]["history"]["nodes"].clone();
        for node in nodes.as_array_mut().unwrap() {
            assert_eq!(node.as_object_mut().unwrap().remove("time").unwrap().as_str().unwrap().len(), 24);
        }
        let entry = |kind: &str, version, order: &str, amount: &str, reason| {
            json!({ "type": kind, "version": version, "actor": "tester", "orderId": order,
                    "amount": { "amount": amount }, "reason": reason, "changes": [] })
        };
        let refund = entry("ORDER_REFUNDED", 5, &other, "0.50", json!("a scratch"));
        let placed = entry("ORDER_PLACED", 4, &other, "1000.00", Value::Null);
        let mut renamed = json!({ "type": "CLIENT_UPDATED", "version": 3, "actor": "tester", "orderId": null, "amount": null,
                                  "reason": null });
        renamed["changes"] = json!([{ "field": "name", "before": "Bob", "after": "Robert" }]);
        let mut registered = json!({ "type": "CLIENT_REGISTERED", "version": 1, "actor": null, "orderId": null,
                                     "amount": null, "reason": null });
        registered["changes"] = json!([
            { "field": "name", "before": null, "after": "Bob" },
            { "field": "email", "before": null, "after": "bob@anemailprovider.com" },
        ]);
        let expected = json!([
            entry("ORDER_CANCELLED", 6, &one, "1000.00", json!("too late")),
            refund,
            placed,
            renamed,
            entry("ORDER_PLACED", 2, &one, "1000.00", Value::Null),
            registered,
        ]);
        assert_eq!(nodes, expected);
        assert_eq!(data["order"]["history"], json!([refund, placed]));

        let update = "mutation { updateProduct(input: { id: 2, price: \"5.5\", available: false }) { product { id } } }";
        api.graphql(&api.token(ALL_SCOPES, None), update, json!({})).await;
        let product = "{ product(id: 2) { history(first: 1) { nodes { type version changes { field before after } } } } }";
        let expected = json!([{ "type": "PRODUCT_UPDATED", "version": 2, "changes": [
            { "field": "price", "before": "500.00", "after": "5.50" },
            { "field": "available", "before": "true", "after": "false" },
        ] }]);
        assert_eq!(ask(api, product).await["product"]["history"]["nodes"], expected);
    })
    .await;
}

#[tokio::test]
async fn a_history_is_read_page_by_page() {
    both(async |api, db| {
        a_life(api, &api.token(ALL_SCOPES, None)).await;
        project(api, db).await;
        for first in [1, 2, 5, 6, 50] {
            let (mut versions, mut changes, mut after) = (Vec::new(), Vec::new(), Value::Null);
            loop {
                let query = format!(
                    "{{ client(id: 1) {{ history(first: {first}, after: {after}) {{ edges {{ cursor node {{ version changes {{ field }} }} }}
                     pageInfo {{ hasPreviousPage hasNextPage startCursor endCursor }} }} }} }}"
                );
                let page = ask(api, &query).await["client"]["history"].clone();
                let (edges, position) = (page["edges"].as_array().unwrap(), &page["pageInfo"]);
                assert_eq!(position["hasPreviousPage"], !versions.is_empty());
                assert_eq!(position["startCursor"], edges[0]["cursor"]);
                versions.extend(edges.iter().map(|edge| edge["node"]["version"].as_i64().unwrap()));
                changes.extend(edges.iter().map(|edge| edge["node"]["changes"].as_array().unwrap().len()));
                if position["hasNextPage"] == false {
                    break;
                }
                after = position["endCursor"].clone();
            }
            assert_eq!(versions, [6, 5, 4, 3, 2, 1], "pages of {first}");
            assert_eq!(changes, [0, 0, 0, 1, 0, 2], "what changed does not depend on the page");
        }
        for wrong in ["first: 0", "first: 101", "after: \"x\"", "after: \"0\"", "after: \"2147483648\""] {
            let query = format!("{{ client(id: 1) {{ history({wrong}) {{ nodes {{ type }} }} }} }}");
            assert_eq!(error_code(api, &api.token(ALL_SCOPES, None), &query).await, "BAD_USER_INPUT", "{wrong}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_history_needs_its_scopes_and_hides_the_subjects_of_others() {
    let db = sqlite().await;
    let api = Api::start(&db).await;
    let [_, other] = a_life(&api, &api.token(ALL_SCOPES, None)).await;
    let own = api.tokens.mint("bob", ALL_SCOPES, Some("1"), std::time::Duration::from_secs(60)).unwrap();
    let place =
        "mutation { placeOrder(input: { clientId: 1, items: [{ productId: 2, quantity: 2 }] }) { clientVersion } }";
    api.graphql(&own, place, json!({})).await;
    project(&api, &db).await;
    let query = "{ client(id: 1) { id history(first: 2) { nodes { actor orderId amount { amount } reason } } } }";
    let seen = api.graphql(&own, query, json!({})).await["data"]["client"]["history"]["nodes"].clone();
    assert_eq!((&seen[0]["actor"], &seen[1]["actor"]), (&json!("bob"), &Value::Null), "only the caller's own subject");
    assert_eq!(seen[1]["reason"], "too late");
    let seen = ask(&api, query).await["client"]["history"]["nodes"].clone();
    assert_eq!((&seen[0]["actor"], &seen[1]["actor"]), (&json!("bob"), &json!("tester")));

    // Without the scope for orders, only what is about them is null.
    let seen = api.graphql(&api.token("clients:read", None), query, json!({})).await;
    let nothing = json!({ "actor": "tester", "orderId": null, "amount": null, "reason": null });
    assert_eq!(seen["data"]["client"]["history"]["nodes"][1], nothing);
    let by_list = "{ clients(first: 3) { nodes { id history(first: 3) { nodes { type } } } } }";
    let response = api.graphql(&api.token("sales:read", None), by_list, json!({})).await;
    assert_eq!(response["data"]["clients"]["nodes"][0], json!({ "id": "1", "history": null }), "{response}");
    assert_eq!(response["errors"][0]["extensions"]["code"], "FORBIDDEN");
    let query = format!("{{ order(id: \"{other}\") {{ history {{ type }} }} }}");
    assert_eq!(error_code(&api, &api.token("clients:read", None), &query).await, "FORBIDDEN");
    for client in ["2", "x"] {
        let token = api.token(ALL_SCOPES, Some(client));
        assert_eq!(error_code(&api, &token, "{ client(id: 1, atVersion: 1) { name } }").await, "FORBIDDEN");
    }
}

/// They have up to 86 KB.
#[tokio::test]
async fn a_history_does_not_need_the_lines_of_orders() {
    both(async |api, db| {
        let [one, other] = a_life(api, &api.token(ALL_SCOPES, None)).await;
        project(api, db).await;
        let query = format!(
            "{{ client(id: 1) {{ history {{ nodes {{ {ENTRY} }} }} }} order(id: \"{one}\") {{ history {{ {ENTRY} }} }}
                other: order(id: \"{other}\") {{ history {{ {ENTRY} }} }} }}"
        );
        let before = ask(api, &query).await;
        let without_lines = match db.connection.get_database_backend() {
            DbBackend::Postgres => "payload - 'lines' - 'amounts'",
            _ => "json_remove(payload, '$.lines', '$.amounts')",
        };
        let update = format!("UPDATE order_events SET payload = {without_lines} WHERE type LIKE 'orders.%'");
        db.connection.execute_unprepared(&update).await.unwrap();
        assert_eq!(ask(api, &query).await, before);
        let items = format!("{{ order(id: \"{one}\") {{ items {{ quantity }} }} }}");
        assert_eq!(error_code(api, &api.token(ALL_SCOPES, None), &items).await, "INTERNAL_SERVER_ERROR");
    })
    .await;
}

#[tokio::test]
async fn a_client_is_computed_as_of_each_version() {
    both(async |api, db| {
        let token = api.token(ALL_SCOPES, None);
        let fields = "name email total { amount } orderCount lastPurchase version";
        let query = |version| format!("{{ client(id: 1, atVersion: {version}) {{ {fields} }} }}");
        let mut then = Vec::new();
        let all: [&str; 4] = [
            "updateClient(input: { id: 1, name: \"Robert\" }) { clientVersion }",
            "placeOrder(input: { clientId: 1, items: [{ productId: 2, quantity: 2 }] }) { clientVersion }",
            "placeOrder(input: { clientId: 1, items: [{ productId: 1, quantity: 1 }] }) { clientVersion }",
            "updateClient(input: { id: 1, email: \"rob@example.com\" }) { clientVersion }",
        ];
        for mutation in all {
            api.graphql(&token, &format!("mutation {{ {mutation} }}"), json!({})).await;
            project(api, db).await;
            then.push(ask(api, &format!("{{ client(id: 1) {{ {fields} }} }}")).await["client"].clone());
        }
        for (version, expected) in (2..).zip(&then) {
            assert_eq!(ask(api, &query(version)).await["client"], *expected, "version {version}");
        }
        let first = ask(api, &query(1)).await["client"].clone();
        assert_eq!(
            (&first["name"], &first["total"]["amount"], &first["version"]),
            (&json!("Bob"), &json!("0.00"), &json!(1))
        );
        for wrong in [0, -1, 6, 10_001] {
            assert_eq!(error_code(api, &token, &query(wrong)).await, "BAD_USER_INPUT", "{wrong}");
        }
        let both_versions = "{ client(id: 1, atVersion: 1, minVersion: 1) { name } }";
        assert_eq!(error_code(api, &token, both_versions).await, "BAD_USER_INPUT");
        for unknown in ["99", "x"] {
            let query = format!("{{ client(id: \"{unknown}\", atVersion: 1) {{ name }} }}");
            assert_eq!(ask(api, &query).await["client"], Value::Null);
        }
    })
    .await;
}

#[tokio::test]
async fn a_history_reads_only_its_own_rows() {
    let postgres = test_support::postgres::database().await;
    let connect = || database::connect(&postgres.url, 4, None);
    let db = connect().await.unwrap();
    migration::up(&db).await.unwrap();
    fill(&db, 300, 60_000).await;
    db.close().await.unwrap(); // then its statistics are complete
    let db = connect().await.unwrap();
    let reads = async || {
        let scans = "SELECT sum(seq_scan)::bigint AS whole, sum(idx_tup_fetch)::bigint AS rows FROM pg_stat_user_tables
                     WHERE relname IN ('orders', 'order_events')";
        let row = db.query_one_raw(sql(scans)).await.unwrap().unwrap();
        (row.try_get::<i64>("", "whole").unwrap(), row.try_get::<i64>("", "rows").unwrap())
    };
    let (whole, rows) = reads().await;
    let reader = connect().await.unwrap();
    for after in [None, Some(100)] {
        let page = page(&reader, Subject::Client(7), after, 20).await.unwrap();
        assert_eq!(page.entries.len(), 20);
    }
    let client = client_at(&reader, 7, 150).await.unwrap().unwrap();
    assert_eq!((client.version, client.order_count), (150, 150));
    let client = client_at(&reader, 7, 1).await.unwrap().unwrap();
    assert_eq!((client.version, client.order_count), (1, 1));
    reader.close().await.unwrap();
    let (whole_after, rows_after) = reads().await;
    assert_eq!(whole_after, whole, "no statement reads a whole table");
    // Of a client at a version, its orders and its newest event until then.
    assert!(rows_after - rows <= 44 + 151 + 2, "{} rows were read", rows_after - rows);
}
