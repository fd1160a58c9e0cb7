//! The clock of the database. Events have its time, because the clocks of several apis differ.

use chrono::{DateTime, SubsecRound, Utc};
use sea_orm::sea_query::{Asterisk, Expr, Query};
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, QueryResult, QueryTrait, Select, SelectModel,
    SelectorRaw, Statement,
};

/// A row, and the time at which a statement locked it, in milliseconds.
pub struct Timed<Row> {
    pub row: Row,
    pub time: DateTime<Utc>,
}

impl<Row: FromQueryResult> FromQueryResult for Timed<Row> {
    fn from_query_result(result: &QueryResult, prefix: &str) -> Result<Timed<Row>, DbErr> {
        Ok(Timed { row: Row::from_query_result(result, prefix)?, time: read_now(result)? })
    }
}

/// Locks rows in a subquery and reads the clock outside of it. In the locking statement itself, PostgreSQL would read the clock before it
/// waits for the lock.
pub fn timed<E: EntityTrait>(
    db: &impl ConnectionTrait,
    locking: Select<E>,
) -> SelectorRaw<SelectModel<Timed<E::Model>>> {
    let mut timed = Query::select();
    timed.column(Asterisk).expr(Expr::cust(as_now(db))).from_subquery(locking.into_query(), "locked");
    Timed::find_by_statement(db.get_database_backend().build(&timed))
}

/// The time now, in milliseconds, for the first event of a new row.
pub async fn now(db: &impl ConnectionTrait) -> Result<DateTime<Utc>, DbErr> {
    let statement = Statement::from_string(db.get_database_backend(), format!("SELECT {}", as_now(db)));
    read_now(&db.query_one_raw(statement).await?.expect("a row with the time"))
}

fn as_now(db: &impl ConnectionTrait) -> &'static str {
    match db.get_database_backend() {
        DbBackend::Postgres => "clock_timestamp() AS now",
        _ => "strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AS now",
    }
}

fn read_now(result: &QueryResult) -> Result<DateTime<Utc>, DbErr> {
    Ok(result.try_get::<DateTime<Utc>>("", "now")?.trunc_subsecs(3))
}
