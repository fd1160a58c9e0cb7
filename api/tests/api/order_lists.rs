//! Lists of orders, on both databases.

use api::commands::place_order::place;
use api::orders::Status;
use api::orders::lists::{Filter, page, pages_of_clients};
use chrono::{DateTime, TimeDelta, Utc};
use entity::order_event::least_id_at;
use entity::{Change, Event, order, order_event};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use iso_currency::Currency;
use runtime::database;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseConnection, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, TransactionTrait,
};
use serde_json::{Value, json};
use test_support::events::order_placed_at;
use test_support::fill::fill;
use test_support::services::sql;
use uuid::Uuid;

use crate::reports::{ask, at, error_code};
use crate::support::{ALL_SCOPES, Api, Db, PLACE, command, order as order_input, placed, postgres, sqlite};

const ALL: Filter = Filter { client: None, status: None, from: None, before: None };

/// Places an order for a client, and returns its id.
async fn place_one(db: &DatabaseConnection, client: i64) -> String {
    let outcome =
        place(db, Currency::USD, &[command(client, &[(1, 1), (2, 3)], None)]).await.unwrap().outcomes.remove(0);
    placed(outcome).data.order_id.to_string()
}

/// Stores an order that was placed at this time.
async fn store_order_at(db: &DatabaseConnection, client: i64, version: i32, time: DateTime<Utc>) -> String {
    let Event { id, data: Change::OrderPlaced(mut data), .. } = order_placed_at(time, client, version, &[(1, 1, 100)])
    else {
        panic!("an order");
    };
    let millis = u64::try_from(time.timestamp_millis()).unwrap();
    data.order_id = uuid::Builder::from_unix_timestamp_millis(millis, &rand_bytes()).into_uuid();
    let order = order::Model {
        id: data.order_id,
        client_id: client,
        version,
        placed_at: time,
        total: data.total,
        cancelled_at: None,
        cancel_reason: None,
        refunded: 0,
    };
    let event = order_event::Model {
        id,
        client_id: Some(client),
        product_id: None,
        version,
        r#type: entity::event::ORDER_PLACED.into(),
        payload: serde_json::to_value(&data).unwrap(),
        occurred_at: time,
        traceparent: None,
        actor: None,
        actor_is_client: None,
    };
    order.into_active_model().reset_all().insert(db).await.unwrap();
    event.into_active_model().reset_all().insert(db).await.unwrap();
    data.order_id.to_string()
}

fn rand_bytes() -> [u8; 10] {
    Uuid::new_v4().as_bytes()[..10].try_into().unwrap()
}

/// Runs a check with an api on each database.
async fn both(check: impl AsyncFn(&Api, &Db)) {
    for db in [sqlite().await, postgres().await] {
        // Some checks read many pages within a second.
        check(&Api::start_with(&db, &["--rate-limit", "0"]).await, &db).await;
    }
}

