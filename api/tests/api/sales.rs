//! Sales over time, top products and live sales, from memory and from Redis.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use entity::{Change, Event};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use read_model::reports::today;
use read_model::{Memory, Projection};
use serde_json::{Value, json};
use test_support::events::{order_cancelled, order_refunded};

use crate::reports::*;
use crate::support::{ALL_SCOPES, Api, Socket, sqlite, until};

#[tokio::test]
async fn sales_have_one_point_per_period() {
    both(async |api| {
        let recently = (Utc::now() - chrono::Days::new(2)).format("%Y-%m-%d").to_string();
        let times = [
            at("2024-02-28T23:59:59.999Z"),
            at("2024-02-29T00:00:00Z"),
            at("2024-03-01T12:00:00Z"),
            at(&format!("{recently}T05:30:00Z")),
            at(&format!("{recently}T23:00:00Z")),
        ];
        let events: Vec<Event> =
            (1..).zip(times).map(|(version, time)| event(1, version, time, &[(1, version)])).collect();
        api.read_model.apply(&events).await;
        let fields = "net { amount currencyCode } orderCount points { start orderCount net { amount } }";
        let sales = async |arguments: &str| {
            ask(api, &format!("{{ sales({arguments}) {{ {fields} }} }}")).await["sales"].clone()
        };
        let point = |start: &str, orders: i32, revenue: &str| {
            json!({ "start": format!("{start}:00:00.000Z"), "orderCount": orders, "net": { "amount": revenue } })
        };
        let days = sales("from: \"2024-02-27\", to: \"2024-03-01\"").await;
        let total = json!({ "amount": "6.00", "currencyCode": "USD" });
        assert_eq!((&days["orderCount"], &days["net"]), (&json!(3), &total));
        let expected = [
            point("2024-02-27T00", 0, "0.00"),
            point("2024-02-28T00", 1, "1.00"),
            point("2024-02-29T00", 1, "2.00"),
            point("2024-03-01T00", 1, "3.00"),
        ];
        assert_eq!(days["points"], json!(expected));
        // A cached report is soon replaced.
        api.read_model.apply(&[event(2, 1, at("2024-02-27T00:00:00Z"), &[(1, 1)])]).await;
        let applied = Instant::now();
        until("the new order is in the report", async || {
            sales("from: \"2024-02-27\", to: \"2024-03-01\"").await["orderCount"] == 4
        })
        .await;
        assert!(applied.elapsed() < Duration::from_secs(3), "{:?}", applied.elapsed());
        // The first month counts only the days of the report.
        let months = sales("from: \"2024-02-29\", to: \"2024-04-30\", granularity: MONTH").await;
        let expected =
            [point("2024-02-01T00", 1, "2.00"), point("2024-03-01T00", 1, "3.00"), point("2024-04-01T00", 0, "0.00")];
        assert_eq!(months["points"], json!(expected));
        let hours = sales(&format!("from: \"{recently}\", to: \"{recently}\", granularity: HOUR")).await;
        let points = hours["points"].as_array().unwrap();
        assert_eq!((points.len(), &hours["orderCount"]), (24, &json!(2)));
        assert_eq!(points[5], point(&format!("{recently}T05"), 1, "4.00"));
        assert_eq!(points[23], point(&format!("{recently}T23"), 1, "5.00"));
        assert_eq!(sales("from: \"1940-01-01\", to: \"2023-04-30\", granularity: MONTH").await["orderCount"], 0);

        // Points are not resolved one by one.
        let query = "{ sales(from: \"2024-02-29\", to: \"2024-03-01\") { points {
            type: __typename orderCount @skip(if: true) again: orderCount ... on SalesPoint { start, same: start } ...Rest } } }
            fragment Rest on SalesPoint { net { amount } net { amount, is: amount, currencyCode @include(if: true) } }";
        let point = |start: &str, amount: &str| {
            let revenue = json!({ "amount": amount, "is": amount, "currencyCode": "USD" });
            json!({ "type": "SalesPoint", "again": 1, "start": start, "same": start, "net": revenue })
        };
        let expected = [point("2024-02-29T00:00:00.000Z", "2.00"), point("2024-03-01T00:00:00.000Z", "3.00")];
        assert_eq!(ask(api, query).await["sales"]["points"], json!(expected));
        // Nor written again for the next who asks, unless that is for something else, or for more at once.
        assert_eq!(ask(api, query).await["sales"]["points"], json!(expected));
        let starts = "{ sales(from: \"2024-02-29\", to: \"2024-03-01\") { points { start } } }";
        let start = json!([{ "start": expected[0]["start"] }, { "start": expected[1]["start"] }]);
        assert_eq!(ask(api, starts).await["sales"]["points"], start);
        let twice = query.replacen("{ points {", "{ points { number: orderCount } points {", 1);
        let mut merged = expected;
        merged.iter_mut().for_each(|point| point["number"] = json!(1));
        assert_eq!(ask(api, &twice).await["sales"]["points"], json!(merged));
        // Fields are in the order in which each has asked for them.
        let text = async |query: &str| {
            let request = api.request().bearer_auth(api.token(ALL_SCOPES, None)).json(&json!({ "query": query }));
            request.send().await.unwrap().text().await.unwrap()
        };
        let reversed = r#"{"net":{"currencyCode":"USD","amount":"2.00"},"start":"2024-02-29T00:00:00.000Z"}"#;
        let ordered = r#"{"start":"2024-02-29T00:00:00.000Z","net":{"amount":"2.00","currencyCode":"USD"}}"#;
        for (fields, point) in
            [("net { currencyCode amount } start", reversed), ("start net { amount currencyCode }", ordered)]
        {
            let query = format!("{{ sales(from: \"2024-02-29\", to: \"2024-02-29\") {{ points {{ {fields} }} }} }}");
            assert_eq!(text(&query).await, format!(r#"{{"data":{{"sales":{{"points":[{point}]}}}}}}"#));
        }
        // However it is transported.
        let token = api.token(ALL_SCOPES, None);
        let request = api.request().bearer_auth(&token).header("accept", "text/event-stream");
        let text = request.json(&json!({ "query": starts })).send().await.unwrap().text().await.unwrap();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let event: Value = serde_json::from_str(data).unwrap();
        assert_eq!(event["data"]["sales"]["points"], start);
        let mut socket = Socket::acknowledged(api, &token).await;
        socket.subscribe("1", starts).await;
        assert_eq!(socket.receive().await["payload"]["data"]["sales"]["points"], start);

        let ever = "{ sales(from: \"0001-01-01\", to: \"9999-12-31\", granularity: MONTH) { orderCount } }";
        assert_eq!(error_code(api, &token, ever).await, "MAX_COMPLEXITY_LIMIT");
        for malformed in ["\"2024-02-30\"", "\"2024-1-1\"", "7"] {
            let query = format!("{{ sales(from: {malformed}, to: \"2024-03-01\") {{ orderCount }} }}");
            assert_eq!(error_code(api, &token, &query).await, "GRAPHQL_VALIDATION_FAILED", "{malformed}");
        }
        for wrong in [
            "from: \"2024-03-02\", to: \"2024-03-01\"",
            "from: \"2020-01-01\", to: \"2022-09-27\"",
            "from: \"1940-01-01\", to: \"2023-05-01\", granularity: MONTH",
            "from: \"2024-02-28\", to: \"2024-02-29\", granularity: HOUR",
        ] {
            let query = format!("{{ sales({wrong}) {{ orderCount }} }}");
            assert_eq!(error_code(api, &token, &query).await, "BAD_USER_INPUT", "{wrong}");
        }
    })
    .await;
}

