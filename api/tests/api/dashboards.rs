//! What dashboards ask, answered from memory and from Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use entity::{Change, ClientChanged, Event, Line, OrderPlaced};
use read_model::sales::today;
use read_model::{Memory, ReadModel};
use serde_json::{Value, json};
use uuid::Uuid;
use winterbaume_sqs::SqsService;

use crate::support::{ALL, Api, Socket, code, queue, redis, sqlite};

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

/// An order of so many pieces of each product, of 1.00 each.
fn event(client_id: i64, version: i32, time: DateTime<Utc>, pieces: &[(i64, i32)]) -> Event {
    let line = |&(product_id, quantity): &(i64, i32)| Line { product_id, name: "It".into(), unit_price: 100, quantity };
    let lines: Vec<Line> = pieces.iter().map(line).collect();
    let order = OrderPlaced {
        client_id,
        client_name: format!("Client {client_id}"),
        client_email: format!("{client_id}@example.com"),
        order_id: Uuid::from_u128((client_id * 1_000 + i64::from(version)) as u128),
        currency: "USD".into(),
        total: entity::event::total(&lines).unwrap(),
        lines,
    };
    Event { id: Uuid::now_v7(), time, version, data: Change::OrderPlaced(order) }
}

/// Both read models, each behind an api.
async fn both(check: impl AsyncFn(&Api)) {
    let (_server, redis) = redis().await;
    let models: [Arc<dyn ReadModel>; 2] = [Arc::new(Memory::default()), redis];
    for read_model in models {
        check(&Api::start_on(&sqlite().await, read_model, queue(SqsService::new()).await, &[]).await).await;
    }
}

async fn ask(api: &Api, query: &str) -> Value {
    let answer = api.graphql(&api.token(ALL, None), query, json!({})).await;
    assert_eq!(answer["errors"], Value::Null, "{query}");
    answer["data"].clone()
}

async fn refused(api: &Api, token: &str, query: &str) -> String {
    code(&api.graphql(token, query, json!({})).await).to_owned()
}

#[tokio::test]
async fn clients_are_ranked_a_page_at_a_time() {
    both(async |api| {
        let now = Utc::now();
        // Of the same total in threes; the newest purchase is the one of the largest id.
        let buys = |id: i64| event(id, 1, now + chrono::TimeDelta::milliseconds(id), &[(1, (id / 3) as i32 + 1)]);
        let events: Vec<Event> = (1..=50).map(buys).collect();
        api.read_model.apply(&events).await;
        for (order_by, first) in [("TOTAL_DESC", 7), ("LAST_PURCHASE_DESC", 20), ("TOTAL_DESC", 1)] {
            let (mut ids, mut after) = (Vec::new(), Value::Null);
            loop {
                let query = format!(
                    "{{ clients(first: {first}, orderBy: {order_by}, after: {after}) {{ \
                     edges {{ cursor node {{ id total {{ amount }} }} }} pageInfo {{ hasNextPage endCursor }} }} }}"
                );
                let page = ask(api, &query).await["clients"].clone();
                ids.extend(page["edges"].as_array().unwrap().iter().map(|edge| edge["node"]["id"].clone()));
                after = page["pageInfo"]["endCursor"].clone();
                if page["pageInfo"]["hasNextPage"] == false {
                    break;
                }
            }
            let mut expected: Vec<i64> = (1..=50).collect();
            match order_by {
                "TOTAL_DESC" => expected.sort_by_key(|id| std::cmp::Reverse((id / 3, id.to_string()))),
                _ => expected.reverse(),
            }
            assert_eq!(ids, expected.iter().map(i64::to_string).collect::<Vec<_>>(), "{order_by}");
        }
        // A page goes on where it was, also when the client there has moved.
        let first = ask(api, "{ clients(first: 3) { nodes { id } pageInfo { endCursor } } }").await;
        assert_eq!(first["clients"]["nodes"], json!([{"id": "50"}, {"id": "49"}, {"id": "48"}]));
        api.read_model.apply(&[event(48, 2, now, &[(1, 1)]), event(1, 2, now, &[(1, 100)])]).await;
        let after = &first["clients"]["pageInfo"]["endCursor"];
        let next = ask(api, &format!("{{ clients(first: 2, after: {after}) {{ nodes {{ id }} }} }}")).await;
        assert_eq!(next["clients"]["nodes"], json!([{"id": "47"}, {"id": "46"}]));

        let token = api.token(ALL, None);
        for wrong in ["first: 0", "first: 101", "first: -1", "after: \"\"", "after: \"t1\"", "after: \"t01:1\""] {
            let query = format!("{{ clients({wrong}) {{ nodes {{ id }} }} }}");
            assert_eq!(refused(api, &token, &query).await, "BAD_USER_INPUT", "{wrong}");
        }
        let other = "{ clients(after: \"t100:1\", orderBy: LAST_PURCHASE_DESC) { nodes { id } } }";
        assert_eq!(refused(api, &token, other).await, "BAD_USER_INPUT", "a cursor of another order");
    })
    .await;
}