/// Reads a list of orders page by page; `adds` runs after each page.
async fn read_pages(api: &Api, token: &str, arguments: &str, first: usize, adds: impl AsyncFn()) -> Vec<String> {
    let (mut ids, mut after) = (Vec::new(), Value::Null);
    loop {
        let query = format!(
            "{{ orders({arguments} first: {first}, after: {after}) {{ edges {{ cursor node {{ id }} }} nodes {{ id }} \
             pageInfo {{ hasPreviousPage hasNextPage startCursor endCursor }} }} }}"
        );
        let response = api.graphql(token, &query, json!({})).await;
        let page = &response["data"]["orders"];
        let (edges, position) = (page["edges"].as_array().unwrap_or_else(|| panic!("{response}")), &page["pageInfo"]);
        let of_page: Vec<String> = edges.iter().map(|edge| edge["node"]["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(position["hasPreviousPage"], !ids.is_empty(), "{response}");
        assert_eq!(position["endCursor"], edges.last().map_or(Value::Null, |edge| edge["cursor"].clone()));
        assert_eq!(position["startCursor"], edges.first().map_or(Value::Null, |edge| edge["cursor"].clone()));
        assert_eq!(page["nodes"].as_array().unwrap().len(), of_page.len());
        ids.extend(of_page);
        if position["hasNextPage"] == false {
            return ids;
        }
        assert_eq!(edges.len(), first);
        after = position["endCursor"].clone();
        adds().await;
    }
}

#[tokio::test]
async fn orders_are_listed_newest_first_and_new_orders_do_not_move_pages() {
    both(async |api, Db { connection: db, .. }| {
        let mut placed = Vec::new();
        for n in 0..23 {
            let client = n % 3 + 1;
            placed.push((client, place_one(db, client).await));
        }
        placed.reverse();
        let all: Vec<_> = placed.iter().map(|(_, id)| id.clone()).collect();
        let of = |client: i64| -> Vec<_> {
            placed.iter().filter(|(of, _)| *of == client).map(|(_, id)| id.clone()).collect()
        };
        let (second, third) = (of(2), of(3));
        let token = api.token("orders:read", None);
        for first in [1, 7, 23, 50] {
            let adds = async || {
                place_one(db, 1).await;
            };
            let ids = read_pages(api, &token, "", first, adds).await;
            assert_eq!(ids[ids.len() - 23..], all, "pages of {first}");
            assert_eq!(read_pages(api, &token, "clientId: \"2\",", first, async || {}).await, second);
        }
        // A token for one client sees the orders of that client.
        let narrowed = api.token("orders:read", Some("3"));
        assert_eq!(read_pages(api, &narrowed, "", 3, async || {}).await, third);
        assert_eq!(read_pages(api, &narrowed, "clientId: \"3\",", 50, async || {}).await, third);
        assert_eq!(error_code(api, &narrowed, "{ orders(clientId: \"2\") { nodes { id } } }").await, "FORBIDDEN");
        assert_eq!(read_pages(api, &token, "clientId: \"99\",", 5, async || {}).await, [""; 0]);
        assert_eq!(read_pages(api, &token, "clientId: \"x\",", 5, async || {}).await, [""; 0]);
        let narrowed = api.token("orders:read", Some("x"));
        assert_eq!(read_pages(api, &narrowed, "", 5, async || {}).await, [""; 0]);
        let without = api.token(&ALL_SCOPES.replace("orders:read", ""), None);
        assert_eq!(error_code(api, &without, "{ orders { nodes { id } } }").await, "FORBIDDEN");
        assert_eq!(error_code(api, "", "{ orders { nodes { id } } }").await, "UNAUTHENTICATED");
    })
    .await;
}

#[tokio::test]
async fn an_order_is_in_its_lists_as_soon_as_it_is_placed_with_all_its_fields() {
    both(async |api, _| {
        let token = api.token(ALL_SCOPES, None);
        let response = api.graphql(&token, PLACE, order_input("2", &[("1", 2), ("3", 1)], None)).await;
        let placed = &response["data"]["placeOrder"]["order"];
        let fields = "id clientId placedAt total { amount currencyCode }
                      items { productId name unitPrice { amount } quantity lineTotal { amount } }";
        for arguments in ["first: 1", "clientId: \"2\""] {
            let data = ask(api, &format!("{{ orders({arguments}) {{ nodes {{ {fields} }} }} }}")).await;
            assert_eq!(data["orders"]["nodes"], json!([placed]));
        }
    })
    .await;
}

#[tokio::test]
async fn the_orders_of_each_client_of_a_list_are_read_together() {
    both(async |api, Db { connection: db, .. }| {
        let mut of_clients = vec![Vec::new(); 3];
        for n in 0..12 {
            of_clients[n % 3].insert(0, place_one(db, n as i64 % 3 + 1).await);
        }
        for (id, version) in [(1, 5), (2, 5), (3, 5)] {
            let order = |version| test_support::events::order_placed(id, version, &[(1, 1, 100)]);
            api.read_model.apply(&(1..=version).map(order).collect::<Vec<_>>()).await;
        }
        let query = "query ($after: String) { clientsByIds(ids: [1, 2, 3, 2]) {
            orders(first: 3, after: $after) { nodes { id } pageInfo { hasPreviousPage hasNextPage endCursor } }
            newest: orders(first: 1) { nodes { id } } } }";
        let token = api.token("clients:read orders:read", None);
        let ids = |list: &Value| -> Vec<String> {
            let nodes = list["nodes"].as_array().unwrap().iter();
            nodes.map(|order| order["id"].as_str().unwrap().to_owned()).collect()
        };
        let (first, of_all) = (api.graphql(&token, query, json!({})).await, [0, 1, 2, 1]);
        for (n, client) in of_all.into_iter().enumerate() {
            let (page, cursor) = (&first["data"]["clientsByIds"][n], &of_clients[client][2]);
            assert_eq!(ids(&page["orders"]), of_clients[client][..3], "{first}");
            assert_eq!(ids(&page["newest"]), of_clients[client][..1]);
            let position = json!({ "hasPreviousPage": false, "hasNextPage": true, "endCursor": cursor });
            assert_eq!(page["orders"]["pageInfo"], position);
            let second = api.graphql(&token, query, json!({ "after": cursor })).await;
            let next = &second["data"]["clientsByIds"][n];
            assert_eq!(ids(&next["orders"]), of_clients[client][3..], "{second}");
            let position =
                json!({ "hasPreviousPage": true, "hasNextPage": false, "endCursor": of_clients[client].last() });
            assert_eq!(next["orders"]["pageInfo"], position);
        }
        // Without the scope, the rest of the client remains.
        let query = "{ client(id: 1) { id orders { nodes { id } } } }";
        let response = api.graphql(&api.token("clients:read", None), query, json!({})).await;
        assert_eq!(response["data"], json!({ "client": { "id": "1", "orders": null } }));
        assert_eq!(response["errors"][0]["path"], json!(["client", "orders"]));
        let wrong = "{ client(id: 1) { orders(after: \"x\") { nodes { id } } } }";
        assert_eq!(error_code(api, &token, wrong).await, "BAD_USER_INPUT");
    })
    .await;
}

