//! Commands that need the same lock of the database take turns here first: those that wait hold no connection.

use std::array;
use std::hash::{BuildHasher, Hash, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// Commands that run at the same time are far fewer, so that few share a lock by chance. Nobody can choose who shares one, because the hasher
/// has random keys. A caller holds at most as many locks as it has connections, a quarter of the pool, so others rarely wait for it.
const LOCKS: usize = 1024;

pub struct Turns {
    locks: [Mutex<()>; LOCKS],
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { locks: array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl Turns {
    /// Waits until no other command of this process has a turn of the same value, and holds it until the guard is dropped.
    pub async fn take(&self, of: &(impl Hash + ?Sized)) -> MutexGuard<'_, ()> {
        self.lock_of(of).lock().await
    }

    /// As [`Turns::take`], but only if nobody has or wants the turn.
    pub fn try_take(&self, of: &(impl Hash + ?Sized)) -> Option<MutexGuard<'_, ()>> {
        self.lock_of(of).try_lock().ok()
    }

    fn lock_of(&self, of: &(impl Hash + ?Sized)) -> &Mutex<()> {
        &self.locks[self.hasher.hash_one(of) as usize % LOCKS]
    }
}