#[tokio::test]
async fn a_page_tells_of_each_client_what_is_told_of_it_alone() {
    both(async |api| {
        let registered = ClientChanged {
            client_id: 3,
            client_name: "No\"body\u{1f600}".into(),
            client_email: "3@example.com".into(),
        };
        let registered = Event { id: Uuid::now_v7(), time: Utc::now(), version: 1, data: Change::Client(registered) };
        api.read_model
            .apply(&[event(1, 1, Utc::now(), &[(1, 7)]), event(2, 1, Utc::now(), &[(1, 5)]), registered])
            .await;
        let plain = "id name email total { amount currencyCode } orderCount lastPurchase version";
        for fields in [
            plain,
            "name mail: email ... on Client { mail: email count: orderCount } __typename total { is: amount ...Code }",
            "version @skip(if: true) orderCount @include(if: true)",
            "id recentOrders { total { amount } }",
        ] {
            let fragment = if fields.contains("...Code") { "fragment Code on Money { currencyCode }" } else { "" };
            let lists = format!("edges {{ node {{ {fields} }} cursor }} nodes {{ {fields} }}");
            let query =
                format!("{{ clientsByIds(ids: [1, 2, 3]) {{ {fields} }} clients(first: 3) {{ {lists} }} }} {fragment}");
            for _ in 0..2 {
                let answer = ask(api, &query).await;
                assert_eq!(answer["clients"]["nodes"], answer["clientsByIds"], "{fields}");
                let edges = answer["clients"]["edges"].as_array().unwrap();
                let nodes = json!(edges.iter().map(|edge| &edge["node"]).collect::<Vec<_>>());
                assert_eq!((nodes, edges.len()), (answer["clientsByIds"].clone(), 3), "{fields}");
                assert!(edges[0]["cursor"].as_str().unwrap().ends_with(":1"), "{answer}");
            }
        }
        assert_eq!(
            ask(api, "{ clients(after: \"t0:3\") { nodes { id } edges { cursor } } }").await["clients"],
            json!({ "nodes": [], "edges": [] })
        );
    })
    .await;
}

