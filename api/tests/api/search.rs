//! Finding clients by name and e-mail address, on both databases.

use api::search::{Position, page};
use runtime::database;
use sea_orm::{ConnectionTrait, DatabaseConnection};
use serde_json::{Value, json};
use test_support::events::order_placed;
use test_support::services::sql;

use crate::reports::error_code;
use crate::support::{ALL_SCOPES, Api, Db, postgres, sqlite};

/// Runs a check with an api on each database.
async fn both(check: impl AsyncFn(&Api, &Db)) {
    for db in [sqlite().await, postgres().await] {
        check(&Api::start(&db).await, &db).await;
    }
}

/// Adds clients without events, in this sequence, after the three of the sample data.
async fn add(db: &Db, clients: &[(&str, &str)]) {
    for (name, email) in clients {
        let name = name.replace('\'', "''");
        let insert = format!("INSERT INTO clients (name, email, version) VALUES ('{name}', '{email}', 1)");
        db.connection.execute_unprepared(&insert).await.unwrap();
    }
}

/// The names of the clients that a search finds, read page by page; `between` runs after each page.
async fn find_with(api: &Api, search: &str, first: usize, between: impl AsyncFn()) -> Vec<String> {
    let token = api.token("clients:read", None);
    let query = "query ($search: String!, $first: Int!, $after: String) {
        clients(search: $search, first: $first, after: $after) { edges { cursor node { name } } nodes { name }
        pageInfo { hasPreviousPage hasNextPage startCursor endCursor } } }";
    let (mut names, mut after) = (Vec::new(), Value::Null);
    loop {
        let variables = json!({ "search": search, "first": first, "after": after });
        let response = api.graphql(&token, query, variables).await;
        let page = &response["data"]["clients"];
        let (edges, position) = (page["edges"].as_array().unwrap_or_else(|| panic!("{response}")), &page["pageInfo"]);
        assert_eq!(position["hasPreviousPage"], after != Value::Null, "{response}");
        assert_eq!(position["startCursor"], edges.first().map_or(Value::Null, |edge| edge["cursor"].clone()));
        assert!(edges.len() <= first && page["nodes"].as_array().unwrap().len() == edges.len(), "{response}");
        names.extend(edges.iter().map(|edge| edge["node"]["name"].as_str().unwrap().to_owned()));
        if position["hasNextPage"] == false {
            return names;
        }
        after = position["endCursor"].clone();
        between().await;
    }
}

async fn find(api: &Api, search: &str) -> Vec<String> {
    find_with(api, search, 20, async || {}).await
}

