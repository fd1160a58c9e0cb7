//! Applying events from the queue and the log to Redis.

use std::process::Command;
use std::time::Instant;

use chrono::Utc;
use entity::{Event, OrderPlaced, order_event};
use futures::{StreamExt, stream};
use read_model::redis::batch::Batch;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};
use serde_json::{Value, json};
use test_support::events::order_placed;
use test_support::process::{Process, program, repository_file};
use test_support::sqs;
use test_support::until;

use super::harness::{ROUNDS, Sample, median, print};
use super::{Bench, CLIENTS};

/// Events for one partition when 500 events are applied in one round trip.
const EVENTS_IN_A_STEP: i64 = 31;

/// redis-benchmark replaces this by a random number.
const RANDOM_NUMBER: &str = "__rand_int__";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn projection() {
    const MESSAGES: i32 = 10_000;
    const LOG: u64 = 200_000;
    let bench = Bench::start().await;
    let endpoint = bench.stores.get("AWS_ENDPOINT_URL").to_owned();
    let http = reqwest::Client::new();
    // Made by SQL: the first order of each client, then the second of each, and so on, with ids in this order.
    let orders = format!(
        "WITH placed AS (
             SELECT gen_random_uuid() AS order_id, c.id AS client_id, v AS version FROM clients c, generate_series(1, {}) v
         ), orders AS (
             INSERT INTO orders (id, client_id, version, placed_at, total)
             SELECT order_id, client_id, version, now(), 150000 FROM placed
         ), items AS (
             INSERT INTO order_items (order_id, line, product_id, unit_price, quantity)
             SELECT order_id, 0, 1, 150000, 1 FROM placed
         ), raised AS (
             UPDATE clients SET version = {}
         )
         INSERT INTO order_events (id, client_id, version, type, payload, occurred_at)
         SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint + row_number() OVER (ORDER BY version, client_id)), 12, '0')
             || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid, client_id, version, 'orders.OrderPlaced.v1', jsonb_build_object(
             'clientId', client_id, 'clientName', 'Client ' || client_id, 'clientEmail', client_id || '@example.com',
             'orderId', order_id, 'currency', 'USD', 'total', 150000, 'lines', jsonb_build_array(jsonb_build_object(
                 'productId', 1, 'name', 'Computer', 'unitPrice', 150000, 'quantity', 1))), now() FROM placed",
        LOG / CLIENTS as u64,
        LOG / CLIENTS as u64
    );
    bench.db.execute_unprepared("TRUNCATE order_events, outbox").await.unwrap();
    bench.db.execute_unprepared(&orders).await.unwrap();
    let events = order_event::Entity::find().filter(order_event::Column::Version.eq(1)).all(&bench.db).await.unwrap();
    let messages: Vec<String> = events.iter().take(MESSAGES as usize).map(order_event::Model::message).collect();
    let mut turn = 0;
    let mut drained = async |program: &str| {
        // Each turn has a queue of its own, which is full before the program starts.
        turn += 1;
        let created = sqs::call(&http, &endpoint, "CreateQueue", json!({ "QueueName": format!("full-{turn}") })).await;
        let url = created["QueueUrl"].as_str().unwrap().to_owned();
        let () = redis::cmd("FLUSHALL").arg("ASYNC").query_async(&mut bench.redis().await).await.unwrap();
        for batch in messages.chunks(10) {
            let entries: Vec<Value> = (0..)
                .zip(batch)
                .map(|(id, body): (u32, _)| json!({ "Id": id.to_string(), "MessageBody": body }))
                .collect();
            sqs::call(&http, &endpoint, "SendMessageBatch", json!({ "QueueUrl": url, "Entries": entries })).await;
        }
        let variables = bench.stores.variables();
        let variables = variables.into_iter().filter(|(name, _)| !matches!(*name, "DATABASE_URL" | "QUEUE_URL"));
        let variables = variables.chain([("QUEUE_URL", &*url)]).collect::<Vec<_>>();
        let process = Process::start(program, &[], &variables);
        let left = async || -> i32 {
            let asked = json!({ "QueueUrl": url, "AttributeNames": ["All"] });
            let queue = sqs::call(&http, &endpoint, "GetQueueAttributes", asked).await;
            let number = |name: &str| queue["Attributes"][name].as_str().unwrap().parse::<i32>().unwrap();
            number("ApproximateNumberOfMessages") + number("ApproximateNumberOfMessagesNotVisible")
        };
        // The time to start does not count.
        until("the first messages are gone", async || left().await < MESSAGES).await;
        let (began, first) = (Instant::now(), left().await);
        until("the queue is empty", async || left().await == 0).await;
        let seconds = began.elapsed().as_secs_f64();
        drop(process);
        Sample { rate: f64::from(first) / seconds, ..Sample::default() }
    };
    let mut samples: [Vec<Sample>; 2] = Default::default();
    for _ in 0..ROUNDS {
        samples[0].push(drained("projector").await);
        samples[1].push(drained("drain").await);
    }
    print(
        "A full queue: receive, apply, delete",
        &[("projector", median(&samples[0])), ("receive and delete only", median(&samples[1]))],
    );

    // The script alone, as fast as redis-benchmark can send it.
    let apply = |_| async {
        let mut redis = bench.redis().await;
        let () = redis::cmd("FLUSHALL").arg("ASYNC").query_async(&mut redis).await.unwrap();
        let report = bench.stores.run("projector", &["rebuild", "start", "--keep", "0s", "--json"]);
        let report: Value = serde_json::from_str(report.lines().next().unwrap()).unwrap();
        Sample { rate: report["events"].as_f64().unwrap() / report["seconds"].as_f64().unwrap(), ..Sample::default() }
    };
    let replayed: Vec<Sample> = stream::iter(0..ROUNDS).then(apply).collect().await;
    let mut redis = bench.redis().await;
    let mut applied = Vec::new();
    for _ in 0..ROUNDS {
        let () = redis::cmd("FLUSHALL").arg("ASYNC").query_async(&mut redis).await.unwrap();
        let mut command = Command::new(program("apply"));
        let output = command.arg(LOG.to_string()).envs(bench.stores.variables()).output().unwrap();
        let rate = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_else(|_| panic!("{output:?}"));
        applied.push(Sample { rate, ..Sample::default() });
    }
    let script = std::fs::read_to_string(repository_file("read_model/src/redis/scripts/apply.lua")).unwrap();
    let sha: String = redis::cmd("SCRIPT").arg("LOAD").arg(&script).query_async(&mut redis).await.unwrap();
    let fencing_token: String =
        redis::cmd("GET").arg("orders:{p1}:fencing_token").query_async(&mut redis).await.unwrap();
    let (host, port) = bench.stores.redis.host_and_port().unwrap();
    let mut benchmarked = Vec::new();
    for _ in 0..ROUNDS {
        let mut empty = redis::pipe();
        empty
            .cmd("FLUSHALL")
            .arg("ASYNC")
            .ignore()
            .cmd("SET")
            .arg("orders:{p1}:fencing_token")
            .arg(&fencing_token)
            .ignore();
        empty.cmd("SCRIPT").arg("LOAD").arg(&script).ignore();
        let () = empty.query_async(&mut redis).await.unwrap();
        let output = Command::new("redis-benchmark")
            .args(["-h", host, "-p", &port.to_string(), "-c", "1", "-P", "16", "-q", "--csv"])
            .args(["-n", &(LOG as i64 / EVENTS_IN_A_STEP).to_string(), "-r", "1000000000"])
            .args(["EVALSHA", &sha, "2", "orders:{p1}:fencing_token", "orders:{p1}:nothing"])
            .args(apply_arguments(&fencing_token))
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = printed.lines().last().unwrap_or_default();
        let rate = line.rsplit(',').nth(6).and_then(|rate| rate.trim_matches('"').parse::<f64>().ok());
        let keys: u64 = redis::cmd("DBSIZE").query_async(&mut redis).await.unwrap();
        assert!(keys > LOG * 9 / 10, "{keys} keys: {output:?}");
        let rate = rate.unwrap_or_else(|| panic!("{output:?}")) * EVENTS_IN_A_STEP as f64;
        benchmarked.push(Sample { rate, ..Sample::default() });
    }
    print(
        "Events applied to Redis, 500 in a round trip",
        &[
            ("applying", median(&applied)),
            ("redis-benchmark, the same script", median(&benchmarked)),
            ("replay of a rebuild, from PostgreSQL", median(&replayed)),
        ],
    );
    let () = redis::cmd("FLUSHALL").arg("ASYNC").query_async(&mut redis).await.unwrap();
    bench.stores.run("projector", &["rebuild", "start", "--keep", "0s"]);
    let report: Value = serde_json::from_str(&bench.stores.run("projector", &["verify", "--json"])).unwrap();
    println!(
        "\n`projector verify`: {} clients of {LOG} orders in {:.2} s",
        report["clients"],
        report["seconds"].as_f64().unwrap()
    );
}

