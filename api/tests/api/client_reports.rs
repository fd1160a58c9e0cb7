//! Reports on clients from the rows of orders, on both databases, compared with sums over all orders.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use entity::{client, order, order_refund};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use runtime::database;
use sea_orm::{ActiveModelTrait, ConnectionTrait, DatabaseConnection, EntityTrait, IntoActiveModel};
use serde_json::{Value, json};
use test_support::events::order_placed;
use test_support::fill::fill;
use uuid::Uuid;

use crate::order_lists::reads;
use crate::reports::{ask, at, error_code};
use crate::support::{ALL_SCOPES, Api, postgres, sqlite};

const CLIENTS: i64 = 8;
/// Times around the days of 25 and of 23 hours in Berlin.
const WEEKS: [&str; 2] = ["2025-10-20T00:00:00Z", "2026-03-23T00:00:00Z"];

/// An order with its refunds.
struct Stored {
    order: order::Model,
    refunds: Vec<order_refund::Model>,
}

/// Stores random orders in two weeks. Some are cancelled or refunded, up to ten days later.
async fn store_random_orders(db: &DatabaseConnection, seed: u64) -> Vec<Stored> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut stored = Vec::new();
    for _ in 0..400 {
        let week = at(WEEKS[usize::from(random.random_bool(0.6))]);
        let placed_at = week + TimeDelta::milliseconds(random.random_range(0..TimeDelta::days(10).num_milliseconds()));
        // The last clients begin later, so that some are new.
        let client_id = random.random_range(1..=if week == at(WEEKS[0]) { CLIENTS - 3 } else { CLIENTS });
        let (id, total) = (id_at(placed_at, &mut random), random.random_range(0..100_000));
        let order = order::Model {
            id,
            client_id,
            version: 0,
            placed_at,
            total,
            cancelled_at: None,
            cancel_reason: None,
            refunded: 0,
        };
        let mut order = Stored { order, refunds: Vec::new() };
        let mut time = placed_at;
        while random.random_bool(0.3) && order.order.cancelled_at.is_none() {
            time += TimeDelta::milliseconds(random.random_range(0..TimeDelta::days(10).num_milliseconds()));
            order.refund(time, random.random_bool(0.5), &mut random);
        }
        stored.push(order);
    }
    number(&mut stored);
    insert(db, &stored).await;
    stored
}

impl Stored {
    fn refund(&mut self, time: DateTime<Utc>, cancels: bool, random: &mut StdRng) {
        let left = self.order.total - self.order.refunded;
        let amount = if cancels { left } else { random.random_range(0..=left) };
        self.order.refunded += amount;
        self.order.cancelled_at = cancels.then_some(time);
        let (order_id, client_id) = (self.order.id, self.order.client_id);
        let id = id_at(time, random);
        self.refunds.push(order_refund::Model {
            id,
            order_id,
            client_id,
            version: 0,
            refunded_at: time,
            amount,
            cancels,
        });
    }
}

/// Numbers the events of each client in the sequence of their times.
fn number(stored: &mut [Stored]) {
    let mut events: Vec<(DateTime<Utc>, i64, &mut i32)> = Vec::new();
    for Stored { order, refunds } in stored {
        events.push((order.placed_at, order.client_id, &mut order.version));
        events.extend(refunds.iter_mut().map(|refund| (refund.refunded_at, refund.client_id, &mut refund.version)));
    }
    events.sort_by_key(|(time, ..)| *time);
    let mut versions: BTreeMap<i64, i32> = BTreeMap::new();
    for (_, client, number) in events {
        let version = versions.entry(client).or_default();
        *version += 1;
        *number = *version;
    }
}

async fn insert(db: &DatabaseConnection, stored: &[Stored]) {
    for number in 4..=CLIENTS {
        let client = client::Model {
            id: number,
            name: format!("Client {number}"),
            email: format!("{number}@example.com"),
            version: 0,
            forgotten_at: None,
        };
        client.into_active_model().reset_all().insert(db).await.unwrap();
    }
    let orders = stored.iter().map(|stored| stored.order.clone().into_active_model().reset_all());
    order::Entity::insert_many(orders).exec_without_returning(db).await.unwrap();
    let refunds = stored.iter().flat_map(|stored| &stored.refunds);
    let refunds = refunds.map(|refund| refund.clone().into_active_model().reset_all());
    order_refund::Entity::insert_many(refunds).exec_without_returning(db).await.unwrap();
}

