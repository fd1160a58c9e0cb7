//! Heals the read model without being asked: compares clients and products with the command database all the time, those
//! that changed lately first, and repairs what differs. It never takes anything back: that is for an operator to decide.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use entity::order_event::least_id_at;
use runtime::one_line;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::consume::activity::Activity;
use crate::verify::{Compared, Finding, Verifier};

/// How far back the first look at what changed lately goes, beyond what may still be on its way.
const LOOK_BACK: Duration = Duration::from_secs(300);
/// Findings of one pass that are logged one by one.
const TOLD: usize = 10;

pub struct Sweep {
    verifier: Verifier,
    interval: Duration,
    /// Of the projector that it belongs to: while that has much to do, what lacks is in the queue.
    activity: Arc<Activity>,
    /// Clients with events up to this one in the log have been looked at.
    looked_at: Uuid,
    /// Those of them that lacked something which was on its way.
    incomplete: BTreeSet<i64>,
    /// All clients up to this id have been compared in this round.
    compared: i64,
    /// Whether something was found in this round: where one is, there may be more.
    in_a_hurry: bool,
}

impl Sweep {
    pub fn new(verifier: Verifier, interval: Duration, activity: Arc<Activity>) -> Sweep {
        let looked_at = least_id_at(Utc::now() - verifier.in_flight - LOOK_BACK);
        let (incomplete, compared, in_a_hurry) = (BTreeSet::new(), 0, false);
        Sweep { verifier, interval, activity, looked_at, incomplete, compared, in_a_hurry }
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
                    if self.in_a_hurry {
                        pause = Duration::ZERO;
                    }
                    tell(&findings);
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
        if self.activity.is_lagging() {
            self.in_a_hurry = false;
            return Ok(Vec::new());
        }
        let until = least_id_at(Utc::now() - self.verifier.in_flight);
        let mut ids = self.incomplete.clone();
        let (clients, products) = self.verifier.changed_between(self.looked_at, until).await?;
        ids.extend(clients);
        let ids: Vec<i64> = ids.into_iter().collect();
        let Compared { mut findings, incomplete } = self.verifier.clients(&ids).await?;
        findings.extend(self.verifier.products(&products).await?);
        (self.looked_at, self.incomplete) = (self.looked_at.max(until), incomplete.into_iter().collect());

        match self.verifier.page(self.compared).await? {
            Some(page) => {
                self.compared = page.last;
                findings.extend(page.compared.findings);
                self.in_a_hurry |= findings.iter().any(|finding| finding.repaired);
            }
            None => {
                self.compared = 0;
                findings.extend(self.verifier.all_products().await?);
                self.in_a_hurry = findings.iter().any(|finding| finding.repaired);
            }
        }
        Ok(findings)
    }
}

fn tell(findings: &[Finding]) {
    for Finding { subject, difference, repaired } in findings.iter().take(TOLD) {
        warn!(%subject, repaired, "the read model was not right: {difference}");
    }
    if findings.len() > TOLD {
        let repaired = findings.iter().filter(|finding| finding.repaired).count();
        warn!(findings = findings.len(), repaired, "the read model was not right, and so on");
    }
}
