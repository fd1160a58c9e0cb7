//! What `make figures` prints; README.md has the latest. It measures and judges nothing: machines differ.

use std::time::{Duration, Instant};

use crate::process::{EXAMPLE, Process};
use crate::services::{Services, place_many};

#[tokio::test]
#[ignore = "a measurement: `make figures` runs it on a release build"]
async fn figures() {
    let mut starts = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        let mut process = Process::start("standalone", &[], &[("LISTEN_ADDR", "127.0.0.1:0")]);
        process.line_with("The order service is ready");
        starts.push(began.elapsed());
    }
    print("standalone: start until ready", &mut starts);

    let services = Services::start(1);
    let user = &services.users[0];
    user.place("1", &EXAMPLE, None).await;
    let mut visible = Vec::new();
    for n in 0..200 {
        // Idle in between, and never in step with the queue's own 100 ms.
        tokio::time::sleep(Duration::from_millis(20 + n * 37 % 100)).await;
        let began = Instant::now();
        let (_, version) = user.place("1", &EXAMPLE, None).await;
        user.client_at("1", version).await;
        visible.push(began.elapsed());
    }
    print("order sent until visible in client", &mut visible);
    let (services_of_load, began) = (Services::start(2), Instant::now());
    place_many(&services_of_load).await;
    println!("{:<42} {:>8.1} s", "10 000 orders placed and counted", began.elapsed().as_secs_f64());
    println!("{:<42} {:>8.1} MiB", "api: resident memory", resident(&services.apis[0]));
    println!("{:<42} {:>8.1} MiB", "projector: resident memory", resident(&services.projectors[0]));
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1_000.0;
    println!("{what:<42} {:>8.1} ms p50 {:>8.1} ms p99", at(0.5), at(0.99));
}

fn resident(process: &Process) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
