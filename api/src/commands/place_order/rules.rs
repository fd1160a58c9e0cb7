//! The rules of placing orders, without I/O.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use entity::event::{self, MAX_LINES, MAX_QUANTITY};
use entity::{Event, Line, OrderPlaced, client, product};
use iso_currency::Currency;

use super::{Item, Outcome, PlaceOrder};
use crate::commands::idempotency::is_valid_key;
use crate::commands::{Rejection, id_at, next_version};

/// The clients, products and earlier orders that some orders name, while the clients are locked. Public for the benchmark.
pub struct Book {
    pub(super) currency: Currency,
    pub(super) clients: HashMap<i64, client::Model>,
    pub(super) products: HashMap<i64, product::Model>,
    /// By client and idempotency key. `None` if another command has used the key.
    pub(super) earlier: HashMap<(i64, String), Option<Event<OrderPlaced>>>,
    /// When the last client was locked. So the times of a client's events are in the sequence of its versions.
    pub(super) now: DateTime<Utc>,
}

impl Book {
    /// Without earlier orders and a time.
    pub fn new(currency: Currency, clients: Vec<client::Model>, products: Vec<product::Model>) -> Book {
        Book {
            currency,
            clients: clients.into_iter().map(|client| (client.id, client)).collect(),
            products: products.into_iter().map(|product| (product.id, product)).collect(),
            earlier: HashMap::new(),
            now: DateTime::default(),
        }
    }

    /// Accepts or rejects an order. An accepted order counts for those that follow it.
    pub fn decide(&mut self, command: &PlaceOrder, now: DateTime<Utc>) -> Outcome {
        let key = command.client_id.zip(command.idempotency_key.clone());
        if let Some(earlier) = key.as_ref().and_then(|key| self.earlier.get(key)) {
            return match earlier {
                Some(event) if is_same_order(command, event) => Outcome::Replayed(event.clone()),
                _ => Outcome::Rejected(vec![Rejection::IdempotencyKeyReused]),
            };
        }

        let mut rejections = Vec::new();
        if command.idempotency_key.as_deref().is_some_and(|key| !is_valid_key(key)) {
            rejections.push(Rejection::InvalidIdempotencyKey);
        }
        let client = command.client_id.and_then(|id| self.clients.get_mut(&id));
        let version = match &client {
            Some(client) if client.forgotten_at.is_some() => Err(Rejection::ClientForgotten),
            Some(client) => next_version(client.version),
            None => Err(Rejection::ClientNotFound),
        };
        rejections.extend(version.err());
        let lines = lines(&command.items, &self.products).unwrap_or_else(|of_items| {
            rejections.extend(of_items);
            Vec::new()
        });
        let total = event::total(&lines);
        if total.is_none() {
            rejections.push(Rejection::TotalOutOfRange);
        }
        let (Some(client), Ok(version), Some(total), true) = (client, version, total, rejections.is_empty()) else {
            return Outcome::Rejected(rejections);
        };

        client.version = version;
        let event = Event {
            id: id_at(now),
            time: now,
            version,
            data: OrderPlaced {
                client_id: client.id,
                client_name: client.name.clone(),
                client_email: client.email.clone(),
                order_id: id_at(now),
                currency: self.currency.code().to_owned(),
                total,
                lines,
            },
        };
        if let Some(key) = key {
            self.earlier.insert(key, Some(event.clone()));
        }
        Outcome::Placed(event)
    }
}

fn lines(items: &[Item], products: &HashMap<i64, product::Model>) -> Result<Vec<Line>, Vec<Rejection>> {
    if items.is_empty() {
        return Err(vec![Rejection::EmptyOrder]);
    }
    if items.len() > MAX_LINES {
        return Err(vec![Rejection::TooManyItems]);
    }
    let (mut lines, mut rejections) = (Vec::with_capacity(items.len()), Vec::new());
    for (item, &Item { product_id, quantity }) in items.iter().enumerate() {
        if !(1..=MAX_QUANTITY).contains(&quantity) {
            rejections.push(Rejection::QuantityOutOfRange { item });
        }
        match product_id.and_then(|id| products.get(&id)) {
            Some(product) if product.available => {
                lines.push(Line {
                    product_id: product.id,
                    name: product.name.clone(),
                    unit_price: product.price,
                    quantity,
                });
            }
            Some(_) => rejections.push(Rejection::ProductNotAvailable { item }),
            None => rejections.push(Rejection::ProductNotFound { item: Some(item) }),
        }
    }
    if rejections.is_empty() { Ok(lines) } else { Err(rejections) }
}