fn id_at(time: DateTime<Utc>, random: &mut StdRng) -> Uuid {
    let millis = u64::try_from(time.timestamp_millis()).unwrap();
    uuid::Builder::from_unix_timestamp_millis(millis, &random.random()).into_uuid()
}

/// Runs a check with an api on each database and the stored orders. The read model has all clients but the last.
async fn both(check: impl AsyncFn(&Api, &[Stored])) {
    for (seed, db) in [(1, sqlite().await), (2, postgres().await)] {
        let stored = store_random_orders(&db.connection, seed).await;
        let api = Api::start_with(&db, &["--rate-limit", "0"]).await;
        for client in 1..CLIENTS {
            api.read_model.apply(&[order_placed(client, 1, &[(1, 1, 100)])]).await;
        }
        check(&api, &stored).await;
    }
}

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

/// Ranges of days, of which the last is empty.
const RANGES: [(&str, &str); 7] = [
    ("2025-10-26", "2025-10-26"),
    ("2026-03-29", "2026-03-29"),
    ("2025-10-20", "2025-10-25"),
    ("2026-03-27", "2026-04-02"),
    ("2025-10-01", "2026-04-30"),
    ("2026-04-01", "2026-04-01"),
    ("2026-01-01", "2026-01-31"),
];
const ZONES: [Tz; 5] =
    [Tz::UTC, Tz::Europe__Berlin, Tz::Asia__Kathmandu, Tz::America__New_York, Tz::Pacific__Kiritimati];

fn money(minor: i64) -> Value {
    let (sign, minor) = (if minor < 0 { "-" } else { "" }, minor.abs());
    json!({ "amount": format!("{sign}{}.{:02}", minor / 100, minor % 100) })
}

/// What a client bought: orders, cancelled ones, amounts.
#[derive(Clone, Copy, Default)]
struct Bought {
    orders: i64,
    cancelled: i64,
    gross: i64,
    refunded: i64,
}

fn bought<'a>(orders: impl Iterator<Item = &'a order::Model>) -> BTreeMap<i64, Bought> {
    let mut clients: BTreeMap<i64, Bought> = BTreeMap::new();
    for order in orders {
        let client = clients.entry(order.client_id).or_default();
        client.orders += 1;
        client.cancelled += i64::from(order.cancelled_at.is_some());
        client.gross += order.total;
        client.refunded += order.refunded;
    }
    clients
}