#[tokio::test]
async fn a_damaged_event_fails_only_lists_that_select_its_items() {
    both(async |api, Db { connection: db, .. }| {
        let damaged = place_one(db, 1).await;
        let id = place_one(db, 2).await;
        for client in [1, 2] {
            api.read_model.apply(&[test_support::events::order_placed(client, 1, &[(1, 1, 100)])]).await;
        }
        let damage = "UPDATE order_events SET payload = '{}' WHERE client_id = 1 AND type = 'orders.OrderPlaced.v1'";
        db.execute_unprepared(damage).await.unwrap();
        let query = "{ clientsByIds(ids: [1, 2]) { orders(first: 5) { nodes { id items { quantity } } } } }";
        let response = api.graphql(&api.token("clients:read orders:read", None), query, json!({})).await;
        let of_other = json!({ "nodes": [{ "id": id, "items": [{ "quantity": 1 }, { "quantity": 3 }] }] });
        let expected = json!({ "clientsByIds": [{ "orders": null }, { "orders": of_other }] });
        assert_eq!(response["data"], expected, "{response}");
        assert_eq!(response["errors"][0]["extensions"]["code"], "INTERNAL_SERVER_ERROR");
        // async-graphql leaves out the field below an element that cannot be null.
        assert_eq!(response["errors"][0]["path"], json!(["clientsByIds", 0, "orders", "nodes", 0]));

        // All that is not in the event can be read, also past the damaged order.
        let without_items =
            "id clientId placedAt status total { amount } refunded { amount } net { amount } cancelReason";
        let all = ask(api, &format!("{{ orders {{ nodes {{ {without_items} }} }} }}")).await;
        let nodes = all["orders"]["nodes"].as_array().unwrap();
        assert_eq!([&nodes[0]["id"], &nodes[1]["id"]], [&json!(id), &json!(damaged)]);
        assert_eq!((&nodes[1]["total"]["amount"], &nodes[1]["status"]), (&json!("3000.00"), &json!("PLACED")));
        let one = ask(api, &format!("{{ order(id: \"{damaged}\") {{ {without_items} }} }}")).await;
        assert_eq!(one["order"], nodes[1]);
        place_one(db, 1).await;
        let after = format!("{{ orders(after: \"{damaged}\") {{ nodes {{ items {{ name }} }} }} }}");
        assert_eq!(ask(api, &after).await, json!({ "orders": { "nodes": [] } }));
    })
    .await;
}

