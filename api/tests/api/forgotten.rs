//! Forgetting a client, on both databases and in Redis: afterwards no store has its name or its address.

use entity::event::{CLIENT_FORGOTTEN, ORDER_PLACED};
use entity::{Event, client, order_event};
use futures::future::join_all;
use sea_orm::{ConnectionTrait, DatabaseConnection, EntityTrait, QueryOrder, Statement};
use serde_json::{Value, json};
use test_support::dump;
use test_support::services::sql;

use crate::reports::ask;
use crate::support::{
    ALL_SCOPES, Api, Db, PLACE, code, open, order, postgres, postgres_alone, queue, redis, sqlite, until,
};

const EMAIL: &str = "zoe.private@example.com";
const NAME: &str = "Zoë Private";

async fn change(api: &Api, token: &str, mutation: &str) -> Value {
    let response = api.graphql(token, &format!("mutation {{ {mutation} }}"), json!({})).await;
    assert_eq!(response["errors"], Value::Null, "{mutation}: {response}");
    response["data"].as_object().unwrap().values().next().unwrap().clone()
}

async fn log(db: &DatabaseConnection) -> Vec<order_event::Model> {
    order_event::Entity::find().order_by_asc(order_event::Column::Id).all(db).await.unwrap()
}

fn parse(log: Vec<order_event::Model>) -> Vec<Event> {
    log.into_iter().map(|row| Event::from_row(row, "USD").unwrap()).collect()
}

/// Registers a client, whose own token names it by its address, and who orders, cancels and changes everything. Returns its id.
async fn a_client(api: &Api) -> String {
    let staff = api.token(ALL_SCOPES, None);
    let register = format!(
        "registerClient(input: {{ name: \"{NAME}\", email: \"{EMAIL}\", idempotencyKey: \"{EMAIL}\" }}) {{ client {{ id }} }}"
    );
    let id = change(api, &staff, &register).await["client"]["id"].as_str().unwrap().to_owned();
    let own = api.tokens.mint(EMAIL, ALL_SCOPES, Some(&id), std::time::Duration::from_secs(60)).unwrap();
    let placed = api.graphql(&own, PLACE, order(&id, &[("1", 1), ("2", 3)], Some(EMAIL))).await;
    let placed = placed["data"]["placeOrder"]["order"]["id"].as_str().unwrap_or_else(|| panic!("{placed}")).to_owned();
    let cancel =
        format!("cancelOrder(input: {{ orderId: \"{placed}\", reason: \"{EMAIL} asked\" }}) {{ clientVersion }}");
    change(api, &staff, &cancel).await;
    api.graphql(&own, PLACE, order(&id, &[("2", 2)], None)).await;
    change(api, &own, &format!("updateClient(input: {{ id: \"{id}\", name: \"{NAME} II\" }}) {{ clientVersion }}"))
        .await;
    id
}

fn forget(id: &str) -> String {
    format!(
        "forgetClient(input: {{ id: \"{id}\" }}) {{ client {{ name email }} clientVersion replayed userErrors {{ code }} }}"
    )
}

fn has_personal_data(dump: &str) -> bool {
    ["zoe.private", "Private", "Zo\u{eb}"].iter().any(|part| dump.contains(part))
}

