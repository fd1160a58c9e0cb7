//! Starts that cannot succeed: the program prints one clear line and exits with an error status.

use sea_orm::{ConnectionTrait, Database};
use test_support::pgbouncer::PgBouncer;
use test_support::process::Process;
use test_support::services::Stores;
use test_support::user::{SECRET, status};

/// Runs a program that must fail and print each of these texts: in one line, or in clap's usual form when the command line
/// itself is wrong.
pub fn fails(name: &str, arguments: &[&str], variables: &[(&str, &str)], texts: &[&str]) {
    let anywhere = [("LISTEN_ADDR", "127.0.0.1:0")];
    let process = Process::start(name, arguments, &[&anywhere, variables].concat());
    let output = process.output();
    let status = process.wait();
    let lines = output.all();
    assert!(!status.success(), "{name} {arguments:?} succeeded: {lines:?}");
    let is_from_clap = lines.iter().any(|line| line.starts_with("For more information, try"));
    assert!(is_from_clap || lines.len() == 1 && lines[0].len() < 400, "{name} {arguments:?}: not one line: {lines:#?}");
    let printed = lines.join("\n");
    assert!(printed.contains("error: "), "{name} {arguments:?}: {printed}");
    for text in texts {
        assert!(printed.contains(text), "{name} {arguments:?} does not print {text:?}: {printed}");
    }
    assert!(!printed.contains("hunter2"), "a password is printed: {printed}");
}

fn without<'a>(variables: &[(&'a str, &'a str)], name: &str) -> Vec<(&'a str, &'a str)> {
    variables.iter().copied().filter(|(other, _)| *other != name).collect()
}

fn with<'a>(variables: &[(&'a str, &'a str)], name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut changed = without(variables, name);
    changed.push((name, value));
    changed
}

#[test]
fn an_invalid_flag_or_value_is_named() {
    for name in ["api", "projector", "standalone", "migration"] {
        fails(name, &["--no-such-flag"], &[], &["--no-such-flag"]);
    }
    for name in ["api", "projector", "standalone"] {
        fails(name, &[], &[("LISTEN_ADDR", "nowhere")], &["'nowhere'", "LISTEN_ADDR", "--listen-addr"]);
        fails(name, &[], &[("LISTEN_ADDR", ":8080")], &["LISTEN_ADDR", "127.0.0.1:8080", "0.0.0.0:8080"]);
        fails(name, &[], &[("RUST_LOG", "inof")], &["RUST_LOG", "inof"]);
        fails(name, &[], &[("RUST_LOG", "api=loud")], &["RUST_LOG"]);
        fails(name, &[], &[("LOG_FORMAT", "xml")], &["'xml'", "text, json"]);
        fails(name, &[], &[("CURRENCY", "gold")], &["'gold'", "ISO 4217"]);
        fails(name, &[], &[("PARTITIONS", "0")], &["--partitions"]);
    }
    for origin in ["shop.example.com", "https://", "https://shop.example.com/path"] {
        fails("api", &[], &[("CORS_ORIGINS", origin)], &["expected an origin such as https://shop.example.com"]);
    }
    fails("api", &[], &[("READ_WAIT", "soon")], &["'soon'", "--read-wait"]);
    fails("api", &[], &[("MAX_NESTING", "65")], &["from 1 to 64", "--max-nesting"]);
    fails("standalone", &[], &[("DEMO", "0")], &["from 0.1 to 1000", "--demo"]);
    let lasting = ("DATABASE_URL", "sqlite://orders.db");
    fails("standalone", &[], &[("DEMO", "1"), lasting], &["only one in memory"]);
    fails("standalone", &[], &[("RELAY", "off"), lasting], &["RELAY=off needs a QUEUE_URL"]);
    let quiet = ("RUST_LOG", "warn"); // standalone logs more before
    let wait = "READ_WAIT (70s) must be shorter than OPERATION_TIMEOUT (70s)";
    fails("standalone", &[], &[("READ_WAIT", "70s"), quiet], &[wait]);
    let manifest = "TRUSTED_DOCUMENTS (/no/such/file): ";
    fails("standalone", &[], &[("TRUSTED_DOCUMENTS", "/no/such/file"), quiet], &[manifest, "No such file"]);
    fails("standalone", &[], &[("JWT_SECRET", "short")], &["JWT_SECRET has 5 bytes"]);
    fails("standalone", &[], &[("TOPIC_ARN", "arn:aws:sns:us-east-1:1:orders")], &["TOPIC_ARN needs the QUEUE_URL"]);
    fails(
        "standalone",
        &[],
        &[("DATABASE_URL", "sqlite:///no/such/directory/orders.db")],
        &["cannot reach the database of DATABASE_URL"],
    );
    fails("api", &["token", "--scope", "clients:read"], &[], &["JWT_SECRET is not set"]);
    fails("api", &["token", "--scope", "clients:read", "--ttl", "long"], &[("JWT_SECRET", SECRET)], &["'long'"]);
}

