//! Comparing and repairing cancellations and refunds.

use crate::support::*;
use chrono::{DateTime, Datelike, Days, SubsecRound, TimeDelta, Utc};
use entity::Subject::Client;
use entity::{event, order_event};
use projector::verify::{Difference, FirstMissed, Money, Repair, Verifier};
use read_model::{Projection, Sum};
use sea_orm::ConnectionTrait;
use std::time::Duration;

/// Two orders of client 1 and one of client 2, one of them cancelled and one refunded in part.
fn log(now: DateTime<Utc>) -> Vec<order_event::Model> {
    let placed = |client, version, lines, days| order_event::Model {
        occurred_at: now - Days::new(days),
        ..row_of(client, version, lines)
    };
    let orders = [placed(1, 1, 2, 40), placed(1, 2, 1, 3), placed(2, 1, 1, 3)];
    let cancelled = refund_event(&orders[0], 3, now - Days::new(2), true, &[150_000, 150_000]);
    let refunded = refund_event(&orders[2], 2, now - TimeDelta::minutes(5), false, &[1_000]);
    [&orders[..], &[cancelled, refunded]].concat()
}

async fn write(verifier: &Verifier, log: &[order_event::Model]) {
    place(&verifier.db, &log[..3], Outbox::Published).await;
    for event in &log[3..] {
        write_refund(&verifier.db, event).await;
    }
}

async fn differences(verifier: &Verifier) -> Vec<(i64, Difference, bool)> {
    let page = verifier.next_clients(0, 2_000, &mut FirstMissed::default()).await.unwrap().unwrap();
    let of_client = |finding: projector::verify::Finding| match finding.subject {
        Client(id) => (id, finding.difference, finding.repaired),
        subject => panic!("{subject}"),
    };
    page.findings.into_iter().map(of_client).filter(|(id, ..)| *id < 3).collect()
}

fn key(client: i64, name: &str) -> String {
    format!("orders:{{p{client}}}:g1:{name}")
}

#[tokio::test]
async fn verify_compares_cancellations_and_refunds() {
    let (_server, url, verifier) = verifier(Repair::FromLog).await;
    let now = Utc::now().trunc_subsecs(3);
    let log = log(now);
    write(&verifier, &log).await;
    // Not one of the events of refunds has arrived.
    verifier.read_model.apply(&events(&log[..3])).await;
    let cancelled_on = (now - Days::new(2)).date_naive();
    let missing = wrong_sums(&verifier).await;
    for expected in [
        format!("{cancelled_on}           wrong sum: 0.00 USD for 0 cancelled orders, expected 3000.00 USD for 1"),
        format!("{cancelled_on} product 1 wrong sum: 0.00 USD for 0 cancelled units, expected 3000.00 USD for 2"),
    ] {
        assert!(missing.contains(&expected), "{expected}: {missing:#?}");
    }
    verifier.read_model.apply(&events(&log[3..])).await;
    assert_eq!((wrong_sums(&verifier).await, differences(&verifier).await), (vec![], vec![]));

    // A sum that is too large.
    let (page, bucket) = (key(1, &now.format("days_cancelled:%Y").to_string()), format!("#{}", 2 * now.ordinal0() + 1));
    command(&url, &["BITFIELD", &page, "INCRBY", "i64", &bucket, "1"]).await;
    let day = now.date_naive();
    let expected = format!("{day}           wrong sum: 10.00 USD for 1 cancelled orders, expected 10.00 USD for 0");
    assert_eq!(wrong_sums(&verifier).await, [expected]);
    command(&url, &["BITFIELD", &page, "INCRBY", "i64", &bucket, "-1"]).await;

    // A client whose refunds are wrong is repaired, with its rank.
    let right = verifier.read_model.projected_clients(&[1, 2]).await.unwrap();
    command(&url, &["HINCRBY", &key(2, "client:2"), "refunded", "5"]).await;
    let money = |minor_units| Money { minor_units, currency: iso_currency::Currency::USD };
    let wrong = Difference::WrongRefunds {
        cancelled: 0,
        cancelled_expected: 0,
        refunded: money(1_005),
        refunded_expected: money(1_000),
    };
    assert_eq!(differences(&verifier).await, [(2, wrong, true)]);
    command(&url, &["ZADD", &key(2, "rank:total"), "150000", "2"]).await;
    assert_eq!(differences(&verifier).await, [(2, Difference::Misranked, true)]);
    assert_eq!((wrong_sums(&verifier).await, differences(&verifier).await), (vec![], vec![]));
    assert_eq!(verifier.read_model.projected_clients(&[1, 2]).await.unwrap(), right);
}