#[tokio::test]
async fn sales_are_those_of_the_days_of_a_time_zone() {
    both(async |api| {
        let days_ago = |days| Utc::now().date_naive() - chrono::Days::new(days);
        let (day, next) = (days_ago(400), days_ago(399));
        // India is five and a half hours ahead.
        let times = [format!("{day}T18:29:59.999Z"), format!("{day}T18:30:00Z"), format!("{next}T18:29:00Z")];
        let events: Vec<Event> =
            (1..).zip(times).map(|(version, time)| event(1, version, at(&time), &[(1, version)])).collect();
        api.read_model.apply(&events).await;
        let query = |zone: &str, from| {
            format!(
                "{{ sales(from: \"{from}\", to: \"{next}\", timeZone: \"{zone}\") {{ net {{ amount }} points {{ start orderCount }} }} }}"
            )
        };
        let point = |start: String, orders: i32| json!({ "start": start, "orderCount": orders });
        let before = day.pred_opt().unwrap();
        for (zone, expected) in [
            ("UTC", [point(format!("{day}T00:00:00.000Z"), 2), point(format!("{next}T00:00:00.000Z"), 1)]),
            ("Asia/Kolkata", [point(format!("{before}T18:30:00.000Z"), 1), point(format!("{day}T18:30:00.000Z"), 2)]),
        ] {
            let sales = json!({ "net": { "amount": "6.00" }, "points": expected });
            assert_eq!(ask(api, &query(zone, day)).await["sales"], sales, "{zone}");
        }
        let token = api.token(ALL_SCOPES, None);
        for (zone, from) in [
            ("Asia/Kolkata", days_ago(800)),
            ("Asia/Kathmandu", day),
            ("Mars/Olympus", day),
            ("", day),
            ("+05:30", day),
        ] {
            assert_eq!(error_code(api, &token, &query(zone, from)).await, "BAD_USER_INPUT", "{zone} {from}");
        }
    })
    .await;
}

