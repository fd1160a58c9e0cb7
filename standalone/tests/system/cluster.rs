//! The read model on a Redis Cluster of three shards that are moved, restarted and lost while orders are placed.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use test_support::load::Load;
use test_support::process::{Process, free_address};
use test_support::services::{Services, Stores};
use test_support::until;
use test_support::user::{SAMPLE_ORDER, User};
use tokio::task::block_in_place;

const CLIENTS: usize = 32;

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

    /// Starts it with the data of its directory.
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

    fn run(&self, words: &[&str]) -> String {
        cli(&[&["-h", "127.0.0.1", "-p", self.port()], words].concat())
    }
}

fn cli(arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{arguments:?}: {printed}");
    printed
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
    let is_ok = |shard: &Shard| shard.run(&["cluster", "info"]).contains("cluster_state:ok");
    until("the Cluster is complete", async || shards.iter().all(is_ok)).await;
}

/// Places an order for each client, and waits until the client can be read with it.
async fn check_each_client(user: &User) {
    for client in 1..=CLIENTS {
        let client = client.to_string();
        let (_, version) = user.place(&client, &SAMPLE_ORDER, None).await;
        until("the client has its order", async || {
            let query = format!("{{ client(id: {client}, minVersion: {version}) {{ version }} }}");
            user.graphql(&query).await["data"]["client"]["version"].as_i64() >= Some(version)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_while_shards_move_restart_or_lose_their_data() {
    let mut shards = cluster().await;
    let services = block_in_place(|| {
        let mut stores = Stores::prepared();
        let urls: Vec<String> = shards.iter().map(|shard| format!("redis://{}", shard.address)).collect();
        stores.set("REDIS_URL", &urls.join(","));
        stores.set("SWEEP_INTERVAL", "500ms");
        stores.set("IN_FLIGHT", "5s");
        Services::start_on(stores, 1)
    });
    let (stores, user) = (&services.stores, &services.users[0]);
    stores.add_clients(CLIENTS as i64).await;
    let keys = |shard: &Shard| shard.run(&["keys", "*:client:*"]).lines().filter(|line| !line.is_empty()).count();
    check_each_client(user).await;
    assert!(shards.iter().all(|shard| keys(shard) > 0), "each shard has some clients");

    // These orders must be accepted whatever happens to the read model.
    let load = Load::start_with(&services.users, 4, |user, writer, turn| async move {
        let client = (writer * CLIENTS / 4 + turn) % CLIENTS + 1;
        user.place(&client.to_string(), &SAMPLE_ORDER, None).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    });
    load.place_more(100).await;
    let (from, to) = (shards[0].run(&["cluster", "myid"]), shards[1].run(&["cluster", "myid"]));
    let slot = |partition| shards[0].run(&["cluster", "keyslot", &format!("{{p{partition}}}")]).parse::<u32>().unwrap();
    let mut slots: Vec<u32> = (0..16).map(slot).collect();
    slots.sort_unstable();
    let number = (slots[1] + 1).to_string(); // enough slots to hold two partitions
    let before = keys(&shards[0]);
    let reshard = ["--cluster", "reshard", &shards[1].address, "--cluster-from", &from, "--cluster-to", &to];
    let (began, placed) = (Instant::now(), load.placed.load(Ordering::Relaxed));
    block_in_place(|| cli(&[&reshard[..], &["--cluster-slots", &number, "--cluster-yes"]].concat()));
    let placed = load.placed.load(Ordering::Relaxed) - placed;
    println!("cluster: {number} slots were moved in {:.1?} while {placed} orders were placed", began.elapsed());
    assert_eq!(keys(&shards[0]), before - 2 * CLIENTS / 16);
    assert!(placed > 0);
    load.place_more(100).await;
    check_each_client(user).await;

    // A shard is killed, and comes back with its data.
    shards[1].kill();
    load.place_more(100).await;
    shards[1].start();
    until_ok(&shards).await;
    load.place_more(100).await;
    check_each_client(user).await;

    // A shard comes back empty: the projector's sweep repairs it.
    shards[2].kill();
    shards[2].lose_data();
    shards[2].start();
    until_ok(&shards).await;
    load.place_more(100).await;
    let placed = load.stop().await + 3 * CLIENTS;
    stores.until_nothing_differs().await;
    let report: Value = serde_json::from_str(
        block_in_place(|| stores.run("projector", &["verify", "--json", "--in-flight", "0s"])).lines().last().unwrap(),
    )
    .unwrap();
    assert_eq!((&report["differences"], &report["wrongSums"]), (&0.into(), &0.into()), "{report}");
    assert_eq!(block_in_place(|| stores.run("projector", &["dead-letters", "list", "--json"])), "");
    let counted = user.graphql("{ clients(first: 100) { nodes { orderCount } } }").await;
    let counted = counted["data"]["clients"]["nodes"].as_array().unwrap_or_else(|| panic!("{counted}"));
    let counted: u64 = counted.iter().map(|client| client["orderCount"].as_u64().unwrap()).sum();
    assert_eq!(counted as usize, placed);

    // After a rebuild, the old generation is gone from all shards.
    block_in_place(|| stores.run("projector", &["rebuild", "start", "--keep", "0s"]));
    let has_no_old_keys = |shard: &Shard| shard.run(&["keys", "*:g1:*"]).trim().is_empty();
    until("the old generation is gone", async || shards.iter().all(has_no_old_keys)).await;
    check_each_client(user).await;

    // The shard that stores which generation is live comes back empty: the other shards know it as well.
    assert_eq!(shards[1].run(&["exists", "orders:meta"]), "1");
    shards[1].kill();
    shards[1].lose_data();
    shards[1].start();
    until_ok(&shards).await;
    stores.until_nothing_differs().await;
    assert!(shards.iter().all(has_no_old_keys), "the old generation does not come back");
    check_each_client(user).await;
    println!(
        "cluster: {placed} orders while a shard was moved, one restarted and two lost: none lost, none counted twice"
    );
}