/// Whether the command asks for the same items in the same sequence.
fn is_same_order(command: &PlaceOrder, event: &Event<OrderPlaced>) -> bool {
    let asked = command.items.iter().map(|item| (item.product_id, item.quantity));
    asked.eq(event.data.lines.iter().map(|line| (Some(line.product_id), line.quantity)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::Origin;

    fn book() -> Book {
        let client = |id: i64, version| client::Model {
            id,
            name: format!("Client {id}"),
            email: format!("{id}@example.com"),
            version,
            forgotten_at: None,
        };
        let product = |id: i64, price| product::Model {
            id,
            name: format!("Product {id}"),
            price,
            available: id < 9,
            sku: None,
            version: 0,
        };
        Book {
            currency: Currency::USD,
            clients: [client(1, 0), client(2, 41)].map(|client| (client.id, client)).into(),
            products: [product(1, 150_000), product(2, 50_000), product(3, i64::MAX), product(9, 1)]
                .map(|p| (p.id, p))
                .into(),
            earlier: HashMap::new(),
            now: DateTime::default(),
        }
    }

    fn command(client_id: i64, items: &[(i64, i32)], key: Option<&str>) -> PlaceOrder {
        let items = items.iter().map(|&(id, quantity)| Item { product_id: Some(id), quantity }).collect();
        PlaceOrder {
            client_id: Some(client_id),
            items,
            idempotency_key: key.map(Into::into),
            origin: Origin::default(),
        }
    }

    fn decide(book: &mut Book, command: PlaceOrder) -> Outcome {
        book.decide(&command, DateTime::UNIX_EPOCH)
    }

    fn placed(book: &mut Book, command: PlaceOrder) -> Event<OrderPlaced> {
        match decide(book, command) {
            Outcome::Placed(event) => event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn versions_increase_by_one_and_prices_are_the_current_ones() {
        let mut book = book();
        let event = placed(&mut book, command(1, &[(1, 1), (2, 3)], None));
        assert_eq!((event.version, event.data.total), (1, 300_000));
        assert_eq!(event.data.lines[1].unit_price, 50_000);
        assert_eq!(placed(&mut book, command(1, &[(2, 1)], None)).version, 2);
        assert_eq!(placed(&mut book, command(2, &[(2, 1)], None)).version, 42);
    }

    #[test]
    fn everything_wrong_is_reported_and_a_rejected_order_takes_no_version() {
        use Rejection::*;
        let long_key = "k".repeat(256);
        let cases = [
            (command(9, &[], Some("")), vec![InvalidIdempotencyKey, ClientNotFound, EmptyOrder]),
            (command(1, &[(1, 1); 101], Some(&long_key)), vec![InvalidIdempotencyKey, TooManyItems]),
            (
                command(9, &[(1, 0), (7, 10_001), (2, 1), (0, 1), (9, 1), (9, 0)], None),
                vec![
                    ClientNotFound,
                    QuantityOutOfRange { item: 0 },
                    QuantityOutOfRange { item: 1 },
                    ProductNotFound { item: Some(1) },
                    ProductNotFound { item: Some(3) },
                    ProductNotAvailable { item: 4 },
                    QuantityOutOfRange { item: 5 },
                    ProductNotAvailable { item: 5 },
                ],
            ),
            (command(1, &[(3, 1)], None), vec![TotalOutOfRange]),
            (command(1, &[(3, 2)], None), vec![TotalOutOfRange]),
            (command(9, &[(1, 10_000); 100], None), vec![ClientNotFound]),
            (command(1, &[(1, i32::MIN)], Some("a\0b")), vec![InvalidIdempotencyKey, QuantityOutOfRange { item: 0 }]),
        ];
        let mut book = book();
        for (command, rejections) in cases {
            assert_eq!(decide(&mut book, command), Outcome::Rejected(rejections));
        }
        let nobody = PlaceOrder { client_id: None, ..command(1, &[(1, 1)], None) };
        assert_eq!(decide(&mut book, nobody), Outcome::Rejected(vec![ClientNotFound]));
        assert_eq!(placed(&mut book, command(1, &[(1, 1)], None)).version, 1);
    }

    #[test]
    fn a_client_without_a_version_left_is_rejected_and_others_are_not() {
        let mut book = book();
        book.clients.get_mut(&1).unwrap().version = i32::MAX - 1;
        assert_eq!(placed(&mut book, command(1, &[(1, 1)], Some("last"))).version, i32::MAX);
        let outcome = decide(&mut book, command(1, &[(1, 1)], None));
        assert_eq!(outcome, Outcome::Rejected(vec![Rejection::VersionLimitReached]));
        assert_eq!(placed(&mut book, command(2, &[(1, 1)], None)).version, 42);
        assert!(matches!(decide(&mut book, command(1, &[(1, 1)], Some("last"))), Outcome::Replayed(_)));
    }

    #[test]
    fn values_at_the_limits_are_accepted() {
        let mut book = book();
        let key = "\u{1f511}".repeat(255);
        let event = placed(&mut book, command(1, &[(2, 10_000); 100], Some(&key)));
        assert_eq!(event.data.total, 50_000 * 10_000 * 100);
    }

    #[test]
    fn a_repeated_key_replays_the_same_order_and_rejects_another() {
        let mut book = book();
        let first = placed(&mut book, command(1, &[(1, 1), (2, 3)], Some("k")));
        assert_eq!(decide(&mut book, command(1, &[(1, 1), (2, 3)], Some("k"))), Outcome::Replayed(first));
        for other in [&[(2, 3), (1, 1)][..], &[(1, 1)], &[(1, 1), (2, 4)], &[]] {
            let outcome = decide(&mut book, command(1, other, Some("k")));
            assert_eq!(outcome, Outcome::Rejected(vec![Rejection::IdempotencyKeyReused]));
        }
        placed(&mut book, command(2, &[(1, 1)], Some("k"))); // keys are per client
        placed(&mut book, command(1, &[(1, 1)], Some("K")));
        book.earlier.insert((1, "of another command".into()), None);
        let outcome = decide(&mut book, command(1, &[(1, 1)], Some("of another command")));
        assert_eq!(outcome, Outcome::Rejected(vec![Rejection::IdempotencyKeyReused]));
    }
}
