//! The release before this one, replaced by it under load: docs/upgrading.md. `scripts/test-upgrade` builds its programs.

mod format;
mod side_by_side;

use std::path::Path;
use std::process::Command;

use test_support::process::{Process, command};
use test_support::services::{Stores, output};

/// A command of a program of the release before.
fn previous(name: &str, arguments: &[&str], stores: &Stores) -> Command {
    let directory = std::env::var_os("PREVIOUS_PROGRAMS").expect("PREVIOUS_PROGRAMS: `make upgrade` sets it");
    let this = command(name, arguments, &stores.variables());
    let mut previous = Command::new(Path::new(&directory).join(name));
    previous.args(arguments).env_clear().envs(this.get_envs().filter_map(|(name, value)| Some((name, value?))));
    previous
}

/// Starts a program of the release before.
fn start_previous(name: &str, stores: &Stores) -> Process {
    Process::spawn(name, previous(name, &[], stores))
}

/// Stores with the tables, the sample data and the queues of the release before.
fn prepared_by_previous() -> Stores {
    let mut stores = Stores::start();
    for arguments in [&["up"][..], &["sample-data"]] {
        output(&mut previous("migration", arguments, &stores));
    }
    let created = output(&mut previous("projector", &["queues", "create"], &stores));
    stores.set("QUEUE_URL", created.lines().next().unwrap().split_whitespace().last().unwrap());
    stores
}
