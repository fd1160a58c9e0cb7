//! The read model in memory: what the standalone service uses, and the specification of what Redis must do.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use entity::Event;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::broadcast;

use crate::{Applied, Client, Error, ReadModel};

/// Changes that a reader of [`ReadModel::changes`] may be behind.
const BACKLOG: usize = 1024;

pub struct Memory {
    clients: Mutex<HashMap<i64, Projected>>,
    changed: broadcast::Sender<i64>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { clients: Mutex::default(), changed: broadcast::Sender::new(BACKLOG) }
    }
}

/// A client with what projecting needs to know besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projected {
    pub client: Client,
    /// The largest version applied: name, e-mail and last purchase are from it.
    pub newest: i32,
    /// Versions applied above the watermark, where there is a gap. Empty as soon as the gap closes.
    pub ahead: BTreeSet<i32>,
}

impl Projected {
    /// A client of which no event has been applied.
    pub fn new(id: i64) -> Projected {
        let (name, email) = Default::default();
        let client = Client { id, name, email, total: 0, order_count: 0, last_purchase: None, version: 0 };
        Projected { client, newest: 0, ahead: BTreeSet::new() }
    }

    /// Whether the event of this version has been applied.
    pub fn has(&self, version: i32) -> bool {
        version <= self.client.version || self.ahead.contains(&version)
    }

    /// The rules. `apply.lua` says the same.
    pub fn apply(&mut self, event: &Event) -> Result<Applied, Error> {
        if self.has(event.version) {
            return Ok(Applied::Before);
        }
        let client = &mut self.client;
        client.total = (client.total.checked_add(event.order.total))
            .ok_or_else(|| Error::Damaged(format!("the total of client {} overflows", client.id)))?;
        client.order_count += 1;
        if event.version > self.newest {
            self.newest = event.version;
            client.name.clone_from(&event.order.client_name);
            client.email.clone_from(&event.order.client_email);
            client.last_purchase = Some(event.time);
        }
        self.ahead.insert(event.version);
        while self.ahead.remove(&(client.version + 1)) {
            client.version += 1;
        }
        Ok(Applied::Now)
    }
}

#[async_trait::async_trait]
impl ReadModel for Memory {
    async fn apply(&self, events: &[Event]) -> Vec<Result<Applied, Error>> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let apply = |event: &Event| {
            let id = event.order.client_id;
            let applied = clients.entry(id).or_insert_with(|| Projected::new(id)).apply(event);
            if let Ok(Applied::Now) = applied {
                let _ = self.changed.send(id); // where nobody listens, nobody needs to know
            }
            applied
        };
        events.iter().map(apply).collect()
    }

    async fn clients(&self, ids: &[i64]) -> Result<Vec<Option<Client>>, Error> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(ids.iter().map(|id| clients.get(id).map(|projected| projected.client.clone())).collect())
    }

    async fn changes(&self) -> Result<BoxStream<'static, i64>, Error> {
        let next = async |mut changed: broadcast::Receiver<i64>| changed.recv().await.ok().map(|id| (id, changed));
        Ok(stream::unfold(self.changed.subscribe(), next).boxed())
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}
