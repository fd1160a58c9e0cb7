//! Heals the read model without being asked: compares clients with the command database all the time, those that changed
//! lately first, and repairs what differs.

use std::collections::HashSet;
use std::time::Duration;

use chrono::Utc;
use process::one_line;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::verify::{Finding, Verifier};

/// How far back the first look at what changed lately goes, beyond what may still be on its way.
const LOOK_BACK: Duration = Duration::from_secs(300);

pub struct Sweep {
    verifier: Verifier,
    interval: Duration,
    /// Clients with events up to this one in the log have been looked at.
    looked_at: Uuid,
    /// All clients up to this id have been compared in this round.
    compared: i64,
}

impl Sweep {
    pub fn new(verifier: Verifier, interval: Duration) -> Sweep {
        let looked_at = id_at(verifier.in_flight + LOOK_BACK);
        Sweep { verifier, interval, looked_at, compared: 0 }
    }

    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut healthy = true;
        loop {
            let mut pause = self.interval;
            match self.run_once().await {
                Ok(findings) => {
                    if !std::mem::replace(&mut healthy, true) {
                        info!("comparing the read model with the database again");
                    }
                    // Where one is, there may be more.
                    if !findings.is_empty() {
                        pause = Duration::ZERO;
                    }
                    for Finding { client, difference, repaired } in findings {
                        warn!(client, repaired, "the read model was not right: {difference}");
                    }
                }
                Err(error) => {
                    if std::mem::replace(&mut healthy, false) {
                        warn!("cannot compare the read model with the database: {}", one_line(error.as_ref()));
                    }
                }
            }
            if tokio::time::timeout(pause, shutdown.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    /// Looks at the clients that changed since it was called last, and at some of all; returns what it found.
    pub async fn run_once(&mut self) -> anyhow::Result<Vec<Finding>> {
        let until = id_at(self.verifier.in_flight);
        let changed = self.verifier.changed_between(self.looked_at, until).await?;
        let mut findings = self.verifier.compare(&changed).await?;
        self.looked_at = self.looked_at.max(until);

        let page = self.verifier.page(self.compared).await?;
        self.compared = page.as_ref().map_or(0, |page| page.last);
        let known: HashSet<i64> = findings.iter().map(|finding| finding.client).collect();
        let others = page.into_iter().flat_map(|page| page.findings);
        findings.extend(others.filter(|finding| !known.contains(&finding.client)));
        Ok(findings)
    }
}

/// The least id that an event can have that was made so long ago (RFC 9562, version 7).
fn id_at(ago: Duration) -> Uuid {
    let milliseconds = (Utc::now() - ago).timestamp_millis().max(0);
    Uuid::from_u128((milliseconds as u128) << 80)
}
