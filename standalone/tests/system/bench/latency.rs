//! The time from sending an order until it can be read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use test_support::process::Process;
use test_support::sqs;
use test_support::until;
use test_support::user::{SAMPLE_ORDER, User};
use tokio::task::JoinHandle;

use super::Bench;

/// The time until the read model announces an order, at a fixed rate of orders that does not slow down with the service.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn latency() {
    let bench = Bench::start().await;
    let mut projector = Process::start("projector", &[], &bench.stores.variables());
    projector.line_with("ready health=");
    let user = User::new(&bench.address, &bench.token);
    let endpoint = bench.stores.get("AWS_ENDPOINT_URL").to_owned();
    println!("\n### Accepted until visible\n");
    println!("| {:<34} | {:>8} | {:>8} | {:>8} |", "", "offered", "p50 ms", "p99 ms");
    println!("|{:-<36}|{:->9}:|{:->9}:|{:->9}:|", "", "", "", "");
    let row = |what: &str, rate: u32, mut times: Vec<Duration>| {
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
        println!("| {what:<34} | {rate:>6}/s | {:>8.1} | {:>8.1} |", at(0.5), at(0.99));
    };
    for rate in [500, 2_000] {
        let number = rate * 5;
        // Each order has a client of its own, so that a change identifies the order.
        let mut changes = bench.stores.redis_client().get_async_pubsub().await.unwrap();
        changes.subscribe("orders:changed").await.unwrap();
        let seen = tokio::spawn(async move {
            let (mut seen, mut messages) = (HashMap::new(), changes.into_on_message());
            while seen.len() < number as usize
                && let Ok(Some(message)) = tokio::time::timeout(Duration::from_secs(5), messages.next()).await
            {
                let ids: String = message.get_payload().unwrap();
                seen.extend(ids.split(' ').map(|id| (id.parse::<u32>().unwrap(), Instant::now())));
            }
            seen
        });
        let refused = Mutex::new(Vec::new());
        let placing = at_rate(rate, number, async |n| {
            if let Err(response) = user.try_to_place(&(n + 1).to_string(), &SAMPLE_ORDER, None).await {
                refused.lock().unwrap().push(response);
            }
        });
        let (sent, answered) = placing.await;
        let (seen, refused) = (seen.await.unwrap(), refused.into_inner().unwrap());
        if let Some(response) = refused.first() {
            println!("{} of {number} orders were refused at {rate}/s: {}", refused.len(), response["errors"]);
            continue;
        }
        let visible =
            (1..=number).filter_map(|n| Some(seen.get(&n)?.saturating_duration_since(answered[n as usize - 1])));
        row("response until visible", rate, visible.collect());
        let placed = sent.iter().zip(&answered).map(|(sent, answered)| *answered - *sent);
        row("request until response", rate, placed.collect());

        // The queue alone, at the same rate and with as many pollers.
        let created =
            sqs::call(&user.http, &endpoint, "CreateQueue", json!({ "QueueName": format!("probe-{rate}") })).await;
        let url = created["QueueUrl"].as_str().unwrap().to_owned();
        let received = Arc::new(Mutex::new(HashMap::new()));
        let pollers: Vec<_> = (0..4)
            .map(|_| {
                let (http, endpoint, url, received) =
                    (user.http.clone(), endpoint.clone(), url.clone(), received.clone());
                tokio::spawn(async move {
                    loop {
                        let asked = json!({ "QueueUrl": url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 20 });
                        let batch = sqs::call(&http, &endpoint, "ReceiveMessage", asked).await;
                        let messages = batch["Messages"].as_array().cloned().unwrap_or_default();
                        for message in &messages {
                            let n: u32 = message["Body"].as_str().unwrap().parse().unwrap();
                            received.lock().unwrap().entry(n).or_insert_with(Instant::now);
                        }
                        let entries: Vec<Value> = (0..)
                            .zip(&messages)
                            .map(|(id, message): (u32, _)| {
                                json!({ "Id": id.to_string(), "ReceiptHandle": message["ReceiptHandle"] })
                            })
                            .collect();
                        sqs::call(
                            &http,
                            &endpoint,
                            "DeleteMessageBatch",
                            json!({ "QueueUrl": url, "Entries": entries }),
                        )
                        .await;
                    }
                })
            })
            .collect();
        let sending = at_rate(rate, number, async |n| {
            let message = json!({ "QueueUrl": url, "MessageBody": n.to_string() });
            sqs::call(&user.http, &endpoint, "SendMessage", message).await;
        });
        let (sent, _) = sending.await;
        until("all is received", async || received.lock().unwrap().len() == number as usize).await;
        pollers.iter().for_each(JoinHandle::abort);
        let received = received.lock().unwrap();
        row("the queue: send until receive", rate, (0..number).map(|n| received[&n] - sent[n as usize]).collect());
    }
}

/// Calls `each` so many times a second, whether or not earlier calls have ended. Returns when each call began and ended.
pub(super) async fn at_rate(rate: u32, number: u32, each: impl AsyncFn(u32)) -> (Vec<Instant>, Vec<Instant>) {
    let began = Instant::now();
    let all = (0..number).map(|n| {
        let each = &each;
        async move {
            tokio::time::sleep_until((began + Duration::from_secs(1) * n / rate).into()).await;
            let sent = Instant::now();
            each(n).await;
            (sent, Instant::now())
        }
    });
    futures::future::join_all(all).await.into_iter().unzip()
}
