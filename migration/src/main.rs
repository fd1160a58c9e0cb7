//! `migration up`: brings the command database to the schema this release needs.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Parser, Subcommand};
use migration::{Migrator, MigratorTrait};
use runtime::{database, one_line};

/// Creates and changes the tables of the order service's command database
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The command database, such as postgres://user:password@host/database or sqlite://orders.db
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
    runtime::exit_code(run(Cli::parse()).await)
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    // One connection, for the lock that makes concurrent runs wait for each other.
    let db = database::connect(&cli.database_url, 1, None).await?;
    match cli.command {
        Command::Up => {
            let applied = migration::up(&db).await.map_err(|e| anyhow!("the migration failed: {}", one_line(&e)))?;
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
