//! The sample's own clients and products. The tables are new and empty, so the ids come out as 1, 2 and 3.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut clients = Query::insert().into_table("clients").columns(["name", "email"]).to_owned();
        for (name, email) in [
            ("Bob", "bob@anemailprovider.com"),
            ("Alice", "alice@anemailprovider.com"),
            ("John", "john@anemailprovider.com"),
        ] {
            clients.values_panic([name.into(), email.into()]);
        }
        manager.execute(clients).await?;

        // Prices are in minor units.
        let mut products = Query::insert().into_table("products").columns(["name", "price"]).to_owned();
        for (name, price) in [("Computer", 150_000i64), ("Phone", 50_000), ("TV", 100_000)] {
            products.values_panic([name.into(), price.into()]);
        }
        manager.execute(products).await
    }
}
