use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// The orders of a client up to a version are found without reading its later ones. The index replaces one of the clients alone.
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
        for statement in [
            // Removes an index of an interrupted run, which may be invalid.
            format!("DROP INDEX {concurrently} IF EXISTS orders_client_id_version"),
            format!("CREATE UNIQUE INDEX {concurrently} orders_client_id_version ON orders (client_id, version)"),
            format!("DROP INDEX {concurrently} IF EXISTS orders_client_id"),
        ] {
            manager.get_connection().execute_unprepared(&statement).await?;
        }
        Ok(())
    }
}
