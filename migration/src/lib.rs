//! The schema of the command database and its sample data, for PostgreSQL and SQLite. The `migration` program applies it as
//! a release step. It names tables and columns itself: a migration must not change when an entity does.

mod first_events;
mod m20261123_000001_create_tables;
mod m20261123_000002_seed;
mod m20261124_000003_index_orders_by_time;
mod m20261125_000004_events_of_clients_and_products;
mod m20261127_000005_outbox;
mod m20261127_000006_first_events;
mod m20261127_000007_refused_events;
mod m20261127_000008_store_settings;
mod m20261127_000009_room_for_versions;
mod m20261127_000010_refunds;
mod short_locks;

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement, TransactionTrait};
pub use sea_orm_migration::MigratorTrait;
use sea_orm_migration::prelude::*;

/// Pause between attempts to get the lock.
const PAUSE: Duration = Duration::from_millis(100);

pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_create_tables::Migration),
            Box::new(m20261123_000002_seed::Migration),
            Box::new(m20261124_000003_index_orders_by_time::Migration),
            Box::new(m20261125_000004_events_of_clients_and_products::Migration),
            Box::new(m20261127_000005_outbox::Migration),
            Box::new(m20261127_000006_first_events::Migration),
            Box::new(m20261127_000007_refused_events::Migration),
            Box::new(m20261127_000008_store_settings::Migration),
            Box::new(m20261127_000009_room_for_versions::Migration),
            Box::new(m20261127_000010_refunds::Migration),
        ]
    }
}

/// Applies the migrations that are missing and returns their names. Safe to run twice and concurrently: on PostgreSQL the
/// second run waits for the first, if `db` is a pool of one connection (the lock belongs to the connection).
pub async fn up(db: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    lock(db).await?;
    let pending = Migrator::get_pending_migrations(db).await?;
    Migrator::up(db, None).await?;
    unlock(db).await?;
    Ok(pending.iter().map(|migration| migration.name().to_owned()).collect())
}

/// Inserts three clients and three products, with their events, into a database that has neither; returns whether it did.
/// Prices are in minor units of `currency` (ISO 4217), which must be that of the database, if it has one. As safe as [`up`] to run twice and concurrently.
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

/// Stores the currency of all amounts of the database, unless it has one.
///
/// # Errors
/// [`DbErr::Custom`] when it has another one.
async fn store_currency(db: &impl ConnectionTrait, currency: &str) -> Result<(), DbErr> {
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

const LOCK: &str = "hashtext('order service migrations')";

/// Polls for the lock: a statement that waited for it would be waited for by a concurrent build of an index.
async fn lock(db: &DatabaseConnection) -> Result<(), DbErr> {
    if db.get_database_backend() == DbBackend::Postgres {
        let lock =
            Statement::from_string(DbBackend::Postgres, format!("SELECT pg_try_advisory_lock({LOCK}) AS locked"));
        let mut attempts = 0;
        while !db.query_one_raw(lock.clone()).await?.is_some_and(|row| row.try_get("", "locked").unwrap_or(false)) {
            attempts += 1;
            if attempts == 20 {
                eprintln!("waiting until another migration of this database has ended");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

async fn unlock(db: &DatabaseConnection) -> Result<(), DbErr> {
    if db.get_database_backend() == DbBackend::Postgres {
        db.execute_unprepared(&format!("SELECT pg_advisory_unlock({LOCK})")).await?;
    }
    Ok(())
}
