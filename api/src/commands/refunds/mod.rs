//! Cancelling orders, and refunding parts of them: the rules without I/O ([`rules`]), the statements ([`sql`]), and the transaction
//! around both (here).

pub mod rules;
mod sql;

use std::time::Duration;

use entity::{Change, Event, Refund, Subject};
use sea_orm::DbErr;
use uuid::Uuid;

use super::clock::Timed;
use super::database::begin;
use super::idempotency::{self, Done, REFUND_ORDER, Scope};
use super::{Commands, Origin, Outcome, both, id_at};
use crate::orders::{self, StoredOrder};
use rules::Decision;
use sql::FoundOrder;

/// A request to cancel an order or to refund a part of it.
#[derive(Clone, Debug)]
pub struct RefundOrder {
    /// `None` names no order.
    pub order_id: Option<Uuid>,
    /// Only an order of this client.
    pub only_client: Option<i64>,
    pub kind: RefundKind,
    pub reason: String,
    pub idempotency_key: Option<String>,
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug)]
pub enum RefundKind {
    /// Cancels the order: refunds all that is left of it.
    Cancellation {
        /// How long after it was placed the order can be cancelled, by the clock of the database.
        window: Option<Duration>,
    },
    /// Refunds an amount in minor units. `None` is not a valid amount.
    Part(Option<i64>),
}

/// An order after its cancellation or refund.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefundedOrder {
    pub order: StoredOrder,
    /// The version of the client after the cancellation or refund.
    pub client_version: i32,
}

impl RefundOrder {
    fn name(&self) -> &'static str {
        match self.kind {
            RefundKind::Cancellation { .. } => "cancelOrder",
            RefundKind::Part(_) => REFUND_ORDER,
        }
    }

    /// What makes a repeated request the same: the order, the amount, and the reason of a refund.
    fn input(&self) -> (Option<Uuid>, Option<i64>, Option<&str>) {
        match self.kind {
            // Whatever its reason: without a key it is repeated, too.
            RefundKind::Cancellation { .. } => (self.order_id, None, None),
            RefundKind::Part(amount) => (self.order_id, amount, Some(self.reason.trim())),
        }
    }

    /// Whether an earlier request of the same name, whose input is not stored, was for the same.
    fn is_for(&self, refund: &Refund) -> bool {
        let is_same = match self.kind {
            // Whatever its reason: without a key it is repeated, too.
            RefundKind::Cancellation { .. } => true,
            // The reason is not stored if the client is forgotten.
            RefundKind::Part(amount) => {
                amount == Some(refund.amount)
                    && refund.reason.as_ref().is_none_or(|reason| reason == self.reason.trim())
            }
        };
        is_same && self.order_id == Some(refund.order.order_id)
    }
}

impl Commands {
    /// Cancels an order or refunds a part of it in one transaction. The client is locked first, as for its orders: so its versions
    /// have no gap, an order is cancelled once, and no more is refunded than its total. To cancel a cancelled order again is a
    /// repeated request, also without a key.
    pub async fn refund_order(&self, command: &RefundOrder) -> Outcome<Done<RefundedOrder>> {
        let found = self.find_order(command).await?;
        let subject = Subject::Client(found.as_ref().map_or(0, |order| order.client));
        let key = idempotency::key(&Scope::Of(subject), command.idempotency_key.as_deref(), command.name());
        let (reason, key) = match both(rules::valid_reason(&command.reason), key) {
            Ok((reason, key)) => (Ok(reason), key),
            Err(invalid) => (Err(invalid), None),
        };
        let Some(FoundOrder { id, client, placed_at }) = found else { return Ok(Err(rules::not_found(reason))) };
        let _turn = self.turn(&subject).await;
        let transaction = begin(&self.db).await?;
        let Some(Timed { row: client, time: now }) = sql::lock_client(&transaction, client).await? else {
            return Ok(Err(rules::not_found(reason)));
        };
        let time = rules::time_of_event(now, placed_at);
        let event_id = id_at(time);
        // Before anything is read that grows with the refunds of the order.
        let earlier = self.claim(&transaction, &key, &command.input(), event_id).await?;
        let replayed = earlier.map(|earlier| earlier.replay(refund_by, |(refund, _)| command.is_for(refund)));
        let replayed = match replayed.transpose() {
            Ok(replayed) => replayed,
            Err(rejections) => return Ok(Err(rejections)),
        };
        let Some(order) = orders::order(&transaction, id, self.currency).await? else {
            return Ok(Err(rules::not_found(reason)));
        };
        if let Some(done) = replayed {
            return Ok(Ok(done.map(|(_, client_version)| RefundedOrder { order, client_version })));
        }
        let locked = sql::with_refunds(&transaction, order, client).await?;
        let (locked, event) = match rules::decide(locked, command, reason, event_id, time) {
            Decision::Accepted(locked, event) => (locked, event),
            Decision::Replayed(row) => {
                self.claim_unchanged(&transaction, &key, subject, row.client_version).await?;
                transaction.commit().await?;
                return Ok(Ok(Done { row, replayed: true }));
            }
            Decision::Rejected(rejections) => return Ok(Err(rejections)),
        };
        let cancels = matches!(command.kind, RefundKind::Cancellation { .. });
        let origin = command.origin.clone();
        let origin = if locked.is_of_forgotten_client() { origin.without_client() } else { origin };
        let row = sql::write(&transaction, &event, cancels, origin).await?;
        self.commit(transaction, row).await?;
        Ok(Ok(Done::now(RefundedOrder { order: locked.after(&event, cancels), client_version: event.version })))
    }

    async fn find_order(&self, command: &RefundOrder) -> Result<Option<FoundOrder>, DbErr> {
        let _connection = self.connections.acquire().await;
        sql::find_order(&self.db, command).await
    }
}

/// The refund or cancellation of an event, and the version of the client after it.
fn refund_by(event: &Event) -> Option<(Refund, i32)> {
    match &event.data {
        Change::OrderCancelled(refund) | Change::OrderRefunded(refund) => Some((refund.clone(), event.version)),
        _ => None,
    }
}
