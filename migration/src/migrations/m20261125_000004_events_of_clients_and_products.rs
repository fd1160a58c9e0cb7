use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::short_locks::alter;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Allows events of clients and of products in `order_events`, in addition to those of orders.
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

/// No statement scans a table while it locks others out, and each can be repeated after an interrupted run.
async fn on_postgres(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    for statement in [
        "ALTER TABLE products ADD COLUMN IF NOT EXISTS version integer NOT NULL DEFAULT 0",
        "ALTER TABLE order_events ADD COLUMN IF NOT EXISTS product_id bigint, ALTER COLUMN client_id DROP NOT NULL",
        "ALTER TABLE order_events DROP CONSTRAINT IF EXISTS order_events_product_id_fkey,
             DROP CONSTRAINT IF EXISTS order_events_of_one",
        "ALTER TABLE order_events
             ADD CONSTRAINT order_events_product_id_fkey FOREIGN KEY (product_id) REFERENCES products NOT VALID,
             ADD CONSTRAINT order_events_of_one CHECK ((client_id IS NULL) <> (product_id IS NULL)) NOT VALID",
    ] {
        alter(manager, statement).await?;
    }
    for statement in [
        "ALTER TABLE order_events VALIDATE CONSTRAINT order_events_product_id_fkey",
        "ALTER TABLE order_events VALIDATE CONSTRAINT order_events_of_one",
        "DROP INDEX CONCURRENTLY IF EXISTS order_events_product_id_version",
        "CREATE UNIQUE INDEX CONCURRENTLY order_events_product_id_version ON order_events (product_id, version)
             WHERE product_id IS NOT NULL",
    ] {
        manager.get_connection().execute_unprepared(statement).await?;
    }
    Ok(())
}

/// SQLite cannot drop `NOT NULL` from a column, so the table is rebuilt.
async fn on_sqlite(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let transaction = manager.begin().await?;
    let column = |name: &'static str| ColumnDef::new(name);
    let references = |table: &'static str, key: &'static str| {
        ForeignKey::create().from_col(key).to(table, "id").on_delete(ForeignKeyAction::Restrict).to_owned()
    };
    let version = column("version").integer().not_null().default(0).to_owned();
    transaction.alter_table(Table::alter().table("products").add_column(version).to_owned()).await?;
    transaction
        .create_table(
            Table::create()
                .table("new_order_events")
                .col(column("id").uuid().not_null().primary_key())
                .col(column("client_id").big_integer())
                .col(column("product_id").big_integer())
                .col(column("version").integer().not_null())
                .col(column("type").text().not_null())
                .col(column("payload").json_binary().not_null())
                .col(column("occurred_at").timestamp_with_time_zone().not_null())
                .col(column("published_at").timestamp_with_time_zone())
                .col(column("traceparent").text())
                .foreign_key(&mut references("clients", "client_id"))
                .foreign_key(&mut references("products", "product_id"))
                .check(Expr::cust("(client_id IS NULL) <> (product_id IS NULL)"))
                .to_owned(),
        )
        .await?;
    let columns = "id, client_id, version, type, payload, occurred_at, published_at, traceparent";
    for statement in [
        &format!("INSERT INTO new_order_events ({columns}) SELECT {columns} FROM order_events"),
        "DROP TABLE order_events",
        "ALTER TABLE new_order_events RENAME TO order_events",
        "CREATE UNIQUE INDEX order_events_client_id_version ON order_events (client_id, version)",
        "CREATE UNIQUE INDEX order_events_product_id_version ON order_events (product_id, version)",
        "CREATE INDEX order_events_unpublished ON order_events (id) WHERE published_at IS NULL",
    ] {
        transaction.get_connection().execute_unprepared(statement).await?;
    }
    transaction.commit().await
}
