//! `place` on both databases, and orders that are placed in one batch.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use api::commands::Rejection;
use api::commands::place_order::batcher::order_queue;
use api::commands::place_order::{Outcome, PlaceOrder, place};
use api::orders::by_id::OrdersById;
use api::outbox::log_tailing::Publication;
use entity::event::ORDER_PLACED;
use entity::{client, idempotency_key, order, order_event, order_item, outbox, product};
use futures::future::join_all;
use iso_currency::Currency;
use sea_orm::{
    ActiveValue, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, EntityTrait, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, Select, TransactionTrait,
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::support::{ALL_SCOPES, Api, Db, code, command, migrate, placed, postgres, sqlite};

async fn both() -> [Db; 2] {
    [sqlite().await, postgres().await]
}

async fn place_one(db: &DatabaseConnection, command: PlaceOrder) -> Outcome {
    place(db, Currency::USD, &[command]).await.unwrap().outcomes.remove(0)
}

/// The events of orders, without those of the sample data.
fn placed_events() -> Select<order_event::Entity> {
    order_event::Entity::find().filter(order_event::Column::Type.eq(ORDER_PLACED))
}

/// Orders, items, their events, and the clients' versions.
async fn counts(db: &DatabaseConnection) -> (u64, u64, u64, Vec<i32>) {
    let clients = client::Entity::find().order_by_asc(client::Column::Id).all(db).await.unwrap();
    (
        order::Entity::find().count(db).await.unwrap(),
        order_item::Entity::find().count(db).await.unwrap(),
        placed_events().count(db).await.unwrap(),
        clients.into_iter().map(|client| client.version).collect(),
    )
}

#[tokio::test]
async fn an_order_its_items_and_its_event_are_written_together() {
    for db in both().await {
        let db = &db.connection;
        let event = placed(place_one(db, command(1, &[(1, 1), (2, 3)], Some("k"))).await);
        assert_eq!(counts(db).await, (1, 2, 1, vec![2, 1, 1]));
        let order = order::Entity::find().one(db).await.unwrap().unwrap();
        assert_eq!((order.id, order.placed_at), (event.data.order_id, event.time));
        assert_eq!((order.total, order.version), (300_000, 2));
        let row = placed_events().one(db).await.unwrap().unwrap();
        let key = idempotency_key::Model {
            scope: "client 1".into(),
            key: "k".into(),
            command: "placeOrder".into(),
            event_id: row.id,
            input_hash: None,
        };
        assert_eq!(idempotency_key::Entity::find().all(db).await.unwrap(), [key]);
        assert_eq!(row.id, event.id);
        let pending = outbox::Entity::find().all(db).await.unwrap();
        assert_eq!(pending, [outbox::Model { event_id: row.id }]);
        assert_eq!(entity::Event::from_row(row, "USD").unwrap(), event.into());
    }
}

#[tokio::test]
async fn rejected_orders_write_nothing_and_do_not_affect_others() {
    for db in both().await {
        let db = &db.connection;
        let commands = [
            command(1, &[(1, 1)], None),
            command(9, &[(1, 1)], None),
            command(1, &[(9, 1)], None),
            command(2, &[(2, 2)], None),
            command(1, &[(3, 1)], None),
        ];
        let outcomes = place(db, Currency::USD, &commands).await.unwrap().outcomes;
        let is_placed = |outcome: &Outcome| matches!(outcome, Outcome::Placed(_));
        assert_eq!(outcomes.iter().map(is_placed).collect::<Vec<_>>(), [true, false, false, true, true]);
        assert_eq!(counts(db).await, (3, 3, 3, vec![3, 2, 1]));
        assert!(place(db, Currency::USD, &[]).await.unwrap().outcomes.is_empty());
    }
}

#[tokio::test]
async fn a_repeated_key_returns_the_first_order() {
    for db in both().await {
        let db = &db.connection;
        let first = placed(place_one(db, command(1, &[(1, 1), (2, 3)], Some("k"))).await);
        placed(place_one(db, command(1, &[(1, 1)], None)).await);
        let dearer = product::ActiveModel { id: ActiveValue::Set(1), price: ActiveValue::Set(1), ..Default::default() };
        product::Entity::update(dearer).exec(db).await.unwrap();

        let again = place_one(db, command(1, &[(1, 1), (2, 3)], Some("k"))).await;
        assert_eq!(again, Outcome::Replayed(first));
        let other = place_one(db, command(1, &[(1, 2)], Some("k"))).await;
        assert_eq!(other, Outcome::Rejected(vec![Rejection::IdempotencyKeyReused]));
        assert_eq!(counts(db).await.0, 2);

        // Also twice in one batch. Keys of different clients are independent.
        let twins = [command(2, &[(2, 1)], Some("k")), command(2, &[(2, 1)], Some("k"))];
        let outcomes = place(db, Currency::USD, &twins).await.unwrap().outcomes;
        assert!(matches!(outcomes[..], [Outcome::Placed(_), Outcome::Replayed(_)]), "{outcomes:?}");
    }
}

#[tokio::test]
async fn fifty_concurrent_requests_with_one_key_place_one_order() {
    for db in both().await {
        let db = &db.connection;
        let racing = (0..50).map(|_| place_one(db, command(1, &[(1, 1), (2, 3)], Some("k"))));
        let outcomes = join_all(racing).await;
        assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Placed(_))).count(), 1);
        let events: Vec<_> = outcomes.into_iter().map(placed).collect();
        assert!(events.iter().all(|other| *other == events[0]));
        assert_eq!(counts(db).await, (1, 2, 1, vec![2, 1, 1]));
    }
}

