//! What each caller may ask for: cost in a second, and how much at once. One who sends a token is its subject, another is
//! the address that it comes from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};

use crate::edge::auth::Identity;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    pub identity: Option<Arc<Identity>>,
    pub address: IpAddr,
    pub traceparent: Option<String>,
}

/// Whose share is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Subject(Arc<str>),
    Address(IpAddr),
}

impl Caller {
    /// When its token expires.
    pub fn expires(&self) -> Option<SystemTime> {
        self.identity.as_ref().map(|identity| identity.expires)
    }

    pub fn key(&self) -> Key {
        match &self.identity {
            Some(identity) => Key::Subject(identity.subject.clone()),
            None => Key::of_address(self.address),
        }
    }
}

impl Key {
    /// Whoever has an IPv6 address has all of its /64.
    pub fn of_address(address: IpAddr) -> Key {
        Key::Address(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
            address => address,
        })
    }
}

/// Cost in a second.
pub struct Rate {
    limiter: DefaultKeyedRateLimiter<Key>,
    clock: DefaultClock,
    burst: NonZeroU32,
}

impl Rate {
    /// A caller who has been idle may ask at once for what a second allows, or for one operation of the cost `dearest`.
    pub fn new(rate: NonZeroU32, dearest: usize) -> Rate {
        let dearest = NonZeroU32::new(dearest.try_into().unwrap_or(u32::MAX)).unwrap_or(rate);
        let burst = rate.max(dearest);
        let limiter = DefaultKeyedRateLimiter::keyed(Quota::per_second(rate).allow_burst(burst));
        Rate { limiter, clock: DefaultClock::default(), burst }
    }

    /// # Errors
    /// When that is more than is left: the time after which it is not.
    pub fn charge(&self, key: &Key, cost: usize) -> Result<(), Duration> {
        let cost = NonZeroU32::new(cost.try_into().unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN).min(self.burst);
        match self.limiter.check_key_n(key, cost) {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(not_until)) => Err(not_until.wait_time_from(self.clock.now())),
        }
    }

    /// Forgets who has not asked for a while.
    pub fn forget_idle(&self) {
        self.limiter.retain_recent();
    }
}

/// Things of which each caller may hold so many at once.
pub struct Shares {
    each: usize,
    held: Mutex<HashMap<Key, usize>>,
}

/// One of them; given back when dropped.
pub struct Share {
    shares: Arc<Shares>,
    key: Key,
}

impl Shares {
    pub fn new(each: usize) -> Arc<Shares> {
        Arc::new(Shares { each, held: Mutex::default() })
    }

    pub fn take(self: &Arc<Shares>, key: Key) -> Option<Share> {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = all.entry(key.clone()).or_default();
        if *held >= self.each {
            return None;
        }
        *held += 1;
        Some(Share { shares: self.clone(), key })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.shares.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get_mut(&self.key) {
            *held -= 1;
            if *held == 0 {
                all.remove(&self.key);
            }
        }
    }
}