#[test]
fn a_missing_setting_or_store_is_reported_with_what_to_do() {
    let mut stores = Stores::start();
    let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/orders";
    let own = stores.variables();
    let variables = with(&own, "QUEUE_URL", queue);

    for missing in ["DATABASE_URL", "REDIS_URL", "QUEUE_URL", "JWT_SECRET"] {
        fails("api", &[], &without(&variables, missing), &[&format!("{missing} is not set")]);
    }
    for missing in ["REDIS_URL", "QUEUE_URL"] {
        fails("projector", &[], &without(&variables, missing), &[&format!("{missing} is not set")]);
    }
    let unreachable = with(&variables, "DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/none");
    fails("api", &[], &unreachable, &["cannot reach the database of DATABASE_URL"]);
    fails("projector", &["verify"], &unreachable, &["cannot reach the database of DATABASE_URL"]);
    fails("api", &[], &variables, &["run `migration up`"]);
    fails("projector", &["verify"], &variables, &["cannot read the command database", "`migration up`"]);
    stores.run("migration", &["up"]);
    for (arn, error) in [
        ("orders", "orders is not an ARN"),
        ("arn:aws:sns:us-east-1:123456789012:orders.fifo", "is a FIFO queue or topic"),
    ] {
        fails("api", &[], &with(&variables, "TOPIC_ARN", arn), &[error]);
    }

    for name in ["api", "projector"] {
        let unreachable = with(&variables, "REDIS_URL", "redis://127.0.0.1:1");
        fails(name, &[], &unreachable, &["cannot reach the Redis of REDIS_URL"]);
        fails(name, &[], &with(&variables, "REDIS_URL", "http://x"), &["REDIS_URL"]);
        let without_scheme = with(&variables, "AWS_ENDPOINT_URL", "127.0.0.1:9324");
        fails(name, &[], &without_scheme, &["AWS_ENDPOINT_URL must begin with http://"]);
        for line_ending in [("AWS_ENDPOINT_URL", "http://127.0.0.1:9324\r"), ("AWS_REGION", "us-east-1\r")] {
            fails(name, &[], &with(&variables, line_ending.0, line_ending.1), &[line_ending.0, "white space"]);
        }
        for empty in ["AWS_ENDPOINT_URL", "AWS_REGION"] {
            fails(name, &[], &with(&variables, empty, ""), &[empty, "is empty"]);
        }
        fails(name, &[], &variables, &["does not exist", "`projector queues create`"]);
        let unreachable = with(&variables, "AWS_ENDPOINT_URL", "http://127.0.0.1:1");
        fails(name, &[], &unreachable, &["cannot reach the queue"]);
        fails(name, &[], &without(&variables, "AWS_REGION"), &["AWS_REGION"]);
    }
    fails("projector", &["queues", "create", "not a name"], &variables, &["cannot create the queue"]);
    stores.prepare();

    let (host, port) = stores.redis.host_and_port().unwrap();
    let used_address = format!("{host}:{port}");
    let variables = stores.variables();
    // Found out before Redis is asked: an empty one would store the wrong currency.
    let other = with(&variables, "CURRENCY", "JPY");
    let refusal = ["the amounts of this database are in USD", "set CURRENCY=USD"];
    for name in ["api", "projector", "standalone"] {
        fails(name, &[], &other, &refusal);
    }
    for name in ["api", "standalone"] {
        fails(name, &[], &with(&variables, "RELAY", "off"), &["RELAY=off needs wal_level=logical"]);
    }
    fails("projector", &["verify"], &other, &refusal);
    fails("migration", &["sample-data"], &other, &refusal);
    for name in ["api", "projector"] {
        fails(
            name,
            &[],
            &with(&variables, "LISTEN_ADDR", &used_address),
            &["cannot listen on", "LISTEN_ADDR", "in use"],
        );
        fails(name, &[], &with(&variables, "PARTITIONS", "7"), &["PARTITIONS=16", "PARTITIONS=7"]);
    }
}