#[tokio::test]
async fn concurrent_batches_over_the_same_clients_neither_deadlock_nor_leave_gaps() {
    for db in both().await {
        let db = &db.connection;
        let batches: Vec<Vec<PlaceOrder>> = (0..24)
            .map(|n| [1, 2, 3].map(|i| command((i + n) % 3 + 1, &[(1, 1)], None)).into_iter().rev().collect())
            .collect();
        let placing = batches.iter().map(|batch| place(db, Currency::USD, batch));
        assert!(
            join_all(placing)
                .await
                .into_iter()
                .all(|batch| batch.unwrap().outcomes.into_iter().map(placed).count() == 3)
        );
        assert_eq!(counts(db).await, (72, 72, 72, vec![25, 25, 25]));
        let mut versions: BTreeMap<i64, Vec<i32>> = BTreeMap::new();
        for event in placed_events().order_by_asc(order_event::Column::Version).all(db).await.unwrap() {
            versions.entry(event.client_id.unwrap()).or_default().push(event.version);
        }
        assert!(versions.values().all(|versions| versions.iter().copied().eq(2..=25)), "{versions:?}");
    }
}

#[tokio::test]
async fn a_failed_write_leaves_nothing_behind() {
    for db in both().await {
        let db = &db.connection;
        db.execute_unprepared("DROP TABLE order_items").await.unwrap();
        assert!(place(db, Currency::USD, &[command(1, &[(1, 1)], None)]).await.is_err());
        assert_eq!(order::Entity::find().count(db).await.unwrap(), 0);
        assert_eq!(placed_events().count(db).await.unwrap(), 0);
        assert_eq!(client::Entity::find_by_id(1).one(db).await.unwrap().unwrap().version, 1);
    }
}

#[tokio::test]
async fn the_largest_order_fits_into_one_message() {
    for db in both().await {
        let db = &db.connection;
        let worst = "\u{1}".repeat(200); // each takes six bytes in JSON
        let product = product::ActiveModel {
            name: ActiveValue::Set(worst),
            price: ActiveValue::Set(1_000_000),
            ..Default::default()
        };
        let product = product::Entity::insert(product).exec(db).await.unwrap().last_insert_id;
        placed(place_one(db, command(1, &vec![(product, 10_000); 100], None)).await);
        let row = placed_events().one(db).await.unwrap().unwrap();
        assert!(row.message().len() < 256 * 1024, "{} bytes", row.message().len());
        let longer = product::ActiveModel {
            name: ActiveValue::Set("x".repeat(201)),
            price: ActiveValue::Set(1),
            ..Default::default()
        };
        assert!(product::Entity::insert(longer).exec(db).await.is_err(), "a longer name is refused");
    }
}

