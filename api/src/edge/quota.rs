//! How much one caller may use at once: concurrent operations, streams, connections, and memory for bodies and responses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::refusal::Refusal;

/// The owner of a quota: the subject of the token, or the address of a caller without token.
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

/// How long a request or an operation waits for memory.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Bounds how much of something is in use at once: in total, and per caller. A caller that has more than a share of what is left
/// for everyone gets no more, so callers with many operations cannot shut out a caller with few.
pub struct ConcurrencyQuota {
    total: usize,
    per_caller: usize,
    /// The share: 1 for all that is left, 8 for an eighth of it.
    share: usize,
    /// Units that are left for callers that have none.
    reserve: usize,
    used: Mutex<Used>,
    /// Signalled when units are given back.
    freed: Notify,
}

#[derive(Default)]
struct Used {
    total: usize,
    by_caller: HashMap<QuotaKey, usize>,
}

/// Counts as in use until it is dropped.
pub struct Permit {
    quota: Arc<ConcurrencyQuota>,
    key: QuotaKey,
    units: usize,
}

impl ConcurrencyQuota {
    pub fn new(total: usize, per_caller: usize) -> Arc<ConcurrencyQuota> {
        ConcurrencyQuota::with_share(total, per_caller, 1, 0)
    }

    /// For units that a caller may keep for long. A caller that has more than its share of what is left gets no more. The share is an
    /// eighth, and larger if the total is below 16 times `largest`. The last `largest` units are for callers that have none.
    pub fn lasting(total: usize, largest: usize) -> Arc<ConcurrencyQuota> {
        let share = (total / largest.max(1) / 2).clamp(1, 8);
        ConcurrencyQuota::with_share(total, usize::MAX, share, largest)
    }

    fn with_share(total: usize, per_caller: usize, share: usize, reserve: usize) -> Arc<ConcurrencyQuota> {
        let (used, freed) = (Mutex::default(), Notify::new());
        Arc::new(ConcurrencyQuota { total, per_caller, share, reserve, used, freed })
    }

    /// # Errors
    /// [`Refusal::Busy`] or [`Refusal::OverQuota`]
    pub fn acquire(self: &Arc<Self>, key: QuotaKey) -> Result<Permit, Refusal> {
        self.acquire_units(key, 1)
    }

    /// # Errors
    /// [`Refusal::Busy`] or [`Refusal::OverQuota`]
    pub fn acquire_units(self: &Arc<Self>, key: QuotaKey, units: usize) -> Result<Permit, Refusal> {
        let mut used = self.used();
        self.check_room(&used, &key, units)?;
        used.add(&key, units);
        Ok(Permit { quota: self.clone(), key, units })
    }

    /// Waits at most [`MAX_WAIT`] until there is room for the units.
    ///
    /// # Errors
    /// [`Refusal::Busy`] or [`Refusal::OverQuota`]
    pub async fn wait_for_units(self: &Arc<Self>, key: QuotaKey, units: usize) -> Result<Permit, Refusal> {
        let acquired = async {
            loop {
                let freed = self.freed.notified();
                if let Ok(permit) = self.acquire_units(key.clone(), units) {
                    return permit;
                }
                freed.await;
            }
        };
        timeout(MAX_WAIT, acquired).await.map_err(|_| self.refusal(&self.used(), units))
    }

    fn give_back(&self, key: &QuotaKey, units: usize) {
        self.used().remove(key, units);
        self.freed.notify_waiters();
    }

    fn check_room(&self, used: &Used, key: &QuotaKey, units: usize) -> Result<(), Refusal> {
        let free = self.total.saturating_sub(used.total);
        let of_caller = used.by_caller.get(key).copied().unwrap_or(0);
        let is_first = of_caller == 0 && units <= free;
        let is_fair = of_caller <= free / self.share && units.saturating_add(self.reserve) <= free;
        let has_room = (is_first || is_fair) && of_caller.saturating_add(units) <= self.per_caller;
        if has_room { Ok(()) } else { Err(self.refusal(used, units)) }
    }

    /// Whether there is room for other callers decides who is to blame.
    fn refusal(&self, used: &Used, units: usize) -> Refusal {
        if units <= self.total.saturating_sub(used.total) { Refusal::OverQuota } else { Refusal::Busy }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    fn add(&mut self, key: &QuotaKey, units: usize) {
        self.total += units;
        *self.by_caller.entry(key.clone()).or_default() += units;
    }

    fn remove(&mut self, key: &QuotaKey, units: usize) {
        self.total -= units;
        if let Some(of_caller) = self.by_caller.get_mut(key) {
            *of_caller -= units;
            if *of_caller == 0 {
                self.by_caller.remove(key);
            }
        }
    }
}

impl Permit {
    pub fn units(&self) -> usize {
        self.units
    }

    /// Counts for another caller from now on.
    ///
    /// # Errors
    /// [`Refusal::Busy`] or [`Refusal::OverQuota`]
    pub fn move_to(&mut self, key: QuotaKey) -> Result<(), Refusal> {
        let mut used = self.quota.used();
        used.remove(&self.key, self.units);
        let checked = self.quota.check_room(&used, &key, self.units);
        if checked.is_ok() {
            self.key = key;
        }
        used.add(&self.key, self.units);
        checked
    }

