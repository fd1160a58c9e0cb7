//! A process that is restarted whenever it has died.

use test_support::process::Process;

pub struct Supervised {
    name: &'static str,
    pub variables: Vec<(String, String)>,
    /// How often it was started again.
    pub restarts: usize,
    /// `None` only while it restarts.
    process: Option<Process>,
    /// Whether a crash point is armed, so that it may die there.
    is_armed: bool,
}

impl Supervised {
    pub fn start(name: &'static str, variables: Vec<(String, String)>) -> Supervised {
        let mut supervised = Supervised { name, variables, restarts: 0, process: None, is_armed: false };
        supervised.restart(None);
        supervised
    }

    /// Kills it, as `kill -9` does, and starts it again with these crash points armed. Returns what it had printed.
    pub fn restart(&mut self, crash_points: Option<&str>) -> Vec<String> {
        // It must be gone before the next one listens on its address.
        self.restarts += usize::from(self.process.is_some());
        let lines = self.process.take().map(|process| {
            let output = process.output();
            drop(process);
            output.all()
        });
        let mut variables: Vec<(&str, &str)> = self.variables.iter().map(|(name, value)| (&**name, &**value)).collect();
        variables.extend(crash_points.map(|points| ("FAILPOINTS", points)));
        self.process = Some(Process::start(self.name, &[], &variables));
        self.is_armed = crash_points.is_some();
        let lines = lines.unwrap_or_default();
        assert!(!lines.iter().any(|line| line.contains("panicked at")), "{}: {lines:#?}", self.name);
        lines
    }

    /// Stops it, as a release does, and starts it again. Returns what it had printed.
    pub fn replace(&mut self) -> Vec<String> {
        let Some(process) = self.process.take() else { return Vec::new() };
        let output = process.output();
        process.terminate();
        self.restarts += 1;
        self.restart(None);
        output.all()
    }

    /// Starts it again if it has died; then returns what it had printed.
    pub fn restart_if_dead(&mut self) -> Option<Vec<String>> {
        let status = self.process.as_mut()?.exited()?;
        let was_armed = self.is_armed;
        let lines = self.restart(None);
        let crashed = was_armed && lines.iter().any(|line| line.starts_with("crashed at"));
        // A process that cannot reach a store at start exits, and is started again until it can.
        let reasons = ["error: cannot", "error: the Redis of REDIS_URL responds with an error"];
        let could_not_start = lines.iter().any(|line| reasons.iter().any(|reason| line.starts_with(reason)));
        assert!(crashed || could_not_start, "{} ended with {status}: {lines:#?}", self.name);
        Some(lines)
    }
}