#[tokio::test]
async fn orders_are_listed_by_days_of_a_time_zone() {
    both(async |api, Db { connection: db, .. }| {
        let times =
            ["2026-03-28T22:59:59.999Z", "2026-03-28T23:00:00Z", "2026-03-29T21:59:59.999Z", "2026-03-29T22:00:00Z"];
        let mut ids = Vec::new();
        for (version, time) in (2..).zip(times) {
            ids.push(store_order_at(db, 1, version, at(time)).await);
        }
        let token = api.token("orders:read", None);
        let list = async |arguments: &str| {
            let mut listed = read_pages(api, &token, &format!("{arguments},"), 2, async || {}).await;
            listed.reverse();
            listed
        };
        // Clocks are put forward that night in Berlin: the day has 23 hours.
        let berlin = "from: \"2026-03-29\", to: \"2026-03-29\", timeZone: \"Europe/Berlin\"";
        assert_eq!(list(berlin).await, ids[1..3]);
        assert_eq!(list("from: \"2026-03-29\", to: \"2026-03-29\"").await, ids[2..]);
        assert_eq!(list("to: \"2026-03-28\"").await, ids[..2]);
        assert_eq!(list("from: \"2026-03-30\", timeZone: \"Europe/Berlin\"").await, ids[3..]);
        assert_eq!(list("from: \"2026-03-29\", timeZone: \"Asia/Kathmandu\"").await, ids, "in quarters of an hour");
        assert_eq!(list("from: \"0000-01-01\", to: \"9999-12-31\"").await, ids);
        assert_eq!(list("to: \"0000-01-01\"").await, [""; 0]);
        // Also of one client.
        assert_eq!(list(&format!("clientId: \"1\", {berlin}")).await, ids[1..3]);
        assert_eq!(list(&format!("clientId: \"2\", {berlin}")).await, [""; 0]);
        let narrowed = api.token("orders:read", Some("1"));
        let last = read_pages(api, &narrowed, "from: \"2026-03-29\",", 2, async || {}).await;
        assert_eq!(last, [&*ids[3], &*ids[2]]);
    })
    .await;
}

#[tokio::test]
async fn orders_are_listed_by_status_of_all_clients_of_one_and_of_a_day() {
    both(async |api, Db { connection: db, .. }| {
        let mut ids = Vec::new();
        for n in 0..24 {
            ids.insert(0, place_one(db, n % 2 + 1).await);
        }
        let change = async |n: usize, field: &str| {
            let mutation = format!("mutation {{ {} {{ userErrors {{ code }} }} }}", field.replace("ID", &ids[n]));
            let response = api.graphql(&api.token(ALL_SCOPES, None), &mutation, json!({})).await;
            assert!(response.to_string().contains("\"userErrors\":[]"), "{response}");
        };
        for (n, amount) in [(1, "1"), (5, "3000"), (6, "1"), (7, "1")] {
            let refund = format!("refundOrder(input: {{ orderId: \"ID\", amount: \"{amount}\", reason: \"x\" }})");
            change(n, &refund).await;
        }
        for n in [0, 3, 7, 8, 20] {
            change(n, "cancelOrder(input: { orderId: \"ID\", reason: \"x\" })").await;
        }
        let token = api.token("orders:read", None);
        let expect = async |arguments: &str, numbers: &[usize]| {
            let expected: Vec<&str> = numbers.iter().map(|n| &*ids[*n]).collect();
            for first in [2, 50] {
                let listed = read_pages(api, &token, &format!("{arguments},"), first, async || {}).await;
                assert_eq!(listed, expected, "{arguments}");
            }
        };
        let placed: Vec<usize> = (0..24).filter(|n| ![0, 1, 3, 5, 6, 7, 8, 20].contains(n)).collect();
        expect("status: PLACED", &placed).await;
        expect("status: CANCELLED", &[0, 3, 7, 8, 20]).await;
        expect("status: PARTIALLY_REFUNDED", &[1, 6]).await;
        expect("status: REFUNDED", &[5]).await;
        // The newest order, of number 0, is of client 2.
        expect("status: CANCELLED, clientId: \"2\"", &[0, 8, 20]).await;
        expect("status: CANCELLED, clientId: \"1\"", &[3, 7]).await;
        let today = Utc::now().date_naive();
        let yesterday = today - TimeDelta::days(1);
        expect(&format!("status: CANCELLED, from: \"{yesterday}\", to: \"{today}\""), &[0, 3, 7, 8, 20]).await;
        expect(&format!("status: CANCELLED, to: \"{}\"", yesterday - TimeDelta::days(1)), &[]).await;
    })
    .await;
}

