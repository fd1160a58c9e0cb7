//! Repairs the read model in the background: compares clients and products with the command database, those that changed
//! recently first. It removes nothing that the database does not have: an operator decides that.
//!
//! One projector sweeps at a time. It compares recent changes all the time, a few random ones to notice a large loss soon, and
//! everything once in a round, page by page. After it has repaired something it does not pause until the end of the round.

mod round;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::Subject;
use entity::order_event::least_id_at;
use read_model::Redis;
use runtime::one_line;
use runtime::telemetry::traces::Trace;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument, Span, error, info, info_span, warn};
use uuid::Uuid;

use self::round::Round;
use crate::clock;
use crate::consume::activity::Activity;
use crate::metrics::{SWEEP_DIFFERENCES, SWEEP_LAST_SUCCESS};
use crate::verify::{Finding, FirstMissed, Verifier};

/// How far the first look at recent changes goes back.
const LOOK_BACK: Duration = Duration::from_secs(300);
/// Recent changes are compared when they are this old. By then their transactions have ended, so no change is skipped, and most
/// changes are applied.
const MIN_AGE: Duration = Duration::from_secs(10);
/// Random clients, and products, compared in each run.
const SAMPLE: u64 = 50;
/// Findings that are logged one by one if they come together.
const LOGGED_FINDINGS: usize = 10;
/// Another projector continues the sweep if this one has not renewed its lease for this time, or for three intervals.
const LEASE: Duration = Duration::from_secs(10);
/// The longest span of changes that one run compares. After a pause, several runs catch up.
const MAX_SPAN: Duration = Duration::from_secs(600);

pub struct Sweep {
    verifier: Verifier,
    interval: Duration,
    /// How long a round takes.
    period: Duration,
    /// Activity of the projector in this process. While it lags, missing events are still in the queue, so nothing is compared.
    activity: Arc<Activity>,
    lease: Lease,
    /// All changes before this time have been compared; `None` before the first look.
    changes: Option<DateTime<Utc>>,
    /// Present while this projector is the one that sweeps.
    round: Option<Round>,
    first_missed: FirstMissed,
    /// Clients of this round of which the sums may have counted too many or too few events.
    suspects: BTreeSet<Subject>,
    /// Whether something was repaired in this round. Then there may be more, so it does not pause.
    is_repairing: bool,
}

