//! Comparing sums.

use crate::support::*;
use chrono::{DateTime, Datelike, NaiveDate, Timelike, Utc};
use entity::order_event;
use projector::verify::sums::SumsProgress;
use projector::verify::{FirstMissed, Repair};
use read_model::Projection;
use sea_orm::ConnectionTrait;
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::sync::Notify;

#[tokio::test]
async fn verify_reports_every_wrong_sum() {
    let (_server, url, mut verifier) = verifier(Repair::Off).await;
    verifier.in_flight = Duration::ZERO;
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
    let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
    let now = Utc::now();
    let times = [at("2024-02-29T23:59:59.999Z"), at("2024-03-01T00:00:00Z"), now, now, now - chrono::Days::new(40)];
    let rows: Vec<_> =
        (1..).zip(times).map(|(version, time)| order_event::Model { occurred_at: time, ..row(1, version) }).collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    let late = wrong_sums(&verifier).await;
    assert!(
        late.contains(&"2024-02-29           wrong sum: 0.00 USD for 0 orders, expected 1500.00 USD for 1".to_owned())
    );
    assert!(
        late.contains(&"2024-02 product 1    wrong sum: 0.00 USD for 0 units, expected 1500.00 USD for 1".to_owned())
    );

    // An event that is in the outbox is on its way.
    verifier.in_flight = Duration::from_secs(60);
    verifier.db.execute_unprepared("INSERT INTO outbox (event_id) SELECT id FROM order_events").await.unwrap();
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
    verifier.db.execute_unprepared("DELETE FROM outbox").await.unwrap();
    // So is one that the queue refuses.
    let refused = "INSERT INTO refused_events SELECT id, occurred_at, occurred_at, occurred_at, '' FROM order_events";
    verifier.db.execute_unprepared(refused).await.unwrap();
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
    let missing = verifier.subjects(&[entity::Subject::Client(1)], &mut FirstMissed::default()).await.unwrap();
    assert_eq!((missing, verifier.unpublished().await.unwrap().0), (vec![], 5));
    verifier.db.execute_unprepared("DELETE FROM refused_events").await.unwrap();
    // So is one that left it recently. It arrives while the comparison waits for it.
    verifier.in_flight = Duration::from_millis(500);
    let arrives = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(verifier.read_model.apply(&events(&rows)).await.len(), rows.len());
    };
    assert_eq!(tokio::join!(wrong_sums(&verifier), arrives).0, Vec::<String>::new());
    // A sum that is too large is wrong at once.
    verifier.in_flight = Duration::from_secs(60);
    let (day, hour) = (now.format("%Y-%m-%d"), now.format("%Y-%m-%dT%H"));
    let key = |name: String| format!("orders:{{p1}}:g1:{name}");
    let bucket = format!("#{}", 2 * now.ordinal0());
    command(&url, &["BITFIELD", &key(now.format("days:%Y").to_string()), "INCRBY", "i64", &bucket, "1"]).await;
    let expected = format!("{day}           wrong sum: 3000.01 USD for 2 orders, expected 3000.00 USD for 2");
    assert_eq!(wrong_sums(&verifier).await, [expected]);
    command(&url, &["BITFIELD", &key(now.format("days:%Y").to_string()), "INCRBY", "i64", &bucket, "-1"]).await;
    let bucket = format!("#{}", 2 * (now.day0() * 48 + now.hour() * 2 + now.minute() / 30) + 1);
    command(&url, &["BITFIELD", &key(now.format("half_hours:%Y-%m").to_string()), "INCRBY", "i64", &bucket, "1"]).await;
    let expected = format!("{hour}        wrong sum: 3000.00 USD for 3 orders, expected 3000.00 USD for 2");
    assert_eq!(wrong_sums(&verifier).await, [expected]);
    command(&url, &["BITFIELD", &key(now.format("half_hours:%Y-%m").to_string()), "INCRBY", "i64", &bucket, "-1"])
        .await;
    command(&url, &["HINCRBY", &key(format!("products:{day}")), "2:units", "7"]).await;
    let expected = format!("{day} product 2 wrong sum: 0.00 USD for 7 units, expected 0.00 USD for 0");
    assert_eq!(wrong_sums(&verifier).await, [expected]);
    command(&url, &["HDEL", &key(format!("products:{day}")), "2:units"]).await;
    assert_eq!(wrong_sums(&verifier).await, Vec::<String>::new());
}

#[expect(clippy::disallowed_methods, reason = "`each` is not async, and the comparison has to take long")]
#[tokio::test]
async fn a_sum_is_overdue_in_flight_after_its_own_comparison_however_long_the_others_take() {
    let (_server, _, mut verifier) = verifier(Repair::Off).await;
    verifier.in_flight = Duration::from_secs(3);
    let (now, earlier) = (Utc::now(), Utc::now() - chrono::Days::new(40));
    let rows: Vec<_> = (1..)
        .zip([earlier, now])
        .map(|(version, time)| order_event::Model { occurred_at: time, ..row(1, version) })
        .collect();
    place(&verifier.db, &rows, Outbox::Published).await;
    verifier.read_model.apply(&events(&rows[..1])).await;
    let (mut wrong, mut first, all_compared) = (Vec::new(), None, Notify::new());
    let each = |progress: SumsProgress| {
        if *first.get_or_insert(progress.next) < progress.next && progress.next <= now.date_naive() {
            first = Some(NaiveDate::MAX);
            std::thread::sleep(verifier.in_flight); // the first month takes long
        }
        if progress.next > now.date_naive() {
            all_compared.notify_one();
        }
        wrong.extend(progress.wrong);
        ControlFlow::Continue(())
    };
    // It takes longer than the first look again, but not too long.
    let arrives = async {
        all_compared.notified().await;
        tokio::time::sleep(verifier.in_flight / 2).await;
        verifier.read_model.apply(&events(&rows[1..])).await;
    };
    let (compared, ()) = tokio::join!(verifier.sums(None, each), arrives);
    compared.unwrap();
    assert_eq!(wrong, []);
}
