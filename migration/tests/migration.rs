//! The `migration` binary, as a release step runs it.

use std::path::Path;
use std::process::{Command, Output};

use pgtemp::PgTempDBBuilder;

fn migration(command: &str, database_url: &str) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_migration"));
    process.arg(command).env("DATABASE_URL", database_url);
    process
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn postgres() -> PgTempDBBuilder {
    let newest =
        Path::new("/usr/lib/postgresql").read_dir().into_iter().flatten().flatten().map(|dir| dir.path()).max();
    let builder = PgTempDBBuilder::new();
    match newest {
        Some(version) => builder.with_bin_path(version.join("bin")), // where Debian keeps them
        None => builder,
    }
}

#[test]
fn four_at_once_migrate_once() {
    let server = postgres().start();
    let url = server.connection_uri();
    let running: Vec<_> =
        (0..4).map(|_| migration("up", &url).stdout(std::process::Stdio::piped()).spawn().unwrap()).collect();
    let outputs: Vec<String> =
        running.into_iter().map(|process| stdout(&process.wait_with_output().unwrap())).collect();
    assert_eq!(outputs.iter().filter(|output| output.contains("applied")).count(), 1, "{outputs:?}");
    assert!(outputs.iter().all(|output| output.ends_with("The database is up to date.\n")));
    assert!(stdout(&migration("status", &url).output().unwrap()).lines().all(|line| line.starts_with("applied ")));
}

#[test]
fn a_file_is_migrated_and_status_tells() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", directory.path().join("orders.db").display());
    assert!(stdout(&migration("status", &url).output().unwrap()).lines().all(|line| line.starts_with("pending ")));
    assert!(stdout(&migration("up", &url).output().unwrap()).contains("applied  m20261123_000001_create_tables"));
    assert_eq!(stdout(&migration("up", &url).output().unwrap()), "The database is up to date.\n");
}

#[test]
fn faults_are_told_in_a_line() {
    for (url, told) in [
        ("postgres://127.0.0.1:1/none", "cannot reach the database of DATABASE_URL"),
        ("mysql://127.0.0.1/none", "DATABASE_URL must begin with postgres:// or sqlite://"),
        ("", "DATABASE_URL must begin with"),
    ] {
        let output = migration("up", url).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.starts_with("error: ") && error.contains(told), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
