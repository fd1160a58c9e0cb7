//! The arguments of `apply.lua` for events of one partition. What they add to the same sum is added up first.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use entity::Event;
use redis::{Cmd, ToRedisArgs};

use crate::rules::recent_orders::RECENT_ORDERS;
use crate::rules::sales::{SalesDelta, contribution};
use crate::{OrderSummary, Sales};

/// Different events of clients of one partition, each with its index in a longer list. Public for the benchmark of the script.
#[derive(Default)]
pub struct Batch<'a> {
    /// By client and version.
    events: BTreeMap<(i64, i32), (usize, &'a Event)>,
}

impl<'a> Batch<'a> {
    /// A batch of one event.
    pub(super) fn of(index: usize, client: i64, event: &'a Event) -> Batch<'a> {
        Batch { events: BTreeMap::from([((client, event.version), (index, event))]) }
    }

    /// Adds an event, and returns its index: the first one if the event is repeated.
    pub fn add(&mut self, index: usize, client: i64, event: &'a Event) -> usize {
        self.events.entry((client, event.version)).or_insert((index, event)).0
    }

    pub(super) fn has_several(&self) -> bool {
        self.events.len() > 1
    }

    /// Returns the index and the client of each event.
    pub(super) fn indices(&self) -> impl Iterator<Item = (usize, i64)> {
        self.events.iter().map(|((client, _), (index, _))| (*index, *client))
    }

    /// Returns one of the clients.
    pub(super) fn client(&self) -> i64 {
        self.events.keys().next().map_or(0, |(client, _)| *client)
    }

    /// Returns whether the sum of its amounts fits into 64 bits.
    pub(super) fn fits(&self) -> bool {
        let sums = self.events.values().filter_map(|(_, event)| contribution(event));
        sums.map(|(_, sum)| sum.revenue).try_fold(0i64, i64::checked_add).is_some()
    }

    /// Appends the arguments of the script that follow the channel.
    pub fn write(&self, script: &mut Cmd, now: DateTime<Utc>) {
        let events: Vec<_> = self.events.iter().map(|((client, _), (_, event))| (*client, *event)).collect();
        let clients: Vec<_> = events.chunk_by(|(one, _), (other, _)| one == other).collect();
        let ids: Vec<String> = clients.iter().map(|events| events[0].0.to_string()).collect();
        script.arg(RECENT_ORDERS).arg(ids.join(" ")).arg(clients.len());
        for events in clients {
            let (id, newest) = events[events.len() - 1];
            let (name, email) = newest.client().map_or(("", ""), |client| (client.name, client.email));
            script.arg(id).arg(name).arg(email);
            let orders = events.iter().filter(|(_, event)| event.order().is_some());
            let last_purchase = orders.map(|(_, event)| event.time).max();
            let mut sales = Sales::default();
            let contributions = events.iter().filter_map(|(_, event)| contribution(event));
            contributions.for_each(|(side, sum)| sales.add(side, sum));
            let Sales { gross, cancelled } = sales;
            script.arg(milliseconds(last_purchase).unwrap_or(0)).arg(gross.revenue).arg(gross.count).arg(events.len());
            script.arg(cancelled.revenue).arg(cancelled.count);
            for (_, event) in events {
                script.arg(event.version);
            }
            for (_, event) in events {
                if let Some(order) = event.order() {
                    script.arg(event.version).arg(OrderSummary::of(order, event.time).to_text());
                }
            }
        }

        let mut delta = SalesDelta::default();
        events.iter().for_each(|(_, event)| delta.add(event, now));
        script.arg(delta.buckets.len());
        for ((page, bucket), delta) in delta.buckets {
            // A bucket has two numbers of 64 bits.
            script.arg(page).arg(format!("#{}", 2 * bucket)).arg(format!("#{}", 2 * bucket + 1));
            script.arg(or_empty(milliseconds(delta.expires_at))).arg(delta.sum.revenue).arg(delta.sum.count);
        }
        script.arg(2 * delta.products.len());
        for ((period, product), sum) in delta.products {
            script.arg(&period).arg(format!("{product}:units")).arg(sum.count);
            script.arg(&period).arg(format!("{product}:revenue")).arg(sum.revenue);
        }
    }
}

fn milliseconds(time: Option<DateTime<Utc>>) -> Option<i64> {
    time.map(|time| time.timestamp_millis())
}

/// An optional argument: '' if it is missing.
fn or_empty(argument: Option<i64>) -> impl ToRedisArgs {
    argument.map(|argument| argument.to_string()).unwrap_or_default()
}
