//! Clients that were read lately, kept in this process for as long as Redis does not say that they have changed: its
//! [client-side caching](https://redis.io/docs/latest/develop/reference/client-side-caching/).
//!
//! The redis crate has a cache of its own, which keeps what it has read also when the news that it has changed came while
//! it was on its way. Here each client belongs to one of some counters that rise with the news: what was read while its
//! counter rose is not kept.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redis::{PushInfo, PushKind, Value, from_redis_value};
use quick_cache::sync::Cache;

use crate::Client;

/// Clients that are kept at most. Each takes 300 bytes or so, and 2 KiB with the longest names.
const CLIENTS: usize = 20_000;
const COUNTERS: usize = 1_024;

pub struct ClientCache {
    clients: Cache<i64, Arc<Kept>>,
    /// How often something changed, for each part of the clients. Held while something of that part is kept or forgotten.
    changes: Vec<Mutex<u64>>,
    /// How often the connection was lost, and with it all news. From 1.
    connection: AtomicU64,
    /// The connection on which Redis was asked to tell.
    tracked: AtomicU64,
    /// Whether anybody asks for what is kept here.
    wanted: AtomicBool,
}

struct Kept {
    generation: u64,
    version: i32,
    /// Nothing when only its version is known, and what is older must not be kept.
    client: Option<Option<Client>>,
}

/// The state before something is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    connection: u64,
    changes: u64,
}

impl ClientCache {
    pub fn new() -> ClientCache {
        ClientCache {
            clients: Cache::new(CLIENTS),
            changes: (0..COUNTERS).map(|_| Mutex::default()).collect(),
            connection: AtomicU64::new(1),
            tracked: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
        }
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// The connection that there is: see [`ClientCache::track`].
    pub fn connection(&self) -> u64 {
        self.connection.load(Ordering::SeqCst)
    }

    /// Redis tells of changes on this connection from now on.
    pub fn track(&self, connection: u64) {
        self.tracked.store(connection, Ordering::SeqCst);
    }

    /// A client as it is kept, if it is: `Some(None)` is one of which nothing was projected.
    pub fn get(&self, generation: u64, id: i64) -> Option<Option<Client>> {
        self.wanted.store(true, Ordering::Relaxed);
        if self.tracked.load(Ordering::SeqCst) != self.connection() {
            return None;
        }
        let kept = self.clients.get(&id)?;
        if kept.generation == generation { kept.client.clone() } else { None }
    }

    pub fn mark(&self, id: i64) -> Mark {
        Mark { connection: self.connection(), changes: *self.changes(id) }
    }

    /// Keeps what was read after the mark, unless something has changed since. What is older than what somebody else has
    /// read is not kept: nobody is to see a client go back.
    pub fn keep(&self, mark: Mark, generation: u64, id: i64, client: &Option<Client>) {
        let version = client.as_ref().map_or(0, |client| client.version);
        let changes = self.changes(id);
        let is_current = mark.connection == self.tracked.load(Ordering::SeqCst)
            && mark == (Mark { connection: self.connection(), changes: *changes });
        if self.clients.peek(&id).is_some_and(|kept| kept.generation == generation && kept.version > version) {
            return;
        }
        let client = is_current.then(|| client.clone());
        self.clients.insert(id, Arc::new(Kept { generation, version, client }));
    }

    /// The connection is another from now on.
    pub fn lost(&self) {
        self.connection.fetch_add(1, Ordering::SeqCst);
        self.forget_all();
    }

    /// What Redis, or the loss of the connection, tells.
    pub fn on_push(&self, news: &PushInfo) {
        match (&news.kind, news.data.first()) {
            (PushKind::Invalidate, Some(Value::Array(keys))) => {
                for key in keys {
                    let key: Result<String, _> = from_redis_value(key.clone());
                    if let Some(id) = key.ok().and_then(|key| key.rsplit_once(":client:")?.1.parse().ok()) {
                        self.changed(id);
                    }
                }
            }
            // All keys: it was emptied.
            (PushKind::Invalidate, _) => self.forget_all(),
            (PushKind::Disconnection, _) => self.lost(),
            _ => {}
        }
    }

    fn changed(&self, id: i64) {
        let mut changes = self.changes(id);
        *changes += 1;
        self.clients.remove(&id);
    }

    fn forget_all(&self) {
        for changes in &self.changes {
            *changes.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.clients.clear();
    }

    fn changes(&self, id: i64) -> MutexGuard<'_, u64> {
        self.changes[id.rem_euclid(COUNTERS as i64) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
