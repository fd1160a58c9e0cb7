//! Ranked clients and their orders, from memory and from Redis.

use chrono::Utc;
use entity::{Change, ClientChanged, Event};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::reports::*;
use crate::support::ALL_SCOPES;

#[tokio::test]
async fn ranked_clients_are_paginated() {
    both(async |api| {
        let now = Utc::now();
        // Three clients each have the same total. The client with the largest id has the newest purchase.
        let buys = |id: i64| event(id, 1, now + chrono::TimeDelta::milliseconds(id), &[(1, (id / 3) as i32 + 1)]);
        let events: Vec<Event> = (1..=50).map(buys).collect();
        api.read_model.apply(&events).await;
        for (sort_by, first) in [("TOTAL_DESC", 7), ("LAST_PURCHASE_DESC", 20), ("TOTAL_DESC", 1)] {
            let (mut ids, mut after) = (Vec::new(), Value::Null);
            loop {
                let query = format!(
                    "{{ clients(first: {first}, sortBy: {sort_by}, after: {after}) {{ \
                     edges {{ cursor node {{ id total {{ amount }} }} }} pageInfo {{ hasPreviousPage hasNextPage endCursor }} }} }}"
                );
                let page = ask(api, &query).await["clients"].clone();
                assert_eq!(page["pageInfo"]["hasPreviousPage"], !ids.is_empty(), "{page}");
                ids.extend(page["edges"].as_array().unwrap().iter().map(|edge| edge["node"]["id"].clone()));
                after = page["pageInfo"]["endCursor"].clone();
                if page["pageInfo"]["hasNextPage"] == false {
                    break;
                }
            }
            let mut expected: Vec<i64> = (1..=50).collect();
            match sort_by {
                "TOTAL_DESC" => expected.sort_by_key(|id| std::cmp::Reverse((id / 3, id.to_string()))),
                _ => expected.reverse(),
            }
            assert_eq!(ids, expected.iter().map(i64::to_string).collect::<Vec<_>>(), "{sort_by}");
        }
        // The next page continues at the cursor even if the client there has moved.
        let first = ask(api, "{ clients(first: 3) { nodes { id } pageInfo { endCursor } } }").await;
        assert_eq!(first["clients"]["nodes"], json!([{"id": "50"}, {"id": "49"}, {"id": "48"}]));
        api.read_model.apply(&[event(48, 2, now, &[(1, 1)]), event(1, 2, now, &[(1, 100)])]).await;
        let after = &first["clients"]["pageInfo"]["endCursor"];
        let next = ask(api, &format!("{{ clients(first: 2, after: {after}) {{ nodes {{ id }} }} }}")).await;
        assert_eq!(next["clients"]["nodes"], json!([{"id": "47"}, {"id": "46"}]));

        // The cursor of a position before the first client, and of one behind the last.
        for (after, has_previous_page) in [("t1000000000:1", false), ("t0:1", true)] {
            let query = format!("{{ clients(after: \"{after}\") {{ pageInfo {{ hasPreviousPage }} }} }}");
            assert_eq!(ask(api, &query).await["clients"]["pageInfo"]["hasPreviousPage"], has_previous_page, "{after}");
        }

        let token = api.token(ALL_SCOPES, None);
        for wrong in ["first: 0", "first: 101", "first: -1", "after: \"\"", "after: \"t1\"", "after: \"t01:1\""] {
            let query = format!("{{ clients({wrong}) {{ nodes {{ id }} }} }}");
            assert_eq!(error_code(api, &token, &query).await, "BAD_USER_INPUT", "{wrong}");
        }
        let other = "{ clients(after: \"t100:1\", sortBy: LAST_PURCHASE_DESC) { nodes { id } } }";
        assert_eq!(error_code(api, &token, other).await, "BAD_USER_INPUT", "a cursor of another sort order");
    })
    .await;
}

#[tokio::test]
async fn a_page_shows_each_client_as_a_single_read_does() {
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
                let response = ask(api, &query).await;
                assert_eq!(response["clients"]["nodes"], response["clientsByIds"], "{fields}");
                let edges = response["clients"]["edges"].as_array().unwrap();
                let nodes = json!(edges.iter().map(|edge| &edge["node"]).collect::<Vec<_>>());
                assert_eq!((nodes, edges.len()), (response["clientsByIds"].clone(), 3), "{fields}");
                assert!(edges[0]["cursor"].as_str().unwrap().ends_with(":1"), "{response}");
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
async fn orders_are_shown_only_to_those_allowed_to_see_them() {
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

        // A token for one client reads only the orders of that client.
        let (own, scope) = (api.token(ALL_SCOPES, Some("1")), "sales:read clients:read");
        let seen = api.graphql(&own, query, json!({})).await;
        assert_eq!(seen["data"]["client"]["recentOrders"].as_array().unwrap().len(), 50);
        let of_all = [
            "{ clients { nodes { id } } }",
            "{ sales(from: \"2024-01-01\", to: \"2024-01-02\") { orderCount } }",
            "{ topProducts(from: \"2024-01-01\", to: \"2024-01-02\") { units } }",
        ];
        for query in of_all {
            assert_eq!(error_code(api, &own, query).await, "FORBIDDEN", "{query}");
            assert_eq!(error_code(api, &api.token("clients:read", None), query).await, "FORBIDDEN", "{query}");
            assert_eq!(error_code(api, "", query).await, "UNAUTHENTICATED", "{query}");
            assert_eq!(error_code(api, &api.token(scope, None), query).await, "none", "{query}");
        }
        let without = api.token("clients:read", None);
        for query in [query, "{ order(id: 1) { id } }"] {
            assert_eq!(error_code(api, &without, query).await, "FORBIDDEN", "{query}");
        }
    })
    .await;
}
