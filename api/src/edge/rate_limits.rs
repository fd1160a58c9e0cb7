//! How much cost one caller may cause per second.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use quick_cache::sync::Cache;
use tokio::time::sleep;

use super::documents::limits::LimitSettings;
use super::quota::QuotaKey;
use super::refusal::Refusal;

/// Addresses that are blocked at the same time. With more, some may verify tokens earlier.
const MAX_BLOCKED: usize = 10_000;
/// The wait of the limiter is that of one charge alone. With it, all that wait for a caller would wake up for each cost that it can pay.
pub const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// How long an operation waits until its caller can pay for what it has read. It is shorter than an operation may take.
const MAX_DEFERRAL: Duration = Duration::from_secs(2);

/// Cost per second for each caller. Some subjects have a limit of their own.
pub struct RateLimits {
    /// `None`: unlimited.
    shared: Option<RateLimit>,
    own: HashMap<Arc<str>, Option<RateLimit>>,
    /// Addresses that could not pay for a wrong token, and until when none of their tokens is verified.
    blocked: Cache<QuotaKey, Instant>,
}

impl Default for RateLimits {
    /// No limits.
    fn default() -> RateLimits {
        RateLimits { shared: None, own: HashMap::new(), blocked: Cache::new(MAX_BLOCKED) }
    }
}

impl RateLimits {
    pub fn new(settings: &LimitSettings) -> RateLimits {
        let limit = |rate| NonZeroU32::new(rate).map(|rate| RateLimit::new(rate, settings.max_complexity));
        let own = settings.rate_limit_subjects.iter().map(|one| (one.subject.clone(), limit(one.per_second)));
        RateLimits { shared: limit(settings.rate_limit), own: own.collect(), ..RateLimits::default() }
    }

    #[cfg(test)]
    pub fn shared(per_second: u32, max_operation_cost: usize) -> Arc<RateLimits> {
        let shared = NonZeroU32::new(per_second).map(|rate| RateLimit::new(rate, max_operation_cost));
        Arc::new(RateLimits { shared, ..RateLimits::default() })
    }

    /// # Errors
    /// When the cost exceeds what is left.
    pub fn charge(&self, key: &QuotaKey, cost: usize) -> Result<(), Refusal> {
        let Some(cost) = NonZeroU32::new(cost.try_into().unwrap_or(u32::MAX)) else { return Ok(()) };
        let own = match key {
            QuotaKey::Subject(subject) => self.own.get(subject),
            QuotaKey::Address(_) => None,
        };
        own.unwrap_or(&self.shared).as_ref().map_or(Ok(()), |limit| limit.charge(key, cost))
    }

    /// Charges a wrong token to an address.
    ///
    /// # Errors
    /// When the cost exceeds what is left. Then [`RateLimits::check_blocked`] fails until enough is left.
    pub fn charge_wrong_token(&self, address: &QuotaKey, cost: usize) -> Result<(), Refusal> {
        self.charge(address, cost).inspect_err(|refusal| {
            if let Refusal::RateLimited(wait) = refusal {
                self.blocked.insert(address.clone(), Instant::now() + *wait);
            }
        })
    }

    /// # Errors
    /// When the address may not send a token that has to be verified: it has sent too many wrong ones.
    pub fn check_blocked(&self, address: &QuotaKey) -> Result<(), Refusal> {
        let wait = self.blocked.get(address).map(|until| until.saturating_duration_since(Instant::now()));
        wait.filter(|wait| !wait.is_zero()).map_or(Ok(()), |wait| Err(Refusal::RateLimited(wait)))
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

    fn charge(&self, key: &QuotaKey, cost: NonZeroU32) -> Result<(), Refusal> {
        match self.limiter.check_key_n(key, cost.min(self.burst)) {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(not_until)) => Err(Refusal::RateLimited(not_until.wait_time_from(self.clock.now()))),
        }
    }

    fn remove_idle(&self) {
        self.limiter.retain_recent();
    }
}

/// Charges one caller.
#[derive(Clone)]
pub struct Meter {
    limits: Arc<RateLimits>,
    pub key: QuotaKey,
}

impl Meter {
    pub fn new(limits: Arc<RateLimits>, key: QuotaKey) -> Meter {
        Meter { limits, key }
    }

    /// # Errors
    /// [`Refusal::RateLimited`]
    pub fn charge(&self, cost: usize) -> Result<(), Refusal> {
        self.limits.charge(&self.key, cost)
    }

    /// As [`Meter::charge`], for work that is done already. Waits for a while until the caller can pay: if it were refused at once, it
    /// would get the work for nothing.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`]
    pub async fn charge_later(&self, cost: usize) -> Result<(), Refusal> {
        let deadline = Instant::now() + MAX_DEFERRAL;
        loop {
            match self.charge(cost) {
                Err(Refusal::RateLimited(wait)) if Instant::now() + wait < deadline => {
                    sleep(wait.max(LEAST_PAUSE)).await
                }
                charged => return charged,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_blocked_after_a_wrong_token_that_it_cannot_pay() {
        let limits = RateLimits::shared(20, 20);
        let (address, other) =
            (QuotaKey::of_address([192, 0, 2, 1].into()), QuotaKey::of_address([192, 0, 2, 2].into()));
        limits.charge_wrong_token(&address, 15).unwrap();
        limits.check_blocked(&address).unwrap();
        limits.charge_wrong_token(&address, 15).unwrap_err();
        limits.check_blocked(&address).unwrap_err();
        limits.check_blocked(&other).unwrap();
        while limits.check_blocked(&address).is_err() {
            std::thread::yield_now();
        }
        limits.charge_wrong_token(&address, 15).unwrap();
    }
}
