//! `projector rebuild`

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use chrono::DateTime;
use clap::Subcommand;
use projector::rebuild::{Abandon, Interrupted, Phase, Rebuild, abandon};
use projector::verify::Repair;
use read_model::Generations;
use read_model::generations::{Generation, GenerationState};
use runtime::print_advice;
use runtime::settings::duration;
use serde::Serialize;
use serde_json::json;

use super::report::Report;
use super::{Confirmation, INTERRUPTED, ReadModelArguments, StoreArguments, continue_unless};

#[derive(Subcommand)]
pub enum Command {
    /// Build a new generation from the event log, or continue one; compare it with the database, and make it live
    Start(Arguments),
    /// List the generations
    Status(ReadModelArguments),
    /// Abandon the generation that is being built
    Abort(ChangeArguments),
    /// Compare the previous generation with the database, and make it live again
    Rollback(RollbackArguments),
    /// Remove the previous generation
    Discard(ChangeArguments),
}

#[derive(clap::Args)]
pub struct Arguments {
    /// How long the replaced generation is kept, so that `rollback` can make it live again; at least ten seconds
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    keep: Duration,
    #[command(flatten)]
    stores: StoreArguments,
}

#[derive(clap::Args)]
pub struct RollbackArguments {
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    arguments: Arguments,
}

#[derive(clap::Args)]
pub struct ChangeArguments {
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    arguments: ReadModelArguments,
}

impl Command {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Start(arguments) => return arguments.run(None).await,
            Command::Rollback(rollback) => return rollback.run().await,
            Command::Status(arguments) => {
                let generations = arguments.read_model.connect().await?.generations().await?;
                print_generations(&generations, &Report::new(arguments.json));
            }
            Command::Abort(change) => change.run("abandon generation", Generations::abort).await?,
            Command::Discard(change) => change.run("remove generation", Generations::discard).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Arguments {
    /// Makes a new generation live, or this previous one.
    async fn run(self, previous: Option<u64>) -> anyhow::Result<ExitCode> {
        let advice = match previous {
            Some(_) => "the live generation has not changed, the same command tries again",
            None => "the same command continues, or begins anew; `projector rebuild abort` abandons the new generation",
        };
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
        let done = match previous {
            Some(previous) => rebuild.roll_back(previous, each).await.map(|()| previous),
            None => rebuild.start(each).await,
        };
        let interrupted = done.as_ref().is_err_and(|error| error.is::<Interrupted>());
        let counts = match events {
            Some(events) => ("events", events),
            None => ("clients", clients),
        };
        report.summary(&[counts], interrupted, json!({ "generation": done.as_ref().ok() }));
        if interrupted {
            print_advice(format_args!("interrupted; {advice}"));
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let generation = done.context(advice)?;
        let generations = rebuild.verifier.read_model.generations().await?;
        let until = generations.previous().and_then(|previous| match generations.generations.get(&previous)?.state {
            GenerationState::Kept { until } => Some(time(until)),
            _ => None,
        });
        let until = until.map(|until| format!("; `projector rebuild rollback` undoes this until {until}"));
        print_advice(format_args!("generation {generation} is live{}", until.unwrap_or_default()));
        Ok(ExitCode::SUCCESS)
    }
}

impl RollbackArguments {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let read_model = self.arguments.stores.stored.read_model.connect().await?;
        let previous = read_model.generations().await?.previous();
        let previous =
            previous.context("there is no previous generation; `projector rebuild start` builds a new one")?;
        self.confirmation.ask(&format!("make generation {previous} live again"))?;
        if self.confirmation.dry_run {
            print_advice(format_args!("would make generation {previous} live again"));
            return Ok(ExitCode::SUCCESS);
        }
        self.arguments.run(Some(previous)).await
    }
}

impl ChangeArguments {
    /// Abandons a generation. Projectors then remove its keys.
    async fn run(self, action: &str, change: Abandon) -> anyhow::Result<()> {
        let read_model = self.arguments.read_model.connect().await?;
        let generation = change(&mut read_model.generations().await?, 0)?;
        let action = format!("{action} {generation}");
        self.confirmation.ask(&action)?;
        if self.confirmation.dry_run {
            print_advice(format_args!("would {action}"));
            return Ok(());
        }
        abandon(&read_model, generation, change).await?;
        print_generations(&read_model.generations().await?, &Report::new(self.arguments.json));
        Ok(())
    }
}

fn print_generations(generations: &Generations, report: &Report) {
    for (&number, &generation) in &generations.generations {
        report.result(&Row { number, generation });
    }
}

/// A time in ms since 1970.
fn time(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).unwrap_or_default().format("%F %T UTC").to_string()
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
