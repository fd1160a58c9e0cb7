//! Placing orders: the rules ([`Book::decide`], no I/O) and the transaction around them ([`place`]).

pub mod batcher;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;

use chrono::{DateTime, SubsecRound, Utc};
use entity::event::{self, MAX_LINES, MAX_QUANTITY};
use entity::{Change, Event, Line, OrderPlaced, client, order, order_event, order_item, outbox, product};
use iso_currency::Currency;
use runtime::{crash_point, crash_points};
use sea_orm::sea_query::postgres_array::NotU8;
use sea_orm::sea_query::{Expr, ValueType};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect, Statement, TransactionTrait, Value,
};
use uuid::Uuid;

use crate::commands::database::{is_one_of, is_one_pair_of};
use crate::outbox::relay::Outgoing;

pub const MAX_KEY_CHARACTERS: usize = 255;

/// A request to place an order. An id that no row has, such as 0, stands for anything that is not an id.
#[derive(Clone, Debug)]
pub struct PlaceOrder {
    pub client_id: i64,
    pub items: Vec<Item>,
    pub idempotency_key: Option<String>,
    /// W3C trace context of the request, passed on with the event.
    pub traceparent: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Item {
    pub product_id: i64,
    pub quantity: i32,
}

/// An order that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The order as it was placed, with the client's version it made.
    pub event: Event<OrderPlaced>,
    /// Whether it had been placed before, by a request with the same idempotency key.
    pub replayed: bool,
}

/// Why an order is refused. `item` counts from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    ClientNotFound,
    EmptyOrder,
    TooManyItems,
    ProductNotFound { item: usize },
    QuantityOutOfRange { item: usize },
    TotalOutOfRange,
    InvalidIdempotencyKey,
    IdempotencyKeyReused,
}

/// Why nothing is known of some orders.
#[derive(Debug, thiserror::Error)]
pub enum NotPlaced {
    /// None of them was placed.
    #[error(transparent)]
    Surely(DbErr),
    /// The commit was not answered.
    #[error(transparent)]
    Maybe(DbErr),
}

/// What became of some orders.
#[derive(Debug)]
pub struct Batch {
    /// One for each, in their order.
    pub results: Results,
    /// The events that were written.
    pub outgoing: Vec<Outgoing>,
}

/// Places orders in one transaction and returns one result for each. Concurrent calls for the same client wait for each
/// other, so that its versions follow the order of commits without gaps, and a repeated idempotency key is always seen.
///
/// # Errors
/// When the database fails: [`NotPlaced`] tells whether an order may be placed all the same.
pub async fn place(db: &DatabaseConnection, currency: Currency, commands: &[PlaceOrder]) -> Result<Batch, NotPlaced> {
    let (transaction, results, outgoing) = prepare(db, currency, commands).await.map_err(NotPlaced::Surely)?;
    crash_point(crash_points::ORDER_BEFORE_COMMIT);
    transaction.commit().await.map_err(NotPlaced::Maybe)?;
    crash_point(crash_points::ORDER_AFTER_COMMIT);
    Ok(Batch { results, outgoing })
}

type Results = Vec<Result<Placed, Vec<Rejection>>>;

/// All but the commit.
async fn prepare(
    db: &DatabaseConnection,
    currency: Currency,
    commands: &[PlaceOrder],
) -> Result<(DatabaseTransaction, Results, Vec<Outgoing>), DbErr> {
    let transaction = db.begin().await?;
    let mut book = Book::open(&transaction, currency, commands).await?;
    let now = Utc::now().trunc_subsecs(3);
    let results: Vec<_> = commands.iter().map(|command| book.decide(command, now)).collect();

    let new = commands.iter().zip(&results).filter_map(|(command, result)| match result {
        Ok(Placed { event, replayed: false }) => Some((command, event)),
        _ => None,
    });
    let outgoing = write(&transaction, new.collect()).await?;
    Ok((transaction, results, outgoing))
}

/// What is known of the clients, products and earlier orders that some commands name, while the clients are locked. Public
/// for the benchmark of the rules.
pub struct Book {
    currency: Currency,
    clients: HashMap<i64, client::Model>,
    products: HashMap<i64, product::Model>,
    /// By client and idempotency key.
    earlier: HashMap<(i64, String), Event<OrderPlaced>>,
}

