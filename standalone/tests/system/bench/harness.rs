//! Turns of load on servers, and tables of the results.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use test_support::process::{memory_mebibytes, repository_file};

pub const CONNECTIONS: usize = 64;

/// How many turns each contender gets, and how long each is.
pub const ROUNDS: usize = 3;
pub const TURN: Duration = Duration::from_secs(5);

/// The result of one turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Requests a second.
    pub rate: f64,
    /// Milliseconds; 0 if not measured.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// Requests for each second of CPU time of the server.
    pub per_cpu: f64,
    /// MiB.
    pub memory: f64,
}

/// The CPU time that a process has used, in seconds.
pub fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().map(|field| fields[*field].parse::<f64>().unwrap()).sum();
    ticks / 100.0 // USER_HZ, which is 100 on every Linux
}

/// A server under load.
pub struct Server<'a> {
    pub name: &'static str,
    pub process: u32,
    pub address: String,
    pub kind: &'static str,
    pub clients: usize,
    pub token: &'a str,
}

impl Server<'_> {
    pub fn turn(&self, length: Duration) -> Sample {
        self.load(length, CONNECTIONS, &[self.kind, self.token, &self.clients.to_string()])
    }

    /// Sends these requests, each with its query and variables, in turn. Each connection waits so long on average between a response
    /// and its next request.
    pub fn repeat(&self, length: Duration, connections: usize, pause: Duration, requests: &[Value]) -> Sample {
        let bodies: Vec<String> = requests.iter().map(Value::to_string).collect();
        let pause = pause.as_millis().to_string();
        let mut arguments = vec!["body", self.token, &pause];
        arguments.extend(bodies.iter().map(String::as_str));
        self.load(length, connections, &arguments)
    }

    pub fn load(&self, length: Duration, connections: usize, arguments: &[&str]) -> Sample {
        let before = cpu_seconds(self.process);
        let output = Command::new("wrk")
            .args(["-t1", &format!("-c{connections}"), &format!("-d{}s", length.as_secs())])
            .args(["-s", repository_file("bench/requests.lua").to_str().unwrap(), &format!("http://{}", self.address)])
            .arg("--")
            .args(arguments)
            .output()
            .unwrap();
        let spent = cpu_seconds(self.process) - before;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let report: Value =
            printed.lines().find_map(|line| serde_json::from_str(line).ok().filter(Value::is_object)).unwrap();
        let number = |name: &str| report[name].as_f64().unwrap();
        assert_eq!(number("failed"), 0.0, "{}: {printed}", self.name);
        Sample {
            rate: number("requests") / number("seconds"),
            p50: number("p50") / 1e3,
            p99: number("p99") / 1e3,
            p999: number("p999") / 1e3,
            per_cpu: number("requests") / spent,
            memory: memory_mebibytes(self.process, "VmRSS"),
        }
    }
}

/// The name of a contender, and a function that runs one turn.
pub type Contender<'a> = (&'static str, Box<dyn FnMut() -> Sample + 'a>);

/// Runs all contenders in turn, several times. Returns the medians.
pub fn compare(turns: &mut [Contender]) -> Vec<(&'static str, Sample)> {
    let mut samples: BTreeMap<usize, Vec<Sample>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (index, (_, turn)) in turns.iter_mut().enumerate() {
            samples.entry(index).or_default().push(turn());
        }
    }
    turns.iter().map(|(name, _)| *name).zip(samples.values().map(|samples| median(samples))).collect()
}

/// The median of each figure.
pub fn median(samples: &[Sample]) -> Sample {
    let median = |figure: fn(&Sample) -> f64| {
        let mut figures: Vec<f64> = samples.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Sample {
        rate: median(|sample| sample.rate),
        p50: median(|sample| sample.p50),
        p99: median(|sample| sample.p99),
        p999: median(|sample| sample.p999),
        per_cpu: median(|sample| sample.per_cpu),
        memory: median(|sample| sample.memory),
    }
}

/// Prints a table in Markdown that compares each row with the first.
pub fn print(title: &str, rows: &[(&'static str, Sample)]) {
    let (ours, figure) = (rows[0].1, |value: f64, digits: usize| match value {
        0.0 => "–".to_owned(),
        value => format!("{value:.digits$}"),
    });
    println!("\n### {title}\n");
    println!(
        "| {:<34} | {:>8} | {:>6} | {:>8} | {:>8} | {:>8} | {:>9} | {:>6} |",
        "", "1/s", "ours ×", "p50 ms", "p99 ms", "p99.9 ms", "1/s CPU", "MiB"
    );
    println!("|{:-<36}|{:->9}:|{:->7}:|{:->9}:|{:->9}:|{:->9}:|{:->10}:|{:->7}:|", "", "", "", "", "", "", "", "");
    for (name, sample) in rows {
        println!(
            "| {name:<34} | {:>8} | {:>6} | {:>8} | {:>8} | {:>8} | {:>9} | {:>6} |",
            figure(sample.rate, 0),
            figure(ours.rate / sample.rate, 2),
            figure(sample.p50, 2),
            figure(sample.p99, 2),
            figure(sample.p999, 2),
            figure(sample.per_cpu, 0),
            figure(sample.memory, 0),
        );
    }
}

/// Warms all servers up, and then compares them.
pub fn race(title: &str, servers: &[Server]) {
    for server in servers {
        server.turn(Duration::from_secs(2));
    }
    let turn = |server: &'static str, turn| -> Contender { (server, turn) };
    let turns = servers.iter().map(|server| turn(server.name, Box::new(|| server.turn(TURN))));
    print(title, &compare(&mut turns.collect::<Vec<_>>()));
}

pub fn print_times(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1_000.0;
    println!("{what:<42} {:>8.1} ms p50 {:>8.1} ms p99", at(0.5), at(0.99));
}
