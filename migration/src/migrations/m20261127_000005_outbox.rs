use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Moves the marks of events that are not published into a table of their own, so that publishing an event deletes a
/// small row instead of rewriting the event. The release before must be stopped: it writes the column that goes.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Without a foreign key: its check would lock, and so write, the row of the log.
        let id = ColumnDef::new("event_id").uuid().not_null().primary_key().to_owned();
        manager.create_table(Table::create().table("outbox").col(id).to_owned()).await?;
        let connection = manager.get_connection();
        if manager.get_database_backend() == DbBackend::Postgres {
            connection.execute_unprepared(VACUUM_OFTEN).await?;
        }
        for statement in [
            "INSERT INTO outbox SELECT id FROM order_events WHERE published_at IS NULL",
            "DROP INDEX order_events_unpublished",
            "ALTER TABLE order_events DROP COLUMN published_at",
        ] {
            connection.execute_unprepared(statement).await?;
        }
        Ok(())
    }
}

/// Each published event leaves a dead row, and few rows are live. So PostgreSQL vacuums after a fixed number of dead rows,
/// not after a fraction of the table. The table is small, so a vacuum is cheap and needs no pauses.
const VACUUM_OFTEN: &str = "ALTER TABLE outbox SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)";
