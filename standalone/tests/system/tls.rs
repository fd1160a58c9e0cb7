//! Stores that can be reached only with TLS, whose certificates a private authority has signed, as on AWS.

use std::path::Path;
use std::sync::Arc;

use test_support::certificates::Certificates;
use test_support::postgres::tls_server;
use test_support::redis_cluster::{self, Shard, until_complete};
use test_support::services::{Services, Stores};
use test_support::subscription::Subscription;
use test_support::until;
use test_support::user::{SAMPLE_ORDER, User};
use tokio::task::block_in_place;

use crate::start::fails;

/// Each of these characters has a meaning in URLs or in shells. [`fails`] looks for the first word.
const PASSWORD: &str = r#"hunter2 p#a/s@s%41w:o?r&d='"$\"#;
/// One for each partition of the read model, so that each shard has some.
const CLIENTS: i64 = 16;

/// PostgreSQL with a certificate, and the variables of a login that is not in the URL, as AWS sets them from a secret.
fn stores(certificates: &Certificates) -> Stores {
    let mut stores = Stores::start_on(tls_server(certificates).with_password(PASSWORD));
    let [user, port, database] = {
        let postgres = &stores.postgres;
        [postgres.db_user().to_owned(), postgres.db_port().to_string(), postgres.db_name().to_owned()]
    };
    let login = [("PGUSER", &*user), ("PGPASSWORD", PASSWORD), ("PGPORT", &port), ("PGDATABASE", &database)];
    for (name, value) in login {
        stores.set(name, value);
    }
    stores.set("PGHOST", "localhost");
    stores.set("DATABASE_URL", &database_url("verify-full", &certificates.authority()));
    stores
}

fn database_url(mode: &str, authority: &Path) -> String {
    format!("postgres:///?sslmode={mode}&sslrootcert={}", authority.display())
}

/// Places an order for each client, and waits until queries have it.
async fn check_each_client(user: &User) {
    for client in 1..=CLIENTS {
        let client = client.to_string();
        let (_, version) = user.place(&client, &SAMPLE_ORDER, None).await;
        until("queries have the order", async || {
            let query = format!("{{ client(id: {client}, minVersion: {version}) {{ version }} }}");
            user.graphql(&query).await["data"]["client"]["version"].as_i64() == Some(version)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_become_visible_through_a_database_and_a_cluster_with_tls_also_after_a_shard_was_restarted() {
    let (certificates, others) = (Arc::new(Certificates::of("DNS:localhost")), Certificates::of("DNS:localhost"));
    let mut shards = redis_cluster::start(Some(certificates.clone())).await;
    let services = block_in_place(|| {
        let mut stores = stores(&certificates);
        stores.set("REDIS_URL", &redis_cluster::url(&shards));
        stores.set("REDIS_CA_FILE", others.authority().to_str().unwrap());
        stores.prepare();
        for program in ["api", "projector"] {
            fails(program, &[], &stores.variables(), &["REDIS_URL", "invalid peer certificate", "REDIS_CA_FILE"]);
        }
        stores.set("REDIS_CA_FILE", certificates.authority().to_str().unwrap());
        Services::start_on(stores, 1)
    });
    let user = &services.users[0];
    for number in 4..=CLIENTS {
        let input = format!("{{ name: \"Client {number}\", email: \"{number}@example.com\" }}");
        let mutation = format!("mutation {{ registerClient(input: {input}) {{ client {{ id }} }} }}");
        let response = user.graphql(&mutation).await;
        assert_eq!(response["data"]["registerClient"]["client"]["id"], number.to_string(), "{response}");
    }
    check_each_client(user).await;
    let has_clients = |shard: &Shard| shard.run(&["keys", "*:client:*"]).contains("client");
    assert!(shards.iter().all(has_clients), "each shard has some clients");

    let mut subscription = Subscription::start(user, "subscription { clientChanged(id: 1) { orderCount } }").await;
    for count in 1..=2 {
        let result = subscription.next().await.expect("the subscription has ended");
        assert_eq!(result["data"]["clientChanged"]["orderCount"], count, "{result}");
        user.place("1", &SAMPLE_ORDER, None).await;
    }
    for shard in 0..shards.len() {
        shards[shard].kill();
        shards[shard].start();
        until_complete(&shards).await;
        check_each_client(user).await;
    }
    let mut subscription = Subscription::start(user, "subscription { clientChanged(id: 1) { orderCount } }").await;
    let result = subscription.next().await.expect("the subscription has ended");
    assert_eq!(result["data"]["clientChanged"]["orderCount"], 6, "{result}");
    block_in_place(|| services.stores.run("projector", &["verify", "--in-flight", "0s"]));
}

#[test]
fn a_database_whose_certificate_is_not_trusted_is_refused() {
    let (certificates, others) = (Certificates::of("DNS:localhost"), Certificates::of("DNS:localhost"));
    let mut stores = stores(&certificates);
    stores.set("QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/orders");
    let (authority, key) = (certificates.authority(), certificates.key());
    let missing = Path::new("/no/such/file");
    let unchecked = ["DATABASE_URL: sslrootcert is set, but its sslmode checks no certificate", "sslmode=verify-full"];
    let named = |file: &Path| format!("DATABASE_URL: sslrootcert ({})", file.display());
    let cases: [(&str, &str, &Path, &[&str]); 8] = [
        ("localhost", "verify-full", &others.authority(), &["DATABASE_URL", "invalid peer certificate", "sslrootcert"]),
        ("localhost", "verify-ca", &others.authority(), &["DATABASE_URL", "invalid peer certificate", "sslrootcert"]),
        ("127.0.0.1", "verify-full", &authority, &["DATABASE_URL", "not valid for name \"127.0.0.1\"", "host"]),
        ("localhost", "verify-full", missing, &[&named(missing), "No such file"]),
        ("localhost", "verify-full", &key, &[&named(&key), "no certificate in the format PEM"]),
        ("localhost", "require", &authority, &unchecked),
        ("localhost", "prefer", &authority, &unchecked),
        ("localhost", "verify_full", &authority, &["DATABASE_URL", "verify_full"]),
    ];
    for (host, mode, file, expected) in cases {
        stores.set("PGHOST", host);
        stores.set("DATABASE_URL", &database_url(mode, file));
        for (program, arguments) in [("api", &[][..]), ("projector", &["verify"]), ("migration", &["up"])] {
            fails(program, arguments, &stores.variables(), expected);
        }
    }
    // The authority may be in the environment, too.
    stores.set("PGSSLROOTCERT", "/no/such/file");
    for (url, expected) in [
        ("postgres:///?sslmode=verify-full", "DATABASE_URL: PGSSLROOTCERT (/no/such/file): No such file"),
        ("postgres:///", "DATABASE_URL: PGSSLROOTCERT is set, but its sslmode checks no certificate"),
    ] {
        stores.set("DATABASE_URL", url);
        for (program, arguments) in [("api", &[][..]), ("projector", &["verify"]), ("migration", &["up"])] {
            fails(program, arguments, &stores.variables(), &[expected]);
        }
    }
    stores.set("PGSSLROOTCERT", "");
    // Only verify-full compares the names.
    stores.set("PGHOST", "127.0.0.1");
    for url in [database_url("verify-ca", &authority), "postgres:///?sslmode=require".into(), "postgres:///".into()] {
        stores.set("DATABASE_URL", &url);
        stores.run("migration", &["status"]);
    }
}