impl Sweep {
    pub fn new(verifier: Verifier, interval: Duration, period: Duration, activity: Arc<Activity>) -> Sweep {
        let lease = Lease {
            read_model: verifier.read_model.clone(),
            sweep: Uuid::now_v7().to_string(),
            time: LEASE.max(3 * interval),
        };
        Sweep {
            verifier,
            interval,
            period,
            activity,
            lease,
            changes: None,
            round: None,
            first_missed: FirstMissed::default(),
            suspects: BTreeSet::new(),
            is_repairing: false,
        }
    }

    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut is_failing = false;
        loop {
            let mut pause = self.interval;
            let span = Trace::of(None).span(|| info_span!("sweep", result = Empty, otel.status_code = Empty));
            match self.run_once().instrument(span.clone()).await {
                Ok(_) => {
                    if std::mem::replace(&mut is_failing, false) {
                        info!("comparing the read model with the database again");
                    }
                    if self.is_repairing {
                        pause = Duration::ZERO;
                    }
                }
                Err(error) => {
                    span.record("otel.status_code", "ERROR");
                    if !std::mem::replace(&mut is_failing, true) {
                        warn!("cannot compare the read model with the database: {}", one_line(error.as_ref()));
                    }
                }
            }
            if tokio::time::timeout(pause, shutdown.cancelled()).await.is_ok() {
                return self.end().await;
            }
        }
    }

    /// Compares recent changes, events that were missed `in_flight` ago, a few random clients and products,
    /// and the next clients of the round if they are due. Reports and returns the findings.
    ///
    /// Comparing all sums may take longer than the lease, so the lease is renewed meanwhile. The run ends when the lease is lost.
    pub async fn run_once(&mut self) -> anyhow::Result<Vec<Finding>> {
        clock::measure(&self.verifier.db).await?;
        if self.activity.is_lagging() {
            self.is_repairing = false;
            Span::current().record("result", "skipped");
            return Ok(Vec::new());
        }
        let lease = self.lease.clone();
        if lease.renew().await? {
            tokio::select! {
                findings = self.compare_next() => return findings,
                () = lease.keep_until_lost() => {}
            }
        }
        (self.round, self.is_repairing) = (None, false);
        Span::current().record("result", "skipped");
        Ok(Vec::new())
    }

    async fn compare_next(&mut self) -> anyhow::Result<Vec<Finding>> {
        let now = clock::now();
        let changes = self.changes.unwrap_or(now - self.verifier.in_flight - LOOK_BACK);
        let until = (now - MIN_AGE.min(self.verifier.in_flight)).min(changes + MAX_SPAN);
        let mut subjects = self.first_missed.missed_for(self.verifier.in_flight);
        subjects.extend(self.verifier.changed_between(least_id_at(changes), least_id_at(until)).await?);
        subjects.sort();
        subjects.dedup();
        let mut findings = self.compare(subjects).await?;
        self.changes = Some(changes.max(until));
        match self.verifier.sample(SAMPLE, &mut self.first_missed).await {
            Ok(some) => {
                report(&some);
                findings.extend(some);
            }
            // A client of the sample may take too long. Other runs have other samples.
            Err(_) => self.verifier.check_stores().await?,
        }
        self.is_repairing |= findings.iter().any(|finding| finding.repaired);
        if self.round.is_none() {
            self.round = Some(Round::load(&self.verifier).await?);
        }
        self.suspect_sums(&findings).await?;
        let are_sums_wrong = self.compare_sums().await?;
        let more = self.continue_round().await?;
        self.suspect_sums(&more).await?;
        findings.extend(more);
        if let Some(round) = &mut self.round {
            round.set_compared(&self.verifier, &findings).await?;
        }
        Span::current().record("result", result(&findings, are_sums_wrong));
        SWEEP_LAST_SUCCESS.record(Utc::now().timestamp() as f64, &[]);
        Ok(findings)
    }

    /// Compares the sums soon if they may include events that the database does not have, or if a client was lost and repaired,
    /// once for each client.
    async fn suspect_sums(&mut self, findings: &[Finding]) -> anyhow::Result<()> {
        let is_suspect =
            |finding: &&Finding| finding.difference.may_be_forged() || finding.repaired && finding.may_be_lost;
        let suspects: Vec<Subject> = (findings.iter().filter(is_suspect))
            .map(|finding| finding.subject)
            .filter(|subject| matches!(subject, Subject::Client(_)) && !self.suspects.contains(subject))
            .collect();
        if let Some(round) = self.round.as_mut().filter(|_| !suspects.is_empty()) {
            round.compare_sums_again(&self.verifier).await?;
            self.suspects.extend(suspects);
        }
        Ok(())
    }

    /// Compares subjects together. If that fails, for example because it takes too long, they are compared in smaller groups, and
    /// one that fails alone is skipped.
    async fn compare(&mut self, subjects: Vec<Subject>) -> anyhow::Result<Vec<Finding>> {
        let (mut findings, mut groups) = (Vec::new(), vec![subjects]);
        while let Some(mut group) = groups.pop() {
            match self.verifier.subjects(&group, &mut self.first_missed).await {
                Ok(found) => {
                    report(&found);
                    findings.extend(found);
                }
                Err(error) => {
                    // Fails if a store is down. Then nothing is skipped.
                    self.verifier.check_stores().await?;
                    match *group {
                        [] => {}
                        [subject] => {
                            self.first_missed.forget(subject);
                            warn!(%subject, "skipped, because it cannot be compared: {}", one_line(error.as_ref()));
                        }
                        _ => {
                            groups.push(group.split_off(group.len() / 2));
                            groups.push(group);
                        }
                    }
                }
            }
        }
        Ok(findings)
    }

    /// Compares the sums once in a round. Returns whether this run has found wrong ones.
    async fn compare_sums(&mut self) -> anyhow::Result<bool> {
        let Some(round) = &mut self.round else { return Ok(false) };
        // Sums are short of orders that are missing and will be repaired. They are compared in a later run.
        if round.has_compared_sums() || self.is_repairing || self.first_missed.has_missing() {
            return Ok(false);
        }
        let wrong = match self.verifier.count_wrong_sums().await {
            Ok(wrong) => wrong,
            Err(error) => {
                self.verifier.check_stores().await?;
                warn!("skipped the sums, because they cannot be compared: {}", one_line(error.as_ref()));
                0
            }
        };
        if wrong > 0 {
            SWEEP_DIFFERENCES.add(wrong, &[]);
            error!(
                wrong,
                "sums differ from the database: run `projector rebuild start`; `projector verify` lists them"
            );
        }
        round.set_compared_sums(&self.verifier).await?;
        Ok(wrong > 0)
    }

    /// Compares the next page of the round if it is due, and reports the findings.
    async fn continue_round(&mut self) -> anyhow::Result<Vec<Finding>> {
        let Some(round) = &mut self.round else { return Ok(Vec::new()) };
        if !self.is_repairing && !round.is_due(self.period) {
            return Ok(Vec::new());
        }
        if let Some(findings) = round.next_page(&self.verifier, &mut self.first_missed).await? {
            report(&findings);
            self.is_repairing |= findings.iter().any(|finding| finding.repaired);
            return Ok(findings);
        }
        let findings = self.verifier.orphaned_products(&mut self.first_missed).await?;
        report(&findings);
        self.is_repairing = findings.iter().any(|finding| finding.repaired);
        round.finish(&self.verifier).await?;
        self.suspects.clear();
        Ok(findings)
    }

    /// Lets another projector continue at once.
    async fn end(self) {
        if self.round.is_some() {
            let _ = Lease { time: Duration::from_millis(1), ..self.lease }.renew().await;
        }
    }
}

