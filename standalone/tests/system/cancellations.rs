//! Cancellations in an api that is killed before and after their commit.

use runtime::crash_points::{CHANGE_AFTER_COMMIT, CHANGE_BEFORE_COMMIT};
use sea_orm::{ConnectionTrait, Database};
use serde_json::{Value, json};
use test_support::process::Process;
use test_support::services::{Stores, sql};
use test_support::user::{ALL_SCOPES, SAMPLE_ORDER, User};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_is_repeated_safely_after_a_crash_before_or_after_its_commit() {
    let stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
    let token = stores.token(ALL_SCOPES, "1h");
    for (point, was_committed) in [(CHANGE_BEFORE_COMMIT, false), (CHANGE_AFTER_COMMIT, true)] {
        let armed = format!("{point}=return");
        let variables = [&stores.variables()[..], &[("FAILPOINTS", &armed)]].concat();
        let mut api = Process::start("api", &[], &variables);
        let user = User::new(&api.line_with("ready address="), &token);
        let (placed, version) = user.place("1", &SAMPLE_ORDER, None).await;
        let id = placed["order"]["id"].as_str().unwrap();
        let cancel = format!(
            "mutation {{ cancelOrder(input: {{ orderId: \"{id}\", reason: \"damaged\" }}) {{
                 order {{ status net {{ amount }} }} clientVersion replayed userErrors {{ code }} }} }}"
        );
        let request = user.http.post(format!("http://{}/graphql", user.address)).bearer_auth(&token);
        let response = request.json(&json!({ "query": cancel })).send().await;
        assert!(response.is_err(), "the api dies at {point}");
        assert!(api.output().all().contains(&format!("crashed at {point}")));

        // Another api finds the order cancelled or not, and publishes the event.
        let mut api = Process::start("api", &[], &stores.variables());
        let user = User::new(&api.line_with("ready address="), &token);
        let response = user.graphql(&cancel).await;
        let cancelled = json!({
            "order": { "status": "CANCELLED", "net": { "amount": "0.00" } },
            "clientVersion": version + 1, "replayed": was_committed, "userErrors": [],
        });
        assert_eq!(response["data"]["cancelOrder"], cancelled, "{point}: {response}");
        let count = format!(
            "SELECT (SELECT count(*) FROM order_refunds WHERE order_id = '{id}') AS refunds,
                    (SELECT count(*) FROM order_events WHERE type LIKE '%OrderCancelled%' AND payload->>'orderId' = '{id}') AS events"
        );
        let row = db.query_one_raw(sql(&count)).await.unwrap().unwrap();
        let (refunds, events): (i64, i64) = (row.try_get("", "refunds").unwrap(), row.try_get("", "events").unwrap());
        assert_eq!((refunds, events), (1, 1), "{point}");
        test_support::until("the event is published", async || {
            let row = db.query_one_raw(sql("SELECT count(*) AS pending FROM outbox")).await.unwrap().unwrap();
            row.try_get::<i64>("", "pending").unwrap() == 0
        })
        .await;
        assert_eq!(user.graphql(&cancel).await["data"]["cancelOrder"]["replayed"], Value::Bool(true));
    }
}
