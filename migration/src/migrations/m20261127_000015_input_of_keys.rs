use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::short_locks::alter;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Idempotency keys have a hash of the input of their request. Existing rows have none.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// A change that waits for a lock does so in short attempts, each in a transaction.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        match manager.get_database_backend() {
            DbBackend::Postgres => {
                alter(manager, "ALTER TABLE idempotency_keys ADD COLUMN IF NOT EXISTS input_hash text").await
            }
            _ => {
                let add = "ALTER TABLE idempotency_keys ADD COLUMN input_hash text";
                manager.get_connection().execute_unprepared(add).await.map(drop)
            }
        }
    }
}
