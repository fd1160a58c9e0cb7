//! A year of a shop, as its events: seasons, weekdays, hours, growth, clients that come and return, cancellations and refunds. Without
//! I/O. It is the same year each time: only its dates follow the clock.

use api::commands::refunds::rules::allocate;
use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, TimeDelta, Utc};
use entity::event::{self, CLIENT_REGISTERED, ORDER_CANCELLED, ORDER_PLACED, ORDER_REFUNDED, PRODUCT_CREATED};
use entity::{ClientChanged, Line, OrderPlaced, ProductChanged, Refund, client, order_event, product};
use iso_currency::Currency;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

const SEED: u64 = 2_026;
/// Orders of an average day at the end of the year.
const ORDERS_PER_DAY: f64 = 36.0;
/// The shop grows from this part of them.
const AT_FIRST: f64 = 0.5;
/// By month, from January.
const SEASONS: [f64; 12] = [0.85, 0.8, 0.95, 1.0, 1.05, 0.95, 0.8, 0.75, 1.0, 1.1, 1.35, 1.4];
/// By weekday, from Monday.
const WEEKDAYS: [f64; 7] = [1.1, 1.1, 1.05, 1.1, 1.2, 0.75, 0.6];
/// By hour, from midnight UTC.
const HOURS: [u32; 24] = [2, 1, 1, 1, 1, 2, 5, 12, 25, 40, 48, 44, 36, 38, 42, 40, 36, 32, 30, 34, 32, 22, 12, 5];
/// The part of the clients that come in the first month.
const EARLY_CLIENTS: f64 = 0.2;
/// Of a hundred orders, so many are cancelled within a day, and so many are refunded in part within two weeks.
const CANCELLED: u32 = 3;
const REFUNDED_OR_CANCELLED: u32 = CANCELLED + 3;
const CANCEL_REASONS: [&str; 3] = ["Ordered by mistake", "Found it cheaper", "No longer needed"];
const REFUND_REASONS: [&str; 3] = ["Arrived late", "Scratched", "A part was missing"];

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

pub struct Year {
    /// When the shop opened: midnight UTC a year ago.
    pub opening: DateTime<Utc>,
    /// In the sequence of their times.
    pub events: Vec<order_event::Model>,
}

impl Year {
    /// The year until now. `clients` and `products` exist already, each with its first event.
    pub fn until(
        now: DateTime<Utc>,
        clients: Vec<client::Model>,
        products: Vec<product::Model>,
        currency: Currency,
    ) -> Year {
        let first = now.date_naive().checked_sub_months(Months::new(12)).unwrap_or_default();
        let opening = first.and_time(NaiveTime::MIN).and_utc();
        let hours = WeightedIndex::new(HOURS).expect("weights");
        let mut shop = Shop { random: StdRng::seed_from_u64(SEED), opening, now, currency, hours, moments: Vec::new() };
        let products = shop.open(products);
        let clients = shop.register(clients);
        let orders = shop.sell(&clients, &products);
        Year { opening, events: shop.into_events(&clients, &orders) }
    }
}

struct Shop {
    random: StdRng,
    opening: DateTime<Utc>,
    now: DateTime<Utc>,
    currency: Currency,
    hours: WeightedIndex<u32>,
    moments: Vec<(DateTime<Utc>, Moment)>,
}

/// A client, and how often it orders compared with others.
struct Regular {
    client: client::Model,
    registered_at: DateTime<Utc>,
    frequency: f64,
}

struct Sale {
    /// The index of the client.
    client: usize,
    placed_at: DateTime<Utc>,
    order: OrderPlaced,
}

