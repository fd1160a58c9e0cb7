//! The faults, and how each is caused.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use runtime::crash_points as points;
use sea_orm::{ConnectionTrait, TransactionTrait};
use test_support::process::{Process, signal};
use test_support::queue_proxy::Mode;
use test_support::services::sql;
use test_support::until;

use super::comparison::SETTLE_TIMEOUT;
use super::{Chaos, client_key, product_key};

/// The crash points of each program and command.
pub const API_POINTS: [&str; 6] = [
    points::ORDER_BEFORE_COMMIT,
    points::ORDER_AFTER_COMMIT,
    points::CHANGE_BEFORE_COMMIT,
    points::CHANGE_AFTER_COMMIT,
    points::RELAY_MID_BATCHES,
    points::RELAY_BEFORE_DELETE,
];
pub const PROJECTOR_POINTS: [&str; 2] = [points::PROJECTOR_BEFORE_APPLY, points::PROJECTOR_BEFORE_DELETE];
pub const REPAIR_POINTS: [&str; 3] = [points::REPAIR_MID_LOG, points::REPAIR_BEFORE_REPLACE, points::REPAIR_PRODUCT];
pub const REBUILD_POINTS: [&str; 3] =
    [points::REBUILD_BEFORE_REPLAY, points::REPLAY_MID_LOG, points::REBUILD_BEFORE_SWITCH];

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    KillApi,
    KillProjector,
    ReplaceProjectors,
    ArmApi,
    ArmProjector,
    KillRepair,
    KillRebuild,
    LoseRedis,
    CrashPostgres,
    FreezePostgres,
    LockClients,
    /// The writer becomes read-only, as before a failover of Aurora.
    DemotePostgres,
    DisturbQueue,
    FreezeRedis,
    /// The primary becomes a replica of a server that is gone.
    DemoteRedis,
    /// Closes all connections to Redis, some of them in the middle of a command.
    CutRedis,
}

/// Faults that neither remove data from the live generation in Redis nor repair it. A rebuild is one of them: it switches to
/// another generation, and events must be applied to both correctly.
pub const HARMLESS: [Fault; 14] = [
    Fault::KillApi,
    Fault::KillProjector,
    Fault::ReplaceProjectors,
    Fault::ArmApi,
    Fault::ArmProjector,
    Fault::CrashPostgres,
    Fault::FreezePostgres,
    Fault::LockClients,
    Fault::DemotePostgres,
    Fault::DisturbQueue,
    Fault::FreezeRedis,
    Fault::DemoteRedis,
    Fault::CutRedis,
    Fault::KillRebuild,
];

pub const HARMFUL: [Fault; 2] = [Fault::KillRepair, Fault::LoseRedis];

impl Chaos {
    pub async fn cause(&mut self, fault: Fault) {
        match fault {
            Fault::KillApi => self.restart_one(true, None),
            Fault::KillProjector => self.restart_one(false, None),
            Fault::ReplaceProjectors => self.replace_projectors(),
            Fault::ArmApi => self.restart_one(true, Some(&API_POINTS)),
            Fault::ArmProjector => self.restart_one(false, Some(&PROJECTOR_POINTS)),
            Fault::KillRepair => self.kill_repair().await,
            Fault::KillRebuild => self.kill_rebuild(),
            Fault::LoseRedis => self.lose_redis().await,
            Fault::CrashPostgres => self.crash_postgres().await,
            Fault::FreezePostgres => self.freeze_postgres().await,
            Fault::LockClients => self.lock_clients().await,
            Fault::DemotePostgres => self.demote_postgres().await,
            Fault::FreezeRedis => self.freeze_redis().await,
            Fault::DemoteRedis => self.demote_redis().await,
            Fault::CutRedis => self.cut_redis().await,
            Fault::DisturbQueue => {
                self.disturb_queue();
                self.pause(500..2_000).await;
                self.proxy.set(Mode::Works);
            }
        }
    }