/// The arguments of `apply.lua` for orders of one line, placed now by random clients.
fn apply_arguments(fencing_token: &str) -> Vec<String> {
    // redis-benchmark replaces ids from here on by random ones.
    const FIRST: i64 = 1_000_000_000_000;
    let events: Vec<Event> =
        (FIRST..FIRST + EVENTS_IN_A_STEP).map(|client| order_placed(client, 1, &[(1, 1, 150_000)])).collect();
    let mut batch = Batch::default();
    for (index, event) in events.iter().enumerate() {
        batch.add(index, FIRST + index as i64, event);
    }
    let mut script = redis::cmd(fencing_token);
    script.arg("1").arg("orders:changed");
    batch.write(&mut script, Utc::now());
    let arguments = script.args_iter().filter_map(|argument| match argument {
        redis::Arg::Simple(text) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    });
    let mut arguments: Vec<String> = arguments.collect();
    for argument in &mut arguments {
        for event in &events {
            let Some(OrderPlaced { client_id, order_id, .. }) = event.order() else { continue };
            let (client, order) = (client_id.to_string(), order_id.to_string());
            // Twice: one number has too few digits to be unique.
            let random = RANDOM_NUMBER.repeat(2);
            *argument = if *argument == order { random } else { argument.replace(&client, &random) };
        }
    }
    arguments
}
