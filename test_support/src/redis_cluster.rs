//! A Redis Cluster of three shards, each of which can be killed and started again.

use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::process::{Process, free_address};
use crate::until;

/// One server, with a directory of its own.
pub struct Shard {
    pub address: String,
    bus: String,
    directory: TempDir,
    process: Option<Process>,
    certificates: Option<Arc<Certificates>>,
}

/// Starts the Cluster. With certificates, which must be those of `localhost`, it speaks only TLS, and tells clients the names of its nodes
/// instead of their addresses, as ElastiCache does.
pub async fn start(certificates: Option<Arc<Certificates>>) -> Vec<Shard> {
    let shard = |_| {
        let (address, bus, directory) = (free_address(), free_address(), tempfile::tempdir().unwrap());
        let mut shard = Shard { address, bus, directory, process: None, certificates: certificates.clone() };
        shard.start();
        shard
    };
    let shards: Vec<Shard> = (0..3).map(shard).collect();
    let addresses: Vec<&str> = shards.iter().map(|shard| shard.address.as_str()).collect();
    shards[0].cli(&[&["--cluster", "create"], &addresses[..], &["--cluster-yes"]].concat());
    until_complete(&shards).await;
    shards
}

/// Waits until each shard can reach all others.
pub async fn until_complete(shards: &[Shard]) {
    let is_complete = |shard: &Shard| shard.run(&["cluster", "info"]).contains("cluster_state:ok");
    until("the Cluster is complete", async || shards.iter().all(is_complete)).await;
}

/// `REDIS_URL`.
pub fn url(shards: &[Shard]) -> String {
    let url = |shard: &Shard| match shard.certificates {
        Some(_) => format!("rediss://localhost:{}", shard.port()),
        None => format!("redis://{}", shard.address),
    };
    shards.iter().map(url).collect::<Vec<_>>().join(",")
}

impl Shard {
    fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap()
    }

    /// Starts it with the data of its directory.
    pub fn start(&mut self) {
        let mut server = Command::new("redis-server");
        match &self.certificates {
            Some(certificates) => {
                server.args(["--port", "0", "--tls-port", self.port(), "--tls-cluster", "yes"]);
                server.arg("--tls-cert-file").arg(certificates.server()).arg("--tls-key-file").arg(certificates.key());
                server.arg("--tls-ca-cert-file").arg(certificates.authority()).args(["--tls-auth-clients", "no"]);
                server.args(["--cluster-announce-hostname", "localhost"]);
                server.args(["--cluster-preferred-endpoint-type", "hostname"]);
            }
            None => {
                server.args(["--port", self.port()]);
            }
        }
        server.args(["--cluster-enabled", "yes", "--cluster-port", self.bus.rsplit(':').next().unwrap()]);
        server.args(["--cluster-node-timeout", "2000", "--cluster-allow-replica-migration", "no"]);
        server.args(["--appendonly", "yes", "--save", "", "--bind", "127.0.0.1", "--dir"]).arg(self.directory.path());
        let mut process = Process::spawn("redis-server", server);
        process.line_with("Ready to accept connections");
        self.process = Some(process);
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn lose_data(&self) {
        std::fs::remove_dir_all(self.directory.path().join("appendonlydir")).unwrap();
    }

    /// Runs a command on this shard, and returns what `redis-cli` prints.
    pub fn run(&self, words: &[&str]) -> String {
        self.cli(&[&["-h", "127.0.0.1", "-p", self.port()], words].concat())
    }

    /// Runs `redis-cli` with these arguments.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        if let Some(certificates) = &self.certificates {
            cli.arg("--tls").arg("--cacert").arg(certificates.authority());
        }
        let output = cli.args(arguments).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{arguments:?}: {printed}");
        printed
    }
}
