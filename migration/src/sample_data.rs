//! Clients and products to try the service with.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, TransactionTrait};
use sea_orm_migration::prelude::Query;

use crate::currency::store_currency;
use crate::first_events;
use crate::lock::{lock, unlock};

/// Inserts three clients and three products, with their events, into a database that has neither; returns whether it did.
/// Prices are in minor units of `currency` (ISO 4217), which must be that of the database, if it has one. As safe as
/// [`up`](crate::up) to run twice and concurrently.
pub async fn sample_data(db: &DatabaseConnection, currency: &str) -> Result<bool, DbErr> {
    lock(db).await?;
    let inserted = insert_sample_data(db, currency).await?;
    unlock(db).await?;
    Ok(inserted)
}

async fn insert_sample_data(db: &DatabaseConnection, currency: &str) -> Result<bool, DbErr> {
    let transaction = db.begin().await?;
    store_currency(&transaction, currency).await?;
    for table in ["clients", "products"] {
        let any = Query::select().column("id").from(table).limit(1).to_owned();
        if transaction.query_one(&any).await?.is_some() {
            transaction.commit().await?;
            return Ok(false);
        }
    }
    let mut clients = Query::insert().into_table("clients").columns(["name", "email"]).to_owned();
    for (name, email) in [
        ("Bob", "bob@anemailprovider.com"),
        ("Alice", "alice@anemailprovider.com"),
        ("John", "john@anemailprovider.com"),
    ] {
        clients.values_panic([name.into(), email.into()]);
    }
    let mut products = Query::insert().into_table("products").columns(["name", "price"]).to_owned();
    for (name, price) in [("Computer", 150_000i64), ("Phone", 50_000), ("TV", 100_000)] {
        products.values_panic([name.into(), price.into()]);
    }
    transaction.execute(&clients).await?;
    transaction.execute(&products).await?;
    first_events::write(&transaction, currency).await?;
    transaction.commit().await?;
    Ok(true)
}
