//! What can fail, and how that is inflicted.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use redis_test::server::RedisServer;
use sea_orm::{ConnectionTrait, TransactionTrait};
use test_support::process::Process;
use test_support::queue_proxy::Queue;
use test_support::services::sql;

use super::{CLIENTS, Chaos, catalogue, key};

/// Where a process can be made to die: of api, of projector, of its commands.
pub const OF_API: [&str; 5] =
    ["order-before-commit", "order-after-commit", "change-before-commit", "relay-mid-batches", "relay-before-marking"];

pub const OF_PROJECTOR: [&str; 2] = ["projector-before-apply", "projector-before-delete"];
pub const OF_REPLAY: [&str; 1] = ["replay-mid-log"];
pub const OF_REPAIR: [&str; 3] = ["repair-mid-log", "repair-before-replace", "repair-product"];
pub const OF_REBUILD: [&str; 2] = ["rebuild-before-replay", "rebuild-before-switch"];

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    KillApi,
    KillProjector,
    ArmApi,
    ArmProjector,
    KillReplay,
    KillRepair,
    KillRebuild,
    LoseRedis,
    CrashPostgres,
    FreezePostgres,
    LockClients,
    DisturbQueue,
    /// It stops for a while.
    FreezeRedis,
    /// Its connections are gone, in the middle of whatever was sent.
    CutRedis,
}

/// Those that neither take anything from what is live in Redis nor put back what it lacks, and the others. (A rebuild puts
/// another in its place: what is applied from then on to both must be right.)
pub const HARMLESS: [Fault; 11] = [
    Fault::KillApi,
    Fault::KillProjector,
    Fault::ArmApi,
    Fault::ArmProjector,
    Fault::CrashPostgres,
    Fault::FreezePostgres,
    Fault::LockClients,
    Fault::DisturbQueue,
    Fault::FreezeRedis,
    Fault::CutRedis,
    Fault::KillRebuild,
];

pub const HARMFUL: [Fault; 3] = [Fault::KillReplay, Fault::KillRepair, Fault::LoseRedis];

