//! Single keys that Redis loses. A repair never makes a right sum wrong.

use crate::support::*;
use chrono::{DateTime, Days, SubsecRound, TimeDelta, Utc};
use entity::Subject::Client;
use entity::{event, order_event};
use projector::verify::{Difference, Finding, FirstMissed, Repair, Verifier};
use read_model::Projection;
use sea_orm::ConnectionTrait;
use std::time::Duration;

/// Clients of one partition.
const CLIENTS: [i64; 3] = [1, 17, 33];

/// Orders of each client, version by version: on days, in hours and in seconds that different resolutions decide.
fn log(now: DateTime<Utc>) -> Vec<order_event::Model> {
    let ages = [Days::new(400), Days::new(120), Days::new(30), Days::new(2)].map(|days| now - days);
    let recent = [100, 60, 59, 20, 3].map(|minutes| now - TimeDelta::minutes(minutes));
    let times: Vec<_> = ages.into_iter().chain(recent).collect();
    let of_client = |client: i64| {
        let placed = (1..).zip(times.clone()).map(move |(version, time)| order_event::Model {
            occurred_at: time + TimeDelta::seconds(client),
            ..row_of(client, version, 1 + (version as usize + client as usize) % 3)
        });
        placed.collect::<Vec<_>>()
    };
    CLIENTS.into_iter().flat_map(of_client).collect()
}

async fn stores(repair: Repair) -> (test_support::redis::Redis, String, Verifier) {
    let (server, url, verifier) = verifier(repair).await;
    for id in [17, 33] {
        let insert = format!("INSERT INTO clients (id, name, email) VALUES ({id}, 'Bob', '{id}@example.com')");
        verifier.db.execute_unprepared(&insert).await.unwrap();
    }
    (server, url, verifier)
}

fn key(name: &str) -> String {
    format!("orders:{{p1}}:g1:{name}")
}

async fn differences(verifier: &Verifier) -> Vec<(i64, Difference, bool)> {
    let page = verifier.next_clients(0, 2_000, &mut FirstMissed::default()).await.unwrap().unwrap();
    let of_client = |finding: Finding| match finding.subject {
        Client(id) => (id, finding.difference, finding.repaired),
        subject => panic!("{subject}"),
    };
    page.findings.into_iter().map(of_client).filter(|(id, ..)| CLIENTS.contains(id)).collect()
}

#[tokio::test]
async fn a_lost_client_is_replaced_and_no_order_counts_twice() {
    let (_server, url, verifier) = stores(Repair::FromLog).await;
    let rows = log(Utc::now().trunc_subsecs(3));
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    let right = verifier.read_model.projected_clients(&CLIENTS).await.unwrap();
    let missing = |client| (client, Difference::Missing { events: 9 }, true);
    let (client, recent) = (key("client:1"), key("recent:1"));
    let rankings = [key("rank:total"), key("rank:last")];
    let pages = ["days", "half_hours", "moments"].map(|pages| key(&format!("{pages}:*")));
    for lost in [vec![&client], vec![&client, &recent], vec![&client, &rankings[0], &rankings[1]]] {
        let command: Vec<&str> = ["DEL"].into_iter().chain(lost.iter().map(|key| key.as_str())).collect();
        super::support::command(&url, &command).await;
        let found = differences(&verifier).await;
        assert!(found.contains(&missing(1)), "{lost:?}: {found:?}");
        assert_eq!(differences(&verifier).await, [], "{lost:?}");
        assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new(), "{lost:?}");
        assert_eq!(verifier.read_model.projected_clients(&CLIENTS).await.unwrap(), right, "{lost:?}");
    }
    // All clients of the partition at once, and the sums of seconds.
    command(&url, &["DEL", &key("client:1"), &key("client:17"), &key("client:33")]).await;
    let script = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";
    command(&url, &["EVAL", script, "0", &pages[2]]).await;
    assert_eq!(differences(&verifier).await, CLIENTS.map(missing));
    assert_eq!(verifier.read_model.projected_clients(&CLIENTS).await.unwrap(), right);
    assert!(wrong_sums(&verifier).await.iter().all(|wrong| wrong.contains(':')), "only sums of seconds are missing");
}

