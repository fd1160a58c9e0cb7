use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// A table for readers of the write-ahead log, with the columns that the outbox event router of Debezium expects. It is always empty:
/// the transaction that inserts a row deletes it.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let column = |name: &'static str| ColumnDef::new(name);
        // Only the message can be long: AWS DMS treats columns of the type text as large objects.
        let table = Table::create()
            .table("outbox_messages")
            .col(column("id").uuid().not_null().primary_key())
            .col(column("aggregatetype").string_len(255).not_null())
            .col(column("aggregateid").string_len(255).not_null())
            .col(column("type").string_len(255).not_null())
            .col(column("payload").text().not_null())
            .to_owned();
        manager.create_table(table).await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            manager.get_connection().execute_unprepared(VACUUM_OFTEN).await?;
        }
        Ok(())
    }
}

/// Each event leaves a dead row and no row is live. So PostgreSQL vacuums after a fixed number of dead rows, as for `outbox`.
const VACUUM_OFTEN: &str = "ALTER TABLE outbox_messages SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 1000, toast.autovacuum_vacuum_cost_delay = 0)";
