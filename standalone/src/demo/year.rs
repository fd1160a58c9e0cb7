//! The event log of a shop in its first year, without I/O: seasons, weekdays, hours, growth, clients that come and return, cancellations
//! and refunds. The random numbers are the same at each start, so that demos look alike.

use std::collections::HashMap;
use std::mem;

use api::commands::refunds::rules::allocate;
use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, TimeDelta, Utc};
use entity::event::{self, CLIENT_REGISTERED, ORDER_CANCELLED, ORDER_PLACED, ORDER_REFUNDED, PRODUCT_CREATED};
use entity::{Change, ClientChanged, Event, Line, OrderPlaced, ProductChanged, Refund, Subject, order_event};
use iso_currency::Currency;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use uuid::Uuid;

const SEED: u64 = 2_026;
/// Orders of an average day at the end of the year.
const ORDERS_PER_DAY: f64 = 36.0;
/// The share of them that the shop has when it opens.
const INITIAL_SHARE: f64 = 0.5;
/// Factors on the first day of each month, from January. Between two of them the factor changes evenly.
const SEASONS: [f64; 12] = [0.85, 0.8, 0.95, 1.0, 1.05, 0.95, 0.8, 0.75, 1.0, 1.1, 1.35, 1.4];
/// Factors by weekday, from Monday.
const WEEKDAYS: [f64; 7] = [1.1, 1.1, 1.05, 1.1, 1.2, 0.75, 0.6];
/// Weights by hour, from midnight UTC.
const HOURS: [u32; 24] = [2, 1, 1, 1, 1, 2, 5, 12, 25, 40, 48, 44, 36, 38, 42, 40, 36, 32, 30, 34, 32, 22, 12, 5];
/// This share of the clients registers in the first month, and the others at any time of the year.
const EARLY_CLIENTS: f64 = 0.2;
/// Of a hundred orders, this many are cancelled within a day…
const CANCELLED: u32 = 3;
/// …and this many are refunded in part within two weeks.
const REFUNDED: u32 = 3;
const CANCEL_REASONS: [&str; 3] = ["Ordered by mistake", "Found it cheaper", "No longer needed"];
const REFUND_REASONS: [&str; 3] = ["Arrived late", "Scratched", "A part was missing"];
const MAX_LINES: usize = 4;

const PLACES: [&str; 20] = [
    "Harbour", "Hill", "River", "North", "South", "Garden", "Market", "Station", "Lake", "Old Town", "Abbey", "Bridge",
    "Castle", "Corner", "Forest", "Mill", "Park", "Spring", "Tower", "Valley",
];
const TRADES: [&str; 24] = [
    "Bakery", "Bookshop", "Café", "Clinic", "Dentist", "Florist", "Gallery", "Hotel", "Laundry", "Pharmacy", "School",
    "Studio", "Bistro", "Brewery", "Cinema", "Dairy", "Garage", "Gym", "Hostel", "Museum", "Nursery", "Optician",
    "Tailor", "Theatre",
];
/// Names, and prices in whole units of the currency.
const PRODUCTS: [(&str, i64); 21] = [
    ("Cable", 9),
    ("Mouse", 29),
    ("Keyboard", 59),
    ("Headphones", 119),
    ("Monitor", 249),
    ("Webcam", 69),
    ("Speaker", 89),
    ("Printer", 179),
    ("Scanner", 159),
    ("Router", 99),
    ("Tablet", 379),
    ("Laptop", 1_199),
    ("Dock", 149),
    ("Desk lamp", 39),
    ("Desk", 429),
    ("Chair", 289),
    ("Drive", 79),
    ("Memory card", 19),
    ("Camera", 649),
    ("Tripod", 49),
    ("Projector", 799),
];

/// The events of the year until `now`, in the sequence of their times. The shop opens with these clients and products, whose ids
/// count from 1, and adds others.
pub fn events(
    now: DateTime<Utc>,
    clients: Vec<ClientChanged>,
    products: Vec<ProductChanged>,
    currency: Currency,
) -> Vec<order_event::Model> {
    let opening = (now.date_naive() - Months::new(12)).and_time(NaiveTime::MIN).and_utc();
    let hours = WeightedIndex::new(HOURS).expect("the weights have a sum");
    let mut shop = Shop { random: StdRng::seed_from_u64(SEED), opening, now, currency, hours, changes: Vec::new() };
    let products = shop.create_products(products);
    let buyers = shop.register_clients(clients);
    shop.sell(&buyers, &products);
    shop.into_events()
}

struct Shop {
    random: StdRng,
    /// Midnight UTC.
    opening: DateTime<Utc>,
    now: DateTime<Utc>,
    currency: Currency,
    hours: WeightedIndex<u32>,
    /// In any sequence. Those of one time happen in the sequence in which they are here.
    changes: Vec<(DateTime<Utc>, Change)>,
}