#[tokio::test]
async fn no_store_has_the_name_or_the_address_of_a_forgotten_client() {
    let ((server, read_model), db) = (redis().await, postgres().await);
    let api = Api::start_on(&db, read_model, queue().await, &[]).await;
    let id = a_client(&api).await;
    let before = log(&db.connection).await;
    assert!(api.read_model.apply(&parse(before.clone())).await.iter().all(Result::is_ok));
    assert!(
        has_personal_data(&dump::postgres(&db.connection).await)
            && has_personal_data(&dump::redis(&server.client()).await)
    );
    let sums = "{ clients { nodes { id total { amount } orderCount } } }";
    let sums_before = ask(&api, sums).await;

    let forgotten = change(&api, &api.token("clients:forget clients:read", None), &forget(&id)).await;
    assert_eq!((&forgotten["clientVersion"], &forgotten["userErrors"]), (&json!(6), &json!([])), "{forgotten}");
    let after = log(&db.connection).await;
    let event = after.last().unwrap();
    assert_eq!((&*event.r#type, event.actor.as_deref()), (CLIENT_FORGOTTEN, Some("tester")));
    assert!(api.read_model.apply(&parse(vec![event.clone()])).await[0].is_ok());
    for dump in [dump::postgres(&db.connection).await, dump::redis(&server.client()).await] {
        assert!(!has_personal_data(&dump), "{dump}");
    }
    assert_eq!(ask(&api, sums).await, sums_before, "orders and sums stay");

    // Events that are still on their way, and dead letters, have lower versions.
    assert!(api.read_model.apply(&parse(before)).await.iter().all(Result::is_ok));
    assert!(!has_personal_data(&dump::redis(&server.client()).await));
    // A read model that is built from the log has only the mask.
    let (rebuilt_server, rebuilt) = redis().await;
    let api = Api::start_on(&db, rebuilt, queue().await, &[]).await;
    assert!(api.read_model.apply(&parse(after)).await.iter().all(Result::is_ok));
    assert!(!has_personal_data(&dump::redis(&rebuilt_server.client()).await));
    assert_eq!(ask(&api, sums).await, sums_before);
    let history = format!(
        "{{ client(id: {id}) {{ name email history {{ nodes {{ type actor reason changes {{ before after }} }} }} }} }}"
    );
    let seen = ask(&api, &history).await;
    assert!(!has_personal_data(&seen.to_string()), "{seen}");
    assert_eq!(seen["client"]["history"]["nodes"][0]["type"], "CLIENT_FORGOTTEN");
    assert!(seen["client"]["history"]["nodes"].to_string().contains("\"actor\":\"tester\""), "the staff stays");
}

#[tokio::test]
async fn a_sqlite_file_has_nothing_of_a_forgotten_client() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("orders.db");
    let url = format!("sqlite://{}?mode=rwc", file.display());
    crate::support::migrate(&url).await.close().await.unwrap();
    let db = Db::on(open(&url).await);
    let api = Api::start(&db).await;
    let id = a_client(&api).await;
    let contents = async || {
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)".to_owned();
        let checkpoint = Statement::from_string(db.connection.get_database_backend(), checkpoint);
        db.connection.query_one_raw(checkpoint).await.unwrap();
        let bytes = std::fs::read(&file).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    assert!(has_personal_data(&contents().await));
    change(&api, &api.token(ALL_SCOPES, None), &forget(&id)).await;
    let contents = contents().await;
    assert!(contents.contains("Forgotten client") && !has_personal_data(&contents));
}

#[tokio::test]
async fn a_forgotten_client_takes_no_orders_and_changes_and_frees_its_address() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        let (id, staff) = (a_client(&api).await, api.token(ALL_SCOPES, None));
        let other = api.token(ALL_SCOPES, Some("1"));
        let response = api.graphql(&other, &format!("mutation {{ {} }}", forget(&id)), json!({})).await;
        assert_eq!(code(&response), "FORBIDDEN");
        let without = api.token(&ALL_SCOPES.replace("clients:forget", ""), None);
        let response = api.graphql(&without, &format!("mutation {{ {} }}", forget(&id)), json!({})).await;
        assert_eq!(code(&response), "FORBIDDEN");

        let racing = join_all((0..50).map(|_| {
            let mutation = forget(&id).replace("input: {", "input: { idempotencyKey: \"once\", ");
            let (api, staff) = (&api, &staff);
            async move { change(api, staff, &mutation).await }
        }))
        .await;
        assert_eq!(racing.iter().filter(|payload| payload["replayed"] == false).count(), 1, "{racing:?}");
        assert!(racing.iter().all(|payload| payload["clientVersion"] == 6), "{racing:?}");
        let again = change(&api, &staff, &forget(&id)).await;
        assert_eq!((&again["replayed"], &again["clientVersion"]), (&json!(true), &json!(6)));
        let forgotten = log(&db.connection).await.iter().filter(|row| row.r#type == CLIENT_FORGOTTEN).count();
        assert_eq!(forgotten, 1);

        for key in [None, Some(EMAIL)] {
            let placed = api.graphql(&staff, PLACE, order(&id, &[("1", 1), ("2", 3)], key)).await;
            assert_eq!(placed["data"]["placeOrder"]["userErrors"][0]["code"], "CLIENT_FORGOTTEN", "{placed}");
        }
        let update = format!("updateClient(input: {{ id: \"{id}\", name: \"{NAME}\" }}) {{ userErrors {{ code }} }}");
        assert_eq!(change(&api, &staff, &update).await["userErrors"][0]["code"], "CLIENT_FORGOTTEN");
        let unknown = change(&api, &staff, &forget("99")).await;
        assert_eq!(unknown["userErrors"][0]["code"], "CLIENT_NOT_FOUND");
        // What is left of an order can still be refunded.
        let order = log(&db.connection).await.into_iter().rfind(|row| row.r#type == ORDER_PLACED).unwrap();
        let order = order.payload["orderId"].as_str().unwrap().to_owned();
        // Its reason and the subject of the client's token would bring personal data back.
        let own = api.tokens.mint(EMAIL, ALL_SCOPES, Some(&id), std::time::Duration::from_secs(60)).unwrap();
        let fields = "order { cancelReason } replayed userErrors { code }";
        let refund = format!(
            "refundOrder(input: {{ orderId: \"{order}\", amount: \"1\", reason: \"{EMAIL}\", idempotencyKey: \"r\" }}) {{ {fields} }}"
        );
        let cancel = format!("cancelOrder(input: {{ orderId: \"{order}\", reason: \"{EMAIL}\" }}) {{ {fields} }}");
        for (mutation, replayed) in [(&refund, false), (&refund, true), (&cancel, false)] {
            let done = change(&api, &own, mutation).await;
            let expected = json!({ "order": { "cancelReason": null }, "replayed": replayed, "userErrors": [] });
            assert_eq!(done, expected, "{mutation}");
        }
        let log_after = format!("{:?}", log(&db.connection).await);
        assert!(!has_personal_data(&log_after), "{log_after}");
        // The address is free, and the address of the mask cannot be registered.
        let register = |email: &str| {
            format!(
                "registerClient(input: {{ name: \"Z\", email: \"{email}\" }}) {{ client {{ id }} userErrors {{ code }} }}"
            )
        };
        assert_eq!(change(&api, &staff, &register(EMAIL)).await["userErrors"], json!([]));
        let masked = client::Entity::find_by_id(id.parse::<i64>().unwrap()).one(&db.connection).await.unwrap().unwrap();
        assert!(masked.forgotten_at.is_some() && masked.version == 8);
        let refused = change(&api, &staff, &register(&masked.email)).await;
        assert_eq!(refused["userErrors"][0]["code"], "INVALID_EMAIL");
    }
}

/// A response was lost, the client was forgotten, and the request is sent again.
#[tokio::test]
async fn forgetting_a_client_between_a_request_and_its_repetition_executes_nothing_twice() {
    for db in [sqlite().await, postgres().await] {
        let api = Api::start(&db).await;
        let staff = api.token(ALL_SCOPES, None);
        let register = |name: &str| {
            format!(
                "registerClient(input: {{ name: \"{name}\", email: \"{EMAIL}\", idempotencyKey: \"{EMAIL}\" }}) {{
                    client {{ id name }} replayed userErrors {{ code }} }}"
            )
        };
        let id = change(&api, &staff, &register(NAME)).await["client"]["id"].as_str().unwrap().to_owned();
        let placed = api.graphql(&staff, PLACE, order(&id, &[("1", 1)], None)).await;
        let placed = placed["data"]["placeOrder"]["order"]["id"].as_str().unwrap().to_owned();
        let refund = |amount: &str| {
            format!(
                "refundOrder(input: {{ orderId: \"{placed}\", amount: \"{amount}\", reason: \"{NAME}\", idempotencyKey: \"{NAME}\" }}) {{
                    order {{ refunded {{ amount }} }} clientVersion replayed userErrors {{ code }} }}"
            )
        };
        let first = change(&api, &staff, &refund("5.00")).await;
        assert_eq!((&first["replayed"], &first["clientVersion"]), (&json!(false), &json!(3)), "{first}");
        assert_eq!(change(&api, &staff, &forget(&id)).await["userErrors"], json!([]));
        let before = log(&db.connection).await;

        let again = change(&api, &staff, &refund("5.00")).await;
        let expected = json!({ "order": { "refunded": { "amount": "5.00" } }, "clientVersion": 3, "replayed": true, "userErrors": [] });
        assert_eq!(again, expected);
        let registered = change(&api, &staff, &register(NAME)).await;
        assert_eq!((&registered["replayed"], &registered["client"]["id"]), (&json!(true), &json!(id)), "{registered}");
        for other in [refund("6.00"), register("Another")] {
            let reused = change(&api, &staff, &other).await;
            assert_eq!(reused["userErrors"][0]["code"], "IDEMPOTENCY_KEY_REUSED", "{reused}");
        }
        assert_eq!(log(&db.connection).await, before);
        // The keys of both are free for others.
        let other = register(NAME).replace(&format!("idempotencyKey: \"{EMAIL}\""), "idempotencyKey: \"other\"");
        assert_eq!(change(&api, &staff, &other).await["replayed"], false);
        let keys = entity::idempotency_key::Entity::find().all(&db.connection).await.unwrap();
        assert!(!has_personal_data(&format!("{keys:?}")), "{keys:?}");
    }
}