#[tokio::test]
async fn half_hours_are_paid_for_before_they_are_read() {
    let api = Api::start_with(&sqlite().await, &["--rate-limit", "1", "--max-complexity", "300"]).await;
    let day = |days| Utc::now().date_naive() - chrono::Days::new(days);
    let query = |from, zone: &str| {
        let arguments =
            format!("from: \"{}\", to: \"{}\", granularity: MONTH, timeZone: \"{zone}\"", day(from), day(0));
        format!("{{ sales({arguments}) {{ orderCount }} }}")
    };
    let token = api.token(ALL_SCOPES, None);
    assert_eq!(error_code(&api, &token, &query(700, "UTC")).await, "none");
    assert_eq!(error_code(&api, &token, &query(10, "Europe/Berlin")).await, "none");
    assert_eq!(error_code(&api, &token, &query(700, "Europe/Berlin")).await, "RATE_LIMITED", "it costs 350 more");
}

#[tokio::test]
async fn top_products_are_ranked_over_any_days() {
    both(async |api| {
        let day = |text: &str| at(&format!("{text}T10:00:00Z"));
        let events = [
            event(1, 1, day("2024-01-31"), &[(1, 5), (2, 1)]),
            event(2, 1, day("2024-02-01"), &[(2, 2), (2, 2)]),
            event(3, 1, day("2024-02-29"), &[(3, 3)]),
            event(3, 2, day("2024-03-02"), &[(1, 1)]),
        ];
        api.read_model.apply(&events).await;
        let top = async |arguments: &str| {
            let query =
                format!("{{ topProducts({arguments}) {{ product {{ id name }} units revenue {{ amount }} }} }}");
            let response = ask(api, &query).await;
            let products = response["topProducts"].as_array().unwrap().clone();
            let id_and_units =
                |sold: &Value| (sold["product"]["id"].as_str().unwrap().to_owned(), sold["units"].as_i64().unwrap());
            products.iter().map(id_and_units).collect::<Vec<_>>()
        };
        let sold = |all: &[(&str, i64)]| all.iter().map(|(id, units)| ((*id).to_owned(), *units)).collect::<Vec<_>>();
        // Single days, a whole month, and both together.
        assert_eq!(top("from: \"2024-01-31\", to: \"2024-01-31\"").await, sold(&[("1", 5), ("2", 1)]));
        assert_eq!(top("from: \"2024-02-01\", to: \"2024-02-29\"").await, sold(&[("2", 4), ("3", 3)]));
        assert_eq!(top("from: \"2024-01-31\", to: \"2024-03-02\"").await, sold(&[("1", 6), ("2", 5), ("3", 3)]));
        assert_eq!(top("from: \"2024-02-02\", to: \"2024-03-01\"").await, sold(&[("3", 3)]));
        assert_eq!(
            top("from: \"2024-01-01\", to: \"2024-12-31\", first: 1, sortBy: UNITS_DESC").await,
            sold(&[("1", 6)])
        );
        let token = api.token(ALL_SCOPES, None);
        for wrong in ["from: \"2024-01-01\", to: \"2034-02-01\"", "from: \"2024-01-01\", to: \"2024-01-01\", first: 0"]
        {
            let query = format!("{{ topProducts({wrong}) {{ units }} }}");
            assert_eq!(error_code(api, &token, &query).await, "BAD_USER_INPUT", "{wrong}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_sales_of_products_are_those_of_top_products() {
    both(async |api| {
        let mut random = StdRng::seed_from_u64(7);
        let first = at("2024-01-20T00:00:00Z");
        let mut events: Vec<Event> = Vec::new();
        for client in 1..=40 {
            let mut time = || first + TimeDelta::minutes(random.random_range(0..60 * 24 * 60));
            let (placed_at, refunded_at) = (time(), time());
            let lines = [(random.random_range(1..=2), random.random_range(1..=5)), (3, 1)];
            let placed = event(client, 1, placed_at, &lines);
            match client % 4 {
                0 => events.push(order_cancelled(refunded_at, 2, &placed)),
                1 => events.push(order_refunded(refunded_at, 2, &placed, &[50, 25])),
                _ => {}
            }
            events.push(placed);
        }
        api.read_model.apply(&events).await;
        let fields = "units revenue { amount } grossUnits grossRevenue { amount } cancelledRevenue { amount }";
        for (from, to) in [("2024-01-25", "2024-01-25"), ("2024-01-01", "2024-12-31"), ("2024-02-03", "2024-03-09")] {
            let days = format!("from: \"{from}\", to: \"{to}\"");
            let query = format!(
                "{{ topProducts({days}) {{ product {{ id }} {fields} }}
                    products(first: 3) {{ nodes {{ id sales({days}) {{ product {{ id }} {fields} }} }} }} }}"
            );
            let response = ask(api, &query).await;
            let top = response["topProducts"].as_array().unwrap();
            let products = response["products"]["nodes"].as_array().unwrap();
            assert_eq!(products.len(), 3);
            for product in products {
                let Some(ranked) = top.iter().find(|top| top["product"]["id"] == product["id"]) else {
                    assert_eq!(product["sales"]["grossUnits"], 0, "{days}");
                    continue;
                };
                assert_eq!(product["sales"], *ranked, "{days}");
                let minor =
                    |field: &str| ranked[field]["amount"].as_str().unwrap().replace('.', "").parse::<i64>().unwrap();
                assert_eq!(minor("revenue"), minor("grossRevenue") - minor("cancelledRevenue"));
            }
            // From the events alone.
            let in_range = |event: &&Event| (from..=to).contains(&&*event.time.format("%F").to_string());
            let sold = events.iter().filter(in_range).filter(|event| matches!(event.data, Change::OrderPlaced(_)));
            let units: i32 = sold
                .flat_map(|event| &event.order().unwrap().lines)
                .filter(|line| line.product_id == 3)
                .map(|line| line.quantity)
                .sum();
            assert_eq!(products[2]["sales"]["grossUnits"], units);
        }
        let query = |days: &str| format!("{{ product(id: 1) {{ sales({days}) {{ units revenue {{ amount }} }} }} }}");
        let never = query("from: \"2020-01-01\", to: \"2020-01-31\"");
        let nothing = json!({ "units": 0, "revenue": { "amount": "0.00" } });
        assert_eq!(ask(api, &never).await["product"]["sales"], nothing);
        let token = api.token(ALL_SCOPES, None);
        for wrong in ["from: \"2024-01-01\", to: \"2034-02-01\"", "from: \"2024-01-02\", to: \"2024-01-01\""] {
            assert_eq!(error_code(api, &token, &query(wrong)).await, "BAD_USER_INPUT", "{wrong}");
        }
        let without = api.token(&ALL_SCOPES.replace("sales:read", ""), None);
        assert_eq!(error_code(api, &without, &never).await, "FORBIDDEN");
        assert_eq!(error_code(api, &api.token(ALL_SCOPES, Some("1")), &never).await, "FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn cancellations_and_refunds_count_on_their_own_day_and_rankings_are_net() {
    both(async |api| {
        let day = |text: &str| at(&format!("{text}T10:00:00Z"));
        let orders = [
            event(1, 1, day("2024-01-31"), &[(1, 6), (2, 1)]),
            event(1, 2, day("2024-01-31"), &[(2, 2)]),
            event(2, 1, day("2024-02-01"), &[(2, 4)]),
        ];
        let cancelled = order_cancelled(day("2024-02-01"), 3, &orders[0]);
        let refunded = order_refunded(day("2024-02-02"), 4, &orders[1], &[50]);
        // The cancellation arrives first, and again.
        let events = [cancelled.clone(), orders[0].clone(), orders[1].clone(), orders[2].clone(), refunded, cancelled];
        api.read_model.apply(&events).await;
        let amount = |amount: &str| json!({ "amount": amount });
        let point = |day: &str, [gross, cancelled, net]: [&str; 3], orders: [i32; 2]| {
            let start = format!("{day}T00:00:00.000Z");
            json!({ "start": start, "gross": amount(gross), "cancelled": amount(cancelled), "net": amount(net),
                "orderCount": orders[0], "cancelledCount": orders[1] })
        };
        let fields = "gross { amount } cancelled { amount } net { amount } orderCount cancelledCount";
        let query =
            format!("{{ sales(from: \"2024-01-31\", to: \"2024-02-02\") {{ {fields} points {{ start {fields} }} }} }}");
        let mut sales = ask(api, &query).await["sales"].take();
        let points = [
            point("2024-01-31", ["9.00", "0.00", "9.00"], [2, 0]),
            point("2024-02-01", ["4.00", "7.00", "-3.00"], [1, 1]),
            point("2024-02-02", ["0.00", "0.50", "-0.50"], [0, 0]),
        ];
        assert_eq!(sales["points"].take(), json!(points));
        let total = json!({ "gross": amount("13.00"), "cancelled": amount("7.50"), "net": amount("5.50"),
            "orderCount": 3, "cancelledCount": 1, "points": null });
        assert_eq!(sales, total);

        let query = "{ clients { nodes { id total { amount } gross { amount } cancelled { amount } orderCount
            cancelledCount lastPurchase } } }";
        let client = |id: &str, [total, gross, cancelled]: [&str; 3], orders: [i32; 2], last: &str| {
            json!({ "id": id, "total": amount(total), "gross": amount(gross), "cancelled": amount(cancelled),
                "orderCount": orders[0], "cancelledCount": orders[1], "lastPurchase": format!("{last}T10:00:00.000Z") })
        };
        let clients = [
            client("2", ["4.00", "4.00", "0.00"], [1, 0], "2024-02-01"),
            client("1", ["1.50", "9.00", "7.50"], [2, 1], "2024-01-31"),
        ];
        assert_eq!(ask(api, query).await["clients"]["nodes"], json!(clients));

        let top = async |sort: &str| {
            let query = format!(
                "{{ topProducts(from: \"2024-01-31\", to: \"2024-02-02\", sortBy: {sort}) {{
                product {{ id }} units revenue {{ amount }} grossUnits grossRevenue {{ amount }} }} }}"
            );
            ask(api, &query).await["topProducts"].clone()
        };
        let product = |id: &str, [units, gross_units]: [i32; 2], [revenue, gross]: [&str; 2]| {
            json!({ "product": { "id": id }, "units": units, "revenue": amount(revenue), "grossUnits": gross_units,
                "grossRevenue": amount(gross) })
        };
        let products = [product("2", [6, 7], ["5.50", "7.00"]), product("1", [0, 6], ["0.00", "6.00"])];
        for sort in ["REVENUE_DESC", "UNITS_DESC"] {
            assert_eq!(top(sort).await, json!(products), "{sort}");
        }
    })
    .await;
}

