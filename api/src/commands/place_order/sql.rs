//! The statements that place orders.

use std::collections::{BTreeMap, HashMap, HashSet};

use entity::event::{self, MAX_LINES};
use entity::{Event, OrderPlaced, Subject, client, idempotency_key, order, order_event, order_item, outbox, product};
use iso_currency::Currency;
use sea_orm::sea_query::postgres_array::NotU8;
use sea_orm::sea_query::{LockBehavior, LockType, ValueType};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Statement, Value};

use super::rules::Book;
use super::{PlaceOrder, WhenLocked};
use crate::commands::as_new;
use crate::commands::clients::raise_version;
use crate::commands::clock::timed;
use crate::commands::database::is_one_pair_of;
use crate::commands::idempotency::{Scope, is_valid_key};
use crate::orders::placed_event;
use crate::outbox::log_tailing::{self, Publication};
use crate::outbox::relay::Outgoing;
use crate::outbox::spans;
use runtime::database::is_one_of;

/// Reads what the rules need, and locks the clients. Returns the clients that it skipped, too.
pub async fn open_book(
    db: &impl ConnectionTrait,
    currency: Currency,
    commands: &[PlaceOrder],
    when_locked: WhenLocked,
) -> Result<(Book, HashSet<i64>), DbErr> {
    let ids: HashSet<i64> = commands.iter().filter_map(|command| command.client_id).collect();
    // Locked in the sequence of ids, so that two transactions cannot deadlock.
    let clients = client::Entity::find()
        .filter(is_one_of(db, client::Column::Id, ids.iter().copied()))
        .order_by_asc(client::Column::Id);
    let clients = match when_locked {
        WhenLocked::Wait => clients.lock_exclusive(),
        WhenLocked::Skip => clients.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked),
    };
    let clients = timed(db, clients).all(db).await?;
    // Without any client no order is placed.
    let now = clients.iter().map(|client| client.time).max().unwrap_or_default();
    let clients: Vec<client::Model> = clients.into_iter().map(|client| client.row).collect();
    let locked = match when_locked {
        WhenLocked::Wait => HashSet::new(),
        WhenLocked::Skip => skipped(db, ids, &clients).await?,
    };
    let items = commands.iter().filter(|command| command.items.len() <= MAX_LINES).flat_map(|command| &command.items);
    let products = product::Entity::find()
        .filter(is_one_of(db, product::Column::Id, items.filter_map(|item| item.product_id)))
        .all(db)
        .await?;
    let earlier = earlier_orders(db, currency, commands).await?;
    Ok((Book { earlier, now, ..Book::new(currency, clients, products) }, locked))
}

/// The clients with these ids that exist, except those that are `found`.
async fn skipped(
    db: &impl ConnectionTrait,
    mut ids: HashSet<i64>,
    found: &[client::Model],
) -> Result<HashSet<i64>, DbErr> {
    for client in found {
        ids.remove(&client.id);
    }
    if ids.is_empty() {
        return Ok(ids);
    }
    let existing = client::Entity::find().select_only().column(client::Column::Id);
    let existing = existing.filter(is_one_of(db, client::Column::Id, ids)).into_tuple::<i64>();
    Ok(existing.all(db).await?.into_iter().collect())
}

/// The name of the command in `idempotency_keys`.
const COMMAND: &str = "placeOrder";

/// The order that was placed with an idempotency key.
///
/// # Errors
/// When the database fails, or the order's event is damaged.
pub async fn placed_with_key(
    db: &impl ConnectionTrait,
    currency: Currency,
    client: i64,
    key: &str,
) -> Result<Option<Event<OrderPlaced>>, DbErr> {
    let key = key.to_owned();
    let mut placed = events_of_keys(db, currency, vec![(client, &key)]).await?;
    Ok(placed.remove(&(client, key.clone())).flatten())
}

/// The orders that were placed with the commands' idempotency keys, by client and key.
async fn earlier_orders(
    db: &impl ConnectionTrait,
    currency: Currency,
    commands: &[PlaceOrder],
) -> Result<HashMap<(i64, String), Option<Event<OrderPlaced>>>, DbErr> {
    let keys = commands.iter().filter_map(|command| Some((command.client_id?, command.idempotency_key.as_ref()?)));
    events_of_keys(db, currency, keys.collect()).await
}

