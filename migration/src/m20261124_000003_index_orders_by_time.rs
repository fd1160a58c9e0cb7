use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Orders of some time are summed to compare them with the read model. They are stored in about the order of time, so a
/// BRIN index of a few pages finds them, and costs hardly anything to keep. SQLite has none, and few orders.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::Postgres {
            let index = "CREATE INDEX orders_placed_at ON orders USING brin (placed_at) WITH (autosummarize = on)";
            manager.get_connection().execute_unprepared(index).await?;
        }
        Ok(())
    }
}