/// The order of a cursor leaves the list when its status changes.
#[tokio::test]
async fn a_page_has_a_previous_one_if_there_are_orders_before_it() {
    both(async |api, Db { connection: db, .. }| {
        let (mut ids, token) = (Vec::new(), api.token(ALL_SCOPES, None));
        for _ in 0..6 {
            place_one(db, 2).await;
            ids.insert(0, place_one(db, 1).await);
        }
        let page = async |arguments: &str| {
            let query = format!(
                "{{ orders({arguments}, first: 2) {{ nodes {{ id }} pageInfo {{ hasPreviousPage endCursor }} }} }}"
            );
            let page = ask(api, &query).await["orders"].clone();
            let ids: Vec<_> = page["nodes"].as_array().unwrap().iter().map(|node| node["id"].clone()).collect();
            (ids, page["pageInfo"]["hasPreviousPage"].as_bool().unwrap())
        };
        let cancel = async |id: &str| {
            let cancel = format!(
                "mutation {{ cancelOrder(input: {{ orderId: \"{id}\", reason: \"r\" }}) {{ userErrors {{ code }} }} }}"
            );
            let response = api.graphql(&token, &cancel, json!({})).await;
            assert_eq!(response["data"]["cancelOrder"]["userErrors"], json!([]), "{response}");
        };
        let placed = |after: &str| format!("clientId: \"1\", status: PLACED, after: \"{after}\"");
        assert_eq!(page("clientId: \"1\", status: PLACED").await, (vec![json!(ids[0]), json!(ids[1])], false));
        cancel(&ids[1]).await;
        assert_eq!(page(&placed(&ids[1])).await, (vec![json!(ids[2]), json!(ids[3])], true));
        cancel(&ids[0]).await;
        assert_eq!(page(&placed(&ids[1])).await, (vec![json!(ids[2]), json!(ids[3])], false));
        assert_eq!(page(&placed(&ids[5])).await, (vec![], true));
        // The order of another client.
        let of_other = page("clientId: \"2\"").await.0[1].as_str().unwrap().to_owned();
        assert_eq!(
            page(&format!("clientId: \"1\", after: \"{of_other}\"")).await,
            (vec![json!(ids[2]), json!(ids[3])], true)
        );
        let after = Some(of_other.parse().unwrap());
        let pages = pages_of_clients(db, &[1, 2, 3], after, 2).await.unwrap();
        let found: Vec<_> = pages.into_iter().map(|page| (page.orders.len(), page.has_previous_page)).collect();
        assert_eq!(found, [(2, true), (2, true), (0, false)]);
    })
    .await;
}

#[tokio::test]
async fn wrong_arguments_of_lists_get_a_clear_error() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token(ALL_SCOPES, None);
    let id = Uuid::now_v7();
    for wrong in [
        "first: 0".to_owned(),
        "first: 101".into(),
        "after: \"\"".into(),
        "after: \"1\"".into(),
        format!("after: \"{}\"", id.to_string().to_uppercase()),
        format!("after: \"{{{id}}}\""),
        "clientId: \"1\", after: \"0\"".into(),
        "clientId: \"1\", after: \"2147483648\"".into(),
        "from: \"2026-03-02\", to: \"2026-03-01\"".into(),
        "timeZone: \"Mars/Olympus\"".into(),
    ] {
        let query = format!("{{ orders({wrong}) {{ nodes {{ id }} }} }}");
        assert_eq!(error_code(&api, &token, &query).await, "BAD_USER_INPUT", "{wrong}");
    }
    // A cursor of no order is a position in the list all the same.
    let query = format!("{{ orders(after: \"{id}\") {{ nodes {{ id }} pageInfo {{ hasPreviousPage }} }} }}");
    assert_eq!(ask(&api, &query).await["orders"]["pageInfo"]["hasPreviousPage"], false);
}

