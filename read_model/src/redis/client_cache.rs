//! Recently read clients, cached in this process until Redis reports that they have changed: its
//! [client-side caching](https://redis.io/docs/latest/develop/reference/client-side-caching/).
//!
//! The cache of the redis crate keeps a value even if its invalidation arrives while the value is being read. Here each client belongs
//! to one of several counters, which rise with every invalidation: a value is cached only if its counter has not risen since before
//! it was read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redis::{PushInfo, PushKind, Value, from_redis_value};
use quick_cache::sync::Cache;

use crate::Client;

/// The most cached clients. A client takes about 300 bytes, and 2 KiB with the longest names.
const CAPACITY: usize = 20_000;
const COUNTERS: usize = 1_024;

pub struct ClientCache {
    clients: Cache<i64, Arc<Cached>>,
    /// The counters of invalidations. The lock is held while one of its clients is inserted or removed.
    changes: Vec<Mutex<u64>>,
    /// The number of the connection, from 1: invalidations that were sent on an earlier one are lost.
    connection: AtomicU64,
    /// The connection on which Redis sends invalidations.
    tracked: AtomicU64,
    /// Whether anybody reads from the cache.
    used: AtomicBool,
}

struct Cached {
    generation: u64,
    version: i32,
    /// `None` if the client must be read again. Its version stays, so that no older value is cached.
    client: Option<Option<Client>>,
}

/// The state of the cache before a client is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    connection: u64,
    changes: u64,
}

impl ClientCache {
    pub fn new() -> ClientCache {
        ClientCache {
            clients: Cache::new(CAPACITY),
            changes: (0..COUNTERS).map(|_| Mutex::default()).collect(),
            connection: AtomicU64::new(1),
            tracked: AtomicU64::new(0),
            used: AtomicBool::new(false),
        }
    }

    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// The number of the connection: see [`ClientCache::on_tracking`].
    pub fn connection(&self) -> u64 {
        self.connection.load(Ordering::SeqCst)
    }

    /// Redis sends invalidations on this connection from now on.
    pub fn on_tracking(&self, connection: u64) {
        self.tracked.store(connection, Ordering::SeqCst);
    }

    /// Whether Redis sends invalidations, so that clients are cached.
    pub fn is_tracking(&self) -> bool {
        self.tracked.load(Ordering::SeqCst) == self.connection()
    }

    /// Returns a cached client; `Some(None)` is a client without events.
    pub fn get(&self, generation: u64, id: i64) -> Option<Option<Client>> {
        self.used.store(true, Ordering::Relaxed);
        if !self.is_tracking() {
            return None;
        }
        let cached = self.clients.get(&id)?;
        if cached.generation == generation { cached.client.clone() } else { None }
    }

    /// Returns the state before a client is read: see [`ClientCache::insert`].
    pub fn mark(&self, id: i64) -> Mark {
        Mark { connection: self.connection(), changes: *self.changes(id) }
    }

    /// Caches a client that was read after the mark, unless it may have changed since. A client older than a cached one is not cached:
    /// no reader may see a client go back.
    pub fn insert(&self, mark: Mark, generation: u64, id: i64, client: &Option<Client>) {
        let version = client.as_ref().map_or(0, |client| client.version);
        let changes = self.changes(id);
        let is_current = mark.connection == self.tracked.load(Ordering::SeqCst)
            && mark == (Mark { connection: self.connection(), changes: *changes });
        if self.clients.peek(&id).is_some_and(|cached| cached.generation == generation && cached.version > version) {
            return;
        }
        let client = is_current.then(|| client.clone());
        self.clients.insert(id, Arc::new(Cached { generation, version, client }));
    }

    /// The connection is lost, or replaced by another.
    pub fn on_disconnect(&self) {
        self.connection.fetch_add(1, Ordering::SeqCst);
        self.clear();
    }

    /// Handles a push message of Redis.
    pub fn on_push(&self, push: &PushInfo) {
        match (&push.kind, push.data.first()) {
            (PushKind::Invalidate, Some(Value::Array(keys))) => {
                for key in keys {
                    let key: Result<String, _> = from_redis_value(key.clone());
                    if let Some(id) = key.ok().and_then(|key| key.rsplit_once(":client:")?.1.parse().ok()) {
                        self.invalidate(id);
                    }
                }
            }
            // All keys: the server was emptied.
            (PushKind::Invalidate, _) => self.clear(),
            _ => {}
        }
    }

    fn invalidate(&self, id: i64) {
        let mut changes = self.changes(id);
        *changes += 1;
        self.clients.remove(&id);
    }

    fn clear(&self) {
        for changes in &self.changes {
            *changes.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.clients.clear();
    }

    fn changes(&self, id: i64) -> MutexGuard<'_, u64> {
        self.changes[id.rem_euclid(COUNTERS as i64) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
