use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::short_locks::alter;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Orders can be cancelled and refunded. `orders` holds the state of an order, `order_refunds` has a row for each
/// cancellation and for each refund.
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
    let mut state = Table::alter().table("orders").to_owned();
    for column in state_of_orders() {
        state.add_column_if_not_exists(column);
    }
    // A constant default does not rewrite the table.
    alter(manager, &state.to_string(PostgresQueryBuilder)).await?;
    for table in [order_refunds(), order_refund_items()] {
        alter(manager, &table.to_string(PostgresQueryBuilder)).await?;
    }
    let connection = manager.get_connection();
    for index in indexes_of_refunds() {
        connection.execute_unprepared(&format!("CREATE {index}")).await?;
    }
    let by_time = "CREATE INDEX IF NOT EXISTS order_refunds_refunded_at ON order_refunds
                       USING brin (refunded_at) WITH (autosummarize = on)";
    connection.execute_unprepared(by_time).await?;
    for (name, rows) in INDEXES_OF_ORDERS {
        // Removes an invalid index of an interrupted run.
        connection.execute_unprepared(&format!("DROP INDEX CONCURRENTLY IF EXISTS {name}")).await?;
        connection.execute_unprepared(&format!("CREATE INDEX CONCURRENTLY {name} ON orders {rows}")).await?;
    }
    Ok(())
}

async fn on_sqlite(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let transaction = manager.begin().await?;
    for column in state_of_orders() {
        transaction.alter_table(Table::alter().table("orders").add_column(column).to_owned()).await?;
    }
    for table in [order_refunds(), order_refund_items()] {
        transaction.create_table(table).await?;
    }
    for index in indexes_of_refunds() {
        transaction.get_connection().execute_unprepared(&format!("CREATE {index}")).await?;
    }
    for (name, rows) in INDEXES_OF_ORDERS {
        transaction.get_connection().execute_unprepared(&format!("CREATE INDEX {name} ON orders {rows}")).await?;
    }
    transaction.commit().await
}

/// Few orders are cancelled or refunded, so these indexes are small. The lists of a client use the last one, also for a range of
/// days: ids begin with the time.
const INDEXES_OF_ORDERS: [(&str, &str); 4] = [
    ("orders_cancelled", "(id) WHERE cancelled_at IS NOT NULL"),
    ("orders_partially_refunded", "(id) WHERE cancelled_at IS NULL AND refunded > 0 AND refunded < total"),
    ("orders_refunded", "(id) WHERE cancelled_at IS NULL AND refunded > 0 AND refunded = total"),
    ("orders_client_id_id", "(client_id, id)"),
];

fn indexes_of_refunds() -> [&'static str; 2] {
    [
        "INDEX IF NOT EXISTS order_refunds_order_id ON order_refunds (order_id)",
        "UNIQUE INDEX IF NOT EXISTS order_refunds_client_id_version ON order_refunds (client_id, version)",
    ]
}

/// `refunded` includes the amount of the cancellation.
fn state_of_orders() -> [ColumnDef; 3] {
    [
        column("cancelled_at").timestamp_with_time_zone().to_owned(),
        column("cancel_reason").text().to_owned(),
        column("refunded").big_integer().not_null().default(0).to_owned(),
    ]
}

fn order_refunds() -> TableCreateStatement {
    Table::create()
        .table("order_refunds")
        .if_not_exists()
        .col(column("id").uuid().not_null().primary_key())
        .col(column("order_id").uuid().not_null())
        .col(column("client_id").big_integer().not_null())
        .col(column("version").integer().not_null())
        .col(column("refunded_at").timestamp_with_time_zone().not_null())
        .col(column("amount").big_integer().not_null())
        .col(column("cancels").boolean().not_null())
        .foreign_key(&mut references("orders", "order_id"))
        .to_owned()
}

fn order_refund_items() -> TableCreateStatement {
    Table::create()
        .table("order_refund_items")
        .if_not_exists()
        .col(column("refund_id").uuid().not_null())
        .col(column("line").integer().not_null())
        .col(column("product_id").big_integer().not_null())
        .col(column("quantity").integer().not_null())
        .col(column("amount").big_integer().not_null())
        .primary_key(Index::create().col("refund_id").col("line"))
        .foreign_key(&mut references("order_refunds", "refund_id"))
        .to_owned()
}

fn column(name: &'static str) -> ColumnDef {
    ColumnDef::new(name)
}

fn references(table: &'static str, key: &'static str) -> ForeignKeyCreateStatement {
    ForeignKey::create().from_col(key).to(table, "id").on_delete(ForeignKeyAction::Restrict).to_owned()
}
