//! Applying an event to its client.

use std::collections::BTreeSet;

use entity::Event;

use super::sales::{Sales, Side, contribution};
use crate::{Applied, Client, Error, Sum};

/// A client, with the versions that applying its next event needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectedClient {
    pub client: Client,
    /// The largest applied version: name and e-mail come from it.
    pub newest: i32,
    /// The applied versions above the watermark, while there is a gap. Empty as soon as the gap closes.
    pub ahead: BTreeSet<i32>,
}

impl ProjectedClient {
    /// A client without events.
    pub fn new(id: i64) -> ProjectedClient {
        let (name, email) = Default::default();
        let cancelled = Sum::default();
        let client = Client { id, name, email, total: 0, order_count: 0, cancelled, last_purchase: None, version: 0 };
        ProjectedClient { client, newest: 0, ahead: BTreeSet::new() }
    }

    /// Returns whether the event of this version has been applied.
    pub fn has(&self, version: i32) -> bool {
        version <= self.client.version || self.ahead.contains(&version)
    }

    /// Applies an event of this client.
    ///
    /// # Errors
    /// If one of the client's amounts would exceed 64 bits; then nothing changes.
    pub fn apply(&mut self, event: &Event) -> Result<Applied, Error> {
        if self.has(event.version) {
            return Ok(Applied::Before);
        }
        let client = &mut self.client;
        if let Some((side, sum)) = contribution(event) {
            let Sales { gross, cancelled } = client.sales();
            let before = if side == Side::Gross { gross } else { cancelled };
            let revenue = (before.revenue.checked_add(sum.revenue))
                .ok_or_else(|| Error::Damaged(format!("the total of client {} overflows", client.id)))?;
            let after = Sum { count: before.count + sum.count, revenue };
            match side {
                Side::Gross => {
                    (client.order_count, client.total) = (after.count, after.revenue);
                    client.last_purchase = client.last_purchase.max(Some(event.time));
                }
                Side::Cancelled => client.cancelled = after,
            }
        }
        if let Some(details) = event.client().filter(|_| event.version > self.newest) {
            self.newest = event.version;
            details.name.clone_into(&mut client.name);
            details.email.clone_into(&mut client.email);
        }
        self.ahead.insert(event.version);
        while self.ahead.remove(&(client.version + 1)) {
            client.version += 1;
        }
        Ok(Applied::Now)
    }
}
