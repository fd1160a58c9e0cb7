//! The schema of the command database and its sample data, for PostgreSQL and SQLite. The `migration` program applies it as
//! a release step.
//!
//! - [`migrations`]: the changes of the schema, in their order
//! - [`sample_data`](mod@sample_data) and [`first_events`]: rows, and their events
//! - [`currency`]: the currency of all amounts
//! - [`lock`]: only one run at a time; [`short_locks`]: changes of large tables

mod currency;
mod first_events;
mod lock;
mod migrations;
mod sample_data;
mod short_locks;

use std::collections::HashSet;

use sea_orm::{DatabaseConnection, DbErr};
pub use sea_orm_migration::MigratorTrait;

pub use migrations::Migrator;
pub use sample_data::sample_data;

/// Applies the migrations that are missing and returns their names. Safe to run twice and concurrently: on PostgreSQL the
/// second run waits for the first, if `db` is a pool of one connection (the lock belongs to the connection).
///
/// The database may have migrations of a newer release: programs of the release before it are started again until all are
/// replaced, and after a return to it.
pub async fn up(db: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    lock::lock(db).await?;
    let applied: HashSet<String> =
        Migrator::get_migration_models(db).await?.into_iter().map(|model| model.version).collect();
    let missing: Vec<String> = Migrator::migrations()
        .iter()
        .map(|migration| migration.name().to_owned())
        .filter(|name| !applied.contains(name))
        .collect();
    if !missing.is_empty() {
        Migrator::up(db, None).await?;
    }
    lock::unlock(db).await?;
    Ok(missing)
}
