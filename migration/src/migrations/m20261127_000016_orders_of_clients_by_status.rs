use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Lists of the cancelled and refunded orders of one client read only these. Few orders are cancelled or refunded, so the indexes are
/// small, and placing an order does not write to them.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// `CREATE INDEX CONCURRENTLY` does not block orders, but it cannot run in a transaction.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let concurrently = match manager.get_database_backend() {
            DbBackend::Postgres => "CONCURRENTLY",
            _ => "",
        };
        for (name, rows) in INDEXES {
            let connection = manager.get_connection();
            // Removes an index of an interrupted run, which may be invalid.
            connection.execute_unprepared(&format!("DROP INDEX {concurrently} IF EXISTS {name}")).await?;
            let create = format!("CREATE INDEX {concurrently} {name} ON orders (client_id, id) WHERE {rows}");
            connection.execute_unprepared(&create).await?;
        }
        Ok(())
    }
}

const INDEXES: [(&str, &str); 3] = [
    ("orders_of_client_cancelled", "cancelled_at IS NOT NULL"),
    ("orders_of_client_partially_refunded", "cancelled_at IS NULL AND refunded > 0 AND refunded < total"),
    ("orders_of_client_refunded", "cancelled_at IS NULL AND refunded > 0 AND refunded = total"),
];
