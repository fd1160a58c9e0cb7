//! Applying an event to its client.

use std::collections::BTreeSet;

use entity::Event;

use crate::{Applied, Client, Error};

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
        let client = Client { id, name, email, total: 0, order_count: 0, last_purchase: None, version: 0 };
        ProjectedClient { client, newest: 0, ahead: BTreeSet::new() }
    }

    /// Returns whether the event of this version has been applied.
    pub fn has(&self, version: i32) -> bool {
        version <= self.client.version || self.ahead.contains(&version)
    }

    /// Applies an event of this client.
    ///
    /// # Errors
    /// If the client's total would exceed 64 bits; then nothing changes.
    pub fn apply(&mut self, event: &Event) -> Result<Applied, Error> {
        if self.has(event.version) {
            return Ok(Applied::Before);
        }
        let client = &mut self.client;
        if let Some(order) = event.order() {
            client.total = (client.total.checked_add(order.total))
                .ok_or_else(|| Error::Damaged(format!("the total of client {} overflows", client.id)))?;
            client.order_count += 1;
            client.last_purchase = client.last_purchase.max(Some(event.time));
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
