//! A process that is started again whenever it has died.

use test_support::process::Process;

/// A process that is started again whenever it has died.
pub struct Kept {
    pub name: &'static str,
    pub variables: Vec<(String, String)>,
    /// There, but while it is started again.
    pub process: Option<Process>,
    /// Whether it may die at a named point.
    pub armed: bool,
}

impl Kept {
    pub fn start(name: &'static str, variables: Vec<(String, String)>) -> Kept {
        let mut kept = Kept { name, variables, process: None, armed: false };
        kept.restart(None);
        kept
    }

    /// Kills it, as `kill -9` does, and starts it again, maybe armed; returns what it had said.
    pub fn restart(&mut self, failpoints: Option<&str>) -> Vec<String> {
        // It must be gone before the next one listens where it did.
        let said = self.process.take().map(|process| {
            let output = process.output();
            drop(process);
            output.all()
        });
        let mut variables: Vec<(&str, &str)> = self.variables.iter().map(|(name, value)| (&**name, &**value)).collect();
        variables.extend(failpoints.map(|failpoints| ("FAILPOINTS", failpoints)));
        self.process = Some(Process::start(self.name, &[], &variables));
        self.armed = failpoints.is_some();
        let said = said.unwrap_or_default();
        assert!(!said.iter().any(|line| line.contains("panicked at")), "{}: {said:#?}", self.name);
        said
    }

    /// Starts it again if it has died; returns what it had said.
    pub fn revive(&mut self) -> Option<Vec<String>> {
        let status = self.process.as_mut()?.exited()?;
        let armed = self.armed;
        let said = self.restart(None);
        let crashed = armed && said.iter().any(|line| line.starts_with("crashed at"));
        // One that cannot reach a store when it starts ends, and is started again until it can.
        let starting = said.iter().any(|line| line.starts_with("error: cannot"));
        assert!(crashed || starting, "{} ended with {status}: {said:#?}", self.name);
        Some(said)
    }
}
