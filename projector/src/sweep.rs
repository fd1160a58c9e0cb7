//! Repairs the read model in the background: compares clients and products with the command database all the time, those that
//! changed recently first. It removes nothing that the database does not have: an operator decides that.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use entity::order_event::least_id_at;
use runtime::one_line;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::consume::activity::Activity;
use crate::verify::{Finding, FirstMissed, Verifier};

/// How far the first look at recent changes goes back.
const LOOK_BACK: Duration = Duration::from_secs(300);
/// Recent changes are compared when they are this old. By then their transactions have ended, so no change is skipped, and most
/// changes are applied.
const MIN_AGE: Duration = Duration::from_secs(10);
/// Findings of one run that are logged one by one.
const LOGGED_FINDINGS: usize = 10;

pub struct Sweep {
    verifier: Verifier,
    interval: Duration,
    /// Activity of the projector in this process. While it lags, missing events are still in the queue, so nothing is compared.
    activity: Arc<Activity>,
    /// All changes up to this event in the log have been compared.
    changes: Uuid,
    /// All clients up to this id have been compared in this round.
    clients: i64,
    first_missed: FirstMissed,
    /// Whether this round has repaired something. Then there may be more, so it does not pause.
    is_repairing: bool,
}

impl Sweep {
    pub fn new(verifier: Verifier, interval: Duration, activity: Arc<Activity>) -> Sweep {
        let changes = least_id_at(Utc::now() - verifier.in_flight - LOOK_BACK);
        let (clients, first_missed, is_repairing) = (0, FirstMissed::default(), false);
        Sweep { verifier, interval, activity, changes, clients, first_missed, is_repairing }
    }

    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut is_failing = false;
        loop {
            let mut pause = self.interval;
            match self.run_once().await {
                Ok(findings) => {
                    if std::mem::replace(&mut is_failing, false) {
                        info!("comparing the read model with the database again");
                    }
                    if self.is_repairing {
                        pause = Duration::ZERO;
                    }
                    log(&findings);
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        warn!("cannot compare the read model with the database: {}", one_line(error.as_ref()));
                    }
                }
            }
            if tokio::time::timeout(pause, shutdown.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    /// Compares recent changes, events that were missed `in_flight` ago, and the next clients of the round. Returns what it
    /// found.
    pub async fn run_once(&mut self) -> anyhow::Result<Vec<Finding>> {
        if self.activity.is_lagging() {
            self.is_repairing = false;
            return Ok(Vec::new());
        }
        let until = least_id_at(Utc::now() - MIN_AGE.min(self.verifier.in_flight));
        let mut subjects = self.first_missed.missed_for(self.verifier.in_flight);
        subjects.extend(self.verifier.changed_between(self.changes, until).await?);
        subjects.sort();
        subjects.dedup();
        let mut findings = self.verifier.subjects(&subjects, &mut self.first_missed).await?;
        self.changes = self.changes.max(until);

        match self.verifier.next_clients(self.clients, &mut self.first_missed).await? {
            Some(page) => {
                self.clients = page.last;
                findings.extend(page.findings);
                self.is_repairing |= findings.iter().any(|finding| finding.repaired);
            }
            None => {
                self.clients = 0;
                findings.extend(self.verifier.all_products(&mut self.first_missed).await?);
                self.is_repairing = findings.iter().any(|finding| finding.repaired);
            }
        }
        Ok(findings)
    }
}

fn log(findings: &[Finding]) {
    for Finding { subject, difference, repaired } in findings.iter().take(LOGGED_FINDINGS) {
        warn!(%subject, repaired, "the read model differs: {difference}");
    }
    if findings.len() > LOGGED_FINDINGS {
        let repaired = findings.iter().filter(|finding| finding.repaired).count();
        warn!(findings = findings.len(), repaired, "the read model differs in more places");
    }
}
