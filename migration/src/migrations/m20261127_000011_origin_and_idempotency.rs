use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Events have the subject of the token that caused them. The idempotency keys of all mutations have one table, with rows only for
/// requests that have a key. The release before must be stopped: it writes the column that goes.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let (uuid, time) = match manager.get_database_backend() {
            DbBackend::Postgres => ("uuid", "timestamptz"),
            _ => ("uuid_text", "text"),
        };
        let keys = format!(
            "CREATE TABLE idempotency_keys (scope text NOT NULL, key text NOT NULL, command text NOT NULL,
                 event_id {uuid} NOT NULL, created_at {time} NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (scope, key))"
        );
        for statement in [ACTOR, ACTOR_IS_CLIENT, &keys, MOVE_KEYS, DROP_INDEX, DROP_COLUMN, INDEX] {
            manager.get_connection().execute_unprepared(statement).await?;
        }
        Ok(())
    }
}

const ACTOR: &str = "ALTER TABLE order_events ADD COLUMN actor text";
const ACTOR_IS_CLIENT: &str = "ALTER TABLE order_events ADD COLUMN actor_is_client boolean";
const MOVE_KEYS: &str = "INSERT INTO idempotency_keys (scope, key, command, event_id, created_at)
    SELECT 'client ' || orders.client_id, orders.idempotency_key, 'placeOrder', order_events.id, orders.placed_at
    FROM orders JOIN order_events ON order_events.client_id = orders.client_id AND order_events.version = orders.version
    WHERE orders.idempotency_key IS NOT NULL";
const DROP_INDEX: &str = "DROP INDEX orders_client_id_idempotency_key";
const DROP_COLUMN: &str = "ALTER TABLE orders DROP COLUMN idempotency_key";
/// Comparisons with the read model add up the orders of clients. PostgreSQL stores each client once in this index, so it has about a
/// tenth of the size of the index that goes.
const INDEX: &str = "CREATE INDEX orders_client_id ON orders (client_id)";