#[tokio::test]
async fn a_page_that_is_switched_on_but_not_built_in_is_reported() {
    let stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    let mut api = Process::start("api", &[], &with(&stores.variables(), "DASHBOARD", "1"));
    let address = api.line_with("ready address=");
    let is_missing = status(&address, "/dashboard").await == 404;
    let output = api.output();
    assert!(api.terminate().success());
    let is_reported =
        output.all().iter().any(|line| line.contains("DASHBOARD is on, but") && line.contains("`make build`"));
    assert_eq!(is_reported, is_missing);
}

#[test]
fn a_database_that_cannot_be_used_is_reported_with_the_cause() {
    let stores = Stores::start();
    let own = stores.variables();
    let variables = with(&own, "QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/orders");
    let programs: [(&str, &[&str]); 3] = [("api", &[]), ("projector", &["verify"]), ("migration", &["up"])];
    let pooler = PgBouncer::start(&stores.postgres.connection_uri(), "transaction");
    let pooled = with(&variables, "DATABASE_URL", &pooler.url);
    fails("projector", &[], &pooled, &["behind a pooler in transaction mode", "use session mode"]);
    let server = format!("127.0.0.1:{}", stores.postgres.db_port());
    let missing = format!("postgres://postgres@{server}/nowhere");
    for (name, arguments) in programs {
        fails(name, arguments, &pooled, &["behind a pooler in transaction mode", "use session mode"]);
        let missing = with(&variables, "DATABASE_URL", &missing);
        fails(name, arguments, &missing, &["cannot reach the database", "\"nowhere\" does not exist"]);
        let refused = with(&variables, "DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/none");
        fails(name, arguments, &refused, &["cannot reach the database", "Connection refused"]);
    }

    let reader = format!("postgres://reader@{server}/{}", stores.postgres.db_name());
    let reading = with(&variables, "DATABASE_URL", &reader);
    execute(&stores, "CREATE ROLE reader LOGIN");
    fails("migration", &["up"], &reading, &["permission denied for schema public"]);
    fails("migration", &["sample-data"], &variables, &["run `migration up` first", "does not exist"]);
    stores.run("migration", &["up"]);
    for (name, arguments) in &programs[..2] {
        fails(name, arguments, &reading, &["lacks a right", "permission denied for table"]);
    }
    fails("migration", &["sample-data"], &reading, &["cannot insert sample data: ", "permission denied for table"]);

    let hidden = ["its tables are in the schema \"public\"", "GRANT USAGE ON SCHEMA", "search_path"];
    execute(&stores, "ALTER ROLE reader SET search_path = elsewhere");
    for (name, arguments) in &programs[..2] {
        fails(name, arguments, &reading, &hidden);
    }
    execute(&stores, "ALTER ROLE reader RESET search_path");
    execute(&stores, "REVOKE USAGE ON SCHEMA public FROM PUBLIC");
    for (name, arguments) in &programs[..2] {
        fails(name, arguments, &reading, &hidden);
    }
}

fn execute(stores: &Stores, statement: &str) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
        db.execute_unprepared(statement).await.unwrap();
    });
}