impl Book {
    async fn open(db: &impl ConnectionTrait, currency: Currency, commands: &[PlaceOrder]) -> Result<Book, DbErr> {
        // Locked in the order of ids, so that two transactions never wait for each other.
        let clients = client::Entity::find()
            .filter(is_one_of(db, client::Column::Id, commands.iter().map(|command| command.client_id)))
            .order_by_asc(client::Column::Id)
            .lock_exclusive()
            .all(db)
            .await?;
        let items =
            commands.iter().filter(|command| command.items.len() <= MAX_LINES).flat_map(|command| &command.items);
        let products = product::Entity::find()
            .filter(is_one_of(db, product::Column::Id, items.map(|item| item.product_id)))
            .all(db)
            .await?;
        let earlier = earlier_orders(db, currency, commands).await?;
        Ok(Book { earlier, ..Book::new(currency, clients, products) })
    }

    /// Without earlier orders.
    pub fn new(currency: Currency, clients: Vec<client::Model>, products: Vec<product::Model>) -> Book {
        Book {
            currency,
            clients: clients.into_iter().map(|client| (client.id, client)).collect(),
            products: products.into_iter().map(|product| (product.id, product)).collect(),
            earlier: HashMap::new(),
        }
    }

    /// Accepts or refuses one order, and remembers it for those that follow.
    pub fn decide(&mut self, command: &PlaceOrder, now: DateTime<Utc>) -> Result<Placed, Vec<Rejection>> {
        let key = command.idempotency_key.clone().map(|key| (command.client_id, key));
        if let Some(event) = key.as_ref().and_then(|key| self.earlier.get(key)) {
            return if asks_for(command, event) {
                Ok(Placed { event: event.clone(), replayed: true })
            } else {
                Err(vec![Rejection::IdempotencyKeyReused])
            };
        }

        let mut faults = Vec::new();
        if command.idempotency_key.as_deref().is_some_and(|key| !is_valid_key(key)) {
            faults.push(Rejection::InvalidIdempotencyKey);
        }
        let client = self.clients.get_mut(&command.client_id);
        if client.is_none() {
            faults.push(Rejection::ClientNotFound);
        }
        let lines = lines(&command.items, &self.products).unwrap_or_else(|rejections| {
            faults.extend(rejections);
            Vec::new()
        });
        let total = event::total(&lines);
        if total.is_none() {
            faults.push(Rejection::TotalOutOfRange);
        }
        let (Some(client), Some(total), true) = (client, total, faults.is_empty()) else { return Err(faults) };

        client.version += 1;
        let event = Event {
            id: Uuid::now_v7(),
            time: now,
            version: client.version,
            data: OrderPlaced {
                client_id: client.id,
                client_name: client.name.clone(),
                client_email: client.email.clone(),
                order_id: Uuid::now_v7(),
                currency: self.currency.code().to_owned(),
                total,
                lines,
            },
        };
        if let Some(key) = key {
            self.earlier.insert(key, event.clone());
        }
        Ok(Placed { event, replayed: false })
    }
}

fn lines(items: &[Item], products: &HashMap<i64, product::Model>) -> Result<Vec<Line>, Vec<Rejection>> {
    if items.is_empty() {
        return Err(vec![Rejection::EmptyOrder]);
    }
    if items.len() > MAX_LINES {
        return Err(vec![Rejection::TooManyItems]);
    }
    let (mut lines, mut faults) = (Vec::with_capacity(items.len()), Vec::new());
    for (item, &Item { product_id, quantity }) in items.iter().enumerate() {
        if !(1..=MAX_QUANTITY).contains(&quantity) {
            faults.push(Rejection::QuantityOutOfRange { item });
        }
        match products.get(&product_id) {
            Some(product) => {
                lines.push(Line { product_id, name: product.name.clone(), unit_price: product.price, quantity });
            }
            None => faults.push(Rejection::ProductNotFound { item }),
        }
    }
    if faults.is_empty() { Ok(lines) } else { Err(faults) }
}

