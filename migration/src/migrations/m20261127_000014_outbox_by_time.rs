use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Polls find recent rows of the outbox by the time of their insertion, which is the database's. The time in an id is that of an api,
/// whose clock may be wrong.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// `CREATE INDEX CONCURRENTLY` does not block orders, but it cannot run in a transaction.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let statements: &[&str] = match manager.get_database_backend() {
            // The first removes an invalid index of an interrupted run.
            DbBackend::Postgres => &[
                "DROP INDEX CONCURRENTLY IF EXISTS outbox_by_time",
                "CREATE INDEX CONCURRENTLY outbox_by_time ON outbox (inserted_at)",
            ],
            _ => &["CREATE INDEX outbox_by_time ON outbox (inserted_at)"],
        };
        for statement in statements {
            manager.get_connection().execute_unprepared(statement).await?;
        }
        Ok(())
    }
}
