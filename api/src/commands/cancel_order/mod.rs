//! Cancelling orders, and refunding parts of them: the rules without I/O ([`rules`]), the statements ([`sql`]), and the transaction
//! around both (here).

pub mod rules;
mod sql;

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use entity::{Change, Event, Refund, Subject};
use uuid::Uuid;

use super::database::begin;
use super::idempotency::{self, Done, Scope};
use super::{Commands, Origin, Outcome, both, id_at};
use crate::orders::StoredOrder;
use rules::Decision;

/// A request to take back an order or a part of it.
#[derive(Clone, Debug)]
pub struct RefundOrder {
    /// `None` names no order.
    pub order_id: Option<Uuid>,
    /// Only an order of this client.
    pub only_client: Option<i64>,
    pub extent: Extent,
    pub reason: String,
    pub idempotency_key: Option<String>,
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// Cancels the order: takes back all that is left.
    Rest {
        /// How long after it was placed the order can be cancelled, by the clock of this process.
        window: Option<Duration>,
    },
    /// Refunds this amount in minor units. `None` is not a valid amount.
    Part(Option<i64>),
}

/// An order from which something was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refunded {
    pub order: StoredOrder,
    /// The version of the client after it.
    pub client_version: i32,
}

impl RefundOrder {
    fn name(&self) -> &'static str {
        match self.extent {
            Extent::Rest { .. } => "cancelOrder",
            Extent::Part(_) => "refundOrder",
        }
    }

    /// Whether an earlier request of the same name was for the same.
    fn is_for(&self, refund: &Refund) -> bool {
        let is_same = match self.extent {
            // Whatever its reason: without a key it is repeated, too.
            Extent::Rest { .. } => true,
            // The reason is not stored if the client is forgotten.
            Extent::Part(amount) => {
                amount == Some(refund.amount)
                    && refund.reason.as_ref().is_none_or(|reason| reason == self.reason.trim())
            }
        };
        is_same && self.order_id == Some(refund.order.order_id)
    }
}

impl Commands {
    /// Takes back an order or a part of it in one transaction. The client is locked first, as for its orders: so its versions have
    /// no gap, an order is cancelled once, and no more is taken back than is left. To cancel a cancelled order again is a repeated
    /// request, also without a key.
    pub async fn refund_order(&self, command: &RefundOrder) -> Outcome<Done<Refunded>> {
        self.refund_order_at(command, Utc::now()).await
    }

    /// As [`Commands::refund_order`], at this time.
    pub async fn refund_order_at(&self, command: &RefundOrder, time: DateTime<Utc>) -> Outcome<Done<Refunded>> {
        let transaction = begin(&self.db).await?;
        let book = sql::open_book(&transaction, self.currency, command).await?;
        let subject = Subject::Client(book.as_ref().map_or(0, |book| book.client.id));
        let key = idempotency::key(&Scope::Of(subject), command.idempotency_key.as_deref(), command.name());
        let (reason, key) = match both(rules::valid_reason(&command.reason), key) {
            Ok((reason, key)) => (Ok(reason), key),
            Err(invalid) => (Err(invalid), None),
        };
        let Some(book) = book else { return Ok(Err(rules::not_found(reason))) };
        let time = book.time(time.trunc_subsecs(3));
        let event_id = id_at(time);
        if let Some(earlier) = self.claim(&transaction, &key, event_id).await? {
            return Ok(earlier.replay(|event| refunded_by(event, command, book.order)));
        }
        let (book, event) = match rules::decide(book, command, reason, event_id, time) {
            Decision::Accepted(book, event) => (book, event),
            Decision::Replayed(row) => {
                self.claim_unchanged(&transaction, &key, subject, row.client_version).await?;
                transaction.commit().await?;
                return Ok(Ok(Done { row, replayed: true }));
            }
            Decision::Rejected(rejections) => return Ok(Err(rejections)),
        };
        let cancels = matches!(command.extent, Extent::Rest { .. });
        let origin = command.origin.clone();
        let origin = if book.is_of_forgotten_client() { origin.without_client() } else { origin };
        let row = sql::write(&transaction, &event, cancels, origin).await?;
        self.commit(transaction, row).await?;
        Ok(Ok(Done::now(Refunded { order: book.after(&event, cancels), client_version: event.version })))
    }
}

/// The result of the earlier request with this event, if it was for the same.
fn refunded_by(event: &Event, command: &RefundOrder, order: StoredOrder) -> Option<Refunded> {
    let (Change::OrderCancelled(refund) | Change::OrderRefunded(refund)) = &event.data else { return None };
    command.is_for(refund).then_some(Refunded { order, client_version: event.version })
}