#[tokio::test]
async fn sales_have_a_point_for_each_step() {
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
        let fields = "total { amount currencyCode } orderCount points { start orderCount revenue { amount } }";
        let sales = async |arguments: &str| {
            ask(api, &format!("{{ sales({arguments}) {{ {fields} }} }}")).await["sales"].clone()
        };
        let point = |start: &str, orders: i32, revenue: &str| {
            json!({ "start": format!("{start}:00:00.000Z"), "orderCount": orders, "revenue": { "amount": revenue } })
        };
        let days = sales("from: \"2024-02-27\", to: \"2024-03-01\"").await;
        let total = json!({ "amount": "6.00", "currencyCode": "USD" });
        assert_eq!((&days["orderCount"], &days["total"]), (&json!(3), &total));
        let expected = [
            point("2024-02-27T00", 0, "0.00"),
            point("2024-02-28T00", 1, "1.00"),
            point("2024-02-29T00", 1, "2.00"),
            point("2024-03-01T00", 1, "3.00"),
        ];
        assert_eq!(days["points"], json!(expected));
        // An answer is not given again for long.
        api.read_model.apply(&[event(2, 1, at("2024-02-27T00:00:00Z"), &[(1, 1)])]).await;
        let applied = Instant::now();
        while sales("from: \"2024-02-27\", to: \"2024-03-01\"").await["orderCount"] != 4 {
            assert!(applied.elapsed() < Duration::from_secs(3), "it is not told");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // A month is cut where the report begins.
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
            fragment Rest on SalesPoint { revenue { amount } revenue { amount, is: amount, currencyCode @include(if: true) } }";
        let point = |start: &str, amount: &str| {
            let revenue = json!({ "amount": amount, "is": amount, "currencyCode": "USD" });
            json!({ "type": "SalesPoint", "again": 1, "start": start, "same": start, "revenue": revenue })
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
            let request = api.request().bearer_auth(api.token(ALL, None)).json(&json!({ "query": query }));
            request.send().await.unwrap().text().await.unwrap()
        };
        let told = r#"{"revenue":{"currencyCode":"USD","amount":"2.00"},"start":"2024-02-29T00:00:00.000Z"}"#;
        let turned = r#"{"start":"2024-02-29T00:00:00.000Z","revenue":{"amount":"2.00","currencyCode":"USD"}}"#;
        for (fields, point) in
            [("revenue { currencyCode amount } start", told), ("start revenue { amount currencyCode }", turned)]
        {
            let query = format!("{{ sales(from: \"2024-02-29\", to: \"2024-02-29\") {{ points {{ {fields} }} }} }}");
            assert_eq!(text(&query).await, format!(r#"{{"data":{{"sales":{{"points":[{point}]}}}}}}"#));
        }
        // However it is transported.
        let token = api.token(ALL, None);
        let request = api.request().bearer_auth(&token).header("accept", "text/event-stream");
        let told = request.json(&json!({ "query": starts })).send().await.unwrap().text().await.unwrap();
        let told = told.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let told: Value = serde_json::from_str(told).unwrap();
        assert_eq!(told["data"]["sales"]["points"], start);
        let mut socket = Socket::acknowledged(api, &token).await;
        socket.subscribe("1", starts).await;
        assert_eq!(socket.receive().await["payload"]["data"]["sales"]["points"], start);

        let ever = "{ sales(from: \"0001-01-01\", to: \"9999-12-31\", granularity: MONTH) { orderCount } }";
        assert_eq!(refused(api, &token, ever).await, "MAX_COMPLEXITY_LIMIT");
        for wrong in [
            "from: \"2024-03-02\", to: \"2024-03-01\"",
            "from: \"2024-02-30\", to: \"2024-03-01\"",
            "from: \"2024-1-1\", to: \"2024-03-01\"",
            "from: 7, to: \"2024-03-01\"",
            "from: \"2020-01-01\", to: \"2022-09-27\"",
            "from: \"1940-01-01\", to: \"2023-05-01\", granularity: MONTH",
            "from: \"2024-02-28\", to: \"2024-02-29\", granularity: HOUR",
        ] {
            let query = format!("{{ sales({wrong}) {{ orderCount }} }}");
            assert_eq!(refused(api, &token, &query).await, "BAD_USER_INPUT", "{wrong}");
        }
    })
    .await;
}

#[tokio::test]
async fn products_are_ranked_over_any_days() {
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
            let answer = ask(api, &query).await;
            let products = answer["topProducts"].as_array().unwrap().clone();
            let told =
                |sold: &Value| (sold["product"]["id"].as_str().unwrap().to_owned(), sold["units"].as_i64().unwrap());
            products.iter().map(told).collect::<Vec<_>>()
        };
        let sold = |all: &[(&str, i64)]| all.iter().map(|(id, units)| ((*id).to_owned(), *units)).collect::<Vec<_>>();
        // Single days, a whole month, and both.
        assert_eq!(top("from: \"2024-01-31\", to: \"2024-01-31\"").await, sold(&[("1", 5), ("2", 1)]));
        assert_eq!(top("from: \"2024-02-01\", to: \"2024-02-29\"").await, sold(&[("2", 4), ("3", 3)]));
        assert_eq!(top("from: \"2024-01-31\", to: \"2024-03-02\"").await, sold(&[("1", 6), ("2", 5), ("3", 3)]));
        assert_eq!(top("from: \"2024-02-02\", to: \"2024-03-01\"").await, sold(&[("3", 3)]));
        assert_eq!(top("from: \"2024-01-01\", to: \"2024-12-31\", first: 1, by: UNITS").await, sold(&[("1", 6)]));
        let token = api.token(ALL, None);
        for wrong in ["from: \"2024-01-01\", to: \"2034-02-01\"", "from: \"2024-01-01\", to: \"2024-01-01\", first: 0"]
        {
            let query = format!("{{ topProducts({wrong}) {{ units }} }}");
            assert_eq!(refused(api, &token, &query).await, "BAD_USER_INPUT", "{wrong}");
        }
    })
    .await;
}