/// Control characters are refused because PostgreSQL cannot store all of them.
fn is_valid_key(key: &str) -> bool {
    (1..=MAX_KEY_CHARACTERS).contains(&key.chars().count()) && !key.chars().any(char::is_control)
}

/// Whether the command asks for what was ordered then.
fn asks_for(command: &PlaceOrder, event: &Event<OrderPlaced>) -> bool {
    let asked = command.items.iter().map(|item| (item.product_id, item.quantity));
    asked.eq(event.data.lines.iter().map(|line| (line.product_id, line.quantity)))
}

/// The orders that were placed with the commands' idempotency keys, as their events tell.
async fn earlier_orders(
    db: &impl ConnectionTrait,
    currency: Currency,
    commands: &[PlaceOrder],
) -> Result<HashMap<(i64, String), Event<OrderPlaced>>, DbErr> {
    let keys = commands.iter().filter_map(|command| Some((command.client_id, command.idempotency_key.as_ref()?)));
    let keys: Vec<_> = keys.filter(|(_, key)| is_valid_key(key)).map(|(client, key)| (client, key.clone())).collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let of_keys = is_one_pair_of(db, [order::Column::ClientId, order::Column::IdempotencyKey], keys);
    let orders = order::Entity::find().filter(of_keys).all(db).await?;
    if orders.is_empty() {
        return Ok(HashMap::new());
    }
    let versions = orders.iter().map(|order| (order.client_id, order.version)).collect();
    let of_orders = is_one_pair_of(db, [order_event::Column::ClientId, order_event::Column::Version], versions);
    let events = order_event::Entity::find().filter(of_orders).all(db).await?;
    let mut events: BTreeMap<_, _> = events.into_iter().map(|row| ((row.client_id, row.version), row)).collect();
    orders
        .into_iter()
        .filter_map(|order| {
            let row = events.remove(&(Some(order.client_id), order.version))?;
            let damaged = |why: &dyn Display| DbErr::Custom(format!("order {}: {why}", order.id));
            let event = match Event::from_row(row, currency.code()) {
                Ok(Event { id, time, version, data: Change::OrderPlaced(data) }) => {
                    Ok(Event { id, time, version, data })
                }
                Ok(_) => Err(damaged(&"its event is of something else")),
                Err(error) => Err(damaged(&error)),
            };
            Some(event.map(|event| ((order.client_id, order.idempotency_key.unwrap_or_default()), event)))
        })
        .collect()
}

async fn write(
    db: &impl ConnectionTrait,
    new: Vec<(&PlaceOrder, &Event<OrderPlaced>)>,
) -> Result<Vec<Outgoing>, DbErr> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let orders = new.iter().map(|(command, event)| order::Model {
        id: event.data.order_id,
        client_id: event.data.client_id,
        version: event.version,
        placed_at: event.time,
        total: event.data.total,
        idempotency_key: command.idempotency_key.clone(),
    });
    let items = new.iter().flat_map(|(_, event)| {
        (0..).zip(&event.data.lines).map(|(line, item)| order_item::Model {
            order_id: event.data.order_id,
            line,
            product_id: item.product_id,
            unit_price: item.unit_price,
            quantity: item.quantity,
        })
    });
    let events = new.iter().map(|(command, event)| order_event::Model {
        id: event.id,
        client_id: Some(event.data.client_id),
        product_id: None,
        version: event.version,
        r#type: event::ORDER_PLACED.to_owned(),
        payload: serde_json::to_value(&event.data).expect("an order always serialises"),
        occurred_at: event.time,
        traceparent: command.traceparent.clone(),
    });
    let (orders, items, events): (Vec<_>, Vec<_>, Vec<_>) = (orders.collect(), items.collect(), events.collect());
    let outgoing = events.iter().map(Outgoing::of).collect();
    match db.get_database_backend() {
        DbBackend::Postgres => write_at_once(db, orders, items, events).await?,
        _ => write_rows(db, orders, items, events).await?,
    }
    Ok(outgoing)
}

