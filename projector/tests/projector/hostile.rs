//! Messages of a sender that may do more harm than be wrong.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use entity::{Subject, event, order_event};
use projector::consume::Processed;
use projector::sweep::Sweep;
use projector::verify::{Repair, Verifier};
use read_model::{Memory, Projection, Queries};
use serde_json::{Value, json};
use test_support::log::Log;
use tracing::Level;

use crate::support::*;

const DAY: Duration = Duration::from_secs(86_400);

fn at(time: DateTime<Utc>, row: order_event::Model) -> order_event::Model {
    order_event::Model { occurred_at: time, ..row }
}

fn with(path: &str, value: Value, mut row: order_event::Model) -> order_event::Model {
    *row.payload.pointer_mut(path).unwrap() = value;
    row
}

/// An event of each other type, with a name that is too long.
fn long_names() -> [order_event::Model; 4] {
    let long = "x".repeat(100_000);
    let client = json!({ "clientId": 1, "clientName": long, "clientEmail": "bob@example.com" });
    let product = json!({ "productId": 1, "name": long, "price": 5, "currency": "USD" });
    let of_client = |r#type: &str| order_event::Model { r#type: r#type.into(), payload: client.clone(), ..row(1, 2) };
    let of_product = |r#type: &str| order_event::Model {
        r#type: r#type.into(),
        payload: product.clone(),
        client_id: None,
        product_id: Some(1),
        ..row(1, 2)
    };
    [
        of_client(event::CLIENT_REGISTERED),
        of_client(event::CLIENT_UPDATED),
        of_product(event::PRODUCT_CREATED),
        of_product(event::PRICE_CHANGED),
    ]
}

#[tokio::test]
async fn a_hostile_message_is_left_for_the_dead_letter_queue_with_one_line_that_says_why() {
    let memory = Arc::new(Memory::default());
    let (consumer, _) = consumer(memory.clone()).await;
    // Not hostile: an earlier release accepted such names.
    let soft_hyphen = with("/lines/0/name", json!("Com\u{ad}puter"), row(1, 1));
    send(&consumer, &at(Utc::now() + TimeDelta::hours(23), soft_hyphen).message()).await;
    assert_eq!(consumer.run_once().await, Ok(Processed { applied: 1, refused: 0 }));
    let before = memory.clients(&[1]).await.unwrap();

    let (now, long) = (Utc::now(), "x".repeat(201));
    let year_9999 = "9999-12-31T00:00:00Z".parse().unwrap();
    let forged = "EUR\n2026-11-27T00:00:00.000000Z ERROR projector: all is lost \u{1b}[31m";
    let mut hostile = vec![
        (at(now + TimeDelta::hours(25), row(1, 2)), "time is more than a day ahead of the queue's clock"),
        (at(year_9999, row(1, 2)), "time is more than a day ahead of the queue's clock"),
        (row(1, i32::MAX), "version 2147483647 is more than 5000 above version 1 of client 1"),
        (row(1, 5_002), "version 5002 is more than 5000 above version 1 of client 1"),
        (with("/clientName", json!(long), row(1, 2)), "data.clientName or data.clientEmail is too long"),
        (with("/clientEmail", json!(long), row(1, 2)), "data.clientName or data.clientEmail is too long"),
        (with("/lines/0/name", json!(long), row(1, 2)), "a name in data.lines is too long"),
        (with("/clientName", json!("B\u{1b}ob"), row(1, 2)), "a text in data has control characters"),
        (with("/lines/0/quantity", json!(10_001), row(1, 2)), "data.lines are out of range"),
        (with("/lines/0/unitPrice", json!(2_000_000_000_000i64), row(1, 2)), "data.total is not the sum of data.lines"),
        (with("/currency", json!(forged), row(1, 2)), "its amounts are in EUR\\n2026-11-27T00:00:00.000000Z ERROR"),
        (order_event::Model { r#type: forged.into(), ..row(1, 2) }, "unknown event type \"EUR\\n2026"),
    ];
    hostile.extend(long_names().map(|row| (row, "too long")));
    for (row, reason) in hostile {
        send(&consumer, &row.message()).await;
        let log = Log::start(Level::WARN);
        assert_eq!(consumer.run_once().await, Ok(Processed { applied: 0, refused: 1 }), "{reason}");
        let lines = log.lines();
        assert!(
            matches!(&lines[..], [line] if line.contains("left for the dead-letter queue") && line.contains(reason)),
            "{lines:?}"
        );
        assert!(lines[0].len() < 600 && !lines[0].contains(char::is_control), "{lines:?}");
    }
    assert_eq!(memory.clients(&[1]).await.unwrap(), before);
    assert_eq!(memory.products(&[1]).await.unwrap(), [None]);
}

/// An order that was applied before such times were refused. The database has none on that day.
#[tokio::test]
async fn verify_compares_the_pages_of_days_on_which_the_database_has_nothing() {
    let (_server, url, verifier) = verifier(Repair::RemoveOrphans).await;
    let rows = [at(Utc::now(), row(1, 1)), at(Utc::now(), row(2, 1))];
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows)).await;
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
    let in_an_hour = Utc::now() + TimeDelta::hours(1);
    let days = ["1970-01-02", "2019-02-28", "9999-12-31"].map(|day| format!("{day}T23:59:59Z").parse().unwrap());
    let forged: Vec<_> = days.into_iter().chain([in_an_hour]).map(|time| at(time, row(99, 1))).collect();
    for (client, row) in (91..).zip(&forged) {
        let row = order_event::Model { client_id: Some(client), ..with("/clientId", json!(client), row.clone()) };
        assert!(verifier.read_model.apply(&events(&[row])).await[0].is_ok());
    }
    verify_all(&verifier).await;
    let clients = verifier.read_model.clients(&[91, 92, 93, 94]).await.unwrap();
    assert!(clients.iter().all(Option::is_none), "{clients:?}");

    let wrong = wrong_sums(&verifier).await;
    let has = |start: &str| wrong.iter().any(|line| line.starts_with(start));
    for day in ["1970-01-02", "2019-02-28", "9999-12-31"] {
        assert!(
            has(&format!("{day}           wrong sum: 1500.00 USD for 1 orders, expected 0.00 USD for 0")),
            "{wrong:?}"
        );
        assert!(
            has(&format!("{day} product 1 wrong sum")) && has(&format!("{} product 1    wrong sum", &day[..7])),
            "{wrong:?}"
        );
    }
    assert!(has("9999-12-31T23        wrong sum"), "half hours, too: {wrong:?}");
    assert!(has(&in_an_hour.format("%Y-%m-%dT%H:%M:").to_string()), "ten seconds, too: {wrong:?}");
    // Each page alone is found.
    for name in ["days:9999", "half_hours:9999-12", "products:9999-12-31", "products:9999-12"] {
        let key = format!("orders:{{p13}}:g1:{name}");
        command(&url, &["RENAME", &key, "orders:{p13}:aside"]).await;
        let found = wrong_sums(&verifier).await;
        assert!(found.iter().any(|line| line.starts_with("9999")), "without {name}: {found:?}");
        command(&url, &["RENAME", "orders:{p13}:aside", &key]).await;
    }
}

