//! Operator commands. Each can run at any time, run twice and be interrupted.

mod confirm;
mod dead_letters;
mod queues;
mod rebuild;
mod report;
mod sweep;
mod verify;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use projector::clock;
use projector::verify::{CONCURRENT_CLIENTS, Repair, Verifier};
use runtime::database::{self, Login};
use runtime::settings::duration;
use runtime::telemetry::Telemetry;
use tokio_util::sync::CancellationToken;

use self::confirm::Confirmation;
use self::report::Report;

/// Time limit of a database statement. Even a large comparison takes much less.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(120);

/// Exit status of an interrupted command, as after SIGINT in a shell.
const INTERRUPTED: u8 = 130;

#[derive(Subcommand)]
pub enum Command {
    /// Create the SQS queues
    #[command(subcommand)]
    Queues(queues::Command),
    /// List, redrive or discard messages that could not be applied
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Compare the read model with the command database, and repair it with --repair
    #[command(after_help = verify::EXIT_STATUS)]
    Verify(verify::Arguments),
    /// Compare and repair all the time, as a projector with a database does, but receive no messages; for a queue whose messages the
    /// Lambda function applies
    Sweep(sweep::Arguments),
    /// Rebuild the read model from the event log while the live one stays in use
    #[command(subcommand)]
    Rebuild(rebuild::Command),
}

impl Command {
    pub async fn run(self, telemetry: &mut Telemetry) -> anyhow::Result<ExitCode> {
        match self {
            Command::Queues(command) => command.run().await.map(|()| ExitCode::SUCCESS),
            Command::DeadLetters(command) => command.run().await.map(|()| ExitCode::SUCCESS),
            Command::Verify(arguments) => arguments.run().await,
            Command::Sweep(arguments) => arguments.run(telemetry).await.map(|()| ExitCode::SUCCESS),
            Command::Rebuild(command) => command.run().await,
        }
    }
}

#[derive(clap::Args)]
pub struct ReadModelArguments {
    /// Print JSON, one line per result
    #[arg(long, help_heading = None::<&'static str>)]
    json: bool,
    #[command(flatten)]
    read_model: read_model::RedisSettings,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Stores")]
pub struct StoreArguments {
    #[command(flatten)]
    stored: ReadModelArguments,
    /// Command database; must be the writer, not a replica
    #[arg(long, env, hide_env_values = true)]
    database_url: String,
    /// File with the password of the database, instead of the URL; a new password in it is used within a second
    #[arg(long, env)]
    database_password_file: Option<PathBuf>,
    /// How long a published event may take to reach the read model before it counts as missing
    #[arg(long, env, help_heading = "Sweep", default_value = "1m", value_parser = duration)]
    in_flight: Duration,
}

impl StoreArguments {
    async fn verifier(&self, repair: Repair) -> anyhow::Result<Verifier> {
        let login = Login { url: &self.database_url, password_file: self.database_password_file.as_deref() };
        let db = database::connect(login, CONCURRENT_CLIENTS as u32, Some(STATEMENT_TIMEOUT)).await?;
        let settings = &self.stored.read_model;
        database::check_currency(&db, settings.currency.code()).await?;
        clock::measure(&db).await?;
        let read_model = settings.connect().await?;
        Ok(Verifier::new(db, read_model, settings.currency, self.in_flight, repair))
    }

    fn report(&self) -> Report {
        Report::new(self.stored.json)
    }
}

fn continue_unless(shutdown: &CancellationToken) -> ControlFlow<()> {
    if shutdown.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
