//! `migration sample-data`, and the first events of clients and products from before there were events for them.

use entity::event::{CLIENT_REGISTERED, PRODUCT_CREATED};
use entity::{Event, client, order_event, outbox, product};
use migration::{Migrator, MigratorTrait};
use sea_orm::{ConnectionTrait, DatabaseConnection, EntityTrait, QueryOrder};

use crate::support::{postgres, sqlite};

/// Subject, type and version of each event, parsed as the projector parses it.
async fn log(db: &DatabaseConnection, currency: &str) -> Vec<(String, String, i32)> {
    let rows = order_event::Entity::find().order_by_asc(order_event::Column::Id).all(db).await.unwrap();
    let read = |row: order_event::Model| {
        let event = Event::from_row(row.clone(), currency).unwrap();
        (event.subject().to_string(), row.r#type, event.version)
    };
    rows.into_iter().map(read).collect()
}

fn first_events() -> Vec<(String, String, i32)> {
    let of =
        |subject: &str, r#type: &str| (1..=3).map(|id| (format!("{subject} {id}"), r#type.to_owned(), 1)).collect();
    let (clients, products): (Vec<_>, Vec<_>) = (of("client", CLIENT_REGISTERED), of("product", PRODUCT_CREATED));
    [clients, products].concat()
}

#[tokio::test]
async fn the_sample_data_has_events_and_is_inserted_once() {
    for db in [sqlite().await, postgres().await] {
        let db = &db.connection;
        assert_eq!(log(db, "USD").await, first_events());
        assert!(!migration::sample_data(db, "USD").await.unwrap());
        let clients = client::Entity::find().order_by_asc(client::Column::Id).all(db).await.unwrap();
        let clients: Vec<_> = clients.iter().map(|client| (client.id, &*client.name, client.version)).collect();
        assert_eq!(clients, [(1, "Bob", 1), (2, "Alice", 1), (3, "John", 1)]);
        let products = product::Entity::find().order_by_asc(product::Column::Id).all(db).await.unwrap();
        let products: Vec<_> = products.iter().map(|product| (product.id, product.price, product.version)).collect();
        assert_eq!(products, [(1, 150_000, 1), (2, 50_000, 1), (3, 100_000, 1)]);
    }
}

#[tokio::test]
async fn clients_and_products_without_events_get_them_in_the_currency_of_the_log() {
    let db = runtime::database::connect("sqlite::memory:", 1, None).await.unwrap();
    Migrator::up(&db, Some(5)).await.unwrap();
    for statement in [
        "INSERT INTO clients (name, email, version) VALUES ('Bob', 'bob@example.com', 0), ('Zoe', 'zoe@example.com', 1)",
        "INSERT INTO products (name, price, version) VALUES ('Computer', 150000, 0)",
        r#"INSERT INTO order_events (id, client_id, version, type, payload, occurred_at) VALUES
            (x'01932f3c5d1e7a6b8c9d000000000001', 2, 1, 'orders.OrderPlaced.v1', '{"currency": "EUR"}', '2026-01-31T12:00:00Z')"#,
    ] {
        db.execute_unprepared(statement).await.unwrap();
    }
    migration::up(&db).await.unwrap();
    runtime::database::check_currency(&db, "EUR").await.unwrap();
    assert!(runtime::database::store_currency(&db, "USD").await.is_err());
    db.execute_unprepared("DELETE FROM order_events WHERE client_id = 2").await.unwrap();
    let expected = [("client 1", CLIENT_REGISTERED), ("product 1", PRODUCT_CREATED)];
    assert_eq!(log(&db, "EUR").await, expected.map(|(subject, r#type)| (subject.to_owned(), r#type.to_owned(), 1)));
    assert_eq!(outbox::Entity::find().all(&db).await.unwrap().len(), 2);
    let versions = client::Entity::find().all(&db).await.unwrap();
    assert_eq!(versions.iter().map(|client| client.version).collect::<Vec<_>>(), [1, 1]);
}
