//! Start and size.

use std::time::Instant;

use test_support::process::{Process, program};

use super::harness::print_times;

#[tokio::test]
#[ignore = "a measurement: `make bench` runs it on a release build"]
async fn start() {
    let mut starts = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        let mut process = Process::start("standalone", &[], &[("LISTEN_ADDR", "127.0.0.1:0")]);
        process.line_with("The order service is ready");
        starts.push(began.elapsed());
    }
    println!("\n### Start and size\n");
    print_times("standalone: start until ready", &mut starts);
    for name in ["api", "projector", "standalone"] {
        let size = std::fs::metadata(program(name)).unwrap().len() as f64 / 1024.0 / 1024.0;
        println!("{name:<42} {size:>8.1} MiB on disk");
    }
}
