use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::short_locks::alter;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Products can be withdrawn and have a SKU. Clients are found by the beginning of their name or e-mail address.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// `CREATE INDEX CONCURRENTLY` does not block orders, but it cannot run in a transaction.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        match manager.get_database_backend() {
            DbBackend::Postgres => on_postgres(manager).await,
            _ => on_sqlite(manager).await,
        }
    }
}

/// Each statement can be repeated after an interrupted run. The collation `C` compares bytes, so that a range of texts is all texts
/// with one beginning, whatever the locale of the database. The indexes name no column that an order updates: its update of
/// `clients` touches none of them.
async fn on_postgres(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    alter(
        manager,
        "ALTER TABLE products ADD COLUMN IF NOT EXISTS available boolean NOT NULL DEFAULT true,
             ADD COLUMN IF NOT EXISTS sku text CHECK (length(sku) <= 64)",
    )
    .await?;
    for (kind, name, rows) in [
        ("UNIQUE INDEX", "products_sku", "products (lower(sku))"),
        ("INDEX", "clients_by_name", r#"clients (lower(name) COLLATE "C", id)"#),
        ("INDEX", "clients_by_email", r#"clients (email COLLATE "C")"#),
    ] {
        let connection = manager.get_connection();
        // Removes an invalid index of an interrupted run.
        connection.execute_unprepared(&format!("DROP INDEX CONCURRENTLY IF EXISTS {name}")).await?;
        connection.execute_unprepared(&format!("CREATE {kind} CONCURRENTLY {name} ON {rows}")).await?;
    }
    Ok(())
}

/// SQLite compares bytes, and finds addresses by their unique index.
async fn on_sqlite(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let transaction = manager.begin().await?;
    for statement in [
        "ALTER TABLE products ADD COLUMN available boolean NOT NULL DEFAULT true",
        "ALTER TABLE products ADD COLUMN sku text CHECK (length(sku) <= 64)",
        "CREATE UNIQUE INDEX products_sku ON products (lower(sku))",
        "CREATE INDEX clients_by_name ON clients (lower(name), id)",
    ] {
        transaction.get_connection().execute_unprepared(statement).await?;
    }
    transaction.commit().await
}
