use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Each order updates the version of its client. With room in the page of the row, PostgreSQL writes the new row beside the
/// old one (a HOT update) and touches no index. The setting applies to pages that are filled from now on; the lock blocks
/// neither reads nor writes. SQLite updates rows in place.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::Postgres {
            manager.get_connection().execute_unprepared("ALTER TABLE clients SET (fillfactor = 80)").await?;
        }
        Ok(())
    }
}
