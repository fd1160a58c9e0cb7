//! The Lambda function as a process, against a Runtime API like that of Lambda and a real Redis.

mod runtime_api;

use std::time::{Duration, Instant};

use axum::{Json, Router};
use entity::{event, order_event};
use iso_currency::Currency;
use read_model::{Queries, Redis};
use runtime_api::{Lambda, start};
use serde_json::{Value, json};
use test_support::events::order_placed;
use test_support::gate::{Gate, Passage};
use test_support::process::{free_address, signal};
use test_support::redis::Redis as RedisServer;
use test_support::until;
use tokio::net::TcpListener;

/// The time limit of the function in deploy/aws/src/projector-function.ts.
const TIME_LIMIT: Duration = Duration::from_secs(15);

/// The message of an order of 10.00.
fn order(client_id: i64, version: i32) -> String {
    let placed = order_placed(client_id, version, &[(1, 1, 1_000)]);
    let row = order_event::Model {
        id: placed.id,
        client_id: Some(client_id),
        product_id: None,
        version,
        r#type: event::ORDER_PLACED.into(),
        payload: serde_json::to_value(placed.order()).unwrap(),
        occurred_at: placed.time,
        traceparent: None,
        actor: None,
        actor_is_client: None,
    };
    row.message()
}

/// The number of orders of a client and their total, as queries see them.
async fn orders(server: &RedisServer, client: i64) -> (i64, i64) {
    let read_model = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    let client = read_model.clients(&[client]).await.unwrap().remove(0);
    client.map_or((0, 0), |client| (client.order_count, client.total))
}

#[tokio::test]
async fn good_messages_are_applied_once_and_only_bad_ones_are_reported() {
    let server = RedisServer::start().await;
    let mut lambda = Lambda::start(&[("REDIS_URL", &server.url)]).await;
    let (first, second, far_ahead) = (order(1, 1), order(1, 2), order(1, 10_000));
    let batch = [("second", &*second), ("bad", "hello"), ("first", &first), ("far", &far_ahead), ("again", &second)];
    assert_eq!(lambda.invoke(&batch).await, ["bad", "far"]);
    assert_eq!(orders(&server, 1).await, (2, 2_000));

    assert_eq!(lambda.invoke(&[("first", &first), ("second", &second)]).await, [""; 0], "delivered again");
    assert_eq!(orders(&server, 1).await, (2, 2_000));
    // Its dead letters are logged as by the service.
    let of_dead_letters = |line: &String| line.contains("left for the dead-letter queue");
    until("both are logged", async || lambda.process.lines().iter().filter(|line| of_dead_letters(line)).count() == 2)
        .await;
    for line in lambda.process.lines() {
        let line: Value = serde_json::from_str(&line).expect("each line is JSON");
        assert!(["timestamp", "level", "message", "target"].iter().all(|field| line[field].is_string()), "{line}");
    }
}

#[tokio::test]
async fn during_an_outage_all_messages_are_reported_in_time_and_later_applied_once() {
    let server = RedisServer::start().await;
    let gate = Gate::in_front_of(server.url.trim_start_matches("redis://")).await;
    let mut lambda = Lambda::start(&[("REDIS_URL", &format!("redis://{}", gate.address))]).await;
    let (first, second) = (order(1, 1), order(1, 2));
    assert_eq!(lambda.invoke(&[("first", &first)]).await, [""; 0]);
    for (number, outage) in [Passage::Closed, Passage::Silent].into_iter().enumerate() {
        gate.set(outage);
        let began = Instant::now();
        assert_eq!(
            lambda.invoke(&[("first", &first), ("bad", "hello"), ("second", &second)]).await,
            ["first", "bad", "second"]
        );
        assert!(began.elapsed() < TIME_LIMIT / 2, "{outage:?}: {:?}", began.elapsed());
        let reason = "Redis is unavailable, so that messages are delivered again later";
        until("the reason is logged once for each outage", async || {
            lambda.process.lines().iter().filter(|line| line.contains(reason)).count() == number + 1
        })
        .await;
    }
    gate.set(Passage::Open);
    assert_eq!(lambda.invoke(&[("second", &second), ("first", &first)]).await, [""; 0]);
    assert_eq!(orders(&server, 1).await, (2, 2_000));
}