async fn events_of_keys(
    db: &impl ConnectionTrait,
    currency: Currency,
    mut keys: Vec<(i64, &String)>,
) -> Result<HashMap<(i64, String), Option<Event<OrderPlaced>>>, DbErr> {
    use idempotency_key::{Column, Entity};
    keys.retain(|(_, key)| is_valid_key(key));
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let pairs = keys.iter().map(|(client, key)| (scope(*client), key.to_string())).collect();
    let used = Entity::find().filter(is_one_pair_of(db, [Column::Scope, Column::Key], pairs)).all(db).await?;
    if used.is_empty() {
        return Ok(HashMap::new());
    }
    let placed = used.iter().filter(|row| row.command == COMMAND).map(|row| row.event_id);
    let events = order_event::Entity::find().filter(is_one_of(db, order_event::Column::Id, placed)).all(db).await?;
    let events = events.into_iter().map(|row| Ok((row.id, placed_event(row, currency)?)));
    let events: HashMap<_, _> = events.collect::<Result<_, DbErr>>()?;
    let used: HashMap<_, _> = used.into_iter().map(|row| ((row.scope, row.key), row.event_id)).collect();
    let earlier = keys.into_iter().filter_map(|(client, key)| {
        let event = used.get(&(scope(client), key.clone()))?;
        Some(((client, key.clone()), events.get(event).cloned()))
    });
    Ok(earlier.collect())
}

fn scope(client: i64) -> String {
    Scope::Of(Subject::Client(client)).name()
}

/// Inserts placed orders, their items and events, and raises the clients' versions. Returns the events for the relay.
pub async fn write(
    db: &impl ConnectionTrait,
    new: Vec<(&PlaceOrder, &Event<OrderPlaced>)>,
    publication: Publication,
) -> Result<Vec<Outgoing>, DbErr> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let rows = rows(&new);
    if publication == Publication::LogReader {
        write_at_once(db, &rows, publication).await?;
        log_tailing::write(db, &rows.events).await?;
        return Ok(Vec::new());
    }
    let outgoing = rows.events.iter().map(Outgoing::of).collect();
    match db.get_database_backend() {
        DbBackend::Postgres => write_at_once(db, &rows, publication).await?,
        _ => write_rows(db, rows).await?,
    }
    Ok(outgoing)
}

/// The rows of placed orders.
struct Rows {
    orders: Vec<order::Model>,
    items: Vec<order_item::Model>,
    /// One for each order, in the same order.
    events: Vec<order_event::Model>,
    /// Only for orders with a key.
    keys: Vec<idempotency_key::Model>,
}

