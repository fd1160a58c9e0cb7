//! How much one caller may use: cost per second, and concurrent operations or connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::documents::limits::LimitSettings;
use super::refusal::Refusal;

/// Whose quota is used: the subject of the token, or the address of a caller without token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum QuotaKey {
    Subject(Arc<str>),
    Address(IpAddr),
}

impl QuotaKey {
    /// All IPv6 addresses of one /64 network share a key, because one host usually owns them all.
    pub fn of_address(address: IpAddr) -> QuotaKey {
        QuotaKey::Address(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
            address => address,
        })
    }
}

/// Cost per second for each caller. Some subjects have a limit of their own.
pub struct RateLimits {
    /// `None`: unlimited.
    shared: Option<RateLimit>,
    own: HashMap<Arc<str>, Option<RateLimit>>,
}

impl RateLimits {
    pub fn new(settings: &LimitSettings) -> RateLimits {
        let limit = |rate| NonZeroU32::new(rate).map(|rate| RateLimit::new(rate, settings.max_complexity));
        let own = settings.rate_limit_subjects.iter().map(|one| (one.subject.clone(), limit(one.per_second)));
        RateLimits { shared: limit(settings.rate_limit), own: own.collect() }
    }

    /// # Errors
    /// When the cost exceeds what is left.
    pub fn charge(&self, key: &QuotaKey, cost: usize) -> Result<(), Refusal> {
        let own = match key {
            QuotaKey::Subject(subject) => self.own.get(subject),
            QuotaKey::Address(_) => None,
        };
        own.unwrap_or(&self.shared).as_ref().map_or(Ok(()), |limit| limit.charge(key, cost))
    }

    /// Frees the memory of callers whose quota is full again.
    pub fn remove_idle(&self) {
        self.shared.iter().chain(self.own.values().flatten()).for_each(RateLimit::remove_idle);
    }
}

/// The rate limit of one subject, written as `SUBJECT=COST`.
#[derive(Clone, Debug)]
pub struct SubjectLimit {
    subject: Arc<str>,
    /// 0: unlimited.
    per_second: u32,
}

impl FromStr for SubjectLimit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<SubjectLimit, &'static str> {
        // A subject may contain an equals sign.
        let (subject, per_second) = text.rsplit_once('=').ok_or("write SUBJECT=COST, such as importer=20000")?;
        let per_second = per_second.trim().parse().map_err(|_| "the cost is not a number from 0 to 4294967295")?;
        match subject.trim() {
            "" => Err("the subject is empty"),
            subject => Ok(SubjectLimit { subject: subject.into(), per_second }),
        }
    }
}

/// Cost per second.
struct RateLimit {
    limiter: DefaultKeyedRateLimiter<QuotaKey>,
    clock: DefaultClock,
    burst: NonZeroU32,
}

impl RateLimit {
    /// After a pause, a caller may use the cost of one second, or of one operation of the cost `max_operation_cost`, at once.
    fn new(per_second: NonZeroU32, max_operation_cost: usize) -> RateLimit {
        let operation = NonZeroU32::new(max_operation_cost.try_into().unwrap_or(u32::MAX)).unwrap_or(per_second);
        let burst = per_second.max(operation);
        let limiter = DefaultKeyedRateLimiter::keyed(Quota::per_second(per_second).allow_burst(burst));
        RateLimit { limiter, clock: DefaultClock::default(), burst }
    }

    fn charge(&self, key: &QuotaKey, cost: usize) -> Result<(), Refusal> {
        let cost = NonZeroU32::new(cost.try_into().unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN).min(self.burst);
        match self.limiter.check_key_n(key, cost) {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(not_until)) => Err(Refusal::RateLimited(not_until.wait_time_from(self.clock.now()))),
        }
    }

    fn remove_idle(&self) {
        self.limiter.retain_recent();
    }
}

/// Bounds how many of something are active at once: in total, and per caller.
pub struct ConcurrencyQuota {
    total: Arc<Semaphore>,
    per_caller: usize,
    active: Mutex<HashMap<QuotaKey, usize>>,
}

/// Counts as one active operation or connection until it is dropped.
pub struct Permit {
    _total: OwnedSemaphorePermit,
    caller: CallerPermit,
}

struct CallerPermit {
    quota: Arc<ConcurrencyQuota>,
    key: QuotaKey,
}

impl ConcurrencyQuota {
    pub fn new(total: usize, per_caller: usize) -> Arc<ConcurrencyQuota> {
        Arc::new(ConcurrencyQuota { total: Arc::new(Semaphore::new(total)), per_caller, active: Mutex::default() })
    }

    /// # Errors
    /// [`Refusal::Busy`]
    pub fn acquire(self: &Arc<Self>, key: QuotaKey) -> Result<Permit, Refusal> {
        let caller = self.count(key)?;
        let total = self.total.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        Ok(Permit { _total: total, caller })
    }

    fn count(self: &Arc<Self>, key: QuotaKey) -> Result<CallerPermit, Refusal> {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let count = active.entry(key.clone()).or_default();
        if *count >= self.per_caller {
            return Err(Refusal::Busy);
        }
        *count += 1;
        Ok(CallerPermit { quota: self.clone(), key })
    }
}

impl Permit {
    /// Counts for another caller from now on.
    ///
    /// # Errors
    /// [`Refusal::Busy`]
    pub fn move_to(&mut self, key: QuotaKey) -> Result<(), Refusal> {
        self.caller = self.caller.quota.count(key)?;
        Ok(())
    }
}

impl Drop for CallerPermit {
    fn drop(&mut self) {
        let mut active = self.quota.active.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = active.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                active.remove(&self.key);
            }
        }
    }
}
