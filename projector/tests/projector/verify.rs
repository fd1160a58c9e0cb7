//! Comparing and repairing clients and products.

use crate::support::*;
use chrono::{SubsecRound, Utc};
use entity::Subject::{self, Client, Product};
use entity::{event, order_event};
use iso_currency::Currency;
use projector::verify::log::UnreadableEvent;
use projector::verify::{Difference, Finding, FirstMissed, Money, Progress, Repair, Verifier};
use read_model::reports::latest_orders;
use read_model::{ProjectedClient, Projection, Queries};
use sea_orm::{ActiveModelTrait, ConnectionTrait, EntityTrait, IntoActiveModel};
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

/// All differences, including clients that the database does not have.
async fn differences(verifier: &Verifier) -> Vec<(Subject, Difference)> {
    let mut findings = Vec::new();
    let each = |step: Progress| {
        findings.extend(step.findings);
        ControlFlow::Continue(())
    };
    verifier.all(0, each).await.unwrap();
    for Finding { difference, repaired, .. } in &findings {
        let is_unknown = matches!(difference, Difference::Orphaned { .. });
        let expected = verifier.repair >= if is_unknown { Repair::RemoveOrphans } else { Repair::FromLog };
        assert_eq!(*repaired, expected, "{difference}");
    }
    findings.into_iter().map(|finding| (finding.subject, finding.difference)).collect()
}

#[tokio::test]
async fn verify_reports_every_kind_of_difference_and_repairs_it() {
    let (_server, url, mut verifier) = verifier(Repair::Off).await;
    let rows: Vec<_> = (1..=3).flat_map(|client| (1..=4).map(move |version| row(client, version))).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    let missing = |client| (Client(client), Difference::Missing { events: 4 });
    assert_eq!(differences(&verifier).await, [missing(1), missing(2), missing(3)]);

    // An event that is in the outbox, or that left it recently, is on its way.
    let young = [row(1, 5), order_event::Model { occurred_at: Utc::now().trunc_subsecs(3), ..row(2, 5) }];
    assert_eq!(verifier.unpublished().await.unwrap(), (0, None));
    place(&verifier.db, &young[..1], Outbox::Pending).await;
    assert_eq!(verifier.unpublished().await.unwrap(), (1, Some(young[0].occurred_at)));
    place(&verifier.db, &young[1..], Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    assert_eq!(differences(&verifier).await, [(Client(2), Difference::Behind { events: 1, version: 4 })]);
    // It arrives twice while the comparison waits for it.
    verifier.in_flight = Duration::from_millis(500);
    let arrives = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        verifier.read_model.apply(&events(&[young[1].clone(), young[1].clone()])).await;
    };
    assert_eq!(tokio::join!(differences(&verifier), arrives).0, []);
    verifier.in_flight = Duration::ZERO;
    assert_eq!(differences(&verifier).await, []);

    let key = |client: i64| format!("orders:{{p{client}}}:g1:client:{client}");
    command(&url, &["DEL", &key(1)]).await;
    verifier.read_model.apply(&events(&[rows[0].clone(), rows[3].clone()])).await;
    command(&url, &["HINCRBY", &key(2), "total", "1"]).await;
    command(&url, &["HSET", &key(3), "orders", "many"]).await;
    verifier.read_model.apply(&events(&[row(99, 1)])).await;
    let total = 5 * 150_000;
    let found = differences(&verifier).await;
    assert_eq!(found[0], (Client(1), Difference::Behind { events: 2, version: 1 }));
    let (orders, orders_expected) = (5, 5);
    let money = |minor_units| Money { minor_units, currency: Currency::USD };
    let (wrong, right) = (money(total + 1), money(total));
    let differs = Difference::WrongTotal { orders, orders_expected, total: wrong, total_expected: right };
    let text = "wrong total: 7500.01 USD for 5 orders, expected 7500.00 USD for 5 orders";
    assert_eq!(differs.to_string(), text);
    assert_eq!(json!(differs)["totalExpected"], "7500.00 USD");
    assert_eq!(found[1], (Client(2), differs));
    assert!(matches!(&found[2], (Client(3), Difference::Damaged { why }) if why.contains("orders")), "{found:?}");
    assert_eq!(found[3..], [(Client(99), Difference::Orphaned { version: 1 })]);

    verifier.repair = Repair::FromLog;
    assert_eq!(differences(&verifier).await, found);
    assert_eq!(differences(&verifier).await, found[3..], "orphans are only removed if asked for");
    verifier.repair = Repair::RemoveOrphans;
    assert_eq!(differences(&verifier).await, found[3..]);
    assert_eq!(differences(&verifier).await, []);
    let clients = verifier.read_model.clients(&[1, 2, 3, 99]).await.unwrap();
    let versions_and_totals: Vec<_> =
        clients.iter().map(|client| client.as_ref().map(|c| (c.version, c.order_count, c.total))).collect();
    // The repair has also applied the event in the outbox, because it is in the log.
    assert_eq!(versions_and_totals, [Some((5, 5, total)), Some((5, 5, total)), Some((4, 4, 4 * 150_000)), None]);

    // The database was restored from an old backup: events that it no longer has are removed.
    verifier.read_model.apply(&events(&[row(3, 5), row(3, 7)])).await;
    assert_eq!(differences(&verifier).await, [(Client(3), Difference::Orphaned { version: 7 })]);
    assert_eq!(differences(&verifier).await, []);

    // Clients are ranked again if the rankings of their partition are lost, or if a ranking has the wrong type.
    for (partition, id, damage) in [(1, 1, "DEL"), (2, 2, "SET")] {
        let rankings = ["total", "last"].map(|name| format!("orders:{{p{partition}}}:g1:rank:{name}"));
        command(&url, &["DEL", &rankings[0], &rankings[1]]).await;
        if damage == "SET" {
            command(&url, &["SET", &rankings[0], "damaged"]).await;
        }
        assert_eq!(differences(&verifier).await, [(Client(id), Difference::Misranked)]);
        assert_eq!(differences(&verifier).await, []);
    }
    // A quarantined ranking misses events: only a rebuild repairs it.
    command(&url, &["SADD", "orders:{p2}:g1:quarantine", "rank:last"]).await;
    for _ in 0..2 {
        let page = verifier.next_clients(0, 2_000, &mut FirstMissed::default()).await.unwrap().unwrap();
        let findings: Vec<_> =
            page.findings.iter().map(|found| (found.subject, &found.difference, found.repaired)).collect();
        assert_eq!(findings, [(Client(2), &Difference::Misranked, false)]);
    }
    command(&url, &["DEL", "orders:{p2}:g1:quarantine"]).await;

    // Unreadable data, and a client whose log is invalid, do not prevent the repair of other clients.
    command(&url, &["HSET", &key(1), "newest", "999999999999"]).await;
    command(&url, &["HINCRBY", &key(2), "total", "1"]).await;
    command(&url, &["HINCRBY", &key(3), "total", "1"]).await;
    verifier.db.execute_unprepared("UPDATE order_events SET type = 'other' WHERE client_id = 2").await.unwrap();
    let page = verifier.next_clients(0, 2_000, &mut FirstMissed::default()).await.unwrap().unwrap();
    let repaired: Vec<_> = page.findings.iter().map(|finding| (finding.subject, finding.repaired)).collect();
    assert_eq!(repaired, [(Client(1), true), (Client(2), false), (Client(3), true)]);
}

