//! Comparisons that are fast with few rows must be fast with many.

use crate::support::*;
use chrono::{Days, Utc};
use entity::Subject;
use entity::order_event::{self, Column, least_id_at};
use iso_currency::Currency;
use projector::sweep::Sweep;
use projector::verify::{FirstMissed, Repair, Verifier};
use read_model::Projection;
use runtime::database;
use sea_orm::{ColumnTrait, DatabaseConnection, EntityTrait, QueryFilter};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use test_support::fill::fill;
use test_support::services::sql;

/// How often each table was read from its first to its last row.
async fn full_reads(db: &DatabaseConnection) -> BTreeMap<String, i64> {
    use sea_orm::ConnectionTrait;
    let scans = "SELECT relname::text AS name, seq_scan FROM pg_stat_user_tables
                 WHERE relname IN ('orders', 'order_items', 'order_events', 'order_refunds', 'order_refund_items',
                                   'clients', 'products')";
    let rows = db.query_all_raw(sql(scans)).await.unwrap();
    rows.iter().map(|row| (row.try_get("", "name").unwrap(), row.try_get("", "seq_scan").unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_comparison_reads_a_whole_table() {
    const CLIENTS: i64 = 50_000;
    let postgres = test_support::postgres::database().await;
    let connect = || database::connect(&postgres.url, 8, Some(Duration::from_secs(60)));
    let (db, (_server, read_model, _)) = (connect().await.unwrap(), redis().await);
    migration::up(&db).await.unwrap();
    fill(&db, CLIENTS, 3 * CLIENTS).await;
    for statement in [
        "INSERT INTO order_refunds (id, order_id, client_id, version, refunded_at, amount, cancels)
         SELECT id, id, client_id, version + 1000, placed_at, total, true FROM orders",
        "INSERT INTO order_refund_items (refund_id, line, product_id, quantity, amount)
         SELECT order_id, line, product_id, quantity, unit_price * quantity FROM order_items",
        "VACUUM ANALYZE",
    ] {
        sea_orm::ConnectionTrait::execute_unprepared(&db, statement).await.unwrap();
    }
    // The first page of clients is in the read model, so that it is compared and not examined.
    let log = order_event::Entity::find().filter(Column::ClientId.lte(2_000)).all(&db).await.unwrap();
    for result in read_model.apply(&events(&log)).await {
        result.unwrap();
    }
    db.close().await.unwrap();

    let db = connect().await.unwrap();
    let before = full_reads(&db).await;
    let verifier = Verifier::new(connect().await.unwrap(), read_model, Currency::USD, Duration::ZERO, Repair::FromLog);
    let mut first_missed = FirstMissed::default();
    let page = verifier.next_clients(0, 2_000, &mut first_missed).await.unwrap().unwrap();
    assert_eq!((page.clients, page.findings), (2_000, vec![]));
    let ids: Vec<i64> = (1_990..=2_010).collect();
    let some: Vec<Subject> = ids.iter().map(|id| Subject::Client(*id)).collect();
    assert_eq!(verifier.subjects(&some, &mut first_missed).await.unwrap().len(), 10, "they are repaired");
    let changed = verifier.changed_between(least_id_at(Utc::now() - Days::new(2)), least_id_at(Utc::now())).await;
    let changed = changed.unwrap();
    assert!(changed.len() > 500, "{}", changed.len());
    let outbox = "INSERT INTO outbox SELECT id FROM order_events ORDER BY id DESC LIMIT 1000";
    sea_orm::ConnectionTrait::execute_unprepared(&db, outbox).await.unwrap();
    assert_eq!(verifier.unpublished().await.unwrap().0, 1_000);
    let mut wrong = BTreeSet::new();
    let today = Utc::now().date_naive();
    let from = today - Days::new(10);
    let count = |progress: projector::verify::sums::SumsProgress| {
        wrong.extend(progress.wrong.into_iter().map(|sum| sum.period));
        ControlFlow::Continue(())
    };
    verifier.sums(Some(from), count).await.unwrap();
    // The events of the last three days are in the outbox.
    for day in from.iter_days().take_while(|day| *day < today - Days::new(3)) {
        assert!(wrong.contains(&day.to_string()), "most orders of each day are not applied: {wrong:?}");
    }
    let Verifier { db: compared, .. } = verifier;
    compared.close().await.unwrap(); // then its statistics are complete
    assert_eq!(full_reads(&db).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_orders_of_a_client_cost_the_same_however_many_it_has() {
    const ORDERS: i64 = 8_000;
    let postgres = test_support::postgres::database().await;
    let connect = || database::connect(&postgres.url, 8, Some(Duration::from_secs(60)));
    let (db, (_server, read_model, _)) = (connect().await.unwrap(), redis().await);
    migration::up(&db).await.unwrap();
    fill(&db, 2, ORDERS).await;
    let log = order_event::Entity::find().all(&db).await.unwrap();
    for result in read_model.apply(&events(&log)).await {
        result.unwrap();
    }
    db.close().await.unwrap();
    let db = connect().await.unwrap();
    let reads_of = async |table: &str| {
        let reads = "SELECT (seq_tup_read + COALESCE(idx_tup_fetch, 0))::bigint AS reads FROM pg_stat_user_tables
                     WHERE relname = ";
        let reads = sql(&format!("{reads} '{table}'"));
        let reads = sea_orm::ConnectionTrait::query_one_raw(&db, reads).await.unwrap().unwrap();
        reads.try_get::<i64>("", "reads").unwrap()
    };
    let reads = async || reads_of("orders").await;
    let (before, items_before) = (reads().await, reads_of("order_items").await);
    let compared = database::connect(&postgres.url, 1, Some(Duration::from_secs(60))).await.unwrap();
    let verifier = Verifier::new(compared.clone(), read_model, Currency::USD, Duration::ZERO, Repair::Off);
    let page = verifier.next_clients(0, 2_000, &mut FirstMissed::default()).await.unwrap().unwrap();
    assert_eq!((page.clients, page.findings), (2, vec![]));
    // The only connection ends. Then its statistics are complete.
    compared.close().await.unwrap();
    // The sums read each order once.
    until(async || reads().await - before >= ORDERS).await;
    let newest = reads().await - before - ORDERS;
    assert!(newest <= 200, "{newest}");
    let items = reads_of("order_items").await - items_before;
    assert!(items <= 400, "{items} items of the newest orders");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_of_the_sweep_reads_no_whole_table() {
    let postgres = test_support::postgres::database().await;
    let connect = || database::connect(&postgres.url, 8, Some(Duration::from_secs(60)));
    let (db, (_server, read_model, _)) = (connect().await.unwrap(), redis().await);
    migration::up(&db).await.unwrap();
    // They have no events, so that they are compared and not examined.
    for statement in [
        "TRUNCATE clients, products RESTART IDENTITY CASCADE",
        "INSERT INTO clients (name, email) SELECT 'Bob', n || '@example.com' FROM generate_series(1, 50000) n",
        "INSERT INTO products (name, price) SELECT 'Phone', 1 FROM generate_series(1, 50000)",
        "VACUUM ANALYZE",
    ] {
        sea_orm::ConnectionTrait::execute_unprepared(&db, statement).await.unwrap();
    }
    let of_subjects = async |db: &DatabaseConnection| {
        let reads = full_reads(db).await;
        (reads["clients"], reads["products"])
    };
    db.close().await.unwrap();
    let db = connect().await.unwrap();
    let before = of_subjects(&db).await;
    let compared = connect().await.unwrap();
    let verifier = Verifier::new(compared.clone(), read_model.clone(), Currency::USD, Duration::ZERO, Repair::FromLog);
    let mut sweep = Sweep::new(verifier, Duration::ZERO, Duration::ZERO, Arc::default());
    until(async || {
        assert_eq!(sweep.run_once().await.unwrap(), []);
        read_model.sweep_progress().await.unwrap().unwrap().is_finished
    })
    .await;
    sweep.run_once().await.unwrap(); // the next round begins
    compared.close().await.unwrap(); // then its statistics are complete
    assert_eq!(of_subjects(&db).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_of_many_clients_adds_up_the_orders_of_each_day_once() {
    const CLIENTS: i64 = 400;
    let postgres = test_support::postgres::database().await;
    let connect = || database::connect(&postgres.url, 8, Some(Duration::from_secs(60)));
    let (db, (_server, read_model, url)) = (connect().await.unwrap(), redis().await);
    migration::up(&db).await.unwrap();
    // The recent orders do not show the ten oldest orders of each client, which are those of two months.
    fill(&db, CLIENTS, 60 * CLIENTS).await;
    let log = order_event::Entity::find().all(&db).await.unwrap();
    for result in read_model.apply(&events(&log)).await {
        result.unwrap();
    }
    let script = "for _, key in ipairs(redis.call('KEYS', 'orders:*:client:*')) do redis.call('DEL', key) end";
    command(&url, &["EVAL", script, "0"]).await;
    let verifier = Verifier::new(connect().await.unwrap(), read_model, Currency::USD, Duration::ZERO, Repair::FromLog);
    let page = verifier.next_clients(0, 2_000, &mut FirstMissed::default()).await.unwrap().unwrap();
    assert_eq!(page.findings.iter().filter(|finding| finding.repaired).count(), 400);
    let Verifier { db: compared, .. } = verifier;
    compared.close().await.unwrap(); // then its statistics are complete
    let reads = "SELECT idx_scan AS reads FROM pg_stat_user_indexes WHERE indexrelname = 'orders_placed_at'";
    let reads = sea_orm::ConnectionTrait::query_one_raw(&db, sql(reads)).await.unwrap().unwrap();
    let reads: i64 = reads.try_get("", "reads").unwrap();
    // Clients that are repaired at the same time may read a day twice.
    assert!((60..130).contains(&reads), "4,000 orders of 61 days: {reads}");
}
