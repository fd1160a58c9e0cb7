//! How far a long command has got: a line that moves on a terminal, a line in the log now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

/// How often the log tells.
const INTERVAL: Duration = Duration::from_secs(5);

pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    began: Instant,
    told: Instant,
}

impl Progress {
    /// Of `what` there are `total`, if that is known.
    pub fn new(what: &'static str, total: Option<u64>) -> Progress {
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), "{bar:30} {percent}%  {human_pos} {msg}  {per_sec}  {eta} left"),
            None => (ProgressBar::new_spinner(), "{spinner} {human_pos} {msg}  {per_sec}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        Progress { bar, what, began: Instant::now(), told: Instant::now() }
    }

    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.told.elapsed() >= INTERVAL {
            info!(done, "{}", self.what);
            self.told = Instant::now();
        }
    }

    /// Prints a line above the one that moves.
    pub fn print(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }

    /// Ends it; returns how long it took.
    pub fn finish(self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