/// With 12,500 events of client 1.
async fn start_with_many_events() -> (test_support::postgres::PostgresDatabase, Db, Api) {
    let postgres = test_support::postgres::database().await;
    // Without a limit for statements.
    let loader = runtime::database::connect(&postgres.url, 1, None).await.unwrap();
    migration::up(&loader).await.unwrap();
    test_support::fill::fill(&loader, 2, 25_000).await;
    loader.close().await.unwrap();
    let db = Db::on(open(&postgres.url).await);
    // More than the time of an operation, because other tests run at the same time.
    let api = Api::start_with(&db, &["--operation-timeout", "60s"]).await;
    (postgres, db, api)
}

/// Its older events are masked in transactions of their own.
#[tokio::test]
async fn a_client_with_many_events_is_forgotten_too() {
    let (_postgres, db, api) = start_with_many_events().await;
    let staff = api.token(ALL_SCOPES, None);
    let left = async || {
        let left =
            "SELECT count(*) AS left FROM order_events WHERE client_id = 1 AND payload::text LIKE '%1@example.com%'";
        db.connection.query_one_raw(sql(left)).await.unwrap().unwrap().try_get::<i64>("", "left").unwrap()
    };

    // A request that is rejected masks nothing.
    let rename = "updateClient(input: { id: 1, name: \"Bob\", idempotencyKey: \"used\" }) { clientVersion }";
    assert_eq!(change(&api, &staff, rename).await["clientVersion"], 12_501);
    let with_used_key = forget("1").replace("input: {", "input: { idempotencyKey: \"used\", ");
    let refused = change(&api, &staff, &with_used_key).await;
    assert_eq!(refused["userErrors"][0]["code"], "IDEMPOTENCY_KEY_REUSED", "{refused}");
    let set_version = |version: i32| format!("UPDATE clients SET version = {version} WHERE id = 1");
    db.connection.execute_unprepared(&set_version(i32::MAX)).await.unwrap();
    let refused = change(&api, &staff, &forget("1")).await;
    assert_eq!(refused["userErrors"][0]["code"], "VERSION_LIMIT_REACHED", "{refused}");
    db.connection.execute_unprepared(&set_version(12_501)).await.unwrap();
    assert_eq!(left().await, 12_501);

    // 6,000 events arrive while the older events are masked.
    db.connection.execute_unprepared(EVENTS_MEANWHILE).await.unwrap();
    let started = std::time::Instant::now();
    let forgotten = change(&api, &staff, &forget("1")).await;
    println!("18,501 events were masked in {:?}", started.elapsed());
    assert_eq!((&forgotten["clientVersion"], &forgotten["userErrors"]), (&json!(18_502), &json!([])), "{forgotten}");
    assert_eq!(left().await, 0);
}