    /// Kills an api or a projector and starts it again, with the next of these crash points armed.
    fn restart_one(&mut self, is_api: bool, points: Option<&[&'static str]>) {
        let point = points.map(|points| format!("{}=20%return", self.next_point(points)));
        let index = self.random.random_range(0..2) + if is_api { 0 } else { 2 };
        let lines = self.processes[index].restart(point.as_deref());
        self.count_crashes(&lines);
    }

    /// One after the other, as a release does.
    fn replace_projectors(&mut self) {
        for index in [2, 3] {
            let lines = self.processes[index].replace();
            self.count_crashes(&lines);
        }
    }

    /// A repair dies on its way, with something to repair: a lost partition, a lost product or a wrong total.
    async fn kill_repair(&mut self) {
        let point = self.next_point(&REPAIR_POINTS);
        if let Some((mut redis, live)) = self.live_generation().await {
            let client = *self.acknowledged.lock().unwrap().clients.active.choose(&mut self.random).unwrap();
            let key = client_key(&live, client);
            let damage = match point {
                points::REPAIR_MID_LOG => {
                    let script = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";
                    let partition = key.replace(&format!("client:{client}"), "*");
                    redis::cmd("EVAL").arg(script).arg(0).arg(partition).to_owned()
                }
                points::REPAIR_PRODUCT => {
                    let product = self.random.random_range(1..=3);
                    redis::cmd("HDEL").arg(product_key(&live, product)).arg(product).to_owned()
                }
                _ => redis::cmd("HINCRBY").arg(key).arg("total").arg(7).to_owned(),
            };
            let _: Result<Option<i64>, _> = damage.query_async(&mut redis).await;
        }
        self.run_armed(&["verify", "--repair", "--in-flight", "0s"], point);
    }

    /// A rebuild dies on its way. Then another one continues it, or it is aborted.
    fn kill_rebuild(&mut self) {
        let point = self.next_point(&REBUILD_POINTS);
        self.run_armed(&["rebuild", "start"], point);
        let then: &[&[&str]] = match self.random.random_range(0..3) {
            0 => &[&["rebuild", "abort", "--yes"]],
            1 => &[&["rebuild", "start", "--keep", "0s"]],
            _ => &[&["rebuild", "start"], &["rebuild", "rollback", "--yes"]],
        };
        // These must succeed: the stores are up during this fault.
        for arguments in then {
            self.stores.run("projector", arguments);
        }
    }

    /// Redis comes back empty, as after a failover to a replica that had received nothing.
    async fn lose_redis(&mut self) {
        self.stores.redis.stop();
        self.pause(100..1_500).await;
        self.stores.restart_redis();
    }

    /// A backend that dies takes all connections with it, and the server recovers from its log.
    async fn crash_postgres(&mut self) {
        let row = self.db.query_one_raw(sql("SELECT pg_backend_pid() AS pid")).await;
        if let Ok(Some(row)) = row {
            signal(row.try_get::<i32>("", "pid").unwrap(), "KILL");
        }
    }

    async fn freeze_postgres(&mut self) {
        let rows = self.db.query_all_raw(sql("SELECT pid FROM pg_stat_activity")).await.unwrap_or_default();
        let pids: Vec<i32> = rows.iter().map(|row| row.try_get("", "pid").unwrap()).collect();
        pids.iter().for_each(|pid| signal(*pid, "STOP"));
        self.pause(500..2_500).await;
        pids.iter().for_each(|pid| signal(*pid, "CONT"));
    }

    async fn lock_clients(&mut self) {
        if let Ok(transaction) = self.db.begin().await {
            let _ = transaction.execute_unprepared("LOCK TABLE clients IN EXCLUSIVE MODE").await;
            self.pause(500..2_000).await;
            let _ = transaction.rollback().await;
        }
    }

    async fn demote_postgres(&mut self) {
        for (is_read_only, pause) in [("on", 500..2_500), ("off", 0..1)] {
            let set = format!("ALTER SYSTEM SET default_transaction_read_only = {is_read_only}");
            for statement in [&*set, "SELECT pg_reload_conf()"] {
                // A backend that crashed a moment ago takes the connections with it.
                until("PostgreSQL accepts the setting", async || self.db.execute_unprepared(statement).await.is_ok())
                    .await;
            }
            self.pause(pause).await;
        }
    }

    async fn demote_redis(&mut self) {
        self.redis_command(&["REPLICAOF", "127.0.0.1", "1"]).await;
        self.pause(500..2_500).await;
        until("Redis is a primary again", async || self.redis_command(&["REPLICAOF", "NO", "ONE"]).await.is_some())
            .await;
    }

    async fn freeze_redis(&mut self) {
        let info = self.redis_command(&["INFO", "server"]).await;
        let pid = info.and_then(|info| info.lines().find_map(|line| line.strip_prefix("process_id:"))?.parse().ok());
        if let Some(pid) = pid {
            signal(pid, "STOP");
            self.pause(500..2_500).await;
            signal(pid, "CONT");
        }
    }

    async fn cut_redis(&mut self) {
        for _ in 0..5 {
            self.redis_command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
            self.pause(10..100).await;
        }
    }

    pub fn disturb_queue(&mut self) {
        self.proxy.set(*Mode::FAULTS.choose(&mut self.random).unwrap());
    }

    /// Waits for a random number of milliseconds.
    async fn pause(&mut self, milliseconds: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(milliseconds))).await;
    }

    /// The point that was armed least often.
    fn next_point(&mut self, points: &[&'static str]) -> &'static str {
        let point = points.iter().min_by_key(|point| self.armed.get(*point).copied().unwrap_or(0)).unwrap();
        *self.armed.entry(point).or_default() += 1;
        point
    }

    /// Runs a command of the projector that dies at this point, unless it has nothing to do.
    fn run_armed(&mut self, arguments: &[&str], point: &str) {
        let armed = format!("{point}=return");
        let variables = [&self.stores.variables()[..], &[("FAILPOINTS", &armed)]].concat();
        let process = Process::start("projector", arguments, &variables);
        let output = process.output();
        // After Redis was lost, a repair replaces each client.
        process.wait_for(SETTLE_TIMEOUT);
        self.count_crashes(&output.all());
    }

    pub fn count_crashes(&mut self, lines: &[String]) {
        for point in lines.iter().filter_map(|line| line.strip_prefix("crashed at ")) {
            *self.crashes.entry(point.to_owned()).or_default() += 1;
        }
    }

    pub fn restart_dead(&mut self) {
        for index in 0..self.processes.len() {
            if let Some(lines) = self.processes[index].restart_if_dead() {
                self.count_crashes(&lines);
            }
        }
    }
}