#[tokio::test]
async fn subscriptions_show_cancellations() {
    both(async |api| {
        let placed = event(1, 1, Utc::now(), &[(1, 5)]);
        api.read_model.apply(std::slice::from_ref(&placed)).await;
        let mut socket = Socket::acknowledged(api, &api.token(ALL_SCOPES, None)).await;
        let sales = "subscription { salesChanged { revenueToday { amount } grossToday { amount } cancelledToday { amount }
            ordersToday cancelledOrdersToday ordersPerMinute } }";
        socket.subscribe("sales", sales).await;
        let client = "subscription { clientChanged(id: 1) { total { amount } cancelled { amount } cancelledCount } }";
        socket.subscribe("client", client).await;
        let amount = |amount: &str| json!({ "amount": amount });
        let mut seen = async |sales: Value, client: Value| {
            let mut missing = vec![("sales", "salesChanged", sales), ("client", "clientChanged", client)];
            while !missing.is_empty() {
                let message = socket.receive().await;
                missing.retain(|(id, field, value)| message["id"] != *id || message["payload"]["data"][field] != *value);
            }
        };
        let sales = |[net, cancelled]: [&str; 2], cancelled_orders: i32| {
            json!({ "revenueToday": amount(net), "grossToday": amount("5.00"), "cancelledToday": amount(cancelled),
                "ordersToday": 1, "cancelledOrdersToday": cancelled_orders, "ordersPerMinute": 1 })
        };
        let client = |[total, cancelled]: [&str; 2], count: i32| {
            json!({ "total": amount(total), "cancelled": amount(cancelled), "cancelledCount": count })
        };
        seen(sales(["5.00", "0.00"], 0), client(["5.00", "0.00"], 0)).await;
        api.read_model.apply(&[order_refunded(Utc::now(), 2, &placed, &[120])]).await;
        seen(sales(["3.80", "1.20"], 0), client(["3.80", "1.20"], 0)).await;
        let mut rest = order_cancelled(Utc::now(), 3, &placed);
        if let entity::Change::OrderCancelled(refund) = &mut rest.data {
            (refund.amount, refund.amounts) = (380, vec![380]);
        }
        api.read_model.apply(&[rest]).await;
        seen(sales(["0.00", "5.00"], 1), client(["0.00", "5.00"], 1)).await;
    })
    .await;
}