/// As when the time of an operation ends: otherwise a client with very many events could never be forgotten.
#[tokio::test]
async fn a_repeated_request_to_forget_a_client_continues_where_the_first_one_has_stopped() {
    let (_postgres, db, api) = start_with_many_events().await;
    let staff = api.token(ALL_SCOPES, None);
    let statements = "CREATE TABLE statements (failing int); INSERT INTO statements VALUES (3); CREATE SEQUENCE statement;
        CREATE FUNCTION count_statements() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('statement') = (SELECT failing FROM statements) THEN RAISE 'interrupted'; END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER count_statements AFTER UPDATE ON order_events FOR EACH STATEMENT EXECUTE FUNCTION count_statements();";
    db.connection.execute_unprepared(statements).await.unwrap();
    let response = api.graphql(&staff, &format!("mutation {{ {} }}", forget("1")), json!({})).await;
    assert_eq!(code(&response), "INTERNAL_SERVER_ERROR", "{response}");

    db.connection.execute_unprepared("SELECT setval('statement', 10)").await.unwrap();
    let forgotten = change(&api, &staff, &forget("1")).await;
    assert_eq!(forgotten["userErrors"], json!([]), "{forgotten}");
    let left = "SELECT count(*) AS left, (SELECT last_value FROM statement) - 10 AS statements FROM order_events
        WHERE client_id = 1 AND payload::text LIKE '%1@example.com%'";
    let row = db.connection.query_one_raw(sql(left)).await.unwrap().unwrap();
    assert_eq!(row.try_get::<i64>("", "left").unwrap(), 0);
    // Of 12,500 events 4,000 were masked, and a statement masks 2,000.
    assert_eq!(row.try_get::<i64>("", "statements").unwrap(), 5);
}