    /// Gives back all but this many units.
    pub fn shrink_to(&mut self, units: usize) {
        let unused = self.units.saturating_sub(units);
        self.quota.give_back(&self.key, unused);
        self.units -= unused;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.quota.give_back(&self.key, self.units);
    }
}

/// A semaphore for each caller.
pub struct CallerSemaphores {
    permits: usize,
    by_caller: Mutex<HashMap<QuotaKey, Weak<Semaphore>>>,
}

impl CallerSemaphores {
    pub fn new(permits: usize) -> CallerSemaphores {
        CallerSemaphores { permits, by_caller: Mutex::default() }
    }

    pub fn of(&self, caller: &QuotaKey) -> Arc<Semaphore> {
        let mut by_caller = self.by_caller();
        if let Some(known) = by_caller.get(caller).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Semaphore::new(self.permits));
        by_caller.insert(caller.clone(), Arc::downgrade(&new));
        new
    }

    /// Frees the memory of callers that use none.
    pub fn remove_idle(&self) {
        self.by_caller().retain(|_, semaphore| semaphore.strong_count() > 0);
    }

    fn by_caller(&self) -> MutexGuard<'_, HashMap<QuotaKey, Weak<Semaphore>>> {
        self.by_caller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.by_caller().len()
    }
}

/// Counts an operation from the end of its wait on.
pub struct AfterWait {
    quota: Arc<ConcurrencyQuota>,
    key: QuotaKey,
    permit: OnceLock<Permit>,
}

impl AfterWait {
    pub fn new(quota: Arc<ConcurrencyQuota>, key: QuotaKey) -> AfterWait {
        AfterWait { quota, key, permit: OnceLock::new() }
    }

    /// Called at the end of each of its waits.
    ///
    /// # Errors
    /// [`Refusal::Busy`] or [`Refusal::OverQuota`]
    pub fn begin(&self) -> Result<(), Refusal> {
        if self.permit.get().is_none() {
            // Another wait may end at the same time. Then one of the permits is given back.
            let _ = self.permit.set(self.quota.acquire(self.key.clone())?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> QuotaKey {
        QuotaKey::Subject(name.into())
    }

    #[test]
    fn callers_with_many_operations_cannot_shut_out_a_caller_with_few() {
        let quota = ConcurrencyQuota::new(512, 128);
        let mut held = Vec::new();
        let greedy = ["a", "b", "c", "d"];
        for _ in 0..512 {
            held.extend(greedy.iter().filter_map(|name| quota.acquire(key(name)).ok()));
        }
        assert!(held.len() > 400, "{} of 512 are used", held.len());
        assert!(quota.acquire(key("a")).is_err());
        let few: Vec<_> = (0..90).map(|_| quota.acquire(key("e"))).collect();
        assert_eq!(few.iter().filter(|permit| permit.is_ok()).count(), 51, "half of what was left");
        drop((held, few));
        assert_eq!(quota.used().total, 0);
        assert!(quota.used().by_caller.is_empty());
    }

    #[test]
    fn a_caller_with_none_gets_the_largest_number_of_units() {
        let quota = ConcurrencyQuota::lasting(128, 8);
        let mut held = Vec::new();
        for n in 0..12 {
            let greedy = key(&n.to_string());
            held.push(quota.acquire_units(greedy.clone(), 8).unwrap());
            while let Ok(more) = quota.acquire_units(greedy.clone(), 1) {
                held.push(more);
            }
        }
        let of_first = quota.used().by_caller[&key("0")];
        assert!((8..=16).contains(&of_first), "one caller gets {of_first} of 128");
        let of_larger = ConcurrencyQuota::lasting(1_280, 8);
        let greedy: Vec<_> = std::iter::from_fn(|| of_larger.acquire_units(key("a"), 8).ok()).collect();
        assert!((15..=20).contains(&greedy.len()), "a larger total allows a caller more: {}", greedy.len());
        let small = ConcurrencyQuota::lasting(16, 8);
        let _one = small.acquire_units(key("a"), 8).unwrap();
        assert!(matches!(small.acquire_units(key("a"), 1), Err(Refusal::OverQuota)), "others have room");
        let _other = small.acquire_units(key("b"), 8).unwrap();
        assert!(matches!(small.acquire_units(key("c"), 1), Err(Refusal::Busy)), "nobody has room");
    }

    #[test]
    fn units_are_given_back_and_move_to_another_caller() {
        let quota = ConcurrencyQuota::new(100, usize::MAX);
        let mut permit = quota.acquire_units(key("a"), 80).unwrap();
        assert!(quota.acquire_units(key("b"), 30).is_err(), "only 20 are left");
        permit.shrink_to(40);
        let other = quota.acquire_units(key("b"), 30).unwrap();
        assert!(quota.acquire_units(key("a"), 1).is_err(), "the caller has 40, and only 30 are left");
        permit.shrink_to(20);
        permit.move_to(key("b")).unwrap();
        assert_eq!(quota.used().by_caller, HashMap::from([(key("b"), 50)]));
        drop((permit, other));
        assert_eq!(quota.used().total, 0);
    }
}
