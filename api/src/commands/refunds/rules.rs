//! The rules of cancelling and refunding orders, without I/O.

use std::iter;
use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::{Event, OrderPlaced, Refund, client};
use uuid::Uuid;

use super::{RefundKind, RefundOrder, RefundedOrder};
use crate::commands::{Rejection, both, next_version, valid_name};
use crate::orders::StoredOrder;

/// Refunds of one order, so that reading them is bounded. The cancellation comes on top.
pub const MAX_REFUNDS: usize = 100;

/// Why an order is not cancelled or refunded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RefundRejection {
    OrderNotFound,
    CancelWindowPassed,
    OrderCancelled,
    /// Below one minor unit, or above what is left, in minor units.
    OutOfRange {
        left: i64,
    },
    TooManyRefunds,
    InvalidReason,
}

/// What the rules need to know of an order. Its client is locked, so that nothing of this changes.
#[derive(Clone, Debug)]
pub struct LockedOrder {
    pub order: StoredOrder,
    pub client: client::Model,
    /// The version of the client after the cancellation.
    pub cancelled_version: Option<i32>,
    /// The number of its refunds. Not read if the order is cancelled.
    pub refunds: usize,
    /// The part of each line that is not refunded, in minor units. Not read if the order is cancelled.
    pub left: Vec<i64>,
}

pub enum Decision {
    Accepted(Box<LockedOrder>, Event<Refund>),
    Replayed(RefundedOrder),
    /// Everything that is wrong with the request.
    Rejected(Vec<Rejection>),
}

impl From<RefundRejection> for Rejection {
    fn from(rejection: RefundRejection) -> Rejection {
        Rejection::Refund(rejection)
    }
}

/// The reason of a request, or what is wrong with its reason and its idempotency key.
pub type Reason = Result<String, Vec<Rejection>>;

/// Everything that is wrong with a request for an order that does not exist.
pub fn not_found(reason: Reason) -> Vec<Rejection> {
    iter::once(RefundRejection::OrderNotFound.into()).chain(reason.err().into_iter().flatten()).collect()
}

/// Accepts or rejects a request. `time` is that of the event.
pub fn decide(
    locked: LockedOrder,
    command: &RefundOrder,
    reason: Reason,
    event_id: Uuid,
    time: DateTime<Utc>,
) -> Decision {
    let amount = match (command.kind, locked.cancelled_version) {
        (RefundKind::Cancellation { .. }, Some(client_version)) => {
            return match reason {
                Ok(_) => Decision::Replayed(RefundedOrder { order: locked.order, client_version }),
                Err(invalid) => Decision::Rejected(invalid),
            };
        }
        (RefundKind::Part(_), Some(_)) => Err(RefundRejection::OrderCancelled.into()),
        (RefundKind::Cancellation { window }, None) => locked.amount_of_cancellation(window, time),
        (RefundKind::Part(amount), None) => locked.amount_of_part(amount),
    };
    match both(both(amount, next_version(locked.client.version)), reason) {
        Ok(((amount, version), reason)) => {
            let data = locked.refund(amount, reason);
            Decision::Accepted(Box::new(locked), Event { id: event_id, time, version, data })
        }
        Err(rejections) => Decision::Rejected(rejections),
    }
}

pub fn valid_reason(reason: &str) -> Result<String, Rejection> {
    valid_name(reason).map_err(|_| RefundRejection::InvalidReason.into())
}

/// The time of an event. It is not before the order was placed, even if the clock of the database was corrected since, or is that of
/// another server.
pub fn time_of_event(time: DateTime<Utc>, placed_at: DateTime<Utc>) -> DateTime<Utc> {
    time.max(placed_at)
}

impl LockedOrder {
    pub fn is_of_forgotten_client(&self) -> bool {
        self.client.forgotten_at.is_some()
    }

    fn amount_of_cancellation(&self, window: Option<Duration>, time: DateTime<Utc>) -> Result<i64, Rejection> {
        let age = (time - self.order.placed.time).to_std().unwrap_or_default();
        if window.is_some_and(|window| age > window) {
            return Err(RefundRejection::CancelWindowPassed.into());
        }
        Ok(self.left.iter().sum())
    }

    fn amount_of_part(&self, amount: Option<i64>) -> Result<i64, Rejection> {
        if self.refunds >= MAX_REFUNDS {
            return Err(RefundRejection::TooManyRefunds.into());
        }
        let left = self.left.iter().sum();
        amount.filter(|amount| (1..=left).contains(amount)).ok_or(RefundRejection::OutOfRange { left }.into())
    }

