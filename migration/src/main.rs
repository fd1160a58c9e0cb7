//! `migration up`: brings the command database to the schema this release needs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Parser, Subcommand};
use migration::{Migrator, MigratorTrait};
use sea_orm::{ConnectOptions, Database};

/// Creates and changes the tables of the order service's command database
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The command database, such as postgres://user:password@host/database or sqlite://orders.db?mode=rwc
    #[arg(long, env, hide_env_values = true)]
    database_url: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Applies the migrations that are missing; running it again changes nothing
    Up,
    /// Lists all migrations and whether each is applied
    Status,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    // One connection, for the lock that makes concurrent runs wait for each other.
    let mut options = ConnectOptions::new(cli.database_url);
    options.max_connections(1).acquire_timeout(Duration::from_secs(5)).sqlx_logging(false);
    let db = Database::connect(options).await.map_err(|e| anyhow!("cannot reach the database of DATABASE_URL: {e}"))?;
    match cli.command {
        Command::Up => {
            let applied = migration::up(&db).await.map_err(|e| anyhow!("the migration failed: {e}"))?;
            applied.iter().for_each(|name| println!("applied  {name}"));
            println!("The database is up to date.");
        }
        Command::Status => {
            for migration in Migrator::get_migration_with_status(&db).await? {
                println!("{:<8} {}", migration.status().to_string().to_lowercase(), migration.name());
            }
        }
    }
    Ok(())
}
