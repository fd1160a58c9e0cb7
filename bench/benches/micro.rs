//! Measures the steps of a request and of an event against references that do not change: reading the same text with
//! serde_json, validating the same document again. Times differ between machines and days; ratios hardly do. Fails if a ratio
//! exceeds its limit.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::commands::Origin;
use api::commands::place_order::rules::Book;
use api::commands::place_order::{Item, Outcome, PlaceOrder};
use api::edge::documents::limits::LimitSettings;
use api::edge::documents::{Access, DocumentRef, DocumentSettings, Documents, Found};
use api::edge::quota::QuotaKey;
use api::edge::rate_limits::Meter;
use api::graphql::schema;
use chrono::Utc;
use clap::{Args, Command, FromArgMatches};
use criterion::Criterion;
use entity::event::ORDER_PLACED;
use entity::{Event, client, order_event, product};
use iso_currency::Currency;
use serde_json::Value;
use tokio::runtime::Runtime;

const QUERY: &str =
    "query Client($id: ID!) { client(id: $id) { id name email total { amount currencyCode } orderCount version } }";

const FIND_DOCUMENT: &str = "find a cached document";
const VALIDATE_DOCUMENT: &str = "parse and validate it";
const DECIDE_ORDER: &str = "decide an order";
const READ_EVENT: &str = "read an event";
const WRITE_EVENT: &str = "write an event";
const READ_JSON: &str = "read its event with serde_json";

/// A step, its reference, and the highest allowed ratio of their times.
const RATIOS: [(&str, &str, f64); 4] = [
    (FIND_DOCUMENT, VALIDATE_DOCUMENT, 0.05),
    (DECIDE_ORDER, READ_JSON, 0.5),
    (READ_EVENT, READ_JSON, 2.0),
    (WRITE_EVENT, READ_JSON, 1.2),
];

fn main() -> Result<(), String> {
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).join("criterion");
    let mut criterion = Criterion::default()
        .output_directory(&results)
        .without_plots()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    documents(&mut criterion);
    events(&mut criterion);

    let medians = medians(&results);
    println!("\n{:<28} {:>8}   {:<32} {:>8} {:>6} {:>6}", "", "µs", "reference", "µs", "ratio", "limit");
    let mut slow = Vec::new();
    for (name, reference, limit) in RATIOS {
        let (Some(this), Some(other)) = (medians.get(name), medians.get(reference)) else { continue }; // filtered out
        let ratio = this / other;
        println!("{name:<28} {:>8.3}   {reference:<32} {:>8.3} {ratio:>6.2} {limit:>6.2}", this / 1e3, other / 1e3);
        if ratio > limit {
            slow.push(name);
        }
    }
    if slow.is_empty() { Ok(()) } else { Err(format!("slower than allowed: {}", slow.join(", "))) }
}

/// Parses settings; without arguments they are the defaults.
fn settings<S: Args + FromArgMatches>(arguments: &[&str]) -> S {
    let command = S::augment_args(Command::new("bench"));
    S::from_arg_matches(&command.get_matches_from([&["bench"], arguments].concat())).unwrap()
}

fn documents(criterion: &mut Criterion) {
    let sdl = schema(None).sdl();
    let documents = |arguments| {
        let (limits, settings): (LimitSettings, DocumentSettings) = (settings(&[]), settings(arguments));
        Documents::new(&sdl, limits, &settings, true).unwrap()
    };
    let runtime = Runtime::new().unwrap();
    let meter = Meter::new(Arc::default(), QuotaKey::Subject("bench".into()));
    let find = |documents: &Documents| match documents
        .find(DocumentRef { text: Some(black_box(QUERY)), id: None }, Access::Identified)
        .unwrap()
    {
        Found::Valid(document) => document,
        Found::New(new) => runtime.block_on(documents.validate(new, &meter)).unwrap(),
    };
    let (cached, uncached) = (documents(&[]), documents(&["--document-cache-bytes=0"]));
    criterion.bench_function(FIND_DOCUMENT, |bencher| bencher.iter(|| find(&cached)));
    criterion.bench_function(VALIDATE_DOCUMENT, |bencher| bencher.iter(|| find(&uncached)));
}

fn events(criterion: &mut Criterion) {
    let client =
        client::Model { id: 1, name: "Bob".into(), email: "bob@example.com".into(), version: 0, forgotten_at: None };
    let product =
        |id| product::Model { id, name: "Computer".into(), price: 150_000, available: true, sku: None, version: 0 };
    let mut book = Book::new(Currency::USD, vec![client], vec![product(1), product(2)]);
    let items = [1, 2].map(|product_id| Item { product_id: Some(product_id), quantity: 3 });
    let order =
        PlaceOrder { client_id: Some(1), items: items.into(), idempotency_key: None, origin: Origin::default() };
    let Outcome::Placed(event) = book.decide(&order, Utc::now()) else { unreachable!("the order is valid") };
    let row = order_event::Model {
        id: event.id,
        client_id: Some(1),
        product_id: None,
        version: event.version,
        r#type: ORDER_PLACED.into(),
        payload: serde_json::to_value(&event.data).unwrap(),
        occurred_at: event.time,
        traceparent: None,
        actor: None,
        actor_is_client: None,
    };
    let message = row.message();
    let now = Utc::now();
    criterion.bench_function(READ_JSON, |bencher| {
        bencher.iter(|| serde_json::from_str::<Value>(black_box(&message)).unwrap());
    });
    criterion.bench_function(DECIDE_ORDER, |bencher| bencher.iter(|| book.decide(black_box(&order), now)));
    criterion.bench_function(READ_EVENT, |bencher| {
        bencher.iter(|| Event::parse(black_box(&message), "USD", now).unwrap());
    });
    criterion.bench_function(WRITE_EVENT, |bencher| bencher.iter(|| black_box(&row).message()));
}

/// Reads the medians that Criterion stored, in nanoseconds.
fn medians(results: &Path) -> BTreeMap<String, f64> {
    let median = |directory: PathBuf| {
        let name: Value = serde_json::from_slice(&fs::read(directory.join("new/benchmark.json")).ok()?).ok()?;
        let found: Value = serde_json::from_slice(&fs::read(directory.join("new/estimates.json")).ok()?).ok()?;
        Some((name["full_id"].as_str()?.to_owned(), found["median"]["point_estimate"].as_f64()?))
    };
    let directories = fs::read_dir(results).into_iter().flatten().flatten();
    directories.filter_map(|entry| median(entry.path())).collect()
}
