//! `projector dead-letters`

use anyhow::{Context, anyhow, ensure};
use clap::Subcommand;
use projector::queues;
use projector::queues::dead_letters::{Action, DeadLetter, DeadLetters};
use runtime::print_advice;
use runtime::queue::aws_settings;
use serde_json::Value;

use super::Confirmation;
use super::report::Report;

#[derive(Subcommand)]
pub enum Command {
    /// List the dead letters, each with whether the read model still needs it
    List(Options),
    /// Show one dead letter with its body
    Show {
        /// Message id, as printed by `list`
        id: String,
        #[command(flatten)]
        options: Options,
    },
    /// Send dead letters back to the queue
    Redrive(Chosen),
    /// Delete dead letters
    Discard(Chosen),
}

#[derive(clap::Args)]
#[command(next_help_heading = "Stores")]
pub struct Options {
    /// Print JSON, one line per result
    #[arg(long, help_heading = None::<&'static str>)]
    json: bool,
    /// URL of the SQS queue; its redrive policy names the dead-letter queue
    #[arg(long, env)]
    queue_url: Option<String>,
    #[command(flatten)]
    read_model: read_model::RedisSettings,
}

#[derive(clap::Args)]
pub struct Chosen {
    /// Message ids, as printed by `list`
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All dead letters, except that `redrive` skips foreign ones and `discard` skips needed ones
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    options: Options,
}

impl Command {
    pub async fn run(self) -> anyhow::Result<()> {
        self.confirm()?;
        let (Command::List(options)
        | Command::Show { options, .. }
        | Command::Redrive(Chosen { options, .. })
        | Command::Discard(Chosen { options, .. })) = &self;
        let queue_url = options.queue_url.clone();
        let queue_url = queue_url.context("QUEUE_URL is not set: the SQS queue that the dead letters come from")?;
        let (read_model, currency) = (options.read_model.connect().await?, options.read_model.currency);
        let report = Report::new(options.json);
        let queue = queues::client(&aws_settings().await?);
        let mut letters = DeadLetters::of(queue, queue_url, read_model, currency).await?;
        let shutdown = runtime::shutdown_signal()?;
        let done = tokio::select! {
            done = self.act(&mut letters, report) => done,
            () = shutdown.cancelled() => Err(anyhow!("interrupted")),
        };
        // Also after a failure. Otherwise the letters would stay hidden for some minutes.
        let hidden = letters.close().await;
        done?;
        if let Ok(hidden @ 1..) = hidden {
            print_advice(format_args!(
                "{hidden} more are hidden for some minutes because another command is reading them"
            ));
        }
        Ok(())
    }

    fn confirm(&self) -> anyhow::Result<()> {
        let (verb, chosen) = match self {
            Command::List(_) | Command::Show { .. } => return Ok(()),
            Command::Redrive(chosen) => ("send back", chosen),
            Command::Discard(chosen) => ("delete", chosen),
        };
        let letters =
            if chosen.all { "all dead letters".into() } else { format!("dead letters ({})", chosen.ids.len()) };
        chosen.confirmation.ask(&format!("{verb} {letters}"))
    }

    async fn act(self, letters: &mut DeadLetters, mut report: Report) -> anyhow::Result<()> {
        match self {
            Command::List(_) => {
                let mut count = 0;
                let print = |letter: &DeadLetter| {
                    count += 1;
                    report.result(letter);
                };
                letters.list(print).await?;
                print_advice(format_args!("dead letters: {count}"));
                Ok(())
            }
            Command::Show { id, .. } => {
                let mut found = false;
                let show = |letter: &DeadLetter| {
                    if letter.id == id {
                        found = true;
                        report.result(letter);
                        report.text(&letter.body);
                    }
                };
                letters.list(show).await?;
                ensure!(found, "there is no dead letter {id}");
                Ok(())
            }
            Command::Redrive(chosen) => act(letters, Action::Redrive, chosen, &mut report).await,
            Command::Discard(chosen) => act(letters, Action::Discard, chosen, &mut report).await,
        }
    }
}

async fn act(letters: &mut DeadLetters, action: Action, chosen: Chosen, report: &mut Report) -> anyhow::Result<()> {
    let (mut done, mut skipped) = (0, 0);
    let print = |letter: &DeadLetter, is_done: bool| {
        if is_done {
            done += 1;
            report.result(letter);
        } else {
            skipped += 1;
        }
    };
    let missing = letters.act(action, chosen.ids, chosen.confirmation.dry_run, print).await?;
    let (count, reason) = match (action, chosen.confirmation.dry_run) {
        (Action::Redrive, false) => ("redriven", "they are not events of this service"),
        (Action::Redrive, true) => ("wouldRedrive", "they are not events of this service"),
        (Action::Discard, false) => ("discarded", "the read model needs them"),
        (Action::Discard, true) => ("wouldDiscard", "the read model needs them"),
    };
    report.summary(&[(count, done), ("skipped", skipped)], false, Value::Null);
    if skipped > 0 {
        print_advice(format_args!("{skipped} skipped: {reason}"));
    }
    chosen.confirmation.report_dry_run();
    ensure!(missing.is_empty(), "there are no dead letters {}", missing.join(", "));
    Ok(())
}