#[tokio::test]
async fn a_client_that_is_lost_and_misses_an_event_is_repaired_exactly() {
    let (_server, url, verifier) = stores(Repair::FromLog).await;
    let rows = log(Utc::now().trunc_subsecs(3));
    place(&verifier.db, &rows, Outbox::Published).await;
    // Client 1 misses its orders of an old day and of some minutes ago. Client 33 misses all.
    let is_lost = |row: &&order_event::Model| {
        row.client_id == Some(33) || row.client_id == Some(1) && matches!(row.version, 2 | 8)
    };
    let applied: Vec<_> = rows.iter().filter(|row| !is_lost(row)).cloned().collect();
    let (newest, applied): (Vec<_>, Vec<_>) =
        applied.into_iter().partition(|row| row.client_id == Some(1) && row.version == 9);
    verifier.read_model.apply(&events(&applied)).await;
    command(&url, &["DEL", &key("client:1")]).await;
    // An event arrives after the loss.
    verifier.read_model.apply(&events(&newest)).await;
    let found = differences(&verifier).await;
    let behind = Difference::Behind { events: 8, version: 0 };
    assert_eq!(found, [(1, behind, true), (33, Difference::Missing { events: 9 }, true)]);
    assert_eq!(differences(&verifier).await, []);
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());

    // A client whose data cannot be read, and an event that it misses.
    let late = order_event::Model { occurred_at: Utc::now().trunc_subsecs(3), ..row(1, 10) };
    place(&verifier.db, std::slice::from_ref(&late), Outbox::Published).await;
    command(&url, &["HSET", &key("client:1"), "newest", "many"]).await;
    let found = differences(&verifier).await;
    assert!(matches!(found[..], [(1, Difference::Damaged { .. }, true)]), "{found:?}");
    assert_eq!(differences(&verifier).await, []);
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
}

#[tokio::test]
async fn lost_recent_orders_are_found_and_replaced() {
    let (_server, url, verifier) = stores(Repair::FromLog).await;
    let mut rows = log(Utc::now().trunc_subsecs(3));
    rows.extend((10..=60).map(|version| row(1, version)));
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    let orders = async || read_model::Queries::recent_orders(&verifier.read_model, &CLIENTS, 50).await.unwrap();
    let right = orders().await;
    for (lost, client, stored, expected) in [
        (vec!["DEL", "recent:1"], 1, 0, 50),
        (vec!["DEL", "recent:17"], 17, 0, 9),
        (vec!["ZPOPMAX", "recent:17", "4"], 17, 5, 9),
    ] {
        let key = key(lost[1]);
        command(&url, &[&[lost[0], key.as_str()], &lost[2..]].concat()).await;
        let difference = Difference::MissingRecentOrders { stored, expected };
        assert_eq!(differences(&verifier).await, [(client, difference, true)]);
        assert_eq!((differences(&verifier).await, orders().await), (vec![], right.clone()));
    }
    command(&url, &["DEL", &key("recent:1")]).await;
    command(&url, &["SET", &key("recent:1"), "damaged"]).await;
    assert_eq!(differences(&verifier).await.len(), 1);
    assert_eq!((differences(&verifier).await, orders().await), (vec![], right));
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
}

#[tokio::test]
async fn recent_orders_that_are_not_the_newest_orders_are_found_and_replaced() {
    let (_server, url, verifier) = stores(Repair::FromLog).await;
    let rows = log(Utc::now().trunc_subsecs(3));
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    let orders = async || read_model::Queries::recent_orders(&verifier.read_model, &CLIENTS, 50).await.unwrap();
    let (right, recent) = (orders().await, key("recent:1"));
    let another = format!("{} 0 7 1", "A".repeat(22));
    // An order that is not the client's takes the place of one, or comes in addition, also when no list is full.
    for damage in [
        &["ZREMRANGEBYRANK", &recent, "3", "3"][..],
        &["ZADD", &recent, "3", &another],
        &["ZADD", &recent, "77", &another],
    ] {
        command(&url, damage).await;
        if damage[0] == "ZREMRANGEBYRANK" {
            command(&url, &["ZADD", &recent, "4", &another]).await;
        }
        assert_eq!(differences(&verifier).await, [(1, Difference::WrongRecentOrders, true)], "{damage:?}");
        assert_eq!((differences(&verifier).await, orders().await), (vec![], right.clone()), "{damage:?}");
    }
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
}

