//! Whether the database gives connections. A pool reports the same error whether it is busy or its server is down.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Others get connections if one did so recently: shorter than the time that a request waits for one.
const RECENTLY: Duration = Duration::from_secs(1);

/// When a pool last gave a connection that works. A process has one command database.
static LAST_USE: Mutex<Option<Instant>> = Mutex::new(None);

/// Notes that a pool gives a connection that works.
pub fn note_use() {
    *LAST_USE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
}

/// Whether others get connections, so that a request without one only has too many of them before it: the database is not down.
pub fn is_in_use() -> bool {
    let last_use = *LAST_USE.lock().unwrap_or_else(PoisonError::into_inner);
    last_use.is_some_and(|at| at.elapsed() < RECENTLY)
}
