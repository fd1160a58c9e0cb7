use sea_orm_migration::prelude::*;

use crate::currency::store_currency;
use crate::first_events::logged_currency;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// The database knows the currency of its amounts: that of the newest event, if there is one. Otherwise the first program
/// that starts stores its own.
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let id = ColumnDef::new("id").integer().not_null().primary_key().to_owned();
        let currency = ColumnDef::new("currency").text().not_null().to_owned();
        let only_row = Expr::col("id").eq(1);
        manager
            .create_table(Table::create().table("store_settings").col(id).col(currency).check(only_row).to_owned())
            .await?;
        match logged_currency(manager.get_connection()).await? {
            Some(currency) => store_currency(manager.get_connection(), &currency).await,
            None => Ok(()),
        }
    }
}
