//! `migration up` brings the command database to the schema that this release needs.

mod certificates;
mod connect;
mod waits;

use std::fmt::Display;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::builder::Resettable;
use clap::{Arg, Command as Program, CommandFactory, FromArgMatches, Parser, Subcommand};
use iso_currency::Currency;
use migration::{Migrator, MigratorTrait};
use sea_orm::{DbErr, RuntimeErr};

/// Creates and changes the tables of the order service's command database
#[derive(Parser)]
#[command(version, term_width = 0, next_help_heading = "Stores")]
struct Cli {
    /// URL of the command database, such as postgres://user:password@host/database or sqlite://orders.db
    #[arg(long, env)]
    database_url: String,
    /// File with the password of the database, instead of the URL
    #[arg(long, env)]
    database_password_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Applies the migrations that are missing; running it again changes nothing
    Up,
    /// Lists all migrations and whether each is applied
    Status,
    /// Inserts three clients and three products, if the database has neither clients nor products
    SampleData {
        /// Currency of the prices (ISO 4217)
        #[arg(long, env, default_value = "USD", value_parser = parse_currency)]
        currency: Currency,
    },
}

fn parse_currency(code: &str) -> Result<Currency, String> {
    Currency::from_code(code).ok_or_else(|| "not a currency code of ISO 4217, such as USD".into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" "));
            ExitCode::FAILURE
        }
    }
}

/// As in the other programs, an empty variable counts as not set, and `--help` prints no value of a variable.
fn parse() -> Cli {
    let prepare_argument = |argument: Arg| {
        let is_empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
        match argument.get_env().is_some_and(is_empty) {
            true => argument.env(Resettable::Reset),
            false => argument.hide_env_values(true),
        }
    };
    let prepare = move |program: Program| program.mut_args(prepare_argument);
    let matches = prepare(Cli::command()).mut_subcommands(prepare).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let db = connect::connect(&cli.database_url, cli.database_password_file.as_deref()).await?;
    match cli.command {
        Command::Up => {
            let applied = waits::with_blocker(&db, migration::up(&db)).await.context("the migration failed")?;
            applied.iter().for_each(|name| print_line(format_args!("applied  {name}")));
            print_line("The database is up to date.");
        }
        Command::Status => {
            for migration in Migrator::get_migration_with_status(&db).await? {
                let status = migration.status().to_string().to_lowercase();
                print_line(format_args!("{status:<8} {}", migration.name()));
            }
        }
        Command::SampleData { currency } => {
            let inserted = migration::sample_data(&db, currency.code()).await;
            let failed = |error| match error {
                DbErr::Custom(reason) => anyhow!(reason),
                error if is_table_missing(&error) => {
                    anyhow!("cannot insert sample data (run `migration up` first): {error}")
                }
                error => anyhow!("cannot insert sample data: {error}"),
            };
            match inserted.map_err(failed)? {
                true => print_line("Three clients and three products were inserted."),
                false => print_line("The database has clients or products already: nothing was inserted."),
            }
        }
    }
    Ok(())
}

/// Whether a table does not exist. SQLite has one code for most errors of a statement.
fn is_table_missing(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error else {
        return false;
    };
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("42P01" | "1"))
}

/// Prints a line, also if nobody reads it any more: `head` stops when it has enough.
fn print_line(line: impl Display) {
    let _ = writeln!(stdout(), "{line}");
}