    /// The name and the address are those of the client now, because the newest event of a client determines them. The reason can be
    /// personal data: it is not stored if the client is forgotten.
    fn refund(&self, amount: i64, reason: String) -> Refund {
        let placed = &self.order.placed;
        let order = OrderPlaced {
            client_name: self.client.name.clone(),
            client_email: self.client.email.clone(),
            ..placed.data.clone()
        };
        Refund {
            order,
            placed_at: placed.time,
            placed_version: placed.version,
            reason: Some(reason).filter(|_| !self.is_of_forgotten_client()),
            amount,
            amounts: allocate(amount, &self.left),
        }
    }

    /// The order after an event.
    pub fn after(self, event: &Event<Refund>, cancels: bool) -> StoredOrder {
        let mut order = self.order;
        order.refunded += event.data.amount;
        if cancels {
            order.cancelled_at = Some(event.time);
            order.cancel_reason.clone_from(&event.data.reason);
        }
        order
    }
}

/// Divides an amount among lines in proportion to what is left of each. The rest from rounding goes to the lines with the largest
/// remainders, one minor unit each. No line gets more than is left of it, if the amount is at most the sum.
pub fn allocate(amount: i64, left: &[i64]) -> Vec<i64> {
    let sum: i128 = left.iter().map(|left| i128::from(*left)).sum();
    if sum == 0 {
        return vec![0; left.len()];
    }
    let products: Vec<i128> = left.iter().map(|left| i128::from(amount) * i128::from(*left)).collect();
    // At most `left`, so it fits.
    let mut parts: Vec<i64> = products.iter().map(|product| (product / sum) as i64).collect();
    let mut lines: Vec<usize> = (0..left.len()).collect();
    lines.sort_by_key(|line| -(products[*line] % sum));
    let over = usize::try_from(amount - parts.iter().sum::<i64>()).unwrap_or(0);
    for line in lines.into_iter().take(over) {
        parts[line] += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use entity::Line;
    use proptest::prelude::*;

    use super::*;
    use crate::commands::Origin;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    /// An order of 1 × 100.00 and 2 × 25.00, placed at second 0, of a client that has got another name since.
    fn locked_order() -> LockedOrder {
        let line = |product_id, unit_price, quantity| Line { product_id, name: "TV".into(), unit_price, quantity };
        let data = OrderPlaced {
            client_id: 1,
            client_name: "Bob".into(),
            client_email: "bob@example.com".into(),
            order_id: Uuid::nil(),
            currency: "USD".into(),
            total: 15_000,
            lines: vec![line(1, 10_000, 1), line(2, 2_500, 2)],
        };
        let placed = Event { id: Uuid::nil(), time: at(0), version: 3, data };
        let client = client::Model {
            id: 1,
            name: "Robert".into(),
            email: "r@example.com".into(),
            version: 7,
            forgotten_at: None,
        };
        LockedOrder {
            order: StoredOrder::new(placed),
            client,
            refunds: 0,
            cancelled_version: None,
            left: vec![10_000, 5_000],
        }
    }

    fn command(kind: RefundKind) -> RefundOrder {
        let (reason, origin) = ("damaged".into(), Origin::default());
        RefundOrder { order_id: None, only_client: None, kind, reason, idempotency_key: None, origin }
    }

    fn decide(locked: LockedOrder, command: &RefundOrder, now: DateTime<Utc>) -> Decision {
        let time = time_of_event(now, locked.order.placed.time);
        super::decide(locked, command, valid_reason(&command.reason).map_err(Into::into), Uuid::nil(), time)
    }

    fn of_refund(rejections: Vec<Rejection>) -> Vec<RefundRejection> {
        let of_refund = |rejection| match rejection {
            Rejection::Refund(rejection) => rejection,
            other => panic!("{other:?}"),
        };
        rejections.into_iter().map(of_refund).collect()
    }

    fn rejections(locked: LockedOrder, command: &RefundOrder, now: DateTime<Utc>) -> Vec<RefundRejection> {
        match decide(locked, command, now) {
            Decision::Rejected(rejections) => of_refund(rejections),
            _ => Vec::new(),
        }
    }

    #[test]
    fn a_cancellation_refunds_what_is_left_of_each_line_and_has_the_current_name() {
        let partly = LockedOrder { left: vec![1, 4_000], ..locked_order() };
        let cancellation = command(RefundKind::Cancellation { window: None });
        let Decision::Accepted(locked, event) = decide(partly, &cancellation, at(9)) else {
            panic!("accepted");
        };
        assert_eq!((event.version, event.time), (8, at(9)));
        let Refund { order, placed_at, placed_version, reason, amount, amounts } = &event.data;
        assert_eq!((*placed_at, *placed_version, *amount, amounts), (at(0), 3, 4_001, &vec![1, 4_000]));
        assert_eq!((&*order.client_name, &*order.client_email), ("Robert", "r@example.com"));
        assert_eq!((&order.lines, reason.as_deref()), (&locked.order.placed.data.lines, Some("damaged")));
        let after = locked.after(&event, true);
        assert_eq!((after.cancelled_at, after.refunded), (Some(at(9)), 4_001));
    }

    #[test]
    fn everything_wrong_is_reported_and_a_cancelled_order_is_replayed() {
        use RefundRejection::*;
        let (cancel, part) =
            (|window| command(RefundKind::Cancellation { window }), |amount| command(RefundKind::Part(amount)));
        let with_reason = |reason: &str, command| RefundOrder { reason: reason.into(), ..command };
        assert_eq!(of_refund(not_found(Err(vec![InvalidReason.into()]))), [OrderNotFound, InvalidReason]);
        let out_of_range = OutOfRange { left: 15_000 };
        let unclear = with_reason("a\nb", part(Some(0)));
        assert_eq!(rejections(locked_order(), &unclear, at(0)), [out_of_range, InvalidReason]);
        for (amount, is_valid) in
            [(None, false), (Some(-1), false), (Some(1), true), (Some(15_000), true), (Some(15_001), false)]
        {
            let expected = if is_valid { vec![] } else { vec![out_of_range] };
            assert_eq!(rejections(locked_order(), &part(amount), at(0)), expected, "{amount:?}");
        }
        assert_eq!(rejections(locked_order(), &cancel(Some(HOUR)), at(3_600)), []);
        assert_eq!(rejections(locked_order(), &cancel(Some(HOUR)), at(3_601)), [CancelWindowPassed]);
        assert_eq!(rejections(locked_order(), &part(Some(1)), at(i64::from(i32::MAX))), [], "refunds have no window");
        let full = LockedOrder { refunds: MAX_REFUNDS, ..locked_order() };
        assert_eq!(rejections(full.clone(), &part(Some(1)), at(0)), [TooManyRefunds]);
        assert_eq!(rejections(full, &cancel(None), at(0)), []);
        let mut last = locked_order();
        last.client.version = i32::MAX;
        let limit = [Rejection::VersionLimitReached];
        assert!(matches!(decide(last, &cancel(None), at(0)), Decision::Rejected(found) if found == limit));

        let cancelled = LockedOrder { cancelled_version: Some(5), ..locked_order() };
        assert_eq!(rejections(cancelled.clone(), &part(Some(1)), at(0)), [OrderCancelled]);
        assert_eq!(rejections(cancelled.clone(), &with_reason(" ", cancel(None)), at(0)), [InvalidReason]);
        let Decision::Replayed(refunded) = decide(cancelled, &cancel(Some(HOUR)), at(7_200)) else {
            panic!("replayed");
        };
        assert_eq!(refunded.client_version, 5);
    }

    #[test]
    fn no_time_is_before_the_order() {
        let Decision::Accepted(_, event) = decide(locked_order(), &command(RefundKind::Part(Some(1))), at(-5)) else {
            panic!("accepted");
        };
        assert_eq!(event.time, at(0));
    }

    #[test]
    fn rounding_goes_to_the_largest_remainders() {
        assert_eq!(allocate(100, &[1, 1, 1]), [34, 33, 33]);
        assert_eq!(allocate(10, &[10, 5, 0]), [7, 3, 0]);
        assert_eq!(allocate(1, &[1, 2, 2]), [0, 1, 0]);
        assert_eq!(allocate(0, &[0, 0]), [0, 0]);
    }

    proptest! {
        #[test]
        fn an_allocation_has_the_exact_sum_and_gives_no_line_more_than_is_left_of_it(
            left in prop::collection::vec(prop_oneof![0..5i64, 0..1_000_000_000_000i64], 1..100),
            share in 0.0..=1.0f64,
        ) {
            let sum: i64 = left.iter().sum();
            let amount = ((sum as f64 * share) as i64).min(sum);
            for amount in [amount, 0, sum, sum.min(1)] {
                let parts = allocate(amount, &left);
                prop_assert_eq!(parts.iter().sum::<i64>(), amount);
                for (part, left) in parts.iter().zip(&left) {
                    prop_assert!((0..=*left).contains(part));
                    let exact = i128::from(amount) * i128::from(*left);
                    prop_assert!((i128::from(*part) * i128::from(sum) - exact).abs() < i128::from(sum.max(1)));
                }
            }
        }
    }
}
