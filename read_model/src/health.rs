use serde_json::{Value, json};

use crate::Error;

/// At most this many names of keys are reported.
const MAX_NAMES: usize = 10;

/// The condition of the store, as health checks report it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the store cannot be used.
    pub outage: Option<Error>,
    /// Why the store refuses writes, in its own words.
    pub refusal: Option<String>,
    /// The policy by which the store may evict keys.
    pub eviction_policy: Option<String>,
    /// The shared keys that are quarantined: reading them fails until a rebuild.
    pub quarantined: Vec<String>,
    /// How many sums differed from the database when they were last compared. A rebuild corrects them.
    pub wrong_sums: u64,
}

impl Health {
    /// The health of a store of which only this is known.
    pub fn of(ping: Result<(), Error>) -> Health {
        Health { outage: ping.err(), ..Health::default() }
    }

    /// Adds fields to the body of a health check.
    pub fn write_to(&self, body: &mut Value) {
        body["readModel"] = json!(if self.outage.is_none() { "reachable" } else { "unreachable" });
        let problems = self.problems();
        if !problems.is_empty() {
            body["readModelProblems"] = json!(problems);
        }
        if !self.quarantined.is_empty() {
            body["quarantined"] = json!(self.quarantined.iter().take(MAX_NAMES).collect::<Vec<_>>());
        }
    }

    /// A sentence for each problem, with its remedy.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.outage.iter().map(Error::to_string).collect();
        if let Some(refusal) = &self.refusal {
            problems.push(format!("Redis refuses writes, so events wait: {refusal}"));
        }
        if let Some(policy) = &self.eviction_policy {
            problems.push(format!(
                "Redis may evict keys of the read model, which makes results wrong: change its maxmemory-policy from \
                 {policy} to noeviction"
            ));
        }
        if let number @ 1.. = self.quarantined.len() {
            problems.push(format!("damaged keys are quarantined ({number}): run `projector rebuild start`"));
        }
        if let number @ 1.. = self.wrong_sums {
            problems.push(format!("sums differ from the database ({number}): run `projector rebuild start`"));
        }
        problems
    }
}
