//! The schema of the command database and its seed data, for PostgreSQL and SQLite. Run as a release step by the
//! `migration` binary. It names tables and columns itself: a migration must not change when an entity does.

mod m20261123_000001_create_tables;
mod m20261123_000002_seed;
mod m20261124_000003_index_orders_by_time;
mod m20261125_000004_events_of_clients_and_products;
mod m20261127_000005_outbox;

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};
pub use sea_orm_migration::MigratorTrait;
use sea_orm_migration::prelude::*;

/// Pause before a run looks again whether another has ended.
const PAUSE: Duration = Duration::from_millis(100);

pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_create_tables::Migration),
            Box::new(m20261123_000002_seed::Migration),
            Box::new(m20261124_000003_index_orders_by_time::Migration),
            Box::new(m20261125_000004_events_of_clients_and_products::Migration),
            Box::new(m20261127_000005_outbox::Migration),
        ]
    }
}

/// Applies what is missing and returns the names of what it applied. Safe to run twice, also at once: on PostgreSQL
/// the second run waits for the first, if `db` is a pool of one connection (the lock belongs to the connection).
pub async fn up(db: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    const LOCK: &str = "hashtext('order service migrations')";
    let postgres = db.get_database_backend() == DbBackend::Postgres;
    if postgres {
        // Asked for again and again: whoever waits within a statement would be waited for by what builds an index.
        let lock =
            Statement::from_string(DbBackend::Postgres, format!("SELECT pg_try_advisory_lock({LOCK}) AS locked"));
        while !db.query_one_raw(lock.clone()).await?.is_some_and(|row| row.try_get("", "locked").unwrap_or(false)) {
            tokio::time::sleep(PAUSE).await;
        }
    }
    let pending = Migrator::get_pending_migrations(db).await?;
    Migrator::up(db, None).await?;
    if postgres {
        db.execute_unprepared(&format!("SELECT pg_advisory_unlock({LOCK})")).await?;
    }
    Ok(pending.iter().map(|migration| migration.name().to_owned()).collect())
}
