//! `projector rebuild`

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use chrono::DateTime;
use clap::Subcommand;
use projector::rebuild::{Interrupted, Phase, Rebuild};
use projector::verify::Repair;
use read_model::Generations;
use read_model::generations::{Generation, GenerationState, TransitionError};
use serde::Serialize;
use serde_json::json;

use super::report::Report;
use super::{INTERRUPTED, ReadModelArguments, StoreArguments, continue_unless};

const ADVICE: &str = "the same command continues, `projector rebuild abort` abandons the new generation";

#[derive(Subcommand)]
pub enum Command {
    /// Build a new generation from the event log, compare it with the database, and make it live
    ///
    /// Continues a rebuild that was interrupted.
    Start(Arguments),
    /// List the generations
    Status(ReadModelArguments),
    /// Abandon the generation that is being built
    Abort(ReadModelArguments),
    /// Compare the previous generation with the database, and make it live again
    Rollback(Arguments),
    /// Remove the previous generation
    Discard(ReadModelArguments),
}

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    stores: StoreArguments,
    /// How long the replaced generation is kept, so that `rollback` can make it live again
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    keep: Duration,
}

impl Command {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Start(arguments) => return arguments.run(false).await,
            Command::Rollback(arguments) => return arguments.run(true).await,
            Command::Status(arguments) => {
                let generations = arguments.read_model.connect().await?.generations().await?;
                print_generations(&generations, &Report::new(arguments.json));
            }
            Command::Abort(arguments) => change(arguments, Generations::abort).await?,
            Command::Discard(arguments) => change(arguments, Generations::discard).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Arguments {
    async fn run(self, roll_back: bool) -> anyhow::Result<ExitCode> {
        let verifier = self.stores.verifier(Repair::RemoveOrphans).await?;
        let total = verifier.clients_after(0).await?;
        let rebuild = Rebuild { verifier, keep: self.keep };
        let shutdown = runtime::shutdown_signal()?;
        let mut report = self.stores.report();
        let (mut events, mut clients) = (None, 0);
        let each = |phase| {
            match phase {
                Phase::Replayed(count) => {
                    events = Some(count);
                    report.progress("events", count, None);
                }
                Phase::Compared(count) => {
                    if let Some(events) = events.take() {
                        report.summary(&[("events", events)], false, json!(null));
                    }
                    clients = count;
                    report.progress("clients", count, Some(total));
                }
            }
            continue_unless(&shutdown)
        };
        let done = if roll_back { rebuild.roll_back(each).await } else { rebuild.start(each).await };
        let interrupted = done.as_ref().is_err_and(|error| error.is::<Interrupted>());
        let counts = match events {
            Some(events) => ("events", events),
            None => ("clients", clients),
        };
        report.summary(&[counts], interrupted, json!({ "generation": done.as_ref().ok() }));
        if interrupted {
            eprintln!("interrupted; {ADVICE}");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let generation = done.context(ADVICE)?;
        let keep = humantime::format_duration(self.keep);
        eprintln!("generation {generation} is live; `projector rebuild rollback` undoes this for {keep}");
        Ok(ExitCode::SUCCESS)
    }
}

/// Abandons a generation. Projectors then remove its keys.
async fn change(
    arguments: ReadModelArguments,
    abandon: fn(&mut Generations, i64) -> Result<u64, TransitionError>,
) -> anyhow::Result<()> {
    let read_model = arguments.read_model.connect().await?;
    read_model.change_generations(abandon).await??;
    print_generations(&read_model.generations().await?, &Report::new(arguments.json));
    Ok(())
}

fn print_generations(generations: &Generations, report: &Report) {
    for (&number, &generation) in &generations.generations {
        report.result(&Row { number, generation });
    }
}

#[derive(Serialize)]
struct Row {
    #[serde(rename = "generation")]
    number: u64,
    #[serde(flatten)]
    generation: Generation,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let time = |ms: i64| DateTime::from_timestamp_millis(ms).unwrap_or_default().format("%F %T UTC");
        let format = self.generation.format;
        write!(f, "{:<20} ", format!("generation {}", self.number))?;
        match self.generation.state {
            GenerationState::Live => write!(f, "live: format {format}"),
            GenerationState::Building => write!(f, "building: format {format}"),
            GenerationState::Kept { until } => write!(f, "kept: format {format}, until {}", time(until)),
            GenerationState::Removed { since } => write!(f, "removed: format {format}, since {}", time(since)),
        }
    }
}