/// Client 1 and its order are counted. An event of client 17 in the same half hour is in the dead-letter queue.
#[tokio::test]
async fn a_lost_client_counts_once_while_another_order_of_its_half_hour_is_missing() {
    let (_server, url, verifier) = stores(Repair::FromLog).await;
    let at = |row: order_event::Model, days: u64| order_event::Model {
        occurred_at: (Utc::now() - Days::new(days)).trunc_subsecs(0),
        ..row
    };
    // The oldest order is not among the recent orders any more. The other one costs as much, or more.
    let mut counted = vec![at(row_of(1, 1, 2), 40), at(row_of(1, 2, 2), 41)];
    counted.extend((3..=54).map(|version| at(row(1, version), 30)));
    let missing = [at(row_of(17, 1, 3), 40), at(row_of(17, 2, 2), 41), at(row(17, 3), 30)];
    place(&verifier.db, &counted, Outbox::Published).await;
    place(&verifier.db, &missing, Outbox::Published).await;
    verifier.read_model.apply(&events(&counted)).await;
    let right = verifier.read_model.projected_clients(&[1]).await.unwrap();
    let sums = wrong_sums(&verifier).await;
    for lost in [vec!["client:1"], vec!["client:1", "recent:1"]] {
        for name in lost {
            command(&url, &["DEL", &key(name)]).await;
        }
        let found = verifier.subjects(&[Client(1)], &mut FirstMissed::default()).await.unwrap();
        assert!(found.iter().all(|finding| finding.repaired), "{found:?}");
        assert_eq!((found.len(), verifier.read_model.projected_clients(&[1]).await.unwrap()), (1, right.clone()));
        assert_eq!(wrong_sums(&verifier).await, sums, "no sum has changed");
    }
    // The client itself misses an order of that half hour, which is applied. The sums are then short of client 17 only.
    let late = at(row(1, 55), 40);
    place(&verifier.db, std::slice::from_ref(&late), Outbox::Published).await;
    verifier.subjects(&[Client(1)], &mut FirstMissed::default()).await.unwrap();
    assert_eq!(wrong_sums(&verifier).await.len(), sums.len());
    verifier.read_model.apply(&events(&missing)).await;
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
}

/// Orders of client 1, all at this time, which is also that of their ids.
fn orders_at(versions: std::ops::RangeInclusive<i32>, time: DateTime<Utc>) -> Vec<order_event::Model> {
    versions.map(|version| order_event::Model { occurred_at: time, ..row(1, version) }).collect()
}

