use sea_orm_migration::prelude::*;

use crate::first_events;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Clients and products from before there were events for them get one, so that the read model has every row.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        let amounts = ["orders.OrderPlaced.v1", "products.ProductCreated.v1", "products.PriceChanged.v1"];
        let newest = Query::select()
            .column("payload")
            .from("order_events")
            .and_where(Expr::col("type").is_in(amounts))
            .order_by("id", Order::Desc)
            .limit(1)
            .to_owned();
        let payload: Option<serde_json::Value> =
            db.query_one(&newest).await?.map(|row| row.try_get("", "payload")).transpose()?;
        let logged = payload.and_then(|payload| Some(payload.get("currency")?.as_str()?.to_owned()));
        #[expect(clippy::disallowed_methods, reason = "the library calls a migration without arguments")]
        let configured = || std::env::var("CURRENCY").ok().filter(|currency| !currency.is_empty());
        first_events::write(db, &logged.or_else(configured).unwrap_or_else(|| "USD".to_owned())).await
    }
}
