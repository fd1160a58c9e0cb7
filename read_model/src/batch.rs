//! Events of one partition as `apply.lua` takes them, all in one step: what they add to the same sum is added up before.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::Event;
use redis::{Cmd, ToRedisArgs};

use crate::sales::{self, Effects, KeptOrder, Purchase, RECENT};

/// Different events of clients of one partition, each with its index among more. Public for the benchmark of the script.
#[derive(Default)]
pub struct Batch<'a> {
    /// By client and version.
    events: BTreeMap<(i64, i32), (usize, &'a Event)>,
}

impl<'a> Batch<'a> {
    pub fn of(index: usize, event: &'a Event) -> Batch<'a> {
        let mut batch = Batch::default();
        batch.add(index, event);
        batch
    }

    /// Not if it is in it already.
    pub fn add(&mut self, index: usize, event: &'a Event) {
        self.events.entry((event.order.client_id, event.version)).or_insert((index, event));
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn indices(&self) -> impl Iterator<Item = usize> {
        self.events.values().map(|(index, _)| *index)
    }

    /// One of its clients.
    pub fn client(&self) -> i64 {
        self.events.keys().next().map_or(0, |(client, _)| *client)
    }

    /// Whether what it adds to a sum can be said.
    pub fn fits(&self) -> bool {
        self.events.values().try_fold(0i64, |sum, (_, event)| sum.checked_add(event.order.total)).is_some()
    }

    /// Adds the arguments of the script that follow the channel.
    pub fn write(&self, script: &mut Cmd, now: DateTime<Utc>, keep_orders: Duration) {
        let events: Vec<&Event> = self.events.values().map(|(_, event)| *event).collect();
        let clients: Vec<&[&Event]> =
            events.chunk_by(|one, other| one.order.client_id == other.order.client_id).collect();
        script.arg(RECENT).arg(clients.len());
        for events in clients {
            let newest = &events[events.len() - 1].order;
            let last_purchase = events.iter().map(|event| event.time).max();
            let total: i64 = events.iter().map(|event| event.order.total).sum();
            script.arg(newest.client_id).arg(&newest.client_name).arg(&newest.client_email);
            script.arg(milliseconds(last_purchase).unwrap_or(0)).arg(events.len()).arg(total).arg(events.len());
            for event in events {
                script.arg(event.version).arg(Purchase::of(event).to_text());
            }
        }

        let mut effects = Effects::default();
        events.iter().for_each(|event| effects.add(event, now));
        script.arg(effects.counted.len());
        for ((page, cell), counted) in effects.counted {
            script.arg(page).arg(cell).arg(or_none(milliseconds(counted.until)));
            script.arg(counted.sum.revenue).arg(counted.sum.count);
        }
        script.arg(effects.sold.len());
        for ((period, product), sold) in effects.sold {
            script.arg(period).arg(product).arg(sold.count).arg(sold.revenue);
        }

        let kept = events.iter().filter_map(|event| Some((event, sales::kept_until(event, now, keep_orders)?)));
        let kept: Vec<_> = kept.collect();
        script.arg(kept.len());
        for (event, until) in kept {
            let order = KeptOrder { time: event.time, order: event.order.clone() };
            let text = serde_json::to_string(&order).expect("an order always serialises");
            script.arg(order.order.order_id.to_string()).arg(text).arg(until.timestamp_millis());
        }
    }
}

fn milliseconds(time: Option<DateTime<Utc>>) -> Option<i64> {
    time.map(|time| time.timestamp_millis())
}

/// An argument that may be missing, and is '' then.
fn or_none(argument: Option<i64>) -> impl ToRedisArgs {
    argument.map(|argument| argument.to_string()).unwrap_or_default()
}
