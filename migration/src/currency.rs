//! The currency of all amounts of a database.

use sea_orm::{ConnectionTrait, DbErr};
use sea_orm_migration::prelude::{OnConflict, Query};

/// Stores the currency of all amounts of the database, unless it has one.
///
/// # Errors
/// [`DbErr::Custom`] when it has another one.
pub async fn store_currency(db: &impl ConnectionTrait, currency: &str) -> Result<(), DbErr> {
    let insert = Query::insert()
        .into_table("store_settings")
        .columns(["id", "currency"])
        .values_panic([1.into(), currency.into()])
        .on_conflict(OnConflict::column("id").do_nothing().to_owned())
        .to_owned();
    db.execute(&insert).await?;
    let stored = Query::select().column("currency").from("store_settings").to_owned();
    let stored: Option<String> = db.query_one(&stored).await?.map(|row| row.try_get("", "currency")).transpose()?;
    match stored {
        Some(stored) if stored != currency => Err(DbErr::Custom(format!(
            "the amounts of this database are in {stored}, but this process is set to CURRENCY={currency}; set \
             CURRENCY={stored}, or use another database"
        ))),
        _ => Ok(()),
    }
}