#[tokio::test]
async fn orders_are_shown_to_those_who_may_see_them() {
    both(async |api| {
        let now = Utc::now();
        let events: Vec<Event> = (1..=60).map(|version| event(1, version, now, &[(1, version), (2, 1)])).collect();
        api.read_model.apply(&events).await;
        api.read_model.apply(&[event(2, 1, now, &[(1, 1)])]).await;
        let query = "{ client(id: 1) { recentOrders(first: 100) { id itemCount total { amount } client { name } } } }";
        let recent = ask(api, query).await["client"]["recentOrders"].clone();
        assert_eq!(recent.as_array().unwrap().len(), 50);
        let id = |number: u128| Uuid::from_u128(number).to_string();
        let newest = json!({ "id": id(1_060), "itemCount": 2, "total": { "amount": "61.00" }, "client": { "name": "Client 1" } });
        assert_eq!((&recent[0], &recent[49]["id"]), (&newest, &json!(id(1_011))));

        let order = |number| format!("{{ order(id: \"{}\") {{ clientId items {{ productId quantity lineTotal {{ amount }} }} }} }}", id(number));
        let items = ask(api, &order(1_002)).await["order"]["items"].clone();
        assert_eq!(items[0], json!({ "productId": "1", "quantity": 2, "lineTotal": { "amount": "2.00" } }));
        for absent in [id(7), "7".to_owned(), String::new()] {
            assert_eq!(ask(api, &format!("{{ order(id: \"{absent}\") {{ id }} }}")).await["order"], Value::Null);
        }

        // A token for one client sees what is of that client.
        let (own, scope) = (api.token(ALL, Some("1")), "sales:read clients:read");
        let seen = api.graphql(&own, &order(1_060), json!({})).await;
        assert_eq!(seen["data"]["order"]["clientId"], "1");
        assert_eq!(api.graphql(&own, &order(2_001), json!({})).await["data"]["order"], Value::Null);
        let seen = api.graphql(&own, query, json!({})).await;
        assert_eq!(seen["data"]["client"]["recentOrders"].as_array().unwrap().len(), 50);
        let of_all = [
            "{ clients { nodes { id } } }",
            "{ sales(from: \"2024-01-01\", to: \"2024-01-02\") { orderCount } }",
            "{ topProducts(from: \"2024-01-01\", to: \"2024-01-02\") { units } }",
        ];
        for query in of_all {
            assert_eq!(refused(api, &own, query).await, "FORBIDDEN", "{query}");
            assert_eq!(refused(api, &api.token("clients:read", None), query).await, "FORBIDDEN", "{query}");
            assert_eq!(refused(api, "", query).await, "UNAUTHENTICATED", "{query}");
            assert_eq!(refused(api, &api.token(scope, None), query).await, "none", "{query}");
        }
        let without = api.token("clients:read", None);
        for query in [query, &order(1_001)] {
            assert_eq!(refused(api, &without, query).await, "FORBIDDEN", "{query}");
        }
    })
    .await;
}

/// However many orders come, there are at most four snapshots a second, and the last one is of all of them.
#[tokio::test]
async fn what_is_sold_is_told_four_times_a_second() {
    both(async |api| {
        const WATCH: &str = "subscription { salesChanged { revenueToday { amount } ordersToday ordersPerMinute \
                             latestOrders { clientId client { name } total { amount } } } }";
        let mut socket = Socket::acknowledged(api, &api.token(ALL, None)).await;
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

        let mut socket = Socket::acknowledged(api, &api.token(ALL, Some("1"))).await;
        socket.subscribe("w", WATCH).await;
        assert_eq!(socket.receive().await["payload"]["errors"][0]["extensions"]["code"], "FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn the_last_minute_is_counted_in_tens_of_seconds() {
    let memory = Memory::default();
    // The ten seconds that it is are 4 s old: of those of a minute ago, 6 s count.
    let now = DateTime::from_timestamp_millis(Utc::now().timestamp_millis() / 10_000 * 10_000 + 4_000).unwrap();
    let ago = |seconds| now - chrono::TimeDelta::seconds(seconds);
    let seconds = [0, 3, 10, 25, 60, 61, 62, 63, 64, 75, 3_000];
    let events: Vec<Event> =
        (1..).zip(seconds).map(|(version, seconds)| event(1, version, ago(seconds), &[(1, 1)])).collect();
    memory.apply(&events).await;
    assert_eq!(today(&memory, now).await.unwrap().1, 4 + 3, "of five a minute ago, three");
    let tomorrow = now.date_naive().succ_opt().unwrap().and_time(chrono::NaiveTime::MIN).and_utc();
    assert_eq!(today(&memory, tomorrow).await.unwrap().0.count, 0);
}
