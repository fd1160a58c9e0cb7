use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Rows of the outbox get the time of their insertion by the database's clock, because the clocks of the processes differ.
/// Events that the queue refuses get a table of their own, so that they are not in the way of others.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        let (statements, time): (&[&str], _) = match manager.get_database_backend() {
            DbBackend::Postgres => (&[ADD_TIME], "timestamptz"),
            _ => (&ADD_TIME_ON_SQLITE, "text"),
        };
        for statement in statements {
            connection.execute_unprepared(statement).await?;
        }
        let refused = format!(
            "CREATE TABLE refused_events (event_id uuid NOT NULL PRIMARY KEY, inserted_at {time} NOT NULL,
                 refused_at {time} NOT NULL, retry_at {time} NOT NULL, reason text NOT NULL)"
        );
        connection.execute_unprepared(&refused).await?;
        connection.execute_unprepared("CREATE INDEX refused_events_retry_at ON refused_events (retry_at)").await?;
        Ok(())
    }
}

/// The time of the statement, because a transaction may have waited for locks before it.
const ADD_TIME: &str = "ALTER TABLE outbox ADD COLUMN inserted_at timestamptz NOT NULL DEFAULT statement_timestamp()";

/// SQLite cannot add a column whose default is not a constant.
const ADD_TIME_ON_SQLITE: [&str; 4] = [
    "CREATE TABLE new_outbox (
         event_id uuid_text NOT NULL PRIMARY KEY, inserted_at text NOT NULL DEFAULT CURRENT_TIMESTAMP)",
    "INSERT INTO new_outbox (event_id) SELECT event_id FROM outbox",
    "DROP TABLE outbox",
    "ALTER TABLE new_outbox RENAME TO outbox",
];
