//! The read model on a Redis Cluster of three shards, which are moved and restarted while orders flow.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait, Database};
use serde_json::Value;
use tempfile::TempDir;
use test_support::load::Load;
use test_support::process::{Process, free_address};
use test_support::services::{Services, Stores};
use test_support::until;
use test_support::user::{EXAMPLE, User};
use tokio::task::block_in_place;

const CLIENTS: usize = 64;

struct Shard {
    address: String,
    bus: String,
    directory: TempDir,
    process: Option<Process>,
}

impl Shard {
    fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap()
    }

    /// With what it had, as far as that is there.
    fn start(&mut self) {
        let mut server = Command::new("redis-server");
        server.args(["--port", self.port(), "--cluster-port", self.bus.rsplit(':').next().unwrap()]);
        server.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--appendonly", "yes"]);
        server.args(["--cluster-allow-replica-migration", "no"]);
        server.args(["--save", "", "--bind", "127.0.0.1", "--dir"]).arg(self.directory.path());
        let mut process = Process::spawn("redis-server", server);
        process.line_with("Ready to accept connections");
        self.process = Some(process);
    }

    fn kill(&mut self) {
        self.process = None;
    }

    fn lose_data(&self) {
        std::fs::remove_dir_all(self.directory.path().join("appendonlydir")).unwrap();
    }

    fn ask(&self, words: &[&str]) -> String {
        cli(&[&["-h", "127.0.0.1", "-p", self.port()], words].concat())
    }
}

fn cli(arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

async fn cluster() -> Vec<Shard> {
    let shard = |_| {
        let (address, bus, directory) = (free_address(), free_address(), tempfile::tempdir().unwrap());
        let mut shard = Shard { address, bus, directory, process: None };
        shard.start();
        shard
    };
    let shards: Vec<Shard> = (0..3).map(shard).collect();
    let addresses: Vec<&str> = shards.iter().map(|shard| shard.address.as_str()).collect();
    cli(&[&["--cluster", "create"], &addresses[..], &["--cluster-yes"]].concat());
    until_ok(&shards).await;
    shards
}

async fn until_ok(shards: &[Shard]) {
    let is_ok = |shard: &Shard| shard.ask(&["cluster", "info"]).contains("cluster_state:ok");
    until("the Cluster is whole", async || shards.iter().all(is_ok)).await;
}

/// Places an order of each client and reads it.
async fn all_is_read(user: &User) {
    for client in 1..=CLIENTS {
        let client = client.to_string();
        let (_, version) = user.place(&client, &EXAMPLE, None).await;
        until("the client is read with its order", async || {
            let query = format!("{{ client(id: {client}, minVersion: {version}) {{ version }} }}");
            user.graphql(&query).await["data"]["client"]["version"].as_i64() >= Some(version)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_moved_and_restarted_while_orders_flow() {
    let mut shards = cluster().await;
    let services = block_in_place(|| {
        let mut stores = Stores::prepared();
        let urls: Vec<String> = shards.iter().map(|shard| format!("redis://{}", shard.address)).collect();
        stores.set("REDIS_URL", &urls.join(","));
        stores.set("SWEEP_INTERVAL", "500ms");
        stores.set("IN_FLIGHT", "5s");
        Services::on(stores, 1)
    });
    let (stores, user) = (&services.stores, &services.users[0]);
    let db = Database::connect(stores.postgres.connection_uri()).await.unwrap();
    let clients = format!(
        "INSERT INTO clients (name, email) SELECT 'Client ' || n, n || '@example.com' FROM generate_series(4, {CLIENTS}) n"
    );
    db.execute_unprepared(&clients).await.unwrap();
    let keys = |shard: &Shard| shard.ask(&["keys", "*:client:*"]).lines().filter(|line| !line.is_empty()).count();
    all_is_read(user).await;
    assert!(shards.iter().all(|shard| keys(shard) > 0), "each shard has some");

    // These are taken, whatever becomes of the read model.
    let load = Load::of(&services.users, 4, |user, writer, turn| async move {
        let client = (writer * CLIENTS / 4 + turn) % CLIENTS + 1;
        user.place(&client.to_string(), &EXAMPLE, None).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    });
    load.more_than(100).await;
    let (from, to) = (shards[0].ask(&["cluster", "myid"]), shards[1].ask(&["cluster", "myid"]));
    let slot = |partition| shards[0].ask(&["cluster", "keyslot", &format!("{{p{partition}}}")]).parse::<u32>().unwrap();
    let mut slots: Vec<u32> = (0..16).map(slot).collect();
    slots.sort_unstable();
    let number = (slots[1] + 1).to_string(); // as many as have two partitions
    let before = keys(&shards[0]);
    let move_them = ["--cluster", "reshard", &shards[1].address, "--cluster-from", &from, "--cluster-to", &to];
    let (began, placed) = (Instant::now(), load.placed.load(Ordering::Relaxed));
    block_in_place(|| cli(&[&move_them[..], &["--cluster-slots", &number, "--cluster-yes"]].concat()));
    let placed = load.placed.load(Ordering::Relaxed) - placed;
    println!("cluster: {number} slots were moved in {:.1?}, meanwhile {placed} orders were placed", began.elapsed());
    assert_eq!(keys(&shards[0]), before - 2 * CLIENTS / 16);
    assert!(placed > 0);
    load.more_than(100).await;
    all_is_read(user).await;

    // It stops in the middle of whatever it does, and comes back with what it had.
    shards[1].kill();
    load.more_than(100).await;
    shards[1].start();
    until_ok(&shards).await;
    load.more_than(100).await;
    all_is_read(user).await;

    // Comes back with nothing: the sweep of the projector heals it.
    shards[2].kill();
    shards[2].lose_data();
    shards[2].start();
    until_ok(&shards).await;
    load.more_than(100).await;
    let placed = load.end().await + 3 * CLIENTS;
    stores.until_nothing_differs().await;
    let told: Value = serde_json::from_str(
        block_in_place(|| stores.run("projector", &["verify", "--json", "--in-flight", "0s"])).lines().last().unwrap(),
    )
    .unwrap();
    assert_eq!((&told["differences"], &told["wrongSums"]), (&0.into(), &0.into()), "{told}");
    assert_eq!(block_in_place(|| stores.run("projector", &["dead-letters", "list", "--json"])), "");
    let counted = user.graphql("{ clients(first: 100) { nodes { orderCount } } }").await;
    let counted = counted["data"]["clients"]["nodes"].as_array().unwrap_or_else(|| panic!("{counted}"));
    let counted: u64 = counted.iter().map(|client| client["orderCount"].as_u64().unwrap()).sum();
    assert_eq!(counted as usize, placed);

    // Made anew, and what was before is gone from all shards.
    block_in_place(|| stores.run("projector", &["rebuild", "--keep", "0s"]));
    let others = |shard: &Shard| shard.ask(&["keys", "*:g1:*"]).trim().is_empty();
    until("the old generation is gone", async || shards.iter().all(others)).await;
    all_is_read(user).await;

    // The shard that says which generation is live comes back empty: the others know.
    assert_eq!(shards[1].ask(&["exists", "orders:meta"]), "1");
    shards[1].kill();
    shards[1].lose_data();
    shards[1].start();
    until_ok(&shards).await;
    stores.until_nothing_differs().await;
    assert!(shards.iter().all(others), "the one before is not begun anew");
    all_is_read(user).await;
    println!("cluster: {placed} orders while a shard was moved, one restarted and two lost: none lost, none doubled");
}
