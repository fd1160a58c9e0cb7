//! The currency of all amounts of a database, in the only row of its table `store_settings`.

use anyhow::ensure;
use sea_orm::sea_query::{OnConflict, Query};
use sea_orm::{ConnectionTrait, DatabaseConnection};

use super::cannot_use_schema;

/// The configured currency is not that of the database.
#[derive(Debug, thiserror::Error)]
#[error(
    "the amounts of this database are in {stored}, but this process is set to CURRENCY={configured}; set CURRENCY={stored}, or \
     use another database"
)]
pub struct OtherCurrency {
    stored: String,
    configured: String,
}

/// Stores the currency (ISO 4217), unless the database has one, and checks it.
///
/// # Errors
/// [`OtherCurrency`], or why the database failed.
pub async fn store_currency(db: &DatabaseConnection, currency: &str) -> anyhow::Result<()> {
    let insert = Query::insert()
        .into_table("store_settings")
        .columns(["id", "currency"])
        .values_panic([1.into(), currency.into()])
        .on_conflict(OnConflict::column("id").do_nothing().to_owned())
        .to_owned();
    match db.execute(&insert).await {
        Ok(_) => check_currency(db, currency).await,
        Err(error) => Err(cannot_use_schema(db, &error).await),
    }
}

/// Checks that the database has this currency (ISO 4217), or none yet.
///
/// # Errors
/// [`OtherCurrency`], or why the database failed.
pub async fn check_currency(db: &DatabaseConnection, currency: &str) -> anyhow::Result<()> {
    let query = Query::select().column("currency").from("store_settings").to_owned();
    let row = match db.query_one(&query).await {
        Ok(row) => row,
        Err(error) => return Err(cannot_use_schema(db, &error).await),
    };
    if let Some(row) = row {
        let stored: String = row.try_get("", "currency")?;
        ensure!(stored == currency, OtherCurrency { stored, configured: currency.to_owned() });
    }
    Ok(())
}
