//! Servers, events, and everything that can be read.

use chrono::{DateTime, Days, Utc};
use chrono_tz::Tz;
use entity::event::{self, Line};
use entity::{Change, ClientChanged, Event, OrderPlaced, ProductChanged, Refund};
use read_model::reports::{self, DayRange, Granularity};
use read_model::{Ranking, ReadModel};
use std::collections::BTreeMap;
pub use test_support::redis::{Redis as Server, cluster, until_up};
pub use test_support::until;
use uuid::Uuid;

pub async fn server() -> Server {
    Server::start().await
}

pub async fn command(server: &Server, command: &[&str]) -> ::redis::Value {
    server.command(command).await
}

pub fn event(client_id: i64, version: i32, unit_price: i64) -> Event {
    let lines = vec![Line { product_id: 1, name: "Computer".into(), unit_price, quantity: 2 }];
    Event {
        id: Uuid::now_v7(),
        time: DateTime::from_timestamp_millis(1_700_000_000_000 + i64::from(version)).unwrap(),
        version,
        data: Change::OrderPlaced(OrderPlaced {
            client_id,
            client_name: format!("Client {client_id}, as of {version} \u{0} \u{1f600}"),
            client_email: format!("{client_id}.{version}@example.com"),
            order_id: Uuid::now_v7(),
            currency: "USD".into(),
            total: event::total(&lines).unwrap(),
            lines,
        }),
    }
}

pub fn order_of(event: &mut Event) -> &mut OrderPlaced {
    let Change::OrderPlaced(order) = &mut event.data else { panic!("no order") };
    order
}

pub fn client_of(event: &Event) -> i64 {
    event.client().unwrap().id
}

/// The version that forgets a client.
pub const FORGOTTEN: i32 = 12;

/// The event of a client's version, the same each time it is delivered: at some time from now to five years ago. Version 6 takes
/// back a half of the order of version 3, and version 5 the rest of it; version 11 cancels the order of version 7; version 12 forgets the
/// client.
pub fn dated(client_id: i64, version: i32, now: DateTime<Utc>) -> Event {
    let mut event = placed(client_id, version, now);
    if version == FORGOTTEN {
        let order = order_of(&mut event);
        (order.client_name, order.client_email) = ("Forgotten client".into(), format!("forgotten-{client_id}@invalid"));
    }
    if version % 4 == 0 {
        let OrderPlaced { client_id, client_name, client_email, .. } = order_of(&mut event).clone();
        event.data = Change::Client(ClientChanged { client_id, client_name, client_email });
    }
    match version {
        5 => cancelled(event, &placed(client_id, 3, now), |line| line - line / 2),
        6 => {
            Event { data: Change::OrderRefunded(refund(&event, &placed(client_id, 3, now), |line| line / 2)), ..event }
        }
        11 => cancelled(event, &placed(client_id, 7, now), |line| line),
        _ => event,
    }
}

/// The event as the cancellation of an order, which refunds a part of the total of each line.
pub fn cancelled(event: Event, placed: &Event, part: impl Fn(i64) -> i64) -> Event {
    Event { data: Change::OrderCancelled(refund(&event, placed, part)), ..event }
}

fn refund(event: &Event, placed: &Event, part: impl Fn(i64) -> i64) -> Refund {
    let (client, mut order) = (event.client().unwrap(), placed.order().unwrap().clone());
    (order.client_name, order.client_email) = (client.name.into(), client.email.into());
    let amounts: Vec<i64> = order.lines.iter().map(|line| part(line.total().unwrap())).collect();
    let (placed_at, placed_version, amount) = (placed.time, placed.version, amounts.iter().sum());
    Refund { order, placed_at, placed_version, reason: None, amount, amounts }
}

fn placed(client_id: i64, version: i32, now: DateTime<Utc>) -> Event {
    let mut event = event(client_id, version, version.into());
    let number = client_id * 1_000 + i64::from(version);
    let ago = [0, 1, 59, 3_600, 86_400, 20 * 86_400, 100 * 86_400, 1_800 * 86_400][(number * 7 % 8) as usize];
    event.time = DateTime::from_timestamp_millis(now.timestamp_millis() - ago * 1_000 - number % 3).unwrap();
    let order = order_of(&mut event);
    let line = |product_id| Line { product_id, ..order.lines[0].clone() };
    order.lines = (0..=number % 3).map(|line_number| line(1 + (number + line_number) % 5)).collect();
    order.total = event::total(&order.lines).unwrap();
    order.order_id = Uuid::from_u128(number as u128);
    event
}

pub fn priced(product_id: i64, version: i32) -> Event {
    let (name, currency) = (format!("Product {product_id} as of {version}"), "USD".to_owned());
    let (available, sku) = (version % 3 != 0, (version % 2 == 0).then(|| format!("SKU-{version}")));
    let data = Change::Product(ProductChanged { product_id, name, price: version.into(), currency, available, sku });
    Event { id: Uuid::now_v7(), time: Utc::now(), version, data }
}

/// All that can be read, of clients 1 to 5 and around their orders.
pub async fn all_of(model: &dyn ReadModel, now: DateTime<Utc>) -> impl PartialEq + std::fmt::Debug + use<> {
    let ids = [1, 2, 3, 4, 5];
    let (today, long_ago) = (now.date_naive(), now.date_naive() - Days::new(1_801));
    let mut ranked = Vec::new();
    for by in [Ranking::Total, Ranking::LastPurchase] {
        // A page at a time, as it is read.
        let mut after = None;
        loop {
            let page = model.ranked_clients(by, after, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(*last);
            ranked.extend(page);
        }
    }
    let mut reports = Vec::new();
    for (from, granularity, zone) in [
        (long_ago, Granularity::Day, Tz::UTC),
        (long_ago, Granularity::Month, Tz::UTC),
        (today - Days::new(3), Granularity::Hour, Tz::UTC),
        (today - Days::new(101), Granularity::Hour, Tz::UTC),
        (today - Days::new(101), Granularity::Day, Tz::Asia__Kolkata),
    ] {
        let days = DayRange { first: from, last: today, zone };
        reports.push(reports::report(model, days, granularity).await.unwrap());
    }
    let mut products = Vec::new();
    for from in [long_ago, today - Days::new(40), today] {
        let sold = reports::product_sales(model, &reports::periods(from, today)).await.unwrap();
        products.push(sold.into_iter().collect::<BTreeMap<_, _>>());
    }
    let recent = model.recent_orders(&ids, 5).await.unwrap();
    let latest = reports::latest_orders(model, 10).await.unwrap();
    let today = reports::today(model, now).await.unwrap();
    let catalogue = (model.products(&ids).await.unwrap(), model.catalogue_ids().await.unwrap());
    let clients = (model.clients(&ids).await.unwrap(), catalogue);
    (clients, ranked, reports, products, recent, latest, today)
}
