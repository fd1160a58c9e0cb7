//! SQLite without room on its disk: orders fail, none that was acknowledged is lost, and orders succeed when there is room.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use sea_orm::{ConnectionTrait, Database, DbBackend, Statement};
use test_support::process::Process;
use test_support::until;
use test_support::user::User;

const ITEMS: [(u32, u32); 2] = [(1, 1), (2, 3)];

/// Starts the service on a database in this directory.
fn start(directory: &Path) -> (Process, User) {
    let url = format!("sqlite://{}", directory.join("orders.db").display());
    let mut process =
        Process::start("standalone", &[], &[("LISTEN_ADDR", "127.0.0.1:0"), ("DATABASE_URL", url.as_str())]);
    let address = process.line_with("POST http://").split('/').next().unwrap().to_owned();
    let token = process.line_with("TOKEN=");
    (process, User::new(&address, &token))
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
}

/// Places orders until many have failed, calls `make_room`, and places more. Then every acknowledged order must be in the file.
async fn check(directory: &Path, process: Process, user: User, make_room: impl Fn(&Process)) {
    let mut acknowledged = BTreeSet::new();
    let mut place = async || match user.try_to_place("1", &ITEMS, None).await {
        Ok((payload, _)) => acknowledged.insert(payload["order"]["id"].as_str().unwrap().to_owned()),
        Err(response) => {
            assert_eq!(response["errors"][0]["extensions"]["code"], "COMMAND_STORE_UNAVAILABLE", "{response}");
            false
        }
    };
    let mut failed = 0;
    until("many orders failed", async || {
        failed += u32::from(!place().await);
        failed >= 30
    })
    .await;
    make_room(&process);
    until("orders succeed again", async || place().await).await;
    for _ in 0..30 {
        assert!(place().await, "an order fails though there is room");
    }
    drop(process); // killed: nothing may be written at the end
    let db = Database::connect(format!("sqlite://{}", directory.join("orders.db").display())).await.unwrap();
    let orders = Statement::from_string(DbBackend::Sqlite, "SELECT lower(hex(id)) AS id FROM orders");
    let rows = db.query_all_raw(orders).await.unwrap();
    let stored: BTreeSet<String> = rows.iter().map(|row| row.try_get("", "id").unwrap()).collect();
    let lost = acknowledged.iter().filter(|id| !stored.contains(&id.replace('-', ""))).count();
    assert_eq!(lost, 0, "of {} acknowledged orders", acknowledged.len());
}

#[tokio::test]
async fn no_acknowledged_order_is_lost_when_the_file_may_not_grow() {
    let directory = tempfile::tempdir().unwrap();
    let (process, user) = start(directory.path());
    let limit = |process: &Process, bytes: &str| {
        let (process, limit) = (process.id().to_string(), format!("--fsize={bytes}:unlimited"));
        assert!(succeeds("prlimit", &["--pid", &process, &limit]));
    };
    limit(&process, "2000000");
    check(directory.path(), process, user, |process| limit(process, "unlimited")).await;
}

/// Unmounts its directory when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    /// Needs the right to mount, which tests in a container usually have.
    fn of_3_mebibytes() -> Option<Disk> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        succeeds("mount", &["-t", "tmpfs", "-o", "size=3m", "tmpfs", path]).then_some(Disk(directory))
    }

    fn enlarge(&self) {
        assert!(succeeds("mount", &["-o", "remount,size=50m", self.0.path().to_str().unwrap()]));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        succeeds("umount", &["--lazy", self.0.path().to_str().unwrap()]);
    }
}

#[tokio::test]
async fn no_acknowledged_order_is_lost_when_the_disk_is_full() {
    let Some(disk) = Disk::of_3_mebibytes() else {
        eprintln!("skipped: this user cannot mount a file system");
        return;
    };
    let (process, user) = start(disk.0.path());
    check(disk.0.path(), process, user, |_| disk.enlarge()).await;
}