async fn write_rows(
    db: &impl ConnectionTrait,
    orders: Vec<order::Model>,
    items: Vec<order_item::Model>,
    events: Vec<order_event::Model>,
) -> Result<(), DbErr> {
    // A later order of a client overwrites an earlier one's version: they come in order.
    let versions: BTreeMap<i64, i32> = orders.iter().map(|order| (order.client_id, order.version)).collect();
    order::Entity::insert_many(orders.into_iter().map(as_new)).exec_without_returning(db).await?;
    order_item::Entity::insert_many(items.into_iter().map(as_new)).exec_without_returning(db).await?;
    let pending: Vec<_> = events.iter().map(|event| as_new(outbox::Model { event_id: event.id })).collect();
    order_event::Entity::insert_many(events.into_iter().map(as_new)).exec_without_returning(db).await?;
    outbox::Entity::insert_many(pending).exec_without_returning(db).await?;
    for (client, version) in versions {
        let raise = client::Entity::update_many().col_expr(client::Column::Version, Expr::val(version));
        raise.filter(client::Column::Id.eq(client)).exec(db).await?;
    }
    Ok(())
}

/// One statement with the same text for any number of orders, which PostgreSQL parses and plans once: it doubles what a
/// processor gets done. Columns are parameters; an empty text stands for none.
const WRITE: &str = "
WITH placed AS (
    SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::int[], $4::timestamptz[], $5::bigint[], $6::text[],
                         $7::uuid[], $8::text[], $9::jsonb[], $10::text[])
        AS placed (order_id, client_id, version, placed_at, total, key, event_id, type, payload, traceparent)
), placed_orders AS (
    INSERT INTO orders (id, client_id, version, placed_at, total, idempotency_key)
    SELECT order_id, client_id, version, placed_at, total, NULLIF(key, '') FROM placed
), placed_items AS (
    INSERT INTO order_items (order_id, line, product_id, unit_price, quantity)
    SELECT * FROM UNNEST($11::uuid[], $12::int[], $13::bigint[], $14::bigint[], $15::int[])
), placed_events AS (
    INSERT INTO order_events (id, client_id, version, type, payload, occurred_at, traceparent)
    SELECT event_id, client_id, version, type, payload, placed_at, NULLIF(traceparent, '') FROM placed
), pending AS (
    INSERT INTO outbox (event_id) SELECT event_id FROM placed
)
UPDATE clients SET version = newest.version
    FROM (SELECT client_id, max(version) AS version FROM placed GROUP BY client_id) AS newest
    WHERE id = newest.client_id";

async fn write_at_once(
    db: &impl ConnectionTrait,
    orders: Vec<order::Model>,
    items: Vec<order_item::Model>,
    events: Vec<order_event::Model>,
) -> Result<(), DbErr> {
    fn column<M, T: Into<Value> + NotU8 + ValueType>(rows: &[M], value: impl Fn(&M) -> T) -> Value {
        rows.iter().map(value).collect::<Vec<T>>().into()
    }
    let values = [
        column(&orders, |order| order.id),
        column(&orders, |order| order.client_id),
        column(&orders, |order| order.version),
        column(&orders, |order| order.placed_at),
        column(&orders, |order| order.total),
        column(&orders, |order| order.idempotency_key.clone().unwrap_or_default()),
        column(&events, |event| event.id),
        column(&events, |event| event.r#type.clone()),
        column(&events, |event| event.payload.clone()),
        column(&events, |event| event.traceparent.clone().unwrap_or_default()),
        column(&items, |item| item.order_id),
        column(&items, |item| item.line),
        column(&items, |item| item.product_id),
        column(&items, |item| item.unit_price),
        column(&items, |item| item.quantity),
    ];
    db.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, WRITE, values)).await?;
    Ok(())
}

