use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Orders of some time are summed to compare them with the read model. They are stored in about the order of time, so a
/// BRIN index of a few pages finds them, and costs hardly anything to keep. SQLite has none, and few orders.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Orders are placed meanwhile.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::Postgres {
            let connection = manager.get_connection();
            // What an interrupted run left.
            connection.execute_unprepared("DROP INDEX CONCURRENTLY IF EXISTS orders_placed_at").await?;
            let index =
                "CREATE INDEX CONCURRENTLY orders_placed_at ON orders USING brin (placed_at) WITH (autosummarize = on)";
            connection.execute_unprepared(index).await?;
        }
        Ok(())
    }
}
