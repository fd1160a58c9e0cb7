//! `projector verify`

use std::process::ExitCode;

use anyhow::Context;
use chrono::NaiveDate;
use projector::verify::log::UnreadableEvent;
use projector::verify::sums::SumsProgress;
use projector::verify::{Progress, Repair, Verifier};
use runtime::print_advice;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Confirmation, INTERRUPTED, Report, StoreArguments, continue_unless};

/// Exit status when differences remain.
const DIFFERENCES: u8 = 3;
pub const EXIT_STATUS: &str = "Safe at any time, also under load. Exit status: 0 if nothing differs or everything was repaired, \
                               3 if differences remain, 1 after an error, 130 if interrupted.";

#[derive(clap::Args)]
pub struct Arguments {
    /// Repair each client and product that differs, from the event log
    #[arg(long)]
    repair: bool,
    /// Also remove clients and events that the database no longer has, for example after restoring a backup
    #[arg(long, requires = "repair")]
    remove_orphans: bool,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only clients with a larger id, to continue after an interruption
    #[arg(long, value_name = "CLIENT", default_value_t = 0)]
    after: i64,
    /// Only sums from this month on, given by a day such as 2026-11-01, to continue after an interruption
    #[arg(long, value_name = "DAY")]
    sums_from: Option<NaiveDate>,
    #[command(flatten)]
    stores: StoreArguments,
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let verifier = self.stores.verifier(self.confirmed_repair()?).await?;
        let shutdown = runtime::shutdown_signal()?;
        let mut report = self.stores.report();
        let total = verifier.clients_after(self.after).await?;
        let (mut clients, mut last, mut differences, mut repaired) = (0, self.after, 0, 0);
        let compared = verifier.all(self.after, |progress: Progress| {
            (clients, last) = (progress.clients, progress.last);
            report.progress("clients", clients, Some(total));
            for finding in progress.findings {
                differences += 1;
                repaired += u64::from(finding.repaired);
                report.result(&finding);
            }
            continue_unless(&shutdown)
        });
        compared.await.with_context(|| format!("continue with --after {last}"))?;

        let (mut wrong_sums, has_sums) = (0, verifier.read_model.has_reports().await?);
        let mut next = self.sums_from;
        // Another generation may become live meanwhile.
        let verifier = verifier.pinned_to_live().await?;
        if has_sums && !shutdown.is_cancelled() {
            let sums = verifier.sums(self.sums_from, |progress: SumsProgress| {
                next = Some(progress.next);
                wrong_sums += progress.wrong.len() as u64;
                progress.wrong.iter().for_each(|wrong| report.result(wrong));
                continue_unless(&shutdown)
            });
            sums.await.with_context(|| format!("continue with {}", continue_arguments(last, next)))?;
        }
        if has_sums && !shutdown.is_cancelled() && self.sums_from.is_none() {
            verifier.read_model.save_wrong_sums(wrong_sums).await?;
        }
        let unreadable = read_log(&verifier, &report, &shutdown).await?;
        let interrupted = shutdown.is_cancelled();
        let (unpublished, since) = verifier.unpublished().await?;
        let mut counts = vec![("clients", clients), ("differences", differences), ("repaired", repaired)];
        counts.extend((has_sums && !interrupted).then_some(("wrongSums", wrong_sums)));
        counts.extend((!interrupted).then_some(("unreadableEvents", unreadable)));
        counts.push(("unpublished", unpublished));
        let details = json!({ "unpublishedSince": since, "last": last, "sumsFrom": next });
        report.summary(&counts, interrupted, details);
        if !has_sums {
            print_advice(
                "sums were not compared: an older release built this read model; run `projector rebuild start`",
            );
        } else if wrong_sums > 0 {
            print_advice(format_args!("{wrong_sums} wrong sums: run `projector rebuild start`"));
        }
        if let Some(since) = since {
            print_advice(format_args!("{unpublished} unpublished, the oldest since {}", since.format("%F %T UTC")));
        }
        self.confirmation.report_dry_run();
        if interrupted {
            print_advice(format_args!("interrupted; continue with {}", continue_arguments(last, next)));
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let differs = differences > repaired || wrong_sums > 0 || unreadable > 0;
        Ok(if differs { ExitCode::from(DIFFERENCES) } else { ExitCode::SUCCESS })
    }

    fn confirmed_repair(&self) -> anyhow::Result<Repair> {
        if self.remove_orphans {
            self.confirmation.ask("remove clients and events that the database does not have from the read model")?;
        }
        Ok(match (self.repair && !self.confirmation.dry_run, self.remove_orphans) {
            (false, _) => Repair::Off,
            (true, false) => Repair::FromLog,
            (true, true) => Repair::RemoveOrphans,
        })
    }
}

/// Reads the event log, and returns how many events of it cannot be read.
async fn read_log(verifier: &Verifier, report: &Report, shutdown: &CancellationToken) -> anyhow::Result<u64> {
    let mut unreadable = 0;
    let read = verifier.check_log(|found: Vec<UnreadableEvent>| {
        unreadable += found.len() as u64;
        found.iter().for_each(|event| report.result(event));
        continue_unless(shutdown)
    });
    read.await?;
    if unreadable > 0 {
        print_advice(format_args!(
            "{unreadable} events of the log cannot be read, so a rebuild fails: restore them from a backup"
        ));
    }
    Ok(unreadable)
}

/// The arguments that continue after an interruption.
fn continue_arguments(last: i64, next: Option<NaiveDate>) -> String {
    let sums = next.map(|next| format!(" --sums-from {next}")).unwrap_or_default();
    format!("--after {last}{sums}")
}
