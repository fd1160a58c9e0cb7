//! The connections to the command database, and how many of them each caller may use.
//!
//! All statements wait for a connection in one queue. So a caller with many statements waits for its own connections before, and those
//! of others do not queue behind them. Orders, and reads that share a statement with those of other callers, have queues of their own.

use std::sync::Arc;

use sea_orm::{DatabaseConnection, DbBackend};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::edge::quota::{CallerSemaphores, QuotaKey};

/// A caller may use one in so many connections.
const CALLERS: usize = 4;

/// A pool of connections.
pub struct Pool {
    pub size: u32,
    pub idle: usize,
    pub max: u32,
}

impl Pool {
    pub fn of(db: &DatabaseConnection) -> Pool {
        let (size, idle, max) = match db.get_database_backend() {
            DbBackend::Postgres => {
                let pool = db.get_postgres_connection_pool();
                (pool.size(), pool.num_idle(), pool.options().get_max_connections())
            }
            _ => {
                let pool = db.get_sqlite_connection_pool();
                (pool.size(), pool.num_idle(), pool.options().get_max_connections())
            }
        };
        Pool { size, idle, max }
    }
}

/// How many connections each caller may use at once: a quarter of the pool, at least one.
pub struct ConnectionQuotas(CallerSemaphores);

impl ConnectionQuotas {
    pub fn new(pool: &Pool) -> ConnectionQuotas {
        ConnectionQuotas(CallerSemaphores::new((pool.max as usize / CALLERS).max(1)))
    }

    pub fn of(&self, caller: &QuotaKey) -> ConnectionQuota {
        ConnectionQuota(self.0.of(caller))
    }

    /// Frees the memory of callers without operations.
    pub fn remove_idle(&self) {
        self.0.remove_idle();
    }
}

/// The connections of one caller.
#[derive(Clone)]
pub struct ConnectionQuota(Arc<Semaphore>);

impl Default for ConnectionQuota {
    /// No limit.
    fn default() -> ConnectionQuota {
        ConnectionQuota(Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)))
    }
}

impl ConnectionQuota {
    /// Waits until the caller may use one more connection, and counts it until the permit is dropped. Whoever has a permit must not wait
    /// for another one.
    pub async fn acquire(&self) -> OwnedSemaphorePermit {
        self.0.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// As [`ConnectionQuota::acquire`], but only if the caller may use one more now.
    pub fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn each_caller_has_a_quarter_of_the_connections_and_is_forgotten_when_it_is_idle() {
        let key = |name: &str| QuotaKey::Subject(name.into());
        for (max, expected) in [(1, 1), (3, 1), (16, 4)] {
            let quotas = ConnectionQuotas::new(&Pool { size: 0, idle: 0, max });
            let take = |name| quotas.of(&key(name)).acquire().now_or_never();
            let held: Vec<_> = (0..expected).map(|_| take("a").unwrap()).collect();
            assert!(take("a").is_none());
            assert!(take("b").is_some());
            quotas.remove_idle();
            assert_eq!(quotas.0.count(), 1);
            drop(held);
            assert!(take("a").is_some());
            quotas.remove_idle();
            assert_eq!(quotas.0.count(), 0);
        }
    }
}
