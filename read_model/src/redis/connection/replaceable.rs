//! A connection that can be replaced, and the timeouts that call for it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ::redis::{RedisError, RedisResult};
use tokio::sync::watch;

/// The timeouts in a row after which a connection is replaced: a server that hangs keeps its connections open.
const MAX_TIMEOUTS: u32 = 3;

pub struct Replaceable<C> {
    /// The connection and its number. Each replacement has the next number.
    current: watch::Sender<(u64, C)>,
    /// Timeouts in a row on the current connection, of each slot: other nodes of a Cluster may respond.
    timeouts: Mutex<HashMap<Vec<u8>, u32>>,
}

impl<C: Clone> Replaceable<C> {
    pub fn new(connection: C) -> Replaceable<C> {
        Replaceable { current: watch::Sender::new((0, connection)), timeouts: Mutex::default() }
    }

    pub fn get(&self) -> (u64, C) {
        self.current.borrow().clone()
    }

    /// Replaces the connection of this number. Returns `false` if another caller has done so.
    pub fn replace(&self, number: u64, connection: impl FnOnce(u64) -> C) -> bool {
        let is_replaced = self.current.send_if_modified(|current| {
            let is_current = current.0 == number;
            if is_current {
                *current = (number + 1, connection(number + 1));
            }
            is_current
        });
        if is_replaced {
            self.timeouts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        is_replaced
    }

    /// Counts the timeouts of a slot. Returns whether the connection of this number must be replaced because of them.
    pub fn hangs<T>(&self, number: u64, slot: &[u8], result: &RedisResult<T>) -> bool {
        let mut timeouts = self.timeouts.lock().unwrap_or_else(PoisonError::into_inner);
        if !result.as_ref().is_err_and(RedisError::is_timeout) {
            timeouts.remove(slot);
            return false;
        }
        if self.current.borrow().0 != number {
            return false;
        }
        let count = timeouts.entry(slot.to_vec()).or_default();
        *count += 1;
        *count >= MAX_TIMEOUTS
    }

    /// Returns a receiver that is notified of the next replacement.
    pub fn watch(&self) -> watch::Receiver<(u64, C)> {
        self.current.subscribe()
    }
}