fn rows(new: &[(&PlaceOrder, &Event<OrderPlaced>)]) -> Rows {
    let orders = new.iter().map(|(_, event)| order::Model {
        id: event.data.order_id,
        client_id: event.data.client_id,
        version: event.version,
        placed_at: event.time,
        total: event.data.total,
        cancelled_at: None,
        cancel_reason: None,
        refunded: 0,
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
    let events = new.iter().map(|(command, event)| {
        let mut row = order_event::Model {
            id: event.id,
            client_id: Some(event.data.client_id),
            product_id: None,
            version: event.version,
            r#type: event::ORDER_PLACED.to_owned(),
            payload: serde_json::to_value(&event.data).expect("an order always serialises"),
            occurred_at: event.time,
            traceparent: command.origin.traceparent.clone(),
            actor: command.origin.actor.clone(),
            actor_is_client: command.origin.actor_is_client.then_some(true),
        };
        spans::create(&mut row);
        row
    });
    let keys = new.iter().filter_map(|(command, event)| {
        Some(idempotency_key::Model {
            scope: scope(event.data.client_id),
            key: command.idempotency_key.clone()?,
            command: COMMAND.to_owned(),
            event_id: event.id,
            // The event has the input.
            input_hash: None,
        })
    });
    Rows { orders: orders.collect(), items: items.collect(), events: events.collect(), keys: keys.collect() }
}

async fn write_rows(db: &impl ConnectionTrait, Rows { orders, items, events, keys }: Rows) -> Result<(), DbErr> {
    // The last order of a client determines its version.
    let versions: BTreeMap<i64, i32> = orders.iter().map(|order| (order.client_id, order.version)).collect();
    order::Entity::insert_many(orders.into_iter().map(as_new)).exec_without_returning(db).await?;
    order_item::Entity::insert_many(items.into_iter().map(as_new)).exec_without_returning(db).await?;
    let pending: Vec<_> = events.iter().map(|event| as_new(outbox::Model { event_id: event.id })).collect();
    order_event::Entity::insert_many(events.into_iter().map(as_new)).exec_without_returning(db).await?;
    outbox::Entity::insert_many(pending).exec_without_returning(db).await?;
    if !keys.is_empty() {
        idempotency_key::Entity::insert_many(keys.into_iter().map(as_new)).exec_without_returning(db).await?;
    }
    for (client, version) in versions {
        raise_version(db, client, version).await?;
    }
    Ok(())
}

/// One statement with the same text for any number of orders. PostgreSQL parses and plans it once, which doubles the orders
/// per second. Each column is one parameter; an empty text stands for NULL.
const WRITE: &str = "
WITH placed AS (
    SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::int[], $4::timestamptz[], $5::bigint[],
                         $6::uuid[], $7::text[], $8::jsonb[], $9::text[], $10::text[], $11::bool[])
        AS placed (order_id, client_id, version, placed_at, total, event_id, type, payload, traceparent, actor, by_client)
), placed_orders AS (
    INSERT INTO orders (id, client_id, version, placed_at, total)
    SELECT order_id, client_id, version, placed_at, total FROM placed
), placed_items AS (
    INSERT INTO order_items (order_id, line, product_id, unit_price, quantity)
    SELECT * FROM UNNEST($12::uuid[], $13::int[], $14::bigint[], $15::bigint[], $16::int[])
), placed_events AS (
    INSERT INTO order_events (id, client_id, version, type, payload, occurred_at, traceparent, actor, actor_is_client)
    SELECT event_id, client_id, version, type, payload, placed_at, NULLIF(traceparent, ''), NULLIF(actor, ''),
        NULLIF(by_client, false) FROM placed
), pending AS (
    INSERT INTO outbox (event_id) SELECT event_id FROM placed WHERE $21
), used_keys AS (
    INSERT INTO idempotency_keys (scope, key, command, event_id)
    SELECT * FROM UNNEST($17::text[], $18::text[], $19::text[], $20::uuid[])
)
UPDATE clients SET version = newest.version
    FROM (SELECT client_id, max(version) AS version FROM placed GROUP BY client_id) AS newest
    WHERE id = newest.client_id";

async fn write_at_once(
    db: &impl ConnectionTrait,
    Rows { orders, items, events, keys }: &Rows,
    publication: Publication,
) -> Result<(), DbErr> {
    fn column<M, T: Into<Value> + NotU8 + ValueType>(rows: &[M], value: impl Fn(&M) -> T) -> Value {
        rows.iter().map(value).collect::<Vec<T>>().into()
    }
    let values = [
        column(orders, |order| order.id),
        column(orders, |order| order.client_id),
        column(orders, |order| order.version),
        column(orders, |order| order.placed_at),
        column(orders, |order| order.total),
        column(events, |event| event.id),
        column(events, |event| event.r#type.clone()),
        column(events, |event| event.payload.clone()),
        column(events, |event| event.traceparent.clone().unwrap_or_default()),
        column(events, |event| event.actor.clone().unwrap_or_default()),
        column(events, |event| event.actor_is_client.unwrap_or_default()),
        column(items, |item| item.order_id),
        column(items, |item| item.line),
        column(items, |item| item.product_id),
        column(items, |item| item.unit_price),
        column(items, |item| item.quantity),
        column(keys, |row| row.scope.clone()),
        column(keys, |row| row.key.clone()),
        column(keys, |row| row.command.clone()),
        column(keys, |row| row.event_id),
        (publication == Publication::Relay).into(),
    ];
    db.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, WRITE, values)).await?;
    Ok(())
}