#[tokio::test]
async fn a_page_reads_only_its_own_rows() {
    let postgres = test_support::postgres::database().await;
    let connect = || database::connect(&postgres.url, 4, None);
    let db = connect().await.unwrap();
    migration::up(&db).await.unwrap();
    fill(&db, 20_000, 60_000).await;
    for (state, number) in
        [("refunded = total, cancelled_at = placed_at", 1), ("refunded = 1", 2), ("refunded = total", 3)]
    {
        let update = format!("UPDATE orders SET {state} WHERE (client_id * 31 + version) % 50 = {number}");
        db.execute_unprepared(&update).await.unwrap();
    }
    db.execute_unprepared("VACUUM ANALYZE orders").await.unwrap();
    db.close().await.unwrap(); // then its statistics are complete
    let db = connect().await.unwrap();
    let (whole, rows) = reads(&db, &["orders", "order_events"]).await;
    let reader = connect().await.unwrap();
    let today = Utc::now();
    let days = Filter { from: Some(today - TimeDelta::days(9)), before: Some(today - TimeDelta::days(2)), ..ALL };
    let of_client = Filter { client: Some(7), ..ALL };
    let status = |status, filter| Filter { status: Some(status), ..filter };
    let clients: Vec<i64> = (1..=100).collect();
    let mut filters = vec![ALL, days, of_client, Filter { client: Some(7), ..days }];
    for one in [Status::Placed, Status::Cancelled, Status::PartiallyRefunded, Status::Refunded] {
        filters.extend([status(one, ALL), status(one, days), status(one, of_client)]);
    }
    for filter in filters {
        let first = page(&reader, filter, None, 20).await.unwrap();
        if filter.client.is_none() && filter.from.is_none() {
            assert_eq!((first.orders.len(), first.has_next_page), (20, true), "{filter:?}");
        }
        let cursor = first.orders.last().map(|order| order.id);
        page(&reader, filter, cursor, 20).await.unwrap();
    }
    for _ in 0..2 {
        pages_of_clients(&reader, &clients, None, 5).await.unwrap();
    }
    reader.close().await.unwrap();
    let (whole_after, rows_after) = reads(&db, &["orders", "order_events"]).await;
    assert_eq!(whole_after, whole, "no statement reads a whole table");
    assert!(rows_after - rows < 6_000, "{} rows were read for at most 1,640 orders", rows_after - rows);
    assert_eq!(reads(&db, &["order_events"]).await.1, 0, "no event is read");
}

/// How often these tables were read as a whole, and how many of their rows by an index.
pub async fn reads(db: &DatabaseConnection, tables: &[&str]) -> (i64, i64) {
    let scans = format!(
        "SELECT coalesce(sum(seq_scan), 0)::bigint AS whole, coalesce(sum(idx_tup_fetch), 0)::bigint AS rows
         FROM pg_stat_user_tables WHERE relname IN ('{}')",
        tables.join("', '")
    );
    let row = db.query_one_raw(sql(&scans)).await.unwrap().unwrap();
    (row.try_get("", "whole").unwrap(), row.try_get("", "rows").unwrap())
}

/// A client with 10,000 orders of which none has another status, among many orders of others that have it.
#[tokio::test]
async fn a_page_of_one_client_with_a_status_does_not_pass_over_its_other_orders() {
    let postgres = test_support::postgres::database().await;
    let connect = || database::connect(&postgres.url, 1, None);
    let db = connect().await.unwrap();
    migration::up(&db).await.unwrap();
    fill(&db, 600, 60_000).await;
    let of_others = "WHERE client_id <> 7 AND version % 6 =";
    for statement in [
        "UPDATE orders SET client_id = 7, version = 1000 + moved.number FROM
             (SELECT id, row_number() OVER () AS number FROM orders WHERE client_id BETWEEN 101 AND 200) AS moved
         WHERE orders.id = moved.id",
        &format!("UPDATE orders SET cancelled_at = placed_at, refunded = total {of_others} 1"),
        &format!("UPDATE orders SET refunded = 1 {of_others} 2"),
        &format!("UPDATE orders SET refunded = total {of_others} 3"),
        "VACUUM ANALYZE orders",
    ] {
        db.execute_unprepared(statement).await.unwrap();
    }
    db.close().await.unwrap(); // then its statistics are complete
    let db = connect().await.unwrap();
    let before = reads(&db, &["orders"]).await;
    let reader = connect().await.unwrap();
    let middle = Some(least_id_at(Utc::now() - TimeDelta::days(180)));
    // So often that PostgreSQL plans for any client.
    for client in [7, 8].repeat(10) {
        for status in [Status::Cancelled, Status::PartiallyRefunded, Status::Refunded] {
            for after in [None, middle] {
                let filter = Filter { client: Some(client), status: Some(status), ..ALL };
                let page = page(&reader, filter, after, 5).await.unwrap();
                assert_eq!(page.orders.len(), if client == 7 { 0 } else { 5 }, "{filter:?}");
            }
        }
    }
    reader.close().await.unwrap();
    let after = reads(&db, &["orders"]).await;
    assert_eq!(after.0, before.0, "no statement reads a whole table");
    assert!(after.1 - before.1 < 1_000, "{} rows were read for 300 orders", after.1 - before.1);
}