#[tokio::test]
async fn a_report_has_the_clients_that_ordered_in_the_days_of_a_time_zone() {
    both(async |api, stored| {
        for ((from, to), zone) in RANGES.iter().flat_map(|range| ZONES.map(|zone| (range, zone))) {
            let day_of = |order: &order::Model| order.placed_at.with_timezone(&zone).date_naive();
            let orders = || stored.iter().map(|stored| &stored.order);
            let before = bought(orders().filter(|order| day_of(order) < day(from)));
            let in_range = bought(orders().filter(|order| (day(from)..=day(to)).contains(&day_of(order))));
            let returning = in_range.keys().filter(|client| before.contains_key(client)).count();
            let mut top: Vec<(i64, Bought)> = in_range.clone().into_iter().collect();
            let mut ranked = |rank: fn(&Bought) -> (i64, i64), first: usize| -> Value {
                top.sort_by_key(|(id, bought)| (std::cmp::Reverse(rank(bought)), *id));
                let known = top.iter().take(first).filter(|(id, _)| *id < CLIENTS);
                let client = |(id, bought): &(i64, Bought)| {
                    json!({ "client": { "id": id.to_string(), "name": format!("Client {id}") },
                        "orderCount": bought.orders, "cancelledCount": bought.cancelled, "gross": money(bought.gross),
                        "cancelled": money(bought.refunded), "net": money(bought.gross - bought.refunded) })
                };
                known.map(client).collect()
            };
            let query = format!(
                "{{ clientReport(from: \"{from}\", to: \"{to}\", timeZone: \"{zone}\") {{
                    clientCount newClientCount returningClientCount
                    topClients {{ ...Top }} mostOrders: topClients(first: 3, sortBy: ORDER_COUNT_DESC) {{ ...Top }} }} }}
                fragment Top on ClientSales {{ client {{ id name }} orderCount cancelledCount gross {{ amount }}
                    cancelled {{ amount }} net {{ amount }} }}"
            );
            let expected = json!({
                "clientCount": in_range.len(), "newClientCount": in_range.len() - returning, "returningClientCount": returning,
                "topClients": ranked(|bought| (bought.gross - bought.refunded, bought.orders), 10),
                "mostOrders": ranked(|bought| (bought.orders, bought.gross - bought.refunded), 3),
            });
            assert_eq!(ask(api, &query).await["clientReport"], expected, "{from} to {to} in {zone}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_sales_to_a_client_have_points_of_the_hours_days_and_months_of_a_time_zone() {
    let fields = "gross { amount } cancelled { amount } net { amount } orderCount cancelledCount";
    both(async |api, stored| {
        for ((from, to), zone) in RANGES.iter().flat_map(|range| ZONES.map(|zone| (range, zone))) {
            for (granularity, format) in [("HOUR", "%FT%H%z"), ("DAY", "%F"), ("MONTH", "%Y-%m")] {
                if granularity == "HOUR" && day(to) - day(from) > TimeDelta::days(20) {
                    continue;
                }
                let client = 3;
                let point_of = |time: DateTime<Utc>| time.with_timezone(&zone).format(format).to_string();
                let in_range =
                    |time: DateTime<Utc>| (day(from)..=day(to)).contains(&time.with_timezone(&zone).date_naive());
                // By the name of their hour, day or month.
                let mut points: BTreeMap<String, Bought> = BTreeMap::new();
                for Stored { order, refunds } in stored.iter().filter(|stored| stored.order.client_id == client) {
                    if in_range(order.placed_at) {
                        let point = points.entry(point_of(order.placed_at)).or_default();
                        point.orders += 1;
                        point.gross += order.total;
                    }
                    for refund in refunds.iter().filter(|refund| in_range(refund.refunded_at)) {
                        let point = points.entry(point_of(refund.refunded_at)).or_default();
                        point.cancelled += i64::from(refund.cancels);
                        point.refunded += refund.amount;
                    }
                }
                let json = |bought: &Bought| {
                    json!({ "gross": money(bought.gross), "cancelled": money(bought.refunded),
                        "net": money(bought.gross - bought.refunded), "orderCount": bought.orders,
                        "cancelledCount": bought.cancelled })
                };
                let total = points.values().fold(Bought::default(), |sum, point| Bought {
                    orders: sum.orders + point.orders,
                    cancelled: sum.cancelled + point.cancelled,
                    gross: sum.gross + point.gross,
                    refunded: sum.refunded + point.refunded,
                });
                let query = format!(
                    "{{ client(id: {client}) {{ sales(from: \"{from}\", to: \"{to}\", granularity: {granularity},
                        timeZone: \"{zone}\") {{ {fields} points {{ start {fields} }} }} }} }}"
                );
                let mut sales = ask(api, &query).await["client"]["sales"].take();
                let mut starts = Vec::new();
                for mut point in serde_json::from_value::<Vec<Value>>(sales["points"].take()).unwrap() {
                    let start = at(point["start"].as_str().unwrap());
                    point.as_object_mut().unwrap().remove("start");
                    assert_eq!(point, json(&points.remove(&point_of(start)).unwrap_or_default()), "{query}: {start}");
                    starts.push(start);
                }
                assert!(points.is_empty(), "{query}: {:?}", points.keys());
                assert!(starts.is_sorted_by(|one, next| one < next));
                if (*from, *to, granularity, zone) == ("2025-10-26", "2025-10-26", "HOUR", Tz::Europe__Berlin) {
                    assert_eq!(starts.len(), 25);
                }
                let mut expected = json(&total);
                expected["points"] = Value::Null;
                assert_eq!(sales, expected, "{query}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_sales_to_a_client_are_bounded_and_those_of_others_refused() {
    let db = sqlite().await;
    let api = Api::start_with(&db, &["--max-complexity", "100000"]).await;
    api.read_model.apply(&[order_placed(1, 1, &[(1, 1, 100)])]).await;
    let query = |arguments: &str| format!("{{ client(id: 1) {{ sales({arguments}) {{ orderCount }} }} }}");
    let day = query("from: \"2026-03-29\", to: \"2026-03-29\"");
    let token = api.token(ALL_SCOPES, None);
    for wrong in [
        "from: \"2024-03-02\", to: \"2024-03-01\"",
        "from: \"2024-01-01\", to: \"2026-12-31\"",
        "from: \"2024-01-01\", to: \"2024-03-01\", granularity: HOUR",
        "from: \"0001-01-01\", to: \"9999-12-31\", granularity: MONTH",
        "from: \"2024-03-01\", to: \"2024-03-01\", timeZone: \"\"",
    ] {
        assert_eq!(error_code(&api, &token, &query(wrong)).await, "BAD_USER_INPUT", "{wrong}");
    }
    assert_eq!(error_code(&api, &api.token("clients:read sales:read", Some("1")), &day).await, "none");
    assert_eq!(error_code(&api, &api.token("clients:read orders:read", None), &day).await, "FORBIDDEN");
    let of_other = api.token("clients:read sales:read", Some("2"));
    assert_eq!(error_code(&api, &of_other, &day).await, "FORBIDDEN");

    // 10,000 orders of a day are added up, one more is too much.
    let orders = |number: i64, from: i64| {
        format!(
            "INSERT INTO orders (id, client_id, version, placed_at, total)
             WITH RECURSIVE n (n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM n WHERE n < {from} + {number} - 1)
             SELECT unhex(printf('%012x%020x', 1774785600000 + n, n)), 1, n,
                    strftime('%Y-%m-%dT%H:%M:%f+00:00', 1774785600 + n / 1000.0, 'unixepoch'), 100 FROM n"
        )
    };
    db.connection.execute_unprepared(&orders(10_000, 1)).await.unwrap();
    assert_eq!(ask(&api, &day).await["client"]["sales"]["orderCount"], 10_000);
    db.connection.execute_unprepared(&orders(1, 10_001)).await.unwrap();
    assert_eq!(error_code(&api, &token, &day).await, "BAD_USER_INPUT");
}

#[tokio::test]
async fn the_sales_to_a_client_are_paid_by_its_orders() {
    let db = sqlite().await;
    let api = Api::start_with(&db, &["--rate-limit", "1", "--max-complexity", "200"]).await;
    api.read_model.apply(&[order_placed(1, 1, &[(1, 1, 100)])]).await;
    let query = "{ client(id: 1) { sales(from: \"2026-03-29\", to: \"2026-03-29\") { orderCount } } }";
    let token = api.token(ALL_SCOPES, None);
    assert_eq!(error_code(&api, &token, query).await, "none");
    let orders = "INSERT INTO orders (id, client_id, version, placed_at, total)
                  WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10000)
                  SELECT unhex(printf('%012x%020x', 1774785600000 + n, n)), 1, n,
                         strftime('%Y-%m-%dT%H:%M:%f+00:00', 1774785600 + n / 1000.0, 'unixepoch'), 100 FROM n";
    db.connection.execute_unprepared(orders).await.unwrap();
    for query in [query, "{ client(id: 1) { id } }"] {
        assert_eq!(error_code(&api, &token, query).await, "RATE_LIMITED", "10,000 orders cost 400: {query}");
    }
}

#[tokio::test]
async fn an_order_that_has_just_been_placed_is_in_a_report_soon() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        let today = Utc::now().date_naive();
        let query = format!(
            "{{ clientReport(from: \"{today}\", to: \"{}\") {{ clientCount newClientCount }} }}",
            today + TimeDelta::days(1)
        );
        let report = async || ask(&api, &query).await["clientReport"].clone();
        assert_eq!(report().await, json!({ "clientCount": 0, "newClientCount": 0 }));
        let token = api.token(ALL_SCOPES, None);
        let input = crate::support::order("2", &[("1", 1)], None);
        api.graphql(&token, crate::support::PLACE, input).await;
        crate::support::until("the order is in the report", async || {
            report().await == json!({ "clientCount": 1, "newClientCount": 1 })
        })
        .await;
    }
}

#[tokio::test]
async fn a_report_on_clients_is_bounded_and_needs_a_token_for_all_clients() {
    let api = Api::start(&sqlite().await).await;
    let token = api.token(ALL_SCOPES, None);
    let query =
        |arguments: &str| format!("{{ clientReport({arguments}) {{ clientCount topClients {{ orderCount }} }} }}");
    let leap_year = query("from: \"2024-01-01\", to: \"2024-12-31\", timeZone: \"Asia/Tokyo\"");
    let nobody = json!({ "clientCount": 0, "topClients": [] });
    assert_eq!(ask(&api, &leap_year).await["clientReport"], nobody);
    assert_eq!(ask(&api, &query("from: \"0001-01-01\", to: \"0001-01-01\"")).await["clientReport"], nobody);
    assert_eq!(ask(&api, &query("from: \"9999-12-31\", to: \"9999-12-31\"")).await["clientReport"], nobody);
    for wrong in [
        "from: \"2024-01-01\", to: \"2025-01-01\"",
        "from: \"0001-01-01\", to: \"9999-12-31\"",
        "from: \"2024-03-02\", to: \"2024-03-01\"",
        "from: \"2024-03-01\", to: \"2024-03-01\", timeZone: \"Mars/Olympus\"",
    ] {
        assert_eq!(error_code(&api, &token, &query(wrong)).await, "BAD_USER_INPUT", "{wrong}");
    }
    for first in [0, 101] {
        let query = leap_year.replace("topClients", &format!("topClients(first: {first})"));
        assert_eq!(error_code(&api, &token, &query).await, "BAD_USER_INPUT", "{first}");
    }
    let without = api.token(&ALL_SCOPES.replace("sales:read", ""), None);
    assert_eq!(error_code(&api, &without, &leap_year).await, "FORBIDDEN");
    assert_eq!(error_code(&api, &api.token(ALL_SCOPES, Some("1")), &leap_year).await, "FORBIDDEN");
    assert_eq!(error_code(&api, &api.token("sales:read", None), &leap_year).await, "none");
}

#[tokio::test]
async fn a_report_on_clients_reads_only_the_orders_of_its_range() {
    let postgres = test_support::postgres::database().await;
    let connect = || database::connect(&postgres.url, 1, None);
    let db = connect().await.unwrap();
    migration::up(&db).await.unwrap();
    fill(&db, 20_000, 60_000).await;
    db.close().await.unwrap(); // then its statistics are complete
    let db = connect().await.unwrap();
    let (whole, rows) = reads(&db, &["orders"]).await;
    let reader = connect().await.unwrap();
    let reports = api::orders::client_reports::ClientReports::new(reader.clone());
    for days_ago in 10..30 {
        let day = Utc::now().date_naive() - TimeDelta::days(days_ago);
        let caller = api::edge::quota::QuotaKey::Subject("reader".into());
        let report = reports.of(read_model::reports::DayRange::utc(day, day), &caller).await.unwrap();
        assert!(report.clients > 100 && report.new_clients < report.clients, "{report:?}");
        assert_eq!(report.by_net.len(), 100);
    }
    reader.close().await.unwrap();
    let (whole_after, rows_after) = reads(&db, &["orders"]).await;
    assert_eq!(whole_after, whole, "no statement reads the whole table");
    // A day has 164 orders, and the first order of each client is found in an index.
    assert!(rows_after - rows < 20 * 2 * 170, "{} rows were read", rows_after - rows);
}