#[tokio::test]
async fn verify_reads_the_whole_log_and_reports_the_events_that_cannot_be_read() {
    let (_server, _, verifier) = verifier(Repair::Off).await;
    let rows: Vec<_> = (1..=2_500).map(|version| row(1, version)).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    let damages = [
        (1, "payload = '{}'", "missing field"),
        (1_000, "type = 'other'", "unknown event type \"other\""),
        (2_500, "payload = json_set(payload, '$.total', 1)", "data.total is not the sum"),
    ];
    for (version, damage, _) in damages {
        let statement = format!("UPDATE order_events SET {damage} WHERE client_id = 1 AND version = {version}");
        verifier.db.execute_unprepared(&statement).await.unwrap();
    }
    let mut found = Vec::new();
    let each = |unreadable: Vec<UnreadableEvent>| {
        found.extend(unreadable);
        ControlFlow::Continue(())
    };
    verifier.check_log(each).await.unwrap();
    assert_eq!(found.len(), damages.len(), "{found:?}");
    for (version, _, why) in damages {
        let id = rows[version as usize - 1].id;
        assert!(found.iter().any(|one| one.event == id && one.unreadable.contains(why)), "{version}: {found:?}");
    }
}

/// An update of a client or a product.
fn change_of(subject: Subject, version: i32, name: &str) -> order_event::Model {
    let (r#type, client_id, product_id, payload) = match subject {
        Client(id) => {
            let data = json!({ "clientId": id, "clientName": name, "clientEmail": "bob@anemailprovider.com" });
            (event::CLIENT_UPDATED, Some(id), None, data)
        }
        Product(id) => {
            let data =
                json!({ "productId": id, "name": name, "price": 5 * version, "currency": "USD", "available": id < 3 });
            (event::PRODUCT_UPDATED, None, Some(id), data)
        }
    };
    order_event::Model { r#type: r#type.into(), client_id, product_id, payload, ..row(1, version) }
}

#[tokio::test]
async fn verify_compares_names_addresses_and_products() {
    let (_server, url, mut verifier) = verifier(Repair::Off).await;
    let rows = [
        change_of(Client(1), 1, "Robert"),
        change_of(Client(1), 2, "Bob"),
        change_of(Product(1), 1, "Computer"),
        change_of(Product(2), 1, "Phone"),
        change_of(Product(3), 1, "TV"),
        change_of(Product(3), 2, "TV"),
    ];
    for row in rows.clone() {
        order_event::Entity::insert(row.into_active_model().reset_all())
            .exec_without_returning(&verifier.db)
            .await
            .unwrap();
    }
    for raise in [
        "clients SET version = 2 WHERE id = 1",
        "products SET version = 1, price = 5",
        "products SET version = 2, available = false WHERE id = 3",
    ] {
        verifier.db.execute_unprepared(&format!("UPDATE {raise}")).await.unwrap();
    }
    let missing = |subject, events| (subject, Difference::Missing { events });
    let all = [missing(Client(1), 2), missing(Product(1), 1), missing(Product(2), 1), missing(Product(3), 2)];
    assert_eq!(differences(&verifier).await, all);
    // A client without orders is right when it matches its events, even if its row was changed by hand.
    verifier.read_model.apply(&events(&rows[..5])).await;
    verifier.db.execute_unprepared("UPDATE clients SET name = 'By hand' WHERE id = 1").await.unwrap();
    assert_eq!(differences(&verifier).await, [(Product(3), Difference::Behind { events: 1, version: 1 })]);

    command(&url, &["HSET", "orders:{p1}:g1:client:1", "name", "Eve"]).await;
    command(&url, &["HSET", "orders:{p1}:g1:catalogue", "1", "1 5 Computer\t+SKU-1"]).await;
    command(&url, &["HSET", "orders:{p2}:g1:catalogue", "2", "many"]).await;
    verifier.read_model.apply(&events(&[change_of(Product(9), 1, "Nobody's")])).await;
    let found = differences(&verifier).await;
    assert_eq!(found[..2], [(Client(1), Difference::WrongDetails), (Product(1), Difference::WrongDetails)]);
    assert!(matches!(&found[2], (Product(2), Difference::Damaged { .. })), "{found:?}");
    let unknown = (Product(9), Difference::Orphaned { version: 1 });
    assert_eq!(found[3..], [(Product(3), Difference::Behind { events: 1, version: 1 }), unknown.clone()]);

    verifier.repair = Repair::FromLog;
    assert_eq!(differences(&verifier).await, found);
    assert_eq!(differences(&verifier).await, std::slice::from_ref(&unknown), "orphans are only removed if asked for");
    verifier.repair = Repair::RemoveOrphans;
    assert_eq!(differences(&verifier).await, [unknown]);
    command(&url, &["DEL", "orders:{p3}:g1:catalogue"]).await;
    command(&url, &["SET", "orders:{p3}:g1:catalogue", "damaged"]).await;
    assert!(matches!(&differences(&verifier).await[..], [(Product(3), Difference::Damaged { .. })]));
    assert_eq!(differences(&verifier).await, []);
    let products = verifier.read_model.products(&[1, 2, 3, 9]).await.unwrap();
    let prices: Vec<_> = products.iter().map(|product| product.as_ref().map(|product| product.price)).collect();
    assert_eq!(prices, [Some(5), Some(5), Some(10), None]);
    assert_eq!(verifier.read_model.clients(&[1]).await.unwrap()[0].as_ref().unwrap().name, "Bob");
}

#[tokio::test]
async fn each_changed_field_of_a_client_is_found_and_repaired() {
    let (_server, url, verifier) = verifier(Repair::FromLog).await;
    let rows: Vec<_> = (1..=4).map(|version| row(1, version)).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    assert_eq!(differences(&verifier).await, []);
    let right = verifier.read_model.projected_clients(&[1]).await.unwrap().remove(0).unwrap();
    let values =
        [("total", "1"), ("orders", "3"), ("last_purchase", "1"), ("name", "Eve"), ("email", "eve@example.com")];
    let newest = [("newest", "99"), ("newest", "5"), ("newest", "3"), ("newest", "0")];
    for (field, value) in values.into_iter().chain(newest).chain([("version", "3")]) {
        command(&url, &["HSET", "orders:{p1}:g1:client:1", field, value]).await;
        let found = differences(&verifier).await;
        assert!(found.len() == 1 && found[0].0 == Client(1), "{field} {value}: {found:?}");
        assert_eq!(differences(&verifier).await, [], "{field} {value}");
        let repaired = verifier.read_model.projected_clients(&[1]).await.unwrap().remove(0).unwrap();
        assert_eq!(repaired, right, "{field} {value}");
    }
}

/// The latest orders of all clients are those of the clients that bought last.
#[tokio::test]
async fn each_changed_field_of_a_recent_order_is_found_and_repaired() {
    let (_server, url, verifier) = verifier(Repair::FromLog).await;
    let rows = [row_of(1, 1, 1), row_of(1, 2, 3), row_of(2, 1, 2)];
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    assert_eq!(differences(&verifier).await, []);
    let shown = async || {
        let recent = verifier.read_model.recent_orders(&[1, 2], 10).await.unwrap();
        (recent, latest_orders(&verifier.read_model, 10).await.unwrap())
    };
    let right = shown().await;
    assert_eq!(right.1.len(), 3);

    let recent = "orders:{p1}:g1:recent:1";
    let stored = reply::<Vec<String>>(&url, &["ZRANGE", recent, "1", "1"]).await.remove(0);
    let [id, since_id, total, lines] = stored.split(' ').collect::<Vec<_>>()[..] else { panic!("{stored}") };
    let mut changed = Vec::new();
    for entry in [
        format!("AZ{} {since_id} {total} {lines}", &id[2..]),
        format!("{id} {} {total} {lines}", since_id.parse::<i64>().unwrap() + 1),
        format!("{id} {since_id} {total}1 {lines}"),
        format!("{id} {since_id} {total} 2"),
        format!("{id} {since_id} {total} many"),
    ] {
        changed.push(vec![
            vec!["ZREM".to_owned(), recent.into(), stored.clone()],
            vec!["ZADD".into(), recent.into(), "2".into(), entry],
        ]);
    }
    let single = |words: &[&str]| vec![words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()];
    changed.push(single(&["ZREM", recent, &stored]));
    changed.push(single(&["ZADD", recent, "3", &stored]));
    for version in ["2", "3"] {
        changed.push(single(&["ZADD", recent, version, &format!("{id} {since_id} {total} 9")]));
        changed.push(single(&["ZADD", recent, version, "unreadable"]));
    }
    changed.push(single(&["DEL", recent]));
    for ranking in ["total", "last"] {
        changed.push(single(&["ZINCRBY", &format!("orders:{{p1}}:g1:rank:{ranking}"), "1", "1"]));
    }
    for commands in changed {
        for words in &commands {
            command(&url, &words.iter().map(String::as_str).collect::<Vec<_>>()).await;
        }
        let found = differences(&verifier).await;
        assert!(found.len() == 1 && found[0].0 == Client(1), "{commands:?}: {found:?}");
        assert_eq!(differences(&verifier).await, [], "{commands:?}");
        assert_eq!(shown().await, right, "{commands:?}");
    }
}

#[tokio::test]
async fn a_client_that_cannot_be_read_is_reported_although_the_database_does_not_have_it() {
    let (_server, url, mut verifier) = verifier(Repair::Off).await;
    verifier.read_model.apply(&events(&[row(99, 1)])).await;
    command(&url, &["HSET", "orders:{p3}:g1:client:99", "orders", "many"]).await;
    // The first comparison only records it.
    verifier.in_flight = Duration::from_millis(200);
    for repair in [Repair::Off, Repair::FromLog] {
        verifier.repair = repair;
        let found = tokio::time::timeout(Duration::from_secs(30), differences(&verifier)).await.unwrap();
        assert!(matches!(found[..], [(Client(99), Difference::Damaged { .. })]), "{found:?}");
    }
    assert_eq!(differences(&verifier).await, []);
}

#[tokio::test]
async fn a_repair_never_reverts_events_that_are_applied_meanwhile() {
    let (_server, _, verifier) = verifier(Repair::FromLog).await;
    let rows: Vec<_> = (1..=2).map(|version| row(1, version)).collect();
    verifier.read_model.apply(&events(&rows)).await;
    let (recent, without_events) = (BTreeMap::new(), ProjectedClient::new(1));
    let projected = async || verifier.read_model.projected_clients(&[1]).await.unwrap().remove(0).unwrap().unwrap();
    let (state, log) = (verifier.read_model.state_of_client(1).await.unwrap(), projected().await);
    verifier.read_model.apply(&events(&[row(1, 3)])).await;
    let replace = async |client: &ProjectedClient, state: &[u8]| {
        verifier.read_model.replace_client(client, &recent, state).await.unwrap()
    };
    assert!(!replace(&log, &state).await, "version 3 is not in that log");
    assert!(!replace(&without_events, &state).await);
    assert_eq!(projected().await.client.version, 3);
    let (state, log) = (verifier.read_model.state_of_client(1).await.unwrap(), projected().await);
    assert!(replace(&log, &state).await);
    assert_eq!(projected().await, log);
    assert!(replace(&without_events, &state).await);
    assert_eq!(verifier.read_model.clients(&[1]).await.unwrap(), [None]);
}