/// Nearly all orders are cancelled: of all clients, and of one that has many.
#[tokio::test]
async fn a_page_of_placed_orders_passes_over_few_others_and_the_next_one_continues() {
    let postgres = test_support::postgres::database().await;
    let connect = || database::connect(&postgres.url, 1, None);
    let db = connect().await.unwrap();
    migration::up(&db).await.unwrap();
    fill(&db, 600, 60_000).await;
    for statement in [
        "UPDATE orders SET client_id = 7, version = 1000 + moved.number FROM
             (SELECT id, row_number() OVER () AS number FROM orders WHERE client_id BETWEEN 101 AND 200) AS moved
         WHERE orders.id = moved.id",
        "UPDATE orders SET cancelled_at = placed_at, refunded = total
         WHERE id NOT IN (SELECT id FROM orders ORDER BY id LIMIT 30)
             AND id NOT IN (SELECT id FROM orders WHERE client_id = 7 ORDER BY id OFFSET 5000 LIMIT 2)",
        "VACUUM ANALYZE orders",
    ] {
        db.execute_unprepared(statement).await.unwrap();
    }
    let placed = order::Entity::find().filter(order::Column::CancelledAt.is_null());
    let placed = placed.order_by_desc(order::Column::Id).all(&db).await.unwrap();
    let of_client: Vec<_> = placed.iter().filter(|order| order.client_id == 7).cloned().collect();
    assert!(placed.len() >= 32 && of_client.len() >= 2);
    let placed = [(None, placed), (Some(7), of_client)];
    db.close().await.unwrap(); // then its statistics are complete
    let db = connect().await.unwrap();
    let before = reads(&db, &["orders"]).await;
    let reader = connect().await.unwrap();
    let mut pages = 0;
    for (client, expected) in placed {
        let filter = Filter { client, status: Some(Status::Placed), ..ALL };
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = page(&reader, filter, after, 20).await.unwrap();
            pages += 1;
            found.extend(page.orders);
            if !page.has_next_page {
                break;
            }
            assert!(after.is_none() || page.end < after, "each page continues");
            after = page.end;
        }
        assert_eq!(found, expected, "{client:?}");
    }
    reader.close().await.unwrap();
    let after = reads(&db, &["orders"]).await;
    assert_eq!(after.0, before.0, "no statement reads a whole table");
    let rows = (after.1 - before.1) / pages;
    assert!(rows < 5_000, "{rows} rows were read for a page");
}

/// Then PostgreSQL expects that each order may well be of the client, and to find one soon among those of all.
#[tokio::test]
async fn a_client_without_orders_reads_no_orders_where_three_clients_have_all() {
    let postgres = test_support::postgres::database().await;
    let connect = || database::connect(&postgres.url, 1, None);
    let db = connect().await.unwrap();
    migration::up(&db).await.unwrap();
    fill(&db, 3, 60_000).await;
    db.close().await.unwrap(); // then its statistics are complete
    let db = connect().await.unwrap();
    let before = reads(&db, &["orders"]).await;
    let reader = connect().await.unwrap();
    let middle = Some(least_id_at(Utc::now() - TimeDelta::days(180)));
    let none = Filter { client: Some(4), ..ALL };
    let days = Filter { from: Some(Utc::now() - TimeDelta::days(9)), before: Some(Utc::now()), ..none };
    let placed = Filter { status: Some(Status::Placed), ..none };
    // So often that PostgreSQL plans for any client.
    for after in [None, middle].repeat(10) {
        let pages = pages_of_clients(&reader, &[1, 2, 3, 4], after, 5).await.unwrap();
        let found: Vec<_> = pages.iter().map(|page| page.orders.len()).collect();
        assert_eq!(found, [5, 5, 5, 0]);
        for filter in [none, days, placed] {
            assert!(page(&reader, filter, after, 5).await.unwrap().orders.is_empty(), "{filter:?}");
        }
    }
    reader.close().await.unwrap();
    let after = reads(&db, &["orders"]).await;
    assert_eq!(after.0, before.0, "no statement reads a whole table");
    assert!(after.1 - before.1 < 1_000, "{} rows were read for 300 orders", after.1 - before.1);
}

