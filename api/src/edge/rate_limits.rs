//! How much cost one caller may cause per second.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
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
/// How long an operation waits until its caller has paid for what it has read. It is shorter than an operation may take.
const MAX_DEFERRAL: Duration = Duration::from_secs(2);

/// Cost per second for each caller. Some subjects have a limit of their own.
pub struct RateLimits {
    /// `None`: unlimited.
    shared: Option<RateLimit>,
    own: HashMap<Arc<str>, Option<RateLimit>>,
    /// Addresses that could not pay for a wrong token, and until when none of their tokens is verified.
    blocked: Cache<QuotaKey, Instant>,
    /// Callers that have got more than they could pay for, and until when all that they may spend pays for it.
    debts: RwLock<HashMap<QuotaKey, Instant>>,
}

impl Default for RateLimits {
    /// No limits.
    fn default() -> RateLimits {
        RateLimits { shared: None, own: HashMap::new(), blocked: Cache::new(MAX_BLOCKED), debts: RwLock::default() }
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
    /// When the cost exceeds what is left, or the caller has debts.
    pub fn charge(&self, key: &QuotaKey, cost: usize) -> Result<(), Refusal> {
        let (Some(limit), Some(cost)) = (self.limit(key), cost_of(cost)) else { return Ok(()) };
        match self.debt(key) {
            Some(until) => Err(Refusal::RateLimited(until.saturating_duration_since(Instant::now()))),
            None => limit.charge(key, cost),
        }
    }

    /// Charges for work that is done already. What the caller cannot pay becomes a debt.
    ///
    /// # Errors
    /// Until when the caller pays for it, if that is later.
    fn charge_done(&self, key: &QuotaKey, cost: usize) -> Result<(), Instant> {
        let (Some(limit), Some(cost)) = (self.limit(key), cost_of(cost)) else { return Ok(()) };
        let now = Instant::now();
        let mut debts = self.debts.write().unwrap_or_else(PoisonError::into_inner);
        let owed = debts.get(key).filter(|until| **until > now).copied();
        if owed.is_none() && cost <= limit.burst && limit.charge(key, cost).is_ok() {
            return Ok(());
        }
        let until = owed.unwrap_or(now) + limit.time_for(cost);
        debts.insert(key.clone(), until);
        Err(until)
    }

    fn limit(&self, key: &QuotaKey) -> Option<&RateLimit> {
        let own = match key {
            QuotaKey::Subject(subject) => self.own.get(subject),
            QuotaKey::Address(_) => None,
        };
        own.unwrap_or(&self.shared).as_ref()
    }

    /// Until when a caller pays for debts.
    fn debt(&self, key: &QuotaKey) -> Option<Instant> {
        let debts = self.debts.read().unwrap_or_else(PoisonError::into_inner);
        debts.get(key).filter(|until| **until > Instant::now()).copied()
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
        let now = Instant::now();
        self.debts.write().unwrap_or_else(PoisonError::into_inner).retain(|_, until| *until > now);
    }
}

/// `None` for 0.
fn cost_of(cost: usize) -> Option<NonZeroU32> {
    NonZeroU32::new(cost.try_into().unwrap_or(u32::MAX))
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
    per_second: NonZeroU32,
    burst: NonZeroU32,
}

impl RateLimit {
    /// After a pause, a caller may use the cost of one second, or of one operation of the cost `max_operation_cost`, at once.
    fn new(per_second: NonZeroU32, max_operation_cost: usize) -> RateLimit {
        let operation = NonZeroU32::new(max_operation_cost.try_into().unwrap_or(u32::MAX)).unwrap_or(per_second);
        let burst = per_second.max(operation);
        let limiter = DefaultKeyedRateLimiter::keyed(Quota::per_second(per_second).allow_burst(burst));
        RateLimit { limiter, clock: DefaultClock::default(), per_second, burst }
    }

    fn charge(&self, key: &QuotaKey, cost: NonZeroU32) -> Result<(), Refusal> {
        match self.limiter.check_key_n(key, cost.min(self.burst)) {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(not_until)) => Err(Refusal::RateLimited(not_until.wait_time_from(self.clock.now()))),
        }
    }

    /// In which a caller may spend so much.
    fn time_for(&self, cost: NonZeroU32) -> Duration {
        Duration::from_secs(cost.get().into()) / self.per_second.get()
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

    /// As [`Meter::charge`], for work that is done already. Waits for a while until the caller has paid, which cannot pay for anything
    /// else before, also if it does not wait: otherwise it would get the work for nothing.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`]
    pub async fn charge_later(&self, cost: usize) -> Result<(), Refusal> {
        let Err(until) = self.limits.charge_done(&self.key, cost) else { return Ok(()) };
        let wait = until.saturating_duration_since(Instant::now());
        if wait > MAX_DEFERRAL {
            return Err(Refusal::RateLimited(wait));
        }
        sleep(wait).await;
        Ok(())
    }

    /// Charges for a change that is made already, and so must not fail.
    pub fn charge_change(&self, cost: usize) {
        let _ = self.limits.charge_done(&self.key, cost);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_caller_pays_for_work_that_is_done_before_it_pays_for_more() {
        let limits = RateLimits::shared(400, 1_000);
        let meter = Meter::new(limits.clone(), QuotaKey::Subject("a".into()));
        assert!(matches!(meter.charge_later(600).now_or_never(), Some(Ok(()))), "it can pay");
        assert!(meter.charge_later(700).now_or_never().is_none(), "it has to wait, and does not");
        assert!(matches!(meter.charge(1), Err(Refusal::RateLimited(_))));
        assert!(
            matches!(meter.charge_later(2_000).now_or_never(), Some(Err(Refusal::RateLimited(wait))) if wait > MAX_DEFERRAL)
        );
        assert!(matches!(meter.charge(1), Err(Refusal::RateLimited(wait)) if wait > MAX_DEFERRAL));
        let other = Meter::new(limits.clone(), QuotaKey::Subject("b".into()));
        other.charge(1_000).unwrap();
        other.charge_change(400);
        assert!(matches!(other.charge(1), Err(Refusal::RateLimited(_))));
        Meter::new(limits.clone(), QuotaKey::Subject("c".into())).charge(1).unwrap();

        let soon = Meter::new(RateLimits::shared(1_000_000, 1), QuotaKey::Subject("a".into()));
        soon.charge(1_000_000).unwrap();
        assert!(soon.charge_later(5_000).now_or_never().is_none());
        while soon.limits.debt(&soon.key).is_some() {
            std::thread::yield_now();
        }
        soon.limits.remove_idle();
        assert!(soon.limits.debts.read().unwrap().is_empty());
    }

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
