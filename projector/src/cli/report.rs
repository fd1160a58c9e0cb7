//! The output of all operator commands: a progress bar while one works, then one line per result and a summary.
//!
//! A result in text is `subject  state: detail`. With `--json` each line is an object. Results and summaries go to standard
//! output, advice to standard error.

use std::fmt::Display;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use runtime::{print_line, printable};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tracing::info;

/// How often progress is logged where there is no terminal.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

pub struct Report {
    json: bool,
    began: Instant,
    logged: Instant,
    bar: ProgressBar,
    unit: &'static str,
}

impl Report {
    pub fn new(json: bool) -> Report {
        let now = Instant::now();
        Report { json, began: now, logged: now, bar: ProgressBar::hidden(), unit: "" }
    }

    /// Shows how many `unit`s are done. A new unit begins a new bar and restarts the clock of the summary.
    pub fn progress(&mut self, unit: &'static str, done: u64, total: Option<u64>) {
        if unit != self.unit {
            self.bar.finish_and_clear();
            let (bar, template) = match total {
                Some(total) => {
                    (ProgressBar::new(total), "{bar:30} {percent}%  {human_pos} {msg}  {per_sec}  {eta} left")
                }
                None => (ProgressBar::new_spinner(), "{spinner} {human_pos} {msg}  {per_sec}"),
            };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let now = Instant::now();
            *self = Report {
                json: self.json,
                began: now,
                logged: now,
                bar: bar.with_style(style).with_message(unit),
                unit,
            };
        }
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.logged.elapsed() >= LOG_INTERVAL {
            info!(done, "{unit}");
            self.logged = Instant::now();
        }
    }

    /// Prints a result above the progress bar.
    pub fn result(&self, result: &(impl Display + Serialize)) {
        let line = if self.json { json!(result).to_string() } else { result.to_string() };
        self.bar.suspend(|| print_line(printable(&line, &[])));
    }

    /// Prints a text that is only for people, because JSON has it already.
    pub fn text(&self, text: &str) {
        if !self.json {
            print_line(printable(text, &['\n', '\t']));
        }
    }

    /// Prints how long the step took and what it counted. The names of the counts are camel case; JSON has `details`, too.
    pub fn summary(&mut self, counts: &[(&str, u64)], interrupted: bool, details: Value) {
        self.bar.finish_and_clear();
        let seconds = self.began.elapsed().as_secs_f64();
        if self.json {
            let mut line: Map<String, Value> = counts.iter().map(|(name, n)| ((*name).into(), json!(n))).collect();
            line.extend([("seconds".into(), json!(seconds)), ("interrupted".into(), json!(interrupted))]);
            line.extend(details.as_object().cloned().unwrap_or_default());
            print_line(Value::Object(line));
        } else {
            let counts: Vec<String> = counts.iter().map(|(name, n)| format!("{} {n}", words(name))).collect();
            let outcome = if interrupted { "interrupted after" } else { "finished in" };
            print_line(format_args!("{outcome} {seconds:.1} s: {}", counts.join(", ")));
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `wrongSums` as "wrong sums".
fn words(camel_case: &str) -> String {
    let mut words = String::new();
    for letter in camel_case.chars() {
        if letter.is_uppercase() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}