#[tokio::test]
async fn the_orders_of_a_list_have_their_clients() {
    both(async |api, Db { connection: db, .. }| {
        for client in [1, 2, 1, 3] {
            place_one(db, client).await;
        }
        for client in [1, 2] {
            api.read_model.apply(&[test_support::events::order_placed(client, 1, &[(1, 1, 100)])]).await;
        }
        let query = "{ orders { nodes { clientId client { id name } } } }";
        let client = |id: &str| json!({ "id": id, "name": format!("Client {id}") });
        let node = |id: &str, client: Value| json!({ "clientId": id, "client": client });
        let of_one = || node("1", client("1"));
        let nodes = json!([node("3", Value::Null), of_one(), node("2", client("2")), of_one()]);
        assert_eq!(ask(api, query).await["orders"]["nodes"], nodes);
        // A token for one client sees its own.
        let own = api.graphql(&api.token("orders:read clients:read", Some("1")), query, json!({})).await;
        assert_eq!((&own["data"]["orders"]["nodes"], &own["errors"]), (&json!([of_one(), of_one()]), &Value::Null));
        // Without the scope, the rest of the orders remains.
        let without = api.graphql(&api.token("orders:read", Some("2")), query, json!({})).await;
        assert_eq!(without["data"]["orders"]["nodes"], json!([node("2", Value::Null)]));
        let (error, path) = (&without["errors"][0], json!(["orders", "nodes", 0, "client"]));
        assert_eq!((&error["extensions"]["requiredScope"], &error["path"]), (&json!("clients:read"), &path));
    })
    .await;
}

/// More reads than a queue takes, while the table is locked.
#[tokio::test]
async fn reads_of_orders_that_find_their_queue_full_are_refused_as_busy() {
    const REQUESTS: usize = 70;
    let db = postgres().await;
    let flags = ["--rate-limit", "0", "--max-complexity", "100000"];
    let limits = ["--max-operations-per-caller", "1000", "--max-concurrent-operations", "1000"];
    let api = Api::start_with(&db, &[&flags[..], &limits[..]].concat()).await;
    let ids: Vec<i64> = (1..=100).collect();
    for id in &ids {
        api.read_model.apply(&[test_support::events::order_placed(*id, 1, &[(1, 1, 100)])]).await;
    }
    let query = "query ($ids: [ID!]!) { clientsByIds(ids: $ids) {
        one: orders(first: 1) { nodes { id } } other: orders(first: 2) { nodes { id } } } }";
    let lock = db.connection.begin().await.unwrap();
    lock.execute_unprepared("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let token = api.token(ALL_SCOPES, None);
    let requests = (0..REQUESTS).map(|_| api.graphql(&token, query, json!({ "ids": ids })));
    let mut responses: FuturesUnordered<_> = requests.collect();
    // Only a request of which no read waits has its response now.
    let refused = responses.next().await.unwrap();
    let errors = refused["errors"].as_array().unwrap_or_else(|| panic!("{refused}"));
    assert_eq!(errors.len(), 200);
    lock.rollback().await.unwrap();
    let others: Vec<Value> = responses.collect().await;
    for error in errors.iter().chain(others.iter().filter_map(|response| response["errors"].as_array()).flatten()) {
        assert_eq!(error["extensions"]["code"], "SERVER_BUSY", "{error}");
    }
    assert!(others.iter().any(|response| response["errors"].is_null()), "those that waited have their results");
}
