//! Cancelling orders, and refunding parts of them: the rules without I/O ([`rules`]), the statements ([`sql`]), and the transaction
//! around both (here).

pub mod rules;
mod sql;

use std::time::Duration;

use chrono::{SubsecRound, Utc};
use uuid::Uuid;

use super::database::begin;
use super::{Commands, Origin, Outcome};
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
    /// The order had been cancelled before; nothing was written now.
    pub replayed: bool,
}

impl Commands {
    /// Takes back an order or a part of it in one transaction. The client is locked first, as for its orders: so its versions have
    /// no gap, an order is cancelled once, and no more is taken back than is left.
    pub async fn refund_order(&self, command: &RefundOrder) -> Outcome<Refunded> {
        let transaction = begin(&self.db).await?;
        let book = sql::open_book(&transaction, self.currency, command).await?;
        let (book, event) = match rules::decide(book, command, Utc::now().trunc_subsecs(3)) {
            Decision::Accepted(book, event) => (book, event),
            Decision::Replayed(refunded) => return Ok(Ok(refunded)),
            Decision::Rejected(rejections) => return Ok(Err(rejections)),
        };
        let cancels = matches!(command.extent, Extent::Rest { .. });
        let row = sql::write(&transaction, &event, cancels, command.origin.clone()).await?;
        self.commit(transaction, row).await?;
        Ok(Ok(Refunded { order: book.after(&event, cancels), client_version: event.version, replayed: false }))
    }
}
