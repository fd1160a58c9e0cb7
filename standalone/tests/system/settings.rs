//! Settings: each is explained, and each wrong value is reported with the name of its variable.

use test_support::process::{Process, command};
use test_support::services::output;
use test_support::user::status;

use crate::start::fails;

const PROGRAMS: [&str; 4] = ["api", "projector", "standalone", "migration"];
/// More is allowed without these settings.
const RESTRICTIONS: [&str; 6] =
    ["CANCEL_WINDOW", "JWT_AUDIENCE", "JWT_ISSUER", "JWT_OAUTH_CLIENTS", "JWT_REQUIRE_CLIENT", "TRUSTED_DOCUMENTS"];

/// The settings of a program, each with its line of `--help`.
fn settings(name: &str) -> Vec<(String, String)> {
    let help = output(&mut command(name, &["--help"], &[]));
    let setting = |line: &str| {
        let (_, rest) = line.split_once("[env: ")?;
        Some((rest.split_once(']')?.0.to_owned(), line.to_owned()))
    };
    help.lines().filter_map(setting).collect()
}

#[test]
fn help_has_one_line_for_each_setting_and_no_value_of_a_variable() {
    for name in ["api", "projector", "standalone"] {
        let settings = settings(name);
        assert!(settings.len() > 10, "{settings:?}");
        for (setting, line) in settings {
            let flag = format!("--{} ", setting.to_lowercase().replace('_', "-"));
            assert!(line.trim_start().starts_with(&flag), "{line}");
        }
    }
    // Anyone may paste the help of a program, and a variable may hold a password.
    let all = ["api", "projector", "standalone"].into_iter().flat_map(settings).map(|(name, _)| name);
    let all: Vec<String> = all.chain(["DATABASE_URL", "QUEUE_LISTEN_ADDR", "IN_FLIGHT"].map(String::from)).collect();
    let secrets: Vec<_> = all.iter().map(|name| (&**name, "hunter2")).collect();
    for name in PROGRAMS {
        for arguments in [["--help"], ["-h"]] {
            let help = output(&mut command(name, &arguments, &secrets));
            assert!(help.contains("DATABASE_URL") && !help.contains("hunter2"), "{help}");
        }
        let version = output(&mut command(name, &["--version"], &[("LISTEN_ADDR", "nowhere")]));
        assert_eq!(version, format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
    for command_line in [
        "migration up",
        "migration sample-data",
        "api token",
        "projector verify",
        "projector rebuild start",
        "projector rebuild rollback",
        "projector dead-letters redrive",
        "standalone queue",
    ] {
        let (name, subcommand) = command_line.split_once(' ').unwrap();
        let arguments: Vec<&str> = subcommand.split(' ').chain(["--help"]).collect();
        let help = output(&mut command(name, &arguments, &secrets));
        assert!(help.contains("Usage: ") && !help.contains("hunter2"), "{help}");
    }
    assert!(output(&mut command("standalone", &["--help"], &[])).contains("standalone: http://localhost:*"));
    let needs = output(&mut command("projector", &["dead-letters", "discard", "--help"], &[]));
    assert!(["QUEUE_URL", "REDIS_URL", "CURRENCY"].iter().all(|name| needs.contains(name)), "{needs}");
}

#[test]
fn every_wrong_value_is_reported_with_its_variable() {
    for name in ["api", "projector", "standalone"] {
        for (setting, line) in settings(name) {
            if !["JWT_SECRET", "REDIS_PASSWORD", "REDIS_USERNAME"].contains(&&*setting) {
                fails(name, &[], &[(&setting, "1 ")], &[&setting, "white space"]);
            }
            let default = line.split_once("[default: ").map(|(_, rest)| rest.split_once(']').unwrap().0);
            if default.is_some_and(|default| default.starts_with(|first: char| first.is_ascii_digit())) {
                for value in ["☃", "-1", "99999999999999999999999999", "99999999999999999d"] {
                    fails(name, &[], &[(&setting, value)], &[&setting, value]);
                }
            }
        }
    }
    for setting in RESTRICTIONS {
        fails("api", &[], &[(setting, "")], &[setting, "is empty"]);
    }
    fails("api", &[], &[("DASHBOARD", "maybe")], &["DASHBOARD", "'maybe'", "true or false"]);
    fails("api", &[], &[("RELAY", "later")], &["RELAY", "'later'", "true or false"]);
    for setting in ["CORS_ORIGINS", "CORS_HEADERS", "JWT_OAUTH_CLIENTS", "RATE_LIMIT_SUBJECTS"] {
        fails("api", &[], &[(setting, ",,")], &[setting]);
    }
    fails("api", &[], &[("RATE_LIMIT_SUBJECTS", "importer")], &["RATE_LIMIT_SUBJECTS", "SUBJECT=COST"]);
    for variables in [&[][..], &[("DATABASE_URL", "")]] {
        fails("projector", &["verify"], variables, &["DATABASE_URL (--database-url)"]);
    }
    fails("migration", &["up"], &[("DATABASE_URL", "")], &["--database-url <DATABASE_URL>"]);
}

#[tokio::test]
async fn empty_variables_count_as_not_set_and_switches_take_usual_words() {
    let settings = settings("standalone");
    let empty = settings.iter().map(|(name, _)| (&**name, "")).filter(|(name, _)| !RESTRICTIONS.contains(name));
    let variables: Vec<_> =
        empty.chain([("LISTEN_ADDR", "localhost:0"), ("GRAPHQL_GET", "No"), ("RUST_LOG", " ")]).collect();
    let mut process = Process::start("standalone", &[], &variables);
    let address = process.line_with("ready address=");
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    assert_eq!(status(&address, "/health/ready").await, 200);
    assert_eq!(status(&address, "/graphql?query=%7B__typename%7D").await, 405);
    assert!(process.terminate().success());
    let empty = [("DATABASE_URL", "sqlite::memory:"), ("DATABASE_PASSWORD_FILE", "")];
    assert!(output(&mut command("migration", &["up"], &empty)).contains("up to date"));
}