/// PostgreSQL logs an error with the values that caused it.
#[tokio::test]
async fn the_log_of_the_database_has_no_address_that_is_taken() {
    let db = postgres_alone().await;
    let api = Api::start(&db).await;
    let staff = api.token(ALL_SCOPES, None);
    let register = format!("registerClient(input: {{ name: \"Z\", email: \"{EMAIL}\" }}) {{ userErrors {{ code }} }}");
    let update = format!("updateClient(input: {{ id: 1, email: \"{EMAIL}\" }}) {{ userErrors {{ code }} }}");
    assert_eq!(change(&api, &staff, &register).await["userErrors"], json!([]));
    for mutation in [&register, &update] {
        assert_eq!(change(&api, &staff, mutation).await["userErrors"][0]["code"], "EMAIL_TAKEN");
    }
    assert!(db.connection.execute_unprepared("SELECT the_end_of_this_test").await.is_err());
    let directory = "SELECT current_setting('data_directory') || '/' || current_setting('log_directory') AS directory";
    let row = db.connection.query_one_raw(sql(directory)).await.unwrap().unwrap();
    let directory: String = row.try_get("", "directory").unwrap();
    let read = || {
        let files = std::fs::read_dir(&directory).unwrap();
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect::<String>()
    };
    until("the log has the error", async || read().contains("the_end_of_this_test")).await;
    assert!(!read().contains(EMAIL), "{}", read());
}

const EVENTS_MEANWHILE: &str = "CREATE FUNCTION arrive() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT version FROM clients WHERE id = 1) = 12501 THEN
            INSERT INTO order_events (id, client_id, version, type, payload, occurred_at)
            SELECT gen_random_uuid(), 1, 12501 + n, type, payload, occurred_at
            FROM order_events, generate_series(1, 6000) n WHERE client_id = 1 AND version = 12501;
            UPDATE clients SET version = 18501 WHERE id = 1;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER arrive AFTER UPDATE ON order_events FOR EACH STATEMENT EXECUTE FUNCTION arrive();";
