//! Operator commands that delete something or change what queries read.

use std::io::Write;
use std::process::{Command, Stdio};

use sea_orm::{ConnectionTrait, Database};
use test_support::process::{Process, command, program};
use test_support::services::Stores;
use test_support::user::SECRET;

use crate::start::fails;

/// Runs the projector on a terminal and types a line. Returns whether it succeeded, and what it printed.
fn on_terminal(stores: &Stores, arguments: &str, typed: &str) -> (bool, String) {
    let projector = format!("{} {arguments}", program("projector").display());
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &projector, "/dev/null"]).envs(stores.variables());
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    script.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

fn printed(stores: &Stores, arguments: &[&str]) -> String {
    let process = Process::start("projector", arguments, &stores.variables());
    let output = process.output();
    assert!(process.wait().success(), "{:?}", output.all());
    output.all().join("\n")
}

/// As with `| head -1`.
#[test]
fn a_command_succeeds_if_nobody_reads_what_it_prints() {
    let (stores, variables) = (Stores::prepared(), [("JWT_SECRET", SECRET)]);
    for (name, arguments, variables) in [
        ("api", "schema", &[][..]),
        ("api", "schema --subgraph", &[]),
        ("api", "token --scope clients:read", &variables),
        ("api", "--help", &[]),
        ("projector", "queues create orders-of-head", &stores.variables()),
        ("projector", "verify", &stores.variables()),
        ("projector", "verify --json", &stores.variables()),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let mut command = command(name, &arguments, variables);
        let output = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !errors.contains("panicked"), "{name} {arguments:?}: {errors}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut token = command("api", &["token", "--scope", "clients:read", "--ttl", "90s"], &variables);
    let mut token = token.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    assert!(token.wait().unwrap().success(), "advice is not read either");
}

#[test]
fn commands_that_destroy_ask_or_require_yes() {
    let stores = Stores::prepared();
    let variables = stores.variables();
    let rebuild = |command| fails("projector", &["rebuild", command], &variables, &["there is no previous generation"]);
    ["rollback", "discard"].into_iter().for_each(rebuild);
    fails("projector", &["rebuild", "abort"], &variables, &["no generation is being built"]);

    assert!(
        printed(&stores, &["rebuild", "start", "--keep", "1s"])
            .contains("generation 2 is live; `projector rebuild rollback`")
    );
    assert!(
        printed(&stores, &["rebuild", "start"])
            .contains("generation 3 is live; `projector rebuild rollback` undoes this until 20")
    );
    let commands: [(&[&str], &str); 5] = [
        (&["rebuild", "rollback"], "make generation 2 live again"),
        (&["rebuild", "discard"], "remove generation 2"),
        (&["verify", "--repair", "--remove-orphans"], "remove clients and events"),
        (&["dead-letters", "discard", "--all"], "delete all dead letters"),
        (&["dead-letters", "redrive", "an-id"], "send back dead letters (1)"),
    ];
    for (arguments, action) in commands {
        fails("projector", arguments, &variables, &[action, "--yes", "--dry-run"]);
        let (done, output) = on_terminal(&stores, &arguments.join(" "), "n\n");
        assert!(!done && output.contains(action) && output.contains("nothing was changed"), "{output}");
    }
    let before = printed(&stores, &["rebuild", "status"]);
    assert!(printed(&stores, &["rebuild", "discard", "--dry-run"]).contains("would remove generation 2"));
    assert!(printed(&stores, &["rebuild", "rollback", "--dry-run"]).contains("would make generation 2 live again"));
    let dry_runs: [(&[&str], &str); 3] = [
        (&["dead-letters", "discard", "--all"], "would discard 0"),
        (&["dead-letters", "redrive", "--all"], "would redrive 0"),
        (&["verify", "--repair", "--remove-orphans", "--in-flight", "0s"], "repaired 0"),
    ];
    for (arguments, outcome) in dry_runs {
        let printed = printed(&stores, &[arguments, &["--dry-run"]].concat());
        assert!(printed.contains(outcome) && printed.contains("dry run: nothing was changed"), "{printed}");
    }
    assert_eq!(printed(&stores, &["rebuild", "status"]), before);

    let (done, output) = on_terminal(&stores, "rebuild rollback", "y\n");
    assert!(done && output.contains("generation 2 is live"), "{output}");
    assert!(printed(&stores, &["rebuild", "discard", "--yes"]).contains("kept"));
    fails("projector", &["rebuild", "start", "--keep", "99999999999d"], &variables, &["--keep", "at most 3650d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_reports_events_of_the_log_that_cannot_be_read() {
    let stores = tokio::task::spawn_blocking(Stores::prepared).await.unwrap();
    let verify = || {
        let arguments = ["verify", "--repair", "--in-flight", "0s"];
        command("projector", &arguments, &stores.variables()).output().unwrap()
    };
    let right = tokio::task::block_in_place(verify);
    assert!(right.status.success() && String::from_utf8(right.stdout).unwrap().contains("unreadable events 0"));
    let db = Database::connect(stores.get("DATABASE_URL")).await.unwrap();
    db.execute_unprepared("UPDATE order_events SET payload = '{}' WHERE product_id = 1").await.unwrap();
    let damaged = tokio::task::block_in_place(verify);
    let (printed, advice) = (String::from_utf8(damaged.stdout).unwrap(), String::from_utf8(damaged.stderr).unwrap());
    assert_eq!(damaged.status.code(), Some(3), "{printed}{advice}");
    assert!(printed.contains("unreadable: not a CloudEvent in JSON") && printed.contains("unreadable events 1"));
    assert!(advice.contains("restore them from a backup"), "{advice}");
}
