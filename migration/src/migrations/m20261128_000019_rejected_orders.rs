use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// The rejections of orders that were accepted while the database was away. A placed order has its row in `idempotency_keys`.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let column = |name: &'static str| ColumnDef::new(name);
        let table = Table::create()
            .table("rejected_orders")
            .col(column("client_id").big_integer().not_null())
            .col(column("key").text().not_null())
            .col(column("reasons").json_binary().not_null())
            .col(column("rejected_at").timestamp_with_time_zone().not_null().default(Expr::current_timestamp()))
            .primary_key(Index::create().col("client_id").col("key"))
            .to_owned();
        manager.create_table(table).await
    }
}