#[tokio::test]
async fn clients_are_found_by_the_beginning_of_their_name_and_then_of_their_address() {
    both(async |api, db| {
        add(
            db,
            &[
                ("anna Berg", "berg@example.com"),
                ("Zed", "anna.z@example.com"),
                ("ANNA", "anna@example.com"),
                ("Anna Berg", "a.berg@example.com"),
                ("Annika", "support@example.com"),
                ("Joanna", "joanna@example.com"),
                ("Yen", "annab@example.com"),
            ],
        )
        .await;
        let all = ["ANNA", "anna Berg", "Anna Berg", "Annika", "Zed", "Yen"];
        for search in ["ann", "ANN", " Ann "] {
            for first in [1, 2, 3, 4, 5, 6, 7] {
                // Clients that come before the page do not move it.
                let adds = async || {
                    let email = format!("aa{}@example.com", uuid::Uuid::now_v7().simple());
                    add(db, &[("Anaa", &email), ("Aaa", &format!("x{email}"))]).await;
                };
                assert_eq!(find_with(api, search, first, adds).await, all, "{search} {first}");
            }
        }
        assert_eq!(find(api, "anna berg").await, ["anna Berg", "Anna Berg"]);
        assert_eq!(find(api, "anna.").await, ["Zed"]);
        assert_eq!(find(api, "support@").await, ["Annika"]);
        assert_eq!(find(api, "nna").await, [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn a_page_of_a_search_has_a_previous_one_if_clients_before_it_are_found() {
    both(async |api, db| {
        let has_previous = async |after: &str| {
            let query =
                format!("{{ clients(search: \"an\", after: \"{after}\") {{ pageInfo {{ hasPreviousPage }} }} }}");
            let response = api.graphql(&api.token("clients:read", None), &query, json!({})).await;
            response["data"]["clients"]["pageInfo"]["hasPreviousPage"].as_bool().unwrap_or_else(|| panic!("{response}"))
        };
        assert!(!has_previous("n1:zz").await, "no client is found");
        add(db, &[("Anna", "an@example.com"), ("Yen", "annab@example.com"), ("Zed", "anz@example.com")]).await;
        for (after, expected) in [
            ("n1:Aaa", false),
            ("n99:Anna", true),
            ("aan@example.com", true),
            ("aannab@example.com", true),
            ("azzz", true),
        ] {
            assert_eq!(has_previous(after).await, expected, "{after}");
        }
        // The clients before the page are not found any more.
        db.connection
            .execute_unprepared("UPDATE clients SET name = 'Bea', email = 'bea@example.com' WHERE name = 'Anna'")
            .await
            .unwrap();
        assert!(!has_previous("n99:Anna").await);
        assert!(has_previous("aannab@example.com").await);
        db.connection
            .execute_unprepared("UPDATE clients SET email = 'yen@example.com' WHERE name = 'Yen'")
            .await
            .unwrap();
        assert!(!has_previous("aannab@example.com").await);
    })
    .await;
}

#[tokio::test]
async fn a_found_client_has_its_row_at_once_and_the_totals_of_the_read_model() {
    both(async |api, _| {
        let token = api.token(ALL_SCOPES, None);
        let register = "mutation { registerClient(input: { name: \"Zoë\", email: \"zoe@example.com\" }) {
            client { id } userErrors { code } } }";
        let registered = api.graphql(&token, register, json!({})).await["data"]["registerClient"].clone();
        let id = registered["client"]["id"].as_str().unwrap();
        let find = "query ($email: String!) { clientByEmail(email: $email) { id name email orderCount version }
            clients(search: \"zo\") { nodes { id name email orderCount version } } }";
        let find = async |email: &str| {
            api.graphql(&api.token("clients:read", None), find, json!({ "email": email })).await["data"].clone()
        };
        let new = json!({ "id": id, "name": "Zoë", "email": "zoe@example.com", "orderCount": 0, "version": 1 });
        assert_eq!(find("zoe@example.com").await, json!({ "clientByEmail": new, "clients": { "nodes": [new] } }));
        api.read_model.apply(&[1, 2].map(|version| order_placed(id.parse().unwrap(), version, &[(1, 1, 100)]))).await;
        let found = find(" ZOE@Example.com ").await;
        assert_eq!((&found["clientByEmail"]["orderCount"], &found["clientByEmail"]["version"]), (&json!(2), &json!(2)));
        assert_eq!(found["clients"]["nodes"][0], found["clientByEmail"]);
        for unknown in ["zo@example.com", "zoe%", "", "zoe\u{0}@example.com", &"x".repeat(1_000)] {
            assert_eq!(find(unknown).await["clientByEmail"], Value::Null, "{unknown:?}");
        }

        // A taken address leads to its client.
        let taken = api.graphql(&token, register, json!({})).await["data"]["registerClient"].clone();
        assert_eq!(taken["userErrors"][0]["code"], "EMAIL_TAKEN");
        assert_eq!(find("zoe@example.com").await["clientByEmail"]["id"], id);
    })
    .await;
}

#[tokio::test]
async fn finding_clients_requires_a_token_for_all_clients() {
    let api = Api::start(&sqlite().await).await;
    let (search, by_email) = (
        "{ clients(search: \"bob\") { nodes { id } } }",
        "{ clientByEmail(email: \"bob@anemailprovider.com\") { id } }",
    );
    let others = ALL_SCOPES.replace("clients:read", "");
    for query in [search, by_email] {
        assert_eq!(error_code(&api, &api.token("clients:read", None), query).await, "none");
        assert_eq!(error_code(&api, &api.token(&others, None), query).await, "FORBIDDEN");
        assert_eq!(error_code(&api, &api.token(ALL_SCOPES, Some("1")), query).await, "FORBIDDEN");
        assert_eq!(error_code(&api, "", query).await, "UNAUTHENTICATED");
    }
    let ranked = "{ clients { nodes { id } } }";
    assert_eq!(error_code(&api, &api.token("clients:read", None), ranked).await, "FORBIDDEN");
}

#[tokio::test]
async fn each_text_is_searched_as_it_is_or_refused() {
    both(async |api, db| {
        let odd =
            ["100% Cotton", "a_b", "a\\b", "O'Neil", "Öztürk", "öl", "木村 花子", "Zoe\u{308}", "\u{1f600} Smile"];
        let clients: Vec<_> = odd.iter().zip(0..).map(|(name, n)| (*name, format!("{n}@example.com"))).collect();
        add(db, &clients.iter().map(|(name, email)| (*name, &**email)).collect::<Vec<_>>()).await;
        for name in odd {
            assert!(find(api, name).await.contains(&name.to_owned()), "{name}");
        }
        for (wildcard, found) in
            [("%", &[][..]), ("_", &[]), ("1%", &[]), ("a_", &["a_b"]), ("a\\", &["a\\b"]), ("'", &[])]
        {
            assert_eq!(find(api, wildcard).await, found, "{wildcard}");
        }
        // The database says which letters belong together.
        let row = db.connection.query_one_raw(sql_of(db, "SELECT lower('Ö') AS lower")).await.unwrap().unwrap();
        let folds = row.try_get::<String>("", "lower").unwrap() == "ö";
        assert_eq!(find(api, "ö").await, if folds { &["öl", "Öztürk"][..] } else { &["öl"] });
        assert_eq!(find(api, &"x".repeat(200)).await, [""; 0]);

        let token = api.token(ALL_SCOPES, None);
        let long = "x".repeat(201);
        for arguments in [
            json!({ "search": "" }),
            json!({ "search": "  " }),
            json!({ "search": long }),
            json!({ "search": "a\u{0}b" }),
            json!({ "search": "a\nb" }),
            json!({ "search": "a", "sortBy": "TOTAL_DESC" }),
            json!({ "search": "a", "first": 0 }),
            json!({ "search": "a", "first": 101 }),
            json!({ "search": "a", "after": "" }),
            json!({ "search": "a", "after": "t100:1" }),
            json!({ "search": "a", "after": "n:a" }),
            json!({ "search": "a", "after": "n0:a" }),
            json!({ "search": "a", "after": "n1:a\u{0}" }),
            json!({ "search": "a", "after": format!("n1:{long}") }),
            json!({ "search": "a", "after": format!("a{long}") }),
            json!({ "search": "a", "after": "ö" }),
            json!({ "after": "n1:a" }),
        ] {
            let query = "query ($search: String, $first: Int, $after: String, $sortBy: ClientSort) {
                clients(search: $search, first: $first, after: $after, sortBy: $sortBy) { nodes { id } } }";
            let response = api.graphql(&token, query, arguments.clone()).await;
            assert_eq!(response["errors"][0]["extensions"]["code"], "BAD_USER_INPUT", "{arguments}: {response}");
        }
        // A cursor from before or after all clients that are found, of any list, finds no others.
        for (after, found) in [("n1:", 3), ("a", 0), ("n99:aaa", 1), ("n1:zzz", 0), ("azzz", 0)] {
            let query = "query ($after: String) { clients(search: \"a\", after: $after) { nodes { name } } }";
            let response = api.graphql(&token, query, json!({ "after": after })).await;
            assert_eq!(response["data"]["clients"]["nodes"].as_array().unwrap().len(), found, "{after}: {response}");
        }
    })
    .await;
}

fn sql_of(db: &Db, text: &str) -> sea_orm::Statement {
    sea_orm::Statement::from_string(db.connection.get_database_backend(), text)
}

/// Clients of 50,000 whose names begin with one text, and of 5,000 of whom the addresses do, too.
const MANY: &str = "
INSERT INTO clients (name, email, version) SELECT 'Client ' || n, n || '@example.com', 1 FROM generate_series(1, 45000) n;
INSERT INTO clients (name, email, version) SELECT 'Client X ' || n, 'client.' || n || '@example.com', 1 FROM generate_series(1, 5000) n;
INSERT INTO clients (name, email, version) VALUES ('Zoë', 'client.zoe@example.com', 1)";

/// A page never reads more than a part of an index, whatever the text and the position.
#[tokio::test]
async fn a_page_of_a_search_reads_only_its_part_of_an_index() {
    let postgres = test_support::postgres::database().await;
    let connect = || database::connect(&postgres.url, 1, None);
    let db = connect().await.unwrap();
    migration::up(&db).await.unwrap();
    for statement in MANY.split(';').chain(["VACUUM ANALYZE clients"]) {
        db.execute_unprepared(statement).await.unwrap();
    }
    db.close().await.unwrap(); // then its statistics are complete
    let db = connect().await.unwrap();
    let reads = async |db: &DatabaseConnection| {
        let scans =
            "SELECT seq_scan AS whole, idx_tup_fetch AS rows FROM pg_stat_user_tables WHERE relname = 'clients'";
        let row = db.query_one_raw(sql(scans)).await.unwrap().unwrap();
        (row.try_get::<i64>("", "whole").unwrap(), row.try_get::<i64>("", "rows").unwrap())
    };
    let before = reads(&db).await;
    let reader = connect().await.unwrap();
    // So often that PostgreSQL plans for any text.
    for n in 0..20 {
        for (text, after, found) in [
            ("c", None, 20),
            ("client", Some(Position::Name(format!("Client 3{n}"), 7)), 20),
            ("client x 49", None, 20),
            ("zo", None, 1),
            ("client.4", None, 20),
            ("nobody", None, 0),
        ] {
            let page = page(&reader, text, after, 20).await.unwrap();
            assert_eq!((page.clients.len(), page.next.is_some()), (found, found == 20), "{text}");
        }
    }
    reader.close().await.unwrap();
    let after = reads(&db).await;
    assert_eq!(after.0, before.0, "no statement reads a whole table");
    let rows = after.1 - before.1;
    assert!(rows < 20 * (4 * 21 + 3 * 10), "{rows} rows were read for at most 1,620 clients");

    // Behind the last name there are 5,000 addresses of clients that were found by their names.
    let reader = connect().await.unwrap();
    let last = Some(Position::Name("Client X 999".into(), i64::MAX));
    let (mut position, mut pages, mut names) = (last, 0, Vec::new());
    while let Some(after) = position {
        let page = page(&reader, "client", Some(after), 20).await.unwrap();
        names.extend(page.clients.into_iter().map(|(_, client)| client.name));
        (position, pages) = (page.next, pages + 1);
    }
    assert_eq!((names, pages), (vec!["Zoë".to_owned()], 6));
    reader.close().await.unwrap();
    let rows = reads(&db).await.1 - after.1;
    assert!(rows < 5_001 + 6 * 10, "{rows} rows were read for 5,001 addresses");
}
