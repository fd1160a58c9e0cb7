//! Starts that cannot succeed: one clear line, and a status that says so.

use test_support::process::Process;
use test_support::services::Stores;
use test_support::user::SECRET;

/// Runs to its end, which must be a failure that has all of `told`: in one line, or, where it is about the command line
/// itself, in clap's words.
fn refuses(name: &str, arguments: &[&str], variables: &[(&str, &str)], told: &[&str]) {
    let anywhere = [("LISTEN_ADDR", "127.0.0.1:0")];
    let process = Process::start(name, arguments, &[&anywhere, variables].concat());
    let output = process.output();
    let status = process.end();
    let said = output.all();
    assert!(!status.success(), "{name} {arguments:?} succeeded: {said:?}");
    let clap = said.iter().any(|line| line.starts_with("For more information, try"));
    assert!(clap || said.len() == 1 && said[0].len() < 400, "{name} {arguments:?} is not one line: {said:#?}");
    let said = said.join("\n");
    assert!(said.contains("error: "), "{name} {arguments:?}: {said}");
    for text in told {
        assert!(said.contains(text), "{name} {arguments:?} does not say {text:?}: {said}");
    }
    assert!(!said.contains("hunter2"), "a password is told: {said}");
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
fn flags_and_values_that_are_not_understood_are_named() {
    for name in ["api", "projector", "standalone", "migration"] {
        refuses(name, &["--no-such-flag"], &[], &["--no-such-flag"]);
    }
    for name in ["api", "projector", "standalone"] {
        refuses(name, &[], &[("LISTEN_ADDR", "nowhere")], &["'nowhere'", "--listen-addr"]);
        refuses(name, &[], &[("RUST_LOG", "api=loud")], &["RUST_LOG"]);
        refuses(name, &[], &[("LOG_FORMAT", "xml")], &["'xml'", "text, json"]);
        refuses(name, &[], &[("CURRENCY", "gold")], &["'gold'", "ISO 4217"]);
        refuses(name, &[], &[("PARTITIONS", "0")], &["--partitions"]);
    }
    for origin in ["shop.example.com", "https://", "https://shop.example.com/path"] {
        refuses("api", &[], &[("CORS_ORIGINS", origin)], &["not an origin"]);
    }
    refuses("api", &[], &[("READ_WAIT", "soon")], &["'soon'", "--read-wait"]);
    refuses("api", &[], &[("MAX_NESTING", "65")], &["from 1 to 64", "--max-nesting"]);
    refuses("standalone", &[], &[("DEMO", "0")], &["from 0.1 to 1000", "--demo"]);
    let lasting = ("DATABASE_URL", "sqlite://orders.db");
    refuses("standalone", &[], &[("DEMO", "1"), lasting], &["only one in memory"]);
    let quiet = ("RUST_LOG", "warn"); // what standalone tells before
    let wait = "READ_WAIT (70s) must be shorter than OPERATION_TIMEOUT (70s)";
    refuses("standalone", &[], &[("READ_WAIT", "70s"), quiet], &[wait]);
    let manifest = "TRUSTED_DOCUMENTS (/no/such/file): ";
    refuses("standalone", &[], &[("TRUSTED_DOCUMENTS", "/no/such/file"), quiet], &[manifest, "No such file"]);
    refuses("standalone", &[], &[("JWT_SECRET", "short")], &["JWT_SECRET has 5 bytes"]);
    refuses(
        "standalone",
        &[],
        &[("DATABASE_URL", "sqlite:///no/such/directory/orders.db")],
        &["cannot reach the database of DATABASE_URL"],
    );
    refuses("api", &["token", "--scope", "clients:read"], &[], &["JWT_SECRET is not set"]);
    refuses("api", &["token", "--scope", "x", "--ttl", "long"], &[("JWT_SECRET", SECRET)], &["'long'"]);
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let mut stores = Stores::start();
    let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/orders";
    let own = stores.variables();
    let variables = with(&own, "QUEUE_URL", queue);

    for missing in ["DATABASE_URL", "REDIS_URL", "QUEUE_URL", "JWT_SECRET"] {
        refuses("api", &[], &without(&variables, missing), &[&format!("{missing} is not set")]);
    }
    for missing in ["REDIS_URL", "QUEUE_URL"] {
        refuses("projector", &[], &without(&variables, missing), &[&format!("{missing} is not set")]);
    }
    let nobody = with(&variables, "DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/none");
    refuses("api", &[], &nobody, &["cannot reach the database of DATABASE_URL"]);
    refuses("projector", &["replay"], &nobody, &["cannot reach the database of DATABASE_URL"]);
    refuses("api", &[], &variables, &["run `migration up`"]);
    refuses("projector", &["replay"], &variables, &["cannot read the event log", "`migration up`"]);
    stores.run("migration", &["up"]);

    for name in ["api", "projector"] {
        let nobody = with(&variables, "REDIS_URL", "redis://127.0.0.1:1");
        refuses(name, &[], &nobody, &["cannot reach the Redis of REDIS_URL"]);
        refuses(name, &[], &with(&variables, "REDIS_URL", "http://x"), &["REDIS_URL"]);
        refuses(name, &[], &with(&variables, "AWS_ENDPOINT_URL", "127.0.0.1:9324"), &["AWS_ENDPOINT_URL"]);
        refuses(name, &[], &variables, &["does not exist", "`projector queues create`"]);
        let nobody = with(&variables, "AWS_ENDPOINT_URL", "http://127.0.0.1:1");
        refuses(name, &[], &nobody, &["cannot reach the queue"]);
        refuses(name, &[], &without(&variables, "AWS_REGION"), &["AWS_REGION"]);
    }
    refuses("projector", &["queues", "create", "not a name"], &variables, &["cannot create the queue"]);
    stores.prepare();

    let (host, port) = stores.redis.host_and_port().unwrap();
    let taken = format!("{host}:{port}");
    let variables = stores.variables();
    for name in ["api", "projector"] {
        refuses(name, &[], &with(&variables, "LISTEN_ADDR", &taken), &["cannot listen on", "LISTEN_ADDR"]);
        refuses(name, &[], &with(&variables, "PARTITIONS", "7"), &["PARTITIONS=16", "PARTITIONS=7"]);
    }
}