impl Chaos {
    pub async fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::KillApi | Fault::KillProjector => {
                let index = self.of(matches!(fault, Fault::KillApi));
                let said = self.kept[index].restart(None);
                self.note(&said);
            }
            Fault::ArmApi | Fault::ArmProjector => {
                let is_api = matches!(fault, Fault::ArmApi);
                let point = self.next_point(if is_api { &OF_API } else { &OF_PROJECTOR });
                let index = self.of(is_api);
                let said = self.kept[index].restart(Some(&format!("{point}=20%return")));
                self.note(&said);
            }
            Fault::KillReplay => self.run_armed(&["replay"], &format!("{}=return", OF_REPLAY[0])),
            Fault::KillRepair => {
                let point = self.next_point(&OF_REPAIR);
                // Something to repair: a partition that is gone, or a client whose total is wrong.
                if let Some((mut redis, live)) = self.live_generation().await {
                    let client = self.random.random_range(1..=CLIENTS);
                    let key = key(&live, client);
                    let damage = match point {
                        "repair-mid-log" => {
                            let script =
                                "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";
                            let partition = key.replace(&format!("client:{client}"), "*");
                            redis::cmd("EVAL").arg(script).arg(0).arg(partition).to_owned()
                        }
                        "repair-product" => {
                            let product = self.random.random_range(1..=3);
                            redis::cmd("HDEL").arg(catalogue(&live, product)).arg(product).to_owned()
                        }
                        _ => redis::cmd("HINCRBY").arg(key).arg("total").arg(7).to_owned(),
                    };
                    let _: Result<Option<i64>, _> = damage.query_async(&mut redis).await;
                }
                self.run_armed(&["verify", "--repair", "--in-flight", "0s"], &format!("{point}=return"));
            }
            Fault::KillRebuild => {
                // It dies on the way; another goes on, or gives up what it left.
                let point = self.next_point(&OF_REBUILD);
                self.run_armed(&["rebuild"], &format!("{point}=return"));
                let then: &[&[&str]] = match self.random.random_range(0..3) {
                    0 => &[&["rebuild", "--abort"]],
                    1 => &[&["rebuild", "--keep", "0s"]],
                    _ => &[&["rebuild"], &["rebuild", "--rollback"]],
                };
                // The stores are there, and nobody takes anything from them now.
                for arguments in then {
                    self.stores.run("projector", arguments);
                }
            }
            Fault::LoseRedis => {
                let (host, port) =
                    self.stores.redis.host_and_port().map(|(host, port)| (host.to_owned(), port)).unwrap();
                self.stores.redis.stop();
                tokio::time::sleep(Duration::from_millis(self.random.random_range(100..1_500))).await;
                // Empty: as after a failover to a replica that had nothing yet.
                let address = redis::ConnectionAddr::Tcp(host, port);
                self.stores.redis = RedisServer::new_with_addr_and_modules(address, &[], false);
            }
            Fault::CrashPostgres => {
                // One backend that dies takes all connections with it, and the server recovers from its log.
                let row = self.db.query_one_raw(sql("SELECT pg_backend_pid() AS pid".into())).await;
                if let Ok(Some(row)) = row {
                    signal(row.try_get::<i32>("", "pid").unwrap(), "KILL");
                }
            }
            Fault::FreezePostgres => {
                let pids =
                    self.db.query_all_raw(sql("SELECT pid FROM pg_stat_activity".into())).await.unwrap_or_default();
                let pids: Vec<i32> = pids.iter().map(|row| row.try_get("", "pid").unwrap()).collect();
                pids.iter().for_each(|pid| signal(*pid, "STOP"));
                tokio::time::sleep(Duration::from_millis(self.random.random_range(500..2_500))).await;
                pids.iter().for_each(|pid| signal(*pid, "CONT"));
            }
            Fault::LockClients => {
                if let Ok(transaction) = self.db.begin().await {
                    let _ = transaction.execute_unprepared("LOCK TABLE clients IN EXCLUSIVE MODE").await;
                    tokio::time::sleep(Duration::from_millis(self.random.random_range(500..2_000))).await;
                    let _ = transaction.rollback().await;
                }
            }
            Fault::FreezeRedis => {
                let pid = self
                    .redis_command(&["INFO", "server"])
                    .await
                    .and_then(|told| told.lines().find_map(|line| line.strip_prefix("process_id:"))?.parse().ok());
                if let Some(pid) = pid {
                    signal(pid, "STOP");
                    tokio::time::sleep(Duration::from_millis(self.random.random_range(500..2_500))).await;
                    signal(pid, "CONT");
                }
            }
            Fault::CutRedis => {
                for _ in 0..5 {
                    self.redis_command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
                    tokio::time::sleep(Duration::from_millis(self.random.random_range(10..100))).await;
                }
            }
            Fault::DisturbQueue => {
                self.disturb_queue();
                tokio::time::sleep(Duration::from_millis(self.random.random_range(500..2_000))).await;
                self.proxy.set(Queue::Works);
            }
        }
    }

    pub fn disturb_queue(&mut self) {
        let modes = [
            Queue::IsDown,
            Queue::Hangs,
            Queue::AcceptsAndFails,
            Queue::TakesHalf,
            Queue::TakesAllAndSaysHalf,
            Queue::DeliversTwice,
            Queue::DeliversLate,
        ];
        self.proxy.set(*modes.choose(&mut self.random).unwrap());
    }

    /// Each in turn.
    pub fn next_point(&mut self, points: &[&'static str]) -> &'static str {
        let point = points.iter().min_by_key(|point| self.armed.get(*point).copied().unwrap_or(0)).unwrap();
        *self.armed.entry(point).or_default() += 1;
        point
    }

    pub fn of(&mut self, api: bool) -> usize {
        let number = self.random.random_range(0..2);
        if api { number } else { 2 + number }
    }

    /// Runs a command of the projector that is to die on its way, unless it has nothing to do.
    pub fn run_armed(&mut self, arguments: &[&str], failpoints: &str) {
        let variables = [&self.stores.variables()[..], &[("FAILPOINTS", failpoints)]].concat();
        let process = Process::start("projector", arguments, &variables);
        let output = process.output();
        process.end();
        self.note(&output.all());
    }

    pub fn note(&mut self, lines: &[String]) {
        for point in lines.iter().filter_map(|line| line.strip_prefix("crashed at ")) {
            *self.crashes.entry(point.to_owned()).or_default() += 1;
        }
    }

    pub fn revive_all(&mut self) {
        for index in 0..self.kept.len() {
            if let Some(said) = self.kept[index].revive() {
                self.note(&said);
            }
        }
    }
}

fn signal(pid: i32, name: &str) {
    let _ = std::process::Command::new("sh").args(["-c", &format!("kill -s {name} {pid}")]).status();
}
