//! Helpers of the tests of reports: events, and an api on each read model.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use entity::Event;
use read_model::{Memory, ReadModel};
use serde_json::{Value, json};
use test_support::events::order_placed_at;

use crate::support::{ALL_SCOPES, Api, code, project_products, queue, redis, sqlite};

pub fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

/// An order of (product, quantity) lines; every product costs 1.00.
pub fn event(client_id: i64, version: i32, time: DateTime<Utc>, lines: &[(i64, i32)]) -> Event {
    let lines: Vec<_> = lines.iter().map(|&(product, quantity)| (product, quantity, 100)).collect();
    order_placed_at(time, client_id, version, &lines)
}

/// Runs a check with an api on each read model.
pub async fn both(check: impl AsyncFn(&Api)) {
    let (_server, redis) = redis().await;
    let models: [Arc<dyn ReadModel>; 2] = [Arc::new(Memory::default()), redis];
    for read_model in models {
        let db = sqlite().await;
        project_products(&db, &*read_model).await;
        check(&Api::start_on(&db, read_model, queue().await, &[]).await).await;
    }
}

pub async fn ask(api: &Api, query: &str) -> Value {
    let response = api.graphql(&api.token(ALL_SCOPES, None), query, json!({})).await;
    assert_eq!(response["errors"], Value::Null, "{query}");
    response["data"].clone()
}

pub async fn error_code(api: &Api, token: &str, query: &str) -> String {
    code(&api.graphql(token, query, json!({})).await).to_owned()
}