#[tokio::test]
async fn lost_cancellations_are_found_and_repaired() {
    let (_server, url, verifier) = verifier(Repair::FromLog).await;
    let log = log(Utc::now().trunc_subsecs(3));
    write(&verifier, &log).await;
    verifier.read_model.apply(&events(&log[..3])).await;
    let behind = |client, version| (client, Difference::Behind { events: 1, version }, true);
    assert_eq!(differences(&verifier).await, [behind(1, 2), behind(2, 1)]);
    assert_eq!((wrong_sums(&verifier).await, differences(&verifier).await), (vec![], vec![]));
    let right = verifier.read_model.projected_clients(&[1, 2]).await.unwrap();
    let cancelled = right.iter().map(|client| client.as_ref().unwrap().as_ref().unwrap().client.cancelled);
    let expected = [Sum { count: 1, revenue: 300_000 }, Sum { count: 0, revenue: 1_000 }];
    assert_eq!(cancelled.collect::<Vec<_>>(), expected);

    // Redis loses clients. The sums still include its refunds, which must not count twice.
    for lost in [vec!["client"], vec!["client", "recent"]] {
        for client in [1, 2] {
            for name in &lost {
                command(&url, &["DEL", &key(client, &format!("{name}:{client}"))]).await;
            }
        }
        let missing = |client, events| (client, Difference::Missing { events }, true);
        assert_eq!(differences(&verifier).await, [missing(1, 3), missing(2, 2)], "{lost:?}");
        assert_eq!((wrong_sums(&verifier).await, differences(&verifier).await), (vec![], vec![]), "{lost:?}");
        assert_eq!(verifier.read_model.projected_clients(&[1, 2]).await.unwrap(), right, "{lost:?}");
    }
}

#[tokio::test]
async fn a_forgotten_client_is_masked_in_the_read_model_and_is_no_difference_before() {
    let (_server, _, mut verifier) = verifier(Repair::FromLog).await;
    let log = log(Utc::now().trunc_subsecs(3));
    write(&verifier, &log).await;
    verifier.read_model.apply(&events(&log)).await;
    assert_eq!(differences(&verifier).await, []);
    // Forgetting masks the rows and the log, and writes an event.
    let masked = serde_json::json!({ "clientId": 1, "clientName": "", "clientEmail": "forgotten-1" });
    let forgotten = order_event::Model {
        id: uuid::Uuid::now_v7(),
        version: 4,
        r#type: event::CLIENT_FORGOTTEN.into(),
        payload: masked,
        occurred_at: Utc::now(),
        ..log[0].clone()
    };
    for change in [
        "UPDATE clients SET name = '', email = 'forgotten-1', version = 4 WHERE id = 1",
        "UPDATE order_events SET payload = json_set(payload, '$.clientName', '', '$.clientEmail', 'forgotten-1') WHERE client_id = 1",
    ] {
        verifier.db.execute_unprepared(change).await.unwrap();
    }
    insert(&verifier.db, &forgotten).await;
    verifier.in_flight = Duration::from_secs(60);
    assert_eq!(differences(&verifier).await, [], "the event is on its way");
    verifier.in_flight = Duration::ZERO;
    assert_eq!(differences(&verifier).await, [(1, Difference::Behind { events: 1, version: 3 }, true)]);
    assert_eq!((wrong_sums(&verifier).await, differences(&verifier).await), (vec![], vec![]));
    let client = verifier.read_model.projected_clients(&[1]).await.unwrap().remove(0).unwrap().unwrap().client;
    assert_eq!((&*client.name, &*client.email, client.order_count), ("", "forgotten-1", 2));
}