/// Lets only one projector sweep.
#[derive(Clone)]
struct Lease {
    read_model: Redis,
    /// The name of this sweep among those of other projectors.
    sweep: String,
    time: Duration,
}

impl Lease {
    /// Takes or renews the lease. Returns whether this sweep has it now.
    async fn renew(&self) -> anyhow::Result<bool> {
        Ok(self.read_model.lease_sweep(&self.sweep, self.time).await?)
    }

    /// Renews the lease until another sweep has it. A renewal that fails is tried again: no other sweep may have taken it.
    async fn keep_until_lost(&self) {
        loop {
            tokio::time::sleep(self.time / 3).await;
            if let Ok(false) = self.renew().await {
                return;
            }
        }
    }
}

/// The result of a run that has compared something, for its span.
fn result(findings: &[Finding], are_sums_wrong: bool) -> &'static str {
    match findings {
        [] if !are_sums_wrong => "nothing",
        _ if findings.iter().any(|finding| finding.repaired) => "repaired",
        _ => "differs",
    }
}

/// Counts and logs findings as soon as they are known: the run may fail later.
fn report(findings: &[Finding]) {
    SWEEP_DIFFERENCES.add(findings.len() as u64, &[]);
    for Finding { subject, difference, repaired, .. } in findings.iter().take(LOGGED_FINDINGS) {
        warn!(%subject, repaired, "the read model differs: {difference}");
    }
    if findings.len() > LOGGED_FINDINGS {
        let repaired = findings.iter().filter(|finding| finding.repaired).count();
        warn!(findings = findings.len(), repaired, "the read model differs in more places");
    }
}