/// Also under load; and the last snapshot contains all orders.
#[tokio::test]
async fn live_sales_are_sent_at_most_four_times_a_second() {
    both(async |api| {
        const WATCH: &str = "subscription { salesChanged { revenueToday { amount } ordersToday ordersPerMinute \
                             latestOrders { clientId client { name } total { amount } } } }";
        let mut socket = Socket::acknowledged(api, &api.token(ALL_SCOPES, None)).await;
        socket.subscribe("w", WATCH).await;
        let mut next = async || socket.receive().await["payload"]["data"]["salesChanged"].clone();
        assert_eq!((&next().await["ordersToday"], 0), (&json!(0), 0));
        let began = Instant::now();
        let applying = tokio::spawn({
            let read_model = api.read_model.clone();
            async move {
                for version in 1..=400 {
                    read_model.apply(&[event(1, version, Utc::now(), &[(1, 1)])]).await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
        let (mut snapshots, mut last) = (0, Value::Null);
        while last["ordersToday"] != 400 {
            last = next().await;
            snapshots += 1;
        }
        applying.await.unwrap();
        let most = began.elapsed().as_millis() / 250 + 2;
        assert!((2..=most).contains(&snapshots), "{snapshots} in {:?}", began.elapsed());
        let latest = last["latestOrders"].as_array().unwrap();
        assert_eq!((latest.len(), &latest[0]["client"]["name"]), (10, &json!("Client 1")));
        assert_eq!(last["revenueToday"]["amount"], "400.00");

        let mut socket = Socket::acknowledged(api, &api.token(ALL_SCOPES, Some("1"))).await;
        socket.subscribe("w", WATCH).await;
        assert_eq!(socket.receive().await["payload"]["errors"][0]["extensions"]["code"], "FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn orders_per_minute_are_counted_in_ten_second_buckets() {
    let memory = Memory::default();
    // The current bucket is 4 s old, so that 6 s of the bucket a minute ago count.
    let now = DateTime::from_timestamp_millis(Utc::now().timestamp_millis() / 10_000 * 10_000 + 4_000).unwrap();
    let ago = |seconds| now - chrono::TimeDelta::seconds(seconds);
    let seconds = [0, 3, 10, 25, 60, 61, 62, 63, 64, 75, 3_000];
    let events: Vec<Event> =
        (1..).zip(seconds).map(|(version, seconds)| event(1, version, ago(seconds), &[(1, 1)])).collect();
    memory.apply(&events).await;
    assert_eq!(today(&memory, now).await.unwrap().1, 4 + 3, "three of the five orders a minute ago");
    let tomorrow = now.date_naive().succ_opt().unwrap().and_time(chrono::NaiveTime::MIN).and_utc();
    assert_eq!(today(&memory, tomorrow).await.unwrap().0.gross.count, 0);
}