struct Buyer {
    client: ClientChanged,
    registered_at: DateTime<Utc>,
    /// How often it orders, compared with others.
    frequency: f64,
}

impl Shop {
    fn create_products(&mut self, mut products: Vec<ProductChanged>) -> Vec<ProductChanged> {
        let unit = 10i64.pow(self.currency.exponent().unwrap_or(0).into());
        for (name, price) in PRODUCTS {
            products.push(ProductChanged {
                product_id: products.len() as i64 + 1,
                name: name.to_owned(),
                price: price * unit,
                currency: self.currency.code().to_owned(),
                available: true,
                sku: Some(name.to_uppercase().replace(' ', "-")),
            });
        }
        self.changes.extend(products.iter().map(|product| (self.opening, Change::Product(product.clone()))));
        products
    }

    /// The existing clients register at the opening, and the others later. Returns them in this sequence.
    fn register_clients(&mut self, existing: Vec<ClientChanged>) -> Vec<Buyer> {
        let mut buyers: Vec<Buyer> =
            existing.into_iter().map(|client| Buyer { client, registered_at: self.opening, frequency: 1.0 }).collect();
        let mut names: Vec<String> =
            PLACES.iter().flat_map(|place| TRADES.map(|trade| format!("{place} {trade}"))).collect();
        names.shuffle(&mut self.random);
        let mut times: Vec<DateTime<Utc>> = names.iter().map(|_| self.time_of_registration()).collect();
        times.sort_unstable();
        for (registered_at, name) in times.into_iter().zip(names) {
            let client = ClientChanged {
                client_id: buyers.len() as i64 + 1,
                client_email: format!("{}@example.com", name.to_lowercase().replace(' ', ".").replace('é', "e")),
                client_name: name,
            };
            // A few clients order much more often than most.
            let frequency = (1.0 - self.random.random::<f64>()).powf(-0.6).min(15.0);
            buyers.push(Buyer { client, registered_at, frequency });
        }
        self.changes.extend(buyers.iter().map(|buyer| (buyer.registered_at, Change::Client(buyer.client.clone()))));
        buyers
    }

    fn time_of_registration(&mut self) -> DateTime<Utc> {
        let days = (self.now - self.opening).num_days();
        let days = if self.random.random_bool(EARLY_CLIENTS) { days.min(30) } else { days };
        let day = self.opening.date_naive() + TimeDelta::days(self.random.random_range(0..days));
        self.time_on(day)
    }

    fn time_on(&mut self, day: NaiveDate) -> DateTime<Utc> {
        let hour = self.hours.sample(&mut self.random) as i64;
        let time = TimeDelta::hours(hour) + self.up_to(TimeDelta::hours(1));
        day.and_time(NaiveTime::MIN).and_utc() + time
    }

    fn up_to(&mut self, longest: TimeDelta) -> TimeDelta {
        TimeDelta::milliseconds(self.random.random_range(0..longest.num_milliseconds()))
    }

    /// Each client orders soon after its registration. Clients that return place all other orders.
    fn sell(&mut self, buyers: &[Buyer], products: &[ProductChanged]) {
        let (opening, now) = (self.opening, self.now);
        let mut sales: Vec<(DateTime<Utc>, &Buyer)> = Vec::new();
        for buyer in buyers {
            sales.push((buyer.registered_at + TimeDelta::minutes(2) + self.up_to(TimeDelta::hours(2)), buyer));
        }
        // The sum of the frequencies of each client and of all that registered before it.
        let mut sum = 0.0;
        let frequencies: Vec<f64> = buyers
            .iter()
            .map(|buyer| {
                sum += buyer.frequency;
                sum
            })
            .collect();
        for day in opening.date_naive().iter_days().take_while(|day| *day <= now.date_naive()) {
            for _ in 0..self.orders_on(day) {
                let time = self.time_on(day);
                let registered = buyers.partition_point(|buyer| buyer.registered_at <= time);
                let Some(newest) = registered.checked_sub(1) else { continue };
                let chosen = frequencies[newest] * self.random.random::<f64>();
                sales.push((time, &buyers[frequencies.partition_point(|sum| *sum <= chosen)]));
            }
        }
        for (time, buyer) in sales.into_iter().filter(|(time, _)| *time < now) {
            let order = self.order(time, &buyer.client, products);
            self.changes.push((time, Change::OrderPlaced(order.clone())));
            self.refund_a_few(time, order);
        }
    }

    fn orders_on(&mut self, day: NaiveDate) -> usize {
        let year = (self.now - self.opening).num_days() as f64;
        let growth = (day - self.opening.date_naive()).num_days() as f64 / year;
        // From the season of the month to that of the next one.
        let (month, in_month) = (day.month0() as usize, f64::from(day.day0()) / 31.0);
        let season = SEASONS[month] * (1.0 - in_month) + SEASONS[(month + 1) % 12] * in_month;
        let weekday = WEEKDAYS[day.weekday().num_days_from_monday() as usize];
        let chance = self.random.random_range(0.8..1.2);
        let share = INITIAL_SHARE + (1.0 - INITIAL_SHARE) * growth;
        (ORDERS_PER_DAY * share * season * weekday * chance).round() as usize
    }

