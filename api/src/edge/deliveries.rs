//! Charges each result of a subscription like a query. The subscription itself has paid for the first one.

use futures::stream::{self, BoxStream, Fuse};
use futures::{Stream, StreamExt};
use tokio::time::sleep;

use super::rate_limits::{LEAST_PAUSE, Meter};
use super::refusal::Refusal;

#[derive(Clone)]
pub struct Deliveries {
    meter: Meter,
    cost: usize,
}

struct Paid<T> {
    states: Fuse<BoxStream<'static, T>>,
    deliveries: Deliveries,
    is_first: bool,
}

impl Deliveries {
    /// `cost` is the cost of one result.
    pub fn new(meter: Meter, cost: usize) -> Deliveries {
        Deliveries { meter, cost }
    }

    /// The states that the caller can pay for. While it cannot, states are skipped, and then the newest one follows.
    pub fn paid<T: Send + 'static>(
        self,
        states: impl Stream<Item = T> + Send + 'static,
    ) -> impl Stream<Item = T> + Send {
        let paid = Paid { states: states.boxed().fuse(), deliveries: self, is_first: true };
        stream::unfold(paid, async |mut paid| Some((paid.next().await?, paid)))
    }
}

impl<T> Paid<T> {
    async fn next(&mut self) -> Option<T> {
        let mut newest = self.states.next().await?;
        let is_paid = std::mem::take(&mut self.is_first);
        while !is_paid && let Err(Refusal::RateLimited(wait)) = self.deliveries.meter.charge(self.deliveries.cost) {
            let mut pause = std::pin::pin!(sleep(wait.max(LEAST_PAUSE)));
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(newer) = self.states.next() => newest = newer,
                }
            }
        }
        Some(newest)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::watch;

    use super::*;
    use crate::edge::quota::QuotaKey;
    use crate::edge::rate_limits::RateLimits;

    #[tokio::test]
    async fn a_caller_that_cannot_pay_gets_the_newest_state_later() {
        // Twenty results a second, of which one at once.
        let meter = Meter::new(RateLimits::shared(100, 100), QuotaKey::Subject("tester".into()));
        meter.charge(100).unwrap();
        let (sender, receiver) = watch::channel(0);
        let states = stream::unfold(receiver, async |mut receiver| {
            receiver.changed().await.ok()?;
            let state = *receiver.borrow_and_update();
            Some((state, receiver))
        });
        let mut paid = Box::pin(Deliveries::new(meter, 5).paid(states));
        sender.send(1).unwrap();
        assert_eq!(paid.next().now_or_never(), Some(Some(1)), "the first is free");
        let mut received = Vec::new();
        for state in 2..=100 {
            sender.send(state).unwrap();
            received.extend(paid.next().now_or_never().flatten());
        }
        assert!(received.len() < 10, "{received:?}");
        while received.last() != Some(&100) {
            received.push(paid.next().await.unwrap());
        }
        assert!(received.len() < 20 && received.is_sorted(), "{received:?}");
        drop(sender);
        assert_eq!(paid.next().await, None);
    }
}
