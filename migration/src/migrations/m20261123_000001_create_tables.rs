use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [clients(), products(), orders(), order_items(), order_events()] {
            manager.create_table(table).await?;
        }
        for index in [unique_idempotency_keys(), unique_versions(), unpublished_events()] {
            manager.create_index(index).await?;
        }
        Ok(())
    }
}

fn clients() -> TableCreateStatement {
    Table::create()
        .table("clients")
        .col(column("id").big_integer().not_null().auto_increment().primary_key())
        .col(column("name").text().not_null())
        .col(column("email").text().not_null().unique_key())
        .col(column("version").integer().not_null().default(0))
        .check(is_short("name"))
        .check(is_short("email"))
        .to_owned()
}

fn products() -> TableCreateStatement {
    Table::create()
        .table("products")
        .col(column("id").big_integer().not_null().auto_increment().primary_key())
        .col(column("name").text().not_null())
        .col(column("price").big_integer().not_null())
        .check(is_short("name"))
        .check(Expr::col("price").gte(0))
        .to_owned()
}

fn orders() -> TableCreateStatement {
    Table::create()
        .table("orders")
        .col(column("id").uuid().not_null().primary_key())
        .col(column("client_id").big_integer().not_null())
        .col(column("version").integer().not_null())
        .col(column("placed_at").timestamp_with_time_zone().not_null())
        .col(column("total").big_integer().not_null())
        .col(column("idempotency_key").text())
        .foreign_key(&mut references("clients", "client_id"))
        .to_owned()
}

fn unique_idempotency_keys() -> IndexCreateStatement {
    Index::create()
        .name("orders_client_id_idempotency_key")
        .table("orders")
        .col("client_id")
        .col("idempotency_key")
        .unique()
        .to_owned()
}

fn order_items() -> TableCreateStatement {
    Table::create()
        .table("order_items")
        .col(column("order_id").uuid().not_null())
        .col(column("line").integer().not_null())
        .col(column("product_id").big_integer().not_null())
        .col(column("unit_price").big_integer().not_null())
        .col(column("quantity").integer().not_null())
        .primary_key(Index::create().col("order_id").col("line"))
        .foreign_key(&mut references("orders", "order_id"))
        .foreign_key(&mut references("products", "product_id"))
        .to_owned()
}

fn order_events() -> TableCreateStatement {
    Table::create()
        .table("order_events")
        .col(column("id").uuid().not_null().primary_key())
        .col(column("client_id").big_integer().not_null())
        .col(column("version").integer().not_null())
        .col(column("type").text().not_null())
        .col(column("payload").json_binary().not_null())
        .col(column("occurred_at").timestamp_with_time_zone().not_null())
        .col(column("published_at").timestamp_with_time_zone())
        .col(column("traceparent").text())
        .foreign_key(&mut references("clients", "client_id"))
        .to_owned()
}

fn unique_versions() -> IndexCreateStatement {
    Index::create()
        .name("order_events_client_id_version")
        .table("order_events")
        .col("client_id")
        .col("version")
        .unique()
        .to_owned()
}

/// For the relay's poll: it stays small while the log grows.
fn unpublished_events() -> IndexCreateStatement {
    Index::create()
        .name("order_events_unpublished")
        .table("order_events")
        .col("id")
        .and_where(Expr::col("published_at").is_null())
        .to_owned()
}

fn column(name: &'static str) -> ColumnDef {
    ColumnDef::new(name)
}

fn references(table: &'static str, key: &'static str) -> ForeignKeyCreateStatement {
    ForeignKey::create().from_col(key).to(table, "id").on_delete(ForeignKeyAction::Restrict).to_owned()
}

/// A name of at most 200 characters keeps the largest event (100 lines) below what SQS takes (256 KiB). `length` counts
/// characters in both databases.
fn is_short(name: &'static str) -> Expr {
    Expr::expr(Func::cust("length").arg(Expr::col(name))).lte(200)
}
