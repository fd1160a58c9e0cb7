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
        #[expect(clippy::disallowed_methods, reason = "the library calls a migration without arguments")]
        let configured = || std::env::var("CURRENCY").ok().filter(|currency| !currency.is_empty());
        let logged = first_events::logged_currency(db).await?;
        first_events::write(db, &logged.or_else(configured).unwrap_or_else(|| "USD".to_owned())).await
    }
}