fn renamed(version: i32, time: DateTime<Utc>) -> order_event::Model {
    let payload = serde_json::json!({ "clientId": 1, "clientName": "Bob", "clientEmail": "bob@example.com" });
    order_event::Model { r#type: event::CLIENT_UPDATED.into(), payload, occurred_at: time, ..row(1, version) }
}

async fn orders_of_client(verifier: &Verifier) -> Option<i64> {
    let client = verifier.read_model.projected_clients(&[1]).await.unwrap().remove(0);
    client.ok().flatten().map(|client| client.client.order_count)
}

/// While Redis does not have the client, its events are refused if their versions are too high.
#[tokio::test]
async fn orders_that_are_refused_after_a_client_was_lost_are_applied() {
    let (_server, url, verifier) = stores(Repair::FromLog).await;
    // More than the recent orders show, within the same ten seconds.
    let time = (Utc::now() - TimeDelta::minutes(5)).trunc_subsecs(0);
    let counted = orders_at(1..=80, time);
    place(&verifier.db, &counted, Outbox::Published).await;
    verifier.read_model.apply(&events(&counted)).await;
    command(&url, &["DEL", &key("client:1")]).await;
    place(&verifier.db, &orders_at(81..=90, time), Outbox::Published).await;
    assert_eq!(differences(&verifier).await, [(1, Difference::Missing { events: 90 }, true)]);
    assert_eq!((orders_of_client(&verifier).await, wrong_sums(&verifier).await), (Some(90), vec![]));
}

/// Refunds are not among the recent orders, which show when the client was lost.
#[tokio::test]
async fn refunds_that_are_refused_after_a_client_was_lost_are_applied() {
    let (_server, url, verifier) = stores(Repair::FromLog).await;
    let time = (Utc::now() - TimeDelta::minutes(5)).trunc_subsecs(0);
    let counted = orders_at(1..=3, time);
    place(&verifier.db, &counted, Outbox::Published).await;
    let refund = |order: usize, version| refund_event(&counted[order], version, time, true, &[150_000]);
    write_refund(&verifier.db, &refund(0, 4)).await;
    verifier.read_model.apply(&events(&[&counted[..], &[refund(0, 4)]].concat())).await;
    command(&url, &["DEL", &key("client:1")]).await;
    place(&verifier.db, &orders_at(5..=5, time), Outbox::Published).await;
    write_refund(&verifier.db, &refund(1, 6)).await;
    assert_eq!(differences(&verifier).await, [(1, Difference::Missing { events: 6 }, true)]);
    assert_eq!((orders_of_client(&verifier).await, wrong_sums(&verifier).await), (Some(4), vec![]));
}

/// A repair reads the log in pages of 1,000 events.
#[tokio::test]
async fn a_repair_does_not_depend_on_where_a_page_of_the_log_ends() {
    let (_server, url, verifier) = stores(Repair::FromLog).await;
    let time = (Utc::now() - TimeDelta::minutes(5)).trunc_subsecs(0);
    let counted = orders_at(1..=990, time);
    place(&verifier.db, &counted, Outbox::Published).await;
    verifier.read_model.apply(&events(&counted)).await;
    command(&url, &["DEL", &key("client:1")]).await;
    // Refused: ten orders, and on the next page a refund and an order.
    place(&verifier.db, &orders_at(991..=1_000, time), Outbox::Published).await;
    write_refund(&verifier.db, &refund_event(&counted[0], 1_001, time, true, &[150_000])).await;
    place(&verifier.db, &orders_at(1_002..=1_002, time), Outbox::Published).await;
    assert_eq!(differences(&verifier).await, [(1, Difference::Missing { events: 1_002 }, true)]);
    assert_eq!((orders_of_client(&verifier).await, wrong_sums(&verifier).await), (Some(1_001), vec![]));
}

/// Two counted orders of one day, each on its own page of the log. The sums of that day are short of an order of another client.
#[tokio::test]
async fn a_repair_adds_to_a_sum_only_what_it_is_short_of_on_all_pages_of_the_log() {
    let (_server, url, verifier) = stores(Repair::FromLog).await;
    let now = Utc::now().trunc_subsecs(0);
    let day = now - Days::new(40);
    let counted = [orders_at(1..=1, day), orders_at(2..=1_000, now - Days::new(30)), orders_at(1_001..=1_001, day)];
    let counted = counted.concat();
    place(&verifier.db, &counted, Outbox::Published).await;
    verifier.read_model.apply(&events(&counted)).await;
    let missing = order_event::Model { occurred_at: day, ..row(17, 1) };
    place(&verifier.db, &[missing], Outbox::Published).await;
    command(&url, &["DEL", &key("client:1"), &key("recent:1"), &key("rank:total"), &key("rank:last")]).await;
    let found = verifier.subjects(&[Client(1)], &mut FirstMissed::default()).await.unwrap();
    assert!(found.iter().all(|finding| finding.repaired), "{found:?}");
    assert_eq!((orders_of_client(&verifier).await, wrong_sums(&verifier).await), (Some(1_001), vec![]));
}

/// Its sums are compared again after the repair.
#[tokio::test]
async fn a_client_may_be_lost_whatever_differs_after_an_event_has_arrived() {
    let (_server, url, verifier) = stores(Repair::FromLog).await;
    let orders = orders_at(1..=4, (Utc::now() - TimeDelta::minutes(5)).trunc_subsecs(0));
    place(&verifier.db, &orders, Outbox::Published).await;
    verifier.read_model.apply(&events(&orders[..3])).await;
    command(&url, &["DEL", &key("client:1")]).await;
    verifier.read_model.apply(&events(&orders[3..])).await;
    command(&url, &["ZADD", &key("rank:total"), "7", "1"]).await;
    let found = verifier.subjects(&[Client(1)], &mut FirstMissed::default()).await.unwrap();
    let [Finding { difference: Difference::Misranked, may_be_lost: true, repaired: true, .. }] = found[..] else {
        panic!("{found:?}");
    };
    command(&url, &["ZADD", &key("rank:total"), "7", "1"]).await;
    let found = verifier.subjects(&[Client(1)], &mut FirstMissed::default()).await.unwrap();
    assert!(!found[0].may_be_lost, "{found:?}");
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
}

/// A comparison that has missed an event of a client before Redis lost it must not repair the client too early: the sums include
/// events that are younger than `in_flight`.
#[tokio::test]
async fn a_client_is_repaired_when_all_events_before_its_loss_are_old() {
    for loss in ["DEL", "RPUSH"] {
        let (_server, url, mut verifier) = stores(Repair::FromLog).await;
        verifier.in_flight = Duration::from_secs(1);
        let now = Utc::now().trunc_subsecs(3);
        let old = orders_at(1..=10, now - TimeDelta::minutes(1));
        place(&verifier.db, &old, Outbox::Published).await;
        verifier.read_model.apply(&events(&old)).await;
        insert(&verifier.db, &renamed(11, now - TimeDelta::minutes(1))).await;
        let mut first_missed = FirstMissed::default();
        assert_eq!(verifier.subjects(&[Client(1)], &mut first_missed).await.unwrap(), []);
        until(async || first_missed.missed_for(verifier.in_flight) == [Client(1)]).await;

        let young = orders_at(12..=100, now + TimeDelta::seconds(1));
        place(&verifier.db, &young, Outbox::Published).await;
        verifier.read_model.apply(&events(&young)).await;
        command(&url, &["DEL", &key("client:1")]).await;
        if loss == "RPUSH" {
            command(&url, &["RPUSH", &key("client:1"), "another type"]).await;
        }
        place(&verifier.db, &orders_at(101..=105, now + TimeDelta::seconds(1)), Outbox::Published).await;
        until(async || {
            verifier.subjects(&[Client(1)], &mut first_missed).await.unwrap();
            orders_of_client(&verifier).await == Some(104)
        })
        .await;
        assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new(), "{loss}");
    }
}