/// Something that happens. Clients and sales have indexes.
enum Moment {
    Created(product::Model),
    Registered(usize),
    Placed(usize),
    Cancelled(usize, &'static str),
    /// With the part of each line.
    Refunded(usize, &'static str, Vec<i64>),
}

impl Shop {
    /// Adds the products to those that exist.
    fn open(&mut self, mut products: Vec<product::Model>) -> Vec<product::Model> {
        let unit = 10i64.pow(self.currency.exponent().unwrap_or(0).into());
        for (name, price) in PRODUCTS {
            let id = products.last().map_or(1, |last| last.id + 1);
            let sku = Some(name.to_uppercase().replace(' ', "-"));
            let product =
                product::Model { id, name: name.into(), price: price * unit, available: true, sku, version: 1 };
            self.moments.push((self.opening, Moment::Created(product.clone())));
            products.push(product);
        }
        products
    }

    /// Adds the clients to those that exist, in the sequence in which they come.
    fn register(&mut self, existing: Vec<client::Model>) -> Vec<Regular> {
        let mut names: Vec<String> =
            PLACES.iter().flat_map(|place| TRADES.map(|trade| format!("{place} {trade}"))).collect();
        names.shuffle(&mut self.random);
        let mut times: Vec<DateTime<Utc>> = names.iter().map(|_| self.time_of_registration()).collect();
        times.sort_unstable();
        let mut clients: Vec<Regular> = Vec::new();
        for client in existing {
            clients.push(Regular { client, registered_at: self.opening, frequency: 1.0 });
        }
        for (registered_at, name) in times.into_iter().zip(names) {
            let id = clients.last().map_or(1, |last| last.client.id + 1);
            let email = format!("{}@example.com", name.to_lowercase().replace(' ', ".").replace('é', "e"));
            self.moments.push((registered_at, Moment::Registered(clients.len())));
            // A few clients order much more often than most.
            let frequency = (1.0 - self.random.random::<f64>()).powf(-0.6).min(15.0);
            let client = client::Model { id, name, email, version: 1, forgotten_at: None };
            clients.push(Regular { client, registered_at, frequency });
        }
        clients
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

    /// Each client orders soon after its registration. All further orders are of clients that return.
    fn sell(&mut self, clients: &[Regular], products: &[product::Model]) -> Vec<Sale> {
        let mut orders: Vec<(DateTime<Utc>, usize)> = Vec::new();
        for (client, Regular { registered_at, .. }) in clients.iter().enumerate() {
            orders.push((*registered_at + TimeDelta::minutes(2) + self.up_to(TimeDelta::hours(2)), client));
        }
        // The frequencies of each client and those before it, which came earlier.
        let frequencies: Vec<f64> = clients
            .iter()
            .scan(0.0, |sum, client| {
                *sum += client.frequency;
                Some(*sum)
            })
            .collect();
        for day in self.opening.date_naive().iter_days().take_while(|day| *day <= self.now.date_naive()) {
            for _ in 0..self.orders_on(day) {
                let time = self.time_on(day);
                let known = clients.partition_point(|client| client.registered_at <= time);
                let Some(all) = known.checked_sub(1).map(|last| frequencies[last]) else { continue };
                let chosen = all * self.random.random::<f64>();
                orders.push((time, frequencies.partition_point(|sum| *sum <= chosen)));
            }
        }
        let mut sales: Vec<Sale> = Vec::new();
        for (placed_at, client) in orders.into_iter().filter(|(time, _)| *time < self.now) {
            let order = self.order(placed_at, &clients[client].client, products);
            self.moments.push((placed_at, Moment::Placed(sales.len())));
            self.regret(sales.len(), placed_at, &order);
            sales.push(Sale { client, placed_at, order });
        }
        sales
    }

    fn orders_on(&mut self, day: NaiveDate) -> usize {
        let year = (self.now - self.opening).num_days() as f64;
        let growth = (day - self.opening.date_naive()).num_days() as f64 / year;
        let (month, in_month) = (day.month0() as usize, f64::from(day.day0()) / 31.0);
        let season = SEASONS[month] * (1.0 - in_month) + SEASONS[(month + 1) % 12] * in_month;
        let weekday = WEEKDAYS[day.weekday().num_days_from_monday() as usize];
        let chance = self.random.random_range(0.8..1.2);
        (ORDERS_PER_DAY * (AT_FIRST + (1.0 - AT_FIRST) * growth) * season * weekday * chance).round() as usize
    }

    /// One to four lines. A few products have most of the sales.
    fn order(&mut self, time: DateTime<Utc>, client: &client::Model, products: &[product::Model]) -> OrderPlaced {
        let mut lines: Vec<Line> = Vec::new();
        while lines.is_empty() || (lines.len() < 4 && self.random.random_bool(0.45)) {
            let product = &products[(products.len() as f64 * self.random.random::<f64>().powi(2)) as usize];
            match lines.iter_mut().find(|line| line.product_id == product.id) {
                Some(line) => line.quantity += 1,
                None => lines.push(Line {
                    product_id: product.id,
                    name: product.name.clone(),
                    unit_price: product.price,
                    quantity: if self.random.random_bool(0.2) { 2 } else { 1 },
                }),
            }
        }
        OrderPlaced {
            client_id: client.id,
            client_name: client.name.clone(),
            client_email: client.email.clone(),
            order_id: self.id_at(time),
            currency: self.currency.code().to_owned(),
            total: event::total(&lines).unwrap_or(0),
            lines,
        }
    }

    /// Cancels or refunds a few orders.
    fn regret(&mut self, sale: usize, placed_at: DateTime<Utc>, order: &OrderPlaced) {
        let reason = self.random.random_range(0..CANCEL_REASONS.len());
        let (time, moment) = match self.random.random_range(0..100) {
            ..CANCELLED => {
                (placed_at + self.up_to(TimeDelta::days(1)), Moment::Cancelled(sale, CANCEL_REASONS[reason]))
            }
            CANCELLED..REFUNDED_OR_CANCELLED => {
                let amount = (order.total * self.random.random_range(10..=50) / 100).max(1);
                let parts = allocate(amount, &line_totals(order));
                (placed_at + self.up_to(TimeDelta::days(14)), Moment::Refunded(sale, REFUND_REASONS[reason], parts))
            }
            _ => return,
        };
        if time < self.now {
            self.moments.push((time, moment));
        }
    }

    /// Numbers the events of each client.
    fn into_events(mut self, clients: &[Regular], sales: &[Sale]) -> Vec<order_event::Model> {
        let mut moments = std::mem::take(&mut self.moments);
        // Stable: what is pushed first happens first.
        moments.sort_by_key(|(time, _)| *time);
        let mut versions: Vec<i32> = clients.iter().map(|client| client.client.version).collect();
        let mut placed_versions = vec![0; sales.len()];
        let mut events = Vec::with_capacity(moments.len());
        for (time, moment) in moments {
            let client = match &moment {
                Moment::Created(_) => None,
                Moment::Registered(client) => Some(*client),
                Moment::Placed(sale) | Moment::Cancelled(sale, _) | Moment::Refunded(sale, ..) => {
                    Some(sales[*sale].client)
                }
            };
            if let (Some(client), false) = (client, matches!(moment, Moment::Registered(_))) {
                versions[client] += 1;
            }
            let version = client.map_or(1, |client| versions[client]);
            let refund = |sale: usize, reason: &str, amounts: Vec<i64>| {
                let Sale { placed_at, order, .. } = &sales[sale];
                let (placed_at, placed_version, reason) = (*placed_at, placed_versions[sale], Some(reason.to_owned()));
                Refund {
                    order: order.clone(),
                    placed_at,
                    placed_version,
                    reason,
                    amount: amounts.iter().sum(),
                    amounts,
                }
            };
            let (r#type, payload) = match moment {
                Moment::Created(product) => (PRODUCT_CREATED, json(&self.created(product))),
                Moment::Registered(client) => (CLIENT_REGISTERED, json(&registered(&clients[client].client))),
                Moment::Placed(sale) => {
                    placed_versions[sale] = version;
                    (ORDER_PLACED, json(&sales[sale].order))
                }
                Moment::Cancelled(sale, reason) => {
                    (ORDER_CANCELLED, json(&refund(sale, reason, line_totals(&sales[sale].order))))
                }
                Moment::Refunded(sale, reason, parts) => (ORDER_REFUNDED, json(&refund(sale, reason, parts))),
            };
            events.push(order_event::Model {
                id: self.id_at(time),
                client_id: client.map(|client| clients[client].client.id),
                product_id: payload["productId"].as_i64(),
                version,
                r#type: r#type.to_owned(),
                payload,
                occurred_at: time,
                traceparent: None,
                actor: None,
                actor_is_client: None,
            });
        }
        events
    }

    fn created(&self, product::Model { id, name, price, available, sku, .. }: product::Model) -> ProductChanged {
        ProductChanged { product_id: id, name, price, currency: self.currency.code().to_owned(), available, sku }
    }

    /// A UUID of version 7 of this time.
    fn id_at(&mut self, time: DateTime<Utc>) -> Uuid {
        let millis = u64::try_from(time.timestamp_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &self.random.random()).into_uuid()
    }
}

fn registered(client: &client::Model) -> ClientChanged {
    ClientChanged { client_id: client.id, client_name: client.name.clone(), client_email: client.email.clone() }
}

fn line_totals(order: &OrderPlaced) -> Vec<i64> {
    order.lines.iter().map(|line| line.total().unwrap_or(0)).collect()
}

fn json(data: &impl Serialize) -> Value {
    serde_json::to_value(data).expect("names and numbers always serialise")
}
