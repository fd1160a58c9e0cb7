//! Opening the command database, and classifying its errors.

use std::time::Duration;

use entity::{
    client, idempotency_key, order, order_event, order_item, order_refund, order_refund_item, outbox,
    outbox_message, product, refused_event, rejected_order,
};
use iso_currency::Currency;
use runtime::database::{self, Login};
use sea_orm::sea_query::{Expr, ValueType, postgres_array::NotU8};
use sea_orm::sqlx::Error as SqlxError;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    QuerySelect, RuntimeErr, SqliteTransactionMode, TransactionOptions, TransactionTrait, Value,
};

/// Limit for a statement, including its wait for another order of the same client.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects, and checks the schema and the currency. The first process stores its currency in the database.
///
/// # Errors
/// Each error says how to fix it.
pub async fn open(
    login: impl Into<Login<'_>>,
    connections: u32,
    currency: Currency,
) -> anyhow::Result<DatabaseConnection> {
    let db = database::connect(login, connections, Some(STATEMENT_TIMEOUT)).await?;
    check_schema(&db).await.map_err(|error| database::cannot_use_schema(&error))?;
    database::store_currency(&db, currency.code()).await?;
    Ok(db)
}

/// Fails if a table or column that this release uses is missing. [`database::store_currency`] reads `store_settings`.
async fn check_schema(db: &DatabaseConnection) -> Result<(), DbErr> {
    client::Entity::find().limit(0).all(db).await?;
    product::Entity::find().limit(0).all(db).await?;
    order::Entity::find().limit(0).all(db).await?;
    order_item::Entity::find().limit(0).all(db).await?;
    order_refund::Entity::find().limit(0).all(db).await?;
    order_refund_item::Entity::find().limit(0).all(db).await?;
    order_event::Entity::find().limit(0).all(db).await?;
    outbox::Entity::find().limit(0).all(db).await?;
    outbox_message::Entity::find().limit(0).all(db).await?;
    refused_event::Entity::find().limit(0).all(db).await?;
    rejected_order::Entity::find().limit(0).all(db).await?;
    idempotency_key::Entity::find().limit(0).all(db).await?;
    Ok(())
}

/// Begins a transaction that writes. On SQLite it gets the lock of the writer now, and waits for it if another process has it. A
/// lock that is requested after a read is refused at once if another process has committed meanwhile (`SQLITE_BUSY_SNAPSHOT`).
pub async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let sqlite_transaction_mode = Some(SqliteTransactionMode::Immediate);
    db.begin_with_options(TransactionOptions { sqlite_transaction_mode, ..TransactionOptions::default() }).await
}

/// Whether two columns have one of some pairs of values, with a text that does not depend on their number.
pub fn is_one_pair_of<C: ColumnTrait, U, V>(db: &impl ConnectionTrait, [one, other]: [C; 2], pairs: Vec<(U, V)>) -> Expr
where
    U: Into<Value> + NotU8 + ValueType,
    V: Into<Value> + NotU8 + ValueType,
{
    if db.get_database_backend() == DbBackend::Postgres {
        let (ones, others): (Vec<U>, Vec<V>) = pairs.into_iter().unzip();
        let columns = Expr::tuple([Expr::col(one), Expr::col(other)]);
        let among = "$1 IN (SELECT * FROM UNNEST($2, $3))";
        return Expr::cust_with_exprs(among, [columns, Expr::val(ones), Expr::val(others)]);
    }
    let pair = |(value, of_other): (U, V)| Condition::all().add(one.eq(value)).add(other.eq(of_other));
    pairs.into_iter().map(pair).fold(Condition::any(), Condition::add).into()
}

/// Whether another transaction was in the way: a lock that was not released in time, a deadlock or a serialisation failure.
/// Other transactions may succeed, and the same transaction may succeed later.
pub fn is_conflict(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error else {
        return false;
    };
    // 55P03: a wait for one lock timed out. 57014: a statement that waited for several locks in turn did.
    matches!(&**error, SqlxError::Database(error) if error.code().is_some_and(|code| {
        matches!(&*code, "55P03" | "57014") || code.len() == 5 && code.starts_with("40")
    }))
}

/// Whether the database was unreachable or overloaded, so that the same request may succeed later.
pub fn is_outage(error: &DbErr) -> bool {
    match error {
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => true,
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => match &**error {
            SqlxError::Io(_) | SqlxError::Tls(_) | SqlxError::PoolTimedOut | SqlxError::PoolClosed => true,
            SqlxError::WorkerCrashed => true,
            // https://www.postgresql.org/docs/current/errcodes-appendix.html: connection exception, transaction
            // rollback, insufficient resources, operator intervention; read-only, lock not available. SQLite has numbers
            // of its own, whose lowest byte is the class (https://www.sqlite.org/rescode.html): busy, locked, out of
            // memory, read-only, I/O error, disk full, cannot open the file.
            SqlxError::Database(error) => error.code().is_some_and(|code| match code.parse::<u32>() {
                Ok(number) if code.len() != 5 => matches!(number & 0xff, 5 | 6 | 7 | 8 | 10 | 13 | 14),
                _ => ["08", "40", "53", "57", "25006", "55P03"].iter().any(|class| code.starts_with(class)),
            }),
            _ => false,
        },
        _ => false,
    }
}