    /// A few products have most of the sales.
    fn order(&mut self, time: DateTime<Utc>, client: &ClientChanged, products: &[ProductChanged]) -> OrderPlaced {
        let mut lines: Vec<Line> = Vec::new();
        while lines.is_empty() || (lines.len() < MAX_LINES && self.random.random_bool(0.45)) {
            let product = &products[(products.len() as f64 * self.random.random::<f64>().powi(2)) as usize];
            match lines.iter_mut().find(|line| line.product_id == product.product_id) {
                Some(line) => line.quantity += 1,
                None => lines.push(Line {
                    product_id: product.product_id,
                    name: product.name.clone(),
                    unit_price: product.price,
                    quantity: if self.random.random_bool(0.2) { 2 } else { 1 },
                }),
            }
        }
        OrderPlaced {
            client_id: client.client_id,
            client_name: client.client_name.clone(),
            client_email: client.client_email.clone(),
            order_id: self.id_at(time),
            currency: self.currency.code().to_owned(),
            total: event::total(&lines).unwrap_or(0),
            lines,
        }
    }

    /// Cancels this order or refunds a part of it, with a small probability.
    fn refund_a_few(&mut self, placed_at: DateTime<Utc>, order: OrderPlaced) {
        let chance = self.random.random_range(0..100);
        if chance >= CANCELLED + REFUNDED {
            return;
        }
        let is_cancellation = chance < CANCELLED;
        let (longest, reasons) =
            if is_cancellation { (TimeDelta::days(1), CANCEL_REASONS) } else { (TimeDelta::days(14), REFUND_REASONS) };
        let time = placed_at + self.up_to(longest);
        let reason = reasons[self.random.random_range(0..reasons.len())];
        let percent = if is_cancellation { 100 } else { self.random.random_range(10..=50) };
        if time >= self.now {
            return;
        }
        let totals: Vec<i64> = order.lines.iter().map(|line| line.total().unwrap_or(0)).collect();
        let amount = (order.total * percent / 100).max(1);
        let refund = Refund {
            order,
            placed_at,
            placed_version: 0, // set when the events are numbered
            reason: Some(reason.to_owned()),
            amount,
            amounts: allocate(amount, &totals),
        };
        let change = if is_cancellation { Change::OrderCancelled(refund) } else { Change::OrderRefunded(refund) };
        self.changes.push((time, change));
    }

    /// Sorts the changes, and numbers those of each client and product.
    fn into_events(mut self) -> Vec<order_event::Model> {
        let mut changes = mem::take(&mut self.changes);
        changes.sort_by_key(|(time, _)| *time);
        let mut versions: HashMap<Subject, i32> = HashMap::new();
        let mut placed_versions: HashMap<Uuid, i32> = HashMap::new();
        let mut events = Vec::with_capacity(changes.len());
        for (time, data) in changes {
            let mut event = Event { id: self.id_at(time), time, version: 1, data };
            let version = versions.entry(event.subject()).and_modify(|version| *version += 1).or_insert(1);
            event.version = *version;
            match &mut event.data {
                Change::OrderPlaced(order) => {
                    placed_versions.insert(order.order_id, event.version);
                }
                Change::OrderCancelled(refund) | Change::OrderRefunded(refund) => {
                    refund.placed_version = placed_versions[&refund.order.order_id];
                }
                Change::Client(_) | Change::Product(_) => {}
            }
            events.push(row(event));
        }
        events
    }

    /// A UUID of version 7 that begins with this time.
    fn id_at(&mut self, time: DateTime<Utc>) -> Uuid {
        let millis = u64::try_from(time.timestamp_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &self.random.random()).into_uuid()
    }
}

fn row(event: Event) -> order_event::Model {
    let (client_id, product_id) = match event.subject() {
        Subject::Client(id) => (Some(id), None),
        Subject::Product(id) => (None, Some(id)),
    };
    let (r#type, payload) = match event.data {
        Change::OrderPlaced(order) => (ORDER_PLACED, json!(order)),
        Change::OrderCancelled(refund) => (ORDER_CANCELLED, json!(refund)),
        Change::OrderRefunded(refund) => (ORDER_REFUNDED, json!(refund)),
        Change::Client(client) => (CLIENT_REGISTERED, json!(client)),
        Change::Product(product) => (PRODUCT_CREATED, json!(product)),
    };
    order_event::Model {
        id: event.id,
        client_id,
        product_id,
        version: event.version,
        r#type: r#type.to_owned(),
        payload,
        occurred_at: event.time,
        traceparent: None,
        actor: None,
        actor_is_client: None,
    }
}