async fn verify_all(verifier: &Verifier) {
    verifier.all(0, |_| std::ops::ControlFlow::Continue(())).await.unwrap();
}

/// The forged event has the version of the client's next order, so that the genuine event counts as a repetition.
#[tokio::test]
async fn sums_with_a_forged_event_are_reported_as_an_error_that_names_the_rebuild() {
    let (_server, _, verifier) = verifier(Repair::FromLog).await;
    let read_model = verifier.read_model.clone();
    let rows = [at(Utc::now(), row(1, 1)), at(Utc::now(), row(2, 1))];
    place(&verifier.db, &rows, Outbox::Published).await;
    read_model.apply(&events(&rows)).await;
    let mut sweep = Sweep::new(verifier.clone(), Duration::from_millis(1), DAY, Arc::default());
    let log = Log::start(Level::ERROR);
    assert_eq!((sweep.run_once().await.unwrap(), log.lines()), (vec![], vec![]));

    // An event of client 1 with the data of client 2, and later than its genuine order.
    let forged = with("/clientId", json!(1), order_event::Model { client_id: Some(1), ..row_of(2, 2, 3) });
    let genuine = at(Utc::now(), row(1, 2));
    read_model.apply_received(&events(&[at(Utc::now() + TimeDelta::hours(5), forged), genuine.clone()])).await;
    place(&verifier.db, &[genuine], Outbox::Published).await;
    let mut repaired = Vec::new();
    until(async || {
        repaired.extend(sweep.run_once().await.unwrap());
        !log.lines().is_empty()
    })
    .await;
    assert!(repaired.iter().any(|finding| finding.subject == Subject::Client(1) && finding.repaired), "{repaired:?}");
    let lines = log.lines();
    assert!(matches!(&lines[..], [line] if line.contains("run `projector rebuild start`")), "{lines:?}");
    assert!(read_model.wrong_sums().await.unwrap() > 0, "health checks report it");
    for _ in 0..5 {
        sweep.run_once().await.unwrap();
    }
    assert_eq!(log.lines().len(), 1, "once in a round");
}

/// Its total is that of the genuine order.
#[tokio::test]
async fn a_wrong_last_purchase_is_repaired() {
    let (_server, _, verifier) = verifier(Repair::FromLog).await;
    let genuine = row(1, 1);
    let forged = at("9999-12-31T00:00:00Z".parse().unwrap(), row(1, 1));
    place(&verifier.db, std::slice::from_ref(&genuine), Outbox::Published).await;
    verifier.read_model.apply(&events(&[forged])).await;
    verify_all(&verifier).await;
    let client = verifier.read_model.clients(&[1]).await.unwrap().remove(0).unwrap();
    assert_eq!(client.last_purchase, Some(genuine.occurred_at));
    let recent = verifier.read_model.recent_orders(&[1], 5).await.unwrap().concat();
    assert_eq!(recent[0].time, genuine.occurred_at);
}