/// A row with every column set: what is inserted is the whole model, keys included.
pub(crate) fn as_new<A: ActiveModelTrait>(model: impl IntoActiveModel<A>) -> A {
    model.into_active_model().reset_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        let client = |id: i64, version| client::Model {
            id,
            name: format!("Client {id}"),
            email: format!("{id}@example.com"),
            version,
        };
        let product = |id: i64, price| product::Model { id, name: format!("Product {id}"), price, version: 0 };
        Book {
            currency: Currency::USD,
            clients: [client(1, 0), client(2, 41)].map(|client| (client.id, client)).into(),
            products: [product(1, 150_000), product(2, 50_000), product(3, i64::MAX)].map(|p| (p.id, p)).into(),
            earlier: HashMap::new(),
        }
    }

    fn command(client_id: i64, items: &[(i64, i32)], key: Option<&str>) -> PlaceOrder {
        let items = items.iter().map(|&(product_id, quantity)| Item { product_id, quantity }).collect();
        PlaceOrder { client_id, items, idempotency_key: key.map(Into::into), traceparent: None }
    }

    fn decide(book: &mut Book, command: PlaceOrder) -> Result<Placed, Vec<Rejection>> {
        book.decide(&command, DateTime::UNIX_EPOCH)
    }

    #[test]
    fn versions_count_up_and_prices_are_those_of_the_moment() {
        let mut book = book();
        let placed = decide(&mut book, command(1, &[(1, 1), (2, 3)], None)).unwrap();
        assert_eq!((placed.event.version, placed.event.data.total), (1, 300_000));
        assert_eq!(placed.event.data.lines[1].unit_price, 50_000);
        assert_eq!(decide(&mut book, command(1, &[(2, 1)], None)).unwrap().event.version, 2);
        assert_eq!(decide(&mut book, command(2, &[(2, 1)], None)).unwrap().event.version, 42);
    }

    #[test]
    fn all_faults_of_an_order_are_reported_and_it_takes_no_version() {
        use Rejection::*;
        let long_key = "k".repeat(256);
        let cases = [
            (command(9, &[], Some("")), vec![InvalidIdempotencyKey, ClientNotFound, EmptyOrder]),
            (command(1, &[(1, 1); 101], Some(&long_key)), vec![InvalidIdempotencyKey, TooManyItems]),
            (
                command(9, &[(1, 0), (7, 10_001), (2, 1), (0, 1)], None),
                vec![
                    ClientNotFound,
                    QuantityOutOfRange { item: 0 },
                    QuantityOutOfRange { item: 1 },
                    ProductNotFound { item: 1 },
                    ProductNotFound { item: 3 },
                ],
            ),
            (command(1, &[(3, 1)], None), vec![TotalOutOfRange]),
            (command(1, &[(3, 2)], None), vec![TotalOutOfRange]),
            (command(9, &[(1, 10_000); 100], None), vec![ClientNotFound]),
            (command(1, &[(1, i32::MIN)], Some("a\0b")), vec![InvalidIdempotencyKey, QuantityOutOfRange { item: 0 }]),
        ];
        let mut book = book();
        for (command, faults) in cases {
            assert_eq!(decide(&mut book, command), Err(faults));
        }
        assert_eq!(decide(&mut book, command(1, &[(1, 1)], None)).unwrap().event.version, 1);
    }

    #[test]
    fn limits_themselves_are_allowed() {
        let mut book = book();
        let key = "\u{1f511}".repeat(255);
        let placed = decide(&mut book, command(1, &[(2, 10_000); 100], Some(&key))).unwrap();
        assert_eq!(placed.event.data.total, 50_000 * 10_000 * 100);
    }

    #[test]
    fn a_key_answers_the_same_request_again_and_refuses_another() {
        let mut book = book();
        let first = decide(&mut book, command(1, &[(1, 1), (2, 3)], Some("k"))).unwrap();
        let again = decide(&mut book, command(1, &[(1, 1), (2, 3)], Some("k"))).unwrap();
        assert_eq!((again.event, again.replayed), (first.event, true));
        for other in [&[(2, 3), (1, 1)][..], &[(1, 1)], &[(1, 1), (2, 4)], &[]] {
            assert_eq!(decide(&mut book, command(1, other, Some("k"))), Err(vec![Rejection::IdempotencyKeyReused]));
        }
        assert!(!decide(&mut book, command(2, &[(1, 1)], Some("k"))).unwrap().replayed, "keys are per client");
        assert!(!decide(&mut book, command(1, &[(1, 1)], Some("K"))).unwrap().replayed);
    }
}
