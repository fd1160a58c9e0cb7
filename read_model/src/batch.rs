//! Events of one partition as `apply.lua` takes them, all in one step: what they add to the same sum is added up before.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::Event;
use redis::{Cmd, ToRedisArgs};

use crate::sales::{self, Effects, OrderSummary, RECENT_ORDERS, StoredOrder};

/// Different events of clients of one partition, each with its index among more. Public for the benchmark of the script.
#[derive(Default)]
pub struct Batch<'a> {
    /// By client and version.
    events: BTreeMap<(i64, i32), (usize, &'a Event)>,
}

impl<'a> Batch<'a> {
    pub fn of(index: usize, client: i64, event: &'a Event) -> Batch<'a> {
        Batch { events: BTreeMap::from([((client, event.version), (index, event))]) }
    }

    /// Returns the index under which it is in it: another one where it is repeated.
    pub fn add(&mut self, index: usize, client: i64, event: &'a Event) -> usize {
        self.events.entry((client, event.version)).or_insert((index, event)).0
    }

    pub fn has_several(&self) -> bool {
        self.events.len() > 1
    }

    /// The index of each event, and its client.
    pub fn indices(&self) -> impl Iterator<Item = (usize, i64)> {
        self.events.iter().map(|((client, _), (index, _))| (*index, *client))
    }

    /// One of its clients.
    pub fn client(&self) -> i64 {
        self.events.keys().next().map_or(0, |(client, _)| *client)
    }

    /// Whether what it adds to a sum can be said.
    pub fn fits(&self) -> bool {
        let orders = self.events.values().filter_map(|(_, event)| event.order());
        orders.map(|order| order.total).try_fold(0i64, i64::checked_add).is_some()
    }

    /// Adds the arguments of the script that follow the channel.
    pub fn write(&self, script: &mut Cmd, now: DateTime<Utc>, keep_orders: Duration) {
        let events: Vec<_> = self.events.iter().map(|((client, _), (_, event))| (*client, *event)).collect();
        let clients: Vec<_> = events.chunk_by(|(one, _), (other, _)| one == other).collect();
        script.arg(RECENT_ORDERS).arg(clients.len());
        for events in clients {
            let (id, newest) = events[events.len() - 1];
            let (name, email) = newest.client().map_or(("", ""), |client| (client.name, client.email));
            script.arg(id).arg(name).arg(email);
            let orders = events.iter().filter_map(|(_, event)| Some((event.time, event.order()?.total)));
            let last_purchase = orders.clone().map(|(time, _)| time).max();
            script.arg(milliseconds(last_purchase).unwrap_or(0)).arg(orders.clone().count());
            script.arg(orders.map(|(_, total)| total).sum::<i64>()).arg(events.len());
            for (_, event) in events {
                let listed = event.order().map(|order| OrderSummary::of(order, event.time).to_text());
                script.arg(event.version).arg(listed.unwrap_or_default());
            }
        }

        let orders = events.iter().filter_map(|(_, event)| Some((event.order()?, event.time)));
        let mut effects = Effects::default();
        orders.clone().for_each(|(order, time)| effects.add(order, time, now));
        script.arg(effects.counted.len());
        for ((page, cell), counted) in effects.counted {
            // Each is two numbers of 64 bits.
            script.arg(page).arg(format!("#{}", 2 * cell)).arg(format!("#{}", 2 * cell + 1));
            script.arg(or_none(milliseconds(counted.until))).arg(counted.sum.revenue).arg(counted.sum.count);
        }
        script.arg(effects.sold.len());
        for ((period, product), sold) in effects.sold {
            script.arg(period).arg(product).arg(sold.count).arg(sold.revenue);
        }

        let kept = orders.filter_map(|(order, time)| Some((order, time, sales::kept_until(time, now, keep_orders)?)));
        let kept: Vec<_> = kept.collect();
        script.arg(kept.len());
        for (order, time, until) in kept {
            let text = serde_json::to_string(&StoredOrder { time, order: order.clone() });
            let text = text.expect("an order always serialises");
            script.arg(order.order_id.to_string()).arg(text).arg(until.timestamp_millis());
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