/// Also when the database rejects the order.
#[tokio::test]
async fn a_failing_order_does_not_affect_others_in_its_batch() {
    let db = postgres().await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN IF NEW.quantity = 666 THEN RAISE EXCEPTION ''no''; END IF; RETURN NEW; END';
        CREATE TRIGGER refuse BEFORE INSERT ON order_items FOR EACH ROW EXECUTE FUNCTION refuse()";
    db.connection.execute_unprepared(refuse).await.unwrap();
    let api = Api::start(&db).await;
    let token = api.token(ALL_SCOPES, None);
    let order =
        "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { clientVersion userErrors { code } } }";
    let placing = (0..100).map(|n| {
        let (client, quantity) = (n % 3 + 1, if n == 50 { 666 } else { 1 });
        let client = if n % 10 == 7 { 99 } else { client };
        let items = json!([{ "productId": "1", "quantity": quantity }]);
        api.graphql(&token, order, json!({ "input": { "clientId": client.to_string(), "items": items } }))
    });
    let responses = join_all(placing).await;
    for (n, response) in responses.iter().enumerate() {
        let payload = &response["data"]["placeOrder"];
        match n {
            50 => assert_eq!(code(response), "INTERNAL_SERVER_ERROR"),
            _ if n % 10 == 7 => assert_eq!(payload["userErrors"][0]["code"], "CLIENT_NOT_FOUND", "{response}"),
            _ => assert!(payload["clientVersion"].is_i64(), "{response}"),
        }
    }
    assert_eq!(order::Entity::find().count(&db.connection).await.unwrap(), 89);
}

