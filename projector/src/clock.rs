//! The clock of the command database. Events have its time, so everything that is compared with the time of an event is on this clock.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement};

/// The database reads its clock at an unknown moment of the round trip. Longer round trips are ignored, because the error can be half of
/// them.
const MAX_ROUND_TRIP: TimeDelta = TimeDelta::milliseconds(500);

/// How far the clock of the database is ahead of this one, in milliseconds.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// The time on the clock of the database, by its last measurement. Before the first one it is the time of this machine.
pub fn now() -> DateTime<Utc> {
    Utc::now() + TimeDelta::milliseconds(AHEAD.load(Ordering::Relaxed))
}

/// Measures the clock of the database.
///
/// # Errors
/// When the database fails.
pub async fn measure(db: &DatabaseConnection) -> Result<(), DbErr> {
    // The clock of SQLite is that of this machine.
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let began = Utc::now();
    let read = Statement::from_string(DbBackend::Postgres, "SELECT clock_timestamp() AS now");
    let row = db.query_one_raw(read).await?.expect("a row with the time");
    let round_trip = Utc::now() - began;
    if round_trip <= MAX_ROUND_TRIP {
        let ahead = row.try_get::<DateTime<Utc>>("", "now")? - (began + round_trip / 2);
        AHEAD.store(ahead.num_milliseconds(), Ordering::Relaxed);
    }
    Ok(())
}
