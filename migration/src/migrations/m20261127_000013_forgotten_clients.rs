use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::short_locks::alter;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Clients can be forgotten, with the keys of the requests that have registered them.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// A change that waits for a lock does so in short attempts, each in a transaction.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        match manager.get_database_backend() {
            DbBackend::Postgres => {
                alter(manager, "ALTER TABLE clients ADD COLUMN IF NOT EXISTS forgotten_at timestamptz").await?;
            }
            _ => {
                let add = "ALTER TABLE clients ADD COLUMN forgotten_at timestamp_with_timezone_text";
                manager.get_connection().execute_unprepared(add).await?;
            }
        }
        manager.get_connection().execute_unprepared(INDEX).await.map(drop)
    }
}

/// Only rows of commands that create, which are few.
const INDEX: &str = "CREATE INDEX IF NOT EXISTS idempotency_keys_of_creations ON idempotency_keys (event_id)
    WHERE substr(scope, 1, 7) = 'caller '";