/// And not for long, while another transaction holds the lock.
#[tokio::test]
async fn a_locked_client_blocks_only_its_own_orders() {
    let db = postgres().await;
    let api = Api::start_with(&db, &["--operation-timeout", "60s"]).await;
    let token = api.token(ALL_SCOPES, None);
    let other = lock_client(&db.connection, 2).await;
    let order = "mutation ($id: ID!) {
        placeOrder(input: { clientId: $id, items: [{ productId: \"1\", quantity: 1 }] }) { clientVersion } }";
    let placing = (0..60).map(|n| api.graphql(&token, order, json!({ "id": (n % 3 + 1).to_string() })));
    for (n, response) in join_all(placing).await.iter().enumerate() {
        match n % 3 + 1 {
            2 => assert_eq!(code(response), "COMMAND_STORE_UNAVAILABLE"),
            _ => assert!(response["data"]["placeOrder"]["clientVersion"].is_i64(), "{response}"),
        }
    }
    other.rollback().await.unwrap();
    let response = api.graphql(&token, order, json!({ "id": "2" })).await;
    assert_eq!(response["data"]["placeOrder"]["clientVersion"], 2, "no rejected order was placed");
}

#[tokio::test]
async fn orders_that_share_a_batch_with_those_of_a_locked_client_do_not_wait() {
    let db = postgres().await;
    let db = &db.connection;
    let other = lock_client(db, 2).await;
    let (outgoing, _events) = mpsc::channel(1);
    let (queue, batcher) = order_queue(db.clone(), Currency::USD, Publication::Relay, outgoing);
    let running = tokio::spawn(batcher.run(CancellationToken::new()));
    let keys = (0..40).map(|n| format!("key {}", n / 2));
    let mut of_locked: Vec<_> = Vec::new();
    for key in keys {
        let order = command(2, &[(1, 1)], Some(&key));
        of_locked.push(Box::pin(queue.place(order)));
        // The next batch has the orders of all three clients. It would take a second if it waited for the lock, and an order of the
        // locked client is refused after some seconds.
        assert!(futures::poll!(of_locked.last_mut().unwrap()).is_pending());
        let of_others = [command(1, &[(1, 1)], Some(&key)), command(99, &[(1, 1)], None)];
        let outcomes = join_all(of_others.map(|order| queue.place(order))).await;
        placed(outcomes[0].clone().unwrap());
        assert_eq!(outcomes[1].clone().unwrap(), Outcome::Rejected(vec![Rejection::ClientNotFound]));
        assert!(futures::poll!(&mut of_locked[0]).is_pending(), "the client is still locked");
    }
    other.rollback().await.unwrap();
    let events: Vec<_> = join_all(of_locked).await.into_iter().map(|outcome| placed(outcome.unwrap())).collect();
    assert!(events.chunks(2).all(|twins| twins[0] == twins[1]), "each key places one order");
    assert!(events.iter().map(|event| event.version).step_by(2).eq(2..=21), "orders stay in their sequence");
    assert_eq!(counts(db).await, (40, 40, 40, vec![21, 21, 1]));
    running.abort();
}

#[tokio::test]
async fn orders_of_a_client_that_is_locked_again_and_again_are_placed() {
    let db = postgres().await;
    let db = &db.connection;
    let (outgoing, _events) = mpsc::channel(1);
    let (queue, batcher) = order_queue(db.clone(), Currency::USD, Publication::Relay, outgoing);
    let running = tokio::spawn(batcher.run(CancellationToken::new()));
    // While one of them has the lock, the others wait for it.
    let locking = join_all((0..4).map(async |_| {
        loop {
            lock_client(db, 2).await.commit().await.unwrap();
        }
    }));
    let placing = join_all((0..100).map(|_| queue.place(command(2, &[(1, 1)], None))));
    tokio::select! {
        never = locking => { let _: Vec<()> = never; }
        outcomes = placing => outcomes.into_iter().for_each(|outcome| drop(placed(outcome.unwrap()))),
    }
    assert_eq!(counts(db).await.3, [1, 101, 1]);
    running.abort();
}

/// Locks a client until the end of the transaction.
async fn lock_client(db: &DatabaseConnection, id: i64) -> DatabaseTransaction {
    let transaction = db.begin().await.unwrap();
    client::Entity::find_by_id(id).lock_exclusive().one(&transaction).await.unwrap();
    transaction
}

#[tokio::test]
async fn a_client_with_many_waiting_orders_does_not_delay_others() {
    let db = sqlite().await;
    let db = &db.connection;
    let (outgoing, _events) = mpsc::channel(1);
    let (queue, batcher) = order_queue(db.clone(), Currency::USD, Publication::Relay, outgoing);
    let mut many: Vec<_> = (0..1_000).map(|_| Box::pin(queue.place(command(1, &[(1, 1)], None)))).collect();
    for order in &mut many {
        assert!(futures::poll!(order).is_pending());
    }
    let mut one = Box::pin(queue.place(command(2, &[(1, 1)], None)));
    assert!(futures::poll!(&mut one).is_pending());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(batcher.run(shutdown.clone()));
    let other = placed(one.await.unwrap()).data.order_id;
    let earlier = order::Entity::find().filter(order::Column::ClientId.eq(1)).filter(order::Column::Id.lt(other));
    let before = earlier.count(db).await.unwrap();
    assert!(before <= 250, "{before} orders of the other client came first");
    let versions = join_all(many).await.into_iter().map(|outcome| placed(outcome.unwrap()).version);
    assert!(versions.eq(2..=1_001), "the orders of a client are placed in their sequence");
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

/// SQLite refuses at once to write in a transaction that has read what another process has changed since.
#[tokio::test]
async fn orders_on_sqlite_succeed_while_another_process_writes() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("orders.db").display());
    let (db, other) = (migrate(&url).await, runtime::database::connect(&url, 1, None).await.unwrap());
    let writing = async {
        loop {
            other.execute_unprepared("UPDATE products SET version = version + 1 WHERE id = 3").await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let placing = async {
        for _ in 0..100 {
            place_one(&db, command(1, &[(1, 1)], None)).await;
        }
    };
    tokio::select! {
        () = writing => {}
        () = placing => {}
    }
    assert_eq!(counts(&db).await.0, 100);
}

/// Many subscriptions may read the same order after a change of its client, and keep it.
#[tokio::test]
async fn those_that_wait_for_an_order_share_it() {
    for Db { connection: db, .. } in &both().await {
        let id = placed(place_one(db, command(1, &[(1, 1)], None)).await).data.order_id;
        let orders = OrdersById::new(db.clone());
        let found = join_all((0..100).map(|_| orders.read(id, Some(1)))).await;
        let found: Vec<Arc<order::Model>> = found.into_iter().map(|found| found.unwrap().unwrap().unwrap()).collect();
        assert!(found.iter().all(|order| order.id == id));
        let rows: HashSet<_> = found.iter().map(Arc::as_ptr).collect();
        assert!(rows.len() < 10, "{} rows", rows.len());
        assert_eq!(orders.read(id, Some(2)).await.unwrap().unwrap(), None);
    }
}
