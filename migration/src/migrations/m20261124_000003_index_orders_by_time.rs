use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// `verify` sums the orders of a period. Orders are stored roughly in the sequence of their times, so a BRIN index of a few
/// pages finds them at almost no cost. SQLite has no BRIN indexes, and few orders.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// `CREATE INDEX CONCURRENTLY` does not block orders, but it cannot run in a transaction.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::Postgres {
            let connection = manager.get_connection();
            // Removes an invalid index of an interrupted run.
            connection.execute_unprepared("DROP INDEX CONCURRENTLY IF EXISTS orders_placed_at").await?;
            let index =
                "CREATE INDEX CONCURRENTLY orders_placed_at ON orders USING brin (placed_at) WITH (autosummarize = on)";
            connection.execute_unprepared(index).await?;
        }
        Ok(())
    }
}