#[tokio::test]
async fn a_short_outage_costs_no_delivery() {
    let server = RedisServer::start().await;
    let gate = Gate::in_front_of(server.url.trim_start_matches("redis://")).await;
    let mut lambda = Lambda::start(&[("REDIS_URL", &format!("redis://{}", gate.address))]).await;
    gate.set(Passage::Closed);
    let open = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        gate.set(Passage::Open);
    };
    let first = order(1, 1);
    let batch = [("first", &*first)];
    let (failed, ()) = tokio::join!(lambda.invoke(&batch), open);
    assert_eq!(failed, [""; 0]);
    assert_eq!(orders(&server, 1).await, (1, 1_000));
}

/// Between invocations Lambda stops the process, for minutes, and Redis or the network closes its connections.
#[tokio::test]
async fn a_connection_that_is_lost_between_invocations_costs_no_delivery() {
    let server = RedisServer::start().await;
    let mut lambda = Lambda::start(&[("REDIS_URL", &server.url)]).await;
    for version in 1..=3 {
        assert_eq!(lambda.invoke(&[("any", &order(1, version))]).await, [""; 0]);
        signal(lambda.process.id() as i32, "STOP");
        let _: i64 = server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        signal(lambda.process.id() as i32, "CONT");
    }
    assert_eq!(orders(&server, 1).await, (3, 3_000));
}

#[tokio::test]
async fn the_password_comes_from_a_secret() {
    let server = RedisServer::start().await;
    let () = server.command(&["CONFIG", "SET", "requirepass", "a/b#c"]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let secrets_manager = format!("http://{}", listener.local_addr().unwrap());
    let secret = async || Json(json!({ "SecretString": "a/b#c" }));
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(secret)).await.unwrap() });

    let with_password =
        [("REDIS_URL", &*server.url), ("REDIS_PASSWORD_SECRET", "orders"), ("AWS_ENDPOINT_URL", &secrets_manager)];
    let mut lambda = Lambda::start(&with_password).await;
    assert_eq!(lambda.invoke(&[("any", &order(1, 1))]).await, [""; 0]);
    assert!(lambda.process.lines().iter().all(|line| !line.contains("a/b#c")));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_work_end_the_program_with_one_line() {
    let nobody = free_address();
    let (redis, http) = (format!("redis://{nobody}"), format!("http://{nobody}"));
    let api = ("AWS_LAMBDA_RUNTIME_API", &*nobody);
    for (variables, text) in [
        (&[api][..], "REDIS_URL is not set"),
        (&[api, ("REDIS_URL", &redis)], "cannot reach the Redis of REDIS_URL"),
        (&[api, ("REDIS_URL", "http://hunter2")], "REDIS_URL must begin with redis://"),
        (&[("REDIS_URL", &redis)], "runs only as an AWS Lambda function"),
        (&[api, ("REDIS_PASSWORD_SECRET", "orders"), ("AWS_ENDPOINT_URL", &http)], "cannot read the secret orders"),
        (&[api, ("CURRENCY", "dollars")], "CURRENCY"),
        (&[api, ("REDIS_PASSWORD_SECRET", "orders"), ("REDIS_PASSWORD", "hunter2")], "REDIS_PASSWORD_SECRET"),
    ] {
        let process = start(variables);
        let output = process.output();
        assert!(!tokio::task::block_in_place(|| process.wait()).success());
        let lines = output.all();
        let line = lines.iter().find(|line| line.starts_with("error: ")).expect("an error");
        assert!(line.contains(text) && !line.contains("hunter2"), "{variables:?}: {lines:?}");
        let is_from_clap = lines.iter().any(|line| line.starts_with("For more information, try"));
        assert!(is_from_clap || lines.len() == 1, "{variables:?}: {lines:?}");
    }
}
