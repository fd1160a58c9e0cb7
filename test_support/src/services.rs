//! The stores, the apis and the projectors, as processes of their own.

use std::path::PathBuf;
use std::process::Command;

use pgtemp::{PgTempDB, PgTempDBBuilder};
use redis_test::server::RedisServer;
use sea_orm::{DbBackend, Statement};

use crate::process::{Process, command};
use crate::until;
use crate::user::{ALL, SECRET, User};

/// The stores, found by URL. Any others would do.
pub struct Stores {
    pub postgres: PgTempDB,
    pub redis: RedisServer,
    _queue: Process,
    variables: Vec<(&'static str, String)>,
}

pub struct Services {
    pub stores: Stores,
    pub apis: Vec<Process>,
    pub projectors: Vec<Process>,
    pub users: Vec<User>,
    pub health: Vec<String>,
}

impl Stores {
    pub fn start() -> Stores {
        Stores::start_with(&[])
    }

    /// With these settings of PostgreSQL.
    pub fn start_with(settings: &[(&str, &str)]) -> Stores {
        // Nobody reads what it would say on standard error, and it would wait for that.
        let mut postgres = PgTempDBBuilder::new().with_config_param("logging_collector", "on");
        // What a test writes by itself is there after a crash, as on any server that is not only for tests.
        postgres = postgres.with_config_param("synchronous_commit", "on");
        for (name, value) in settings {
            postgres = postgres.with_config_param(name, value);
        }
        if let Some(programs) = postgres_programs() {
            postgres = postgres.with_bin_path(programs);
        }
        let (postgres, redis) = (postgres.start(), RedisServer::new());
        let mut queue = Process::start("standalone", &["queue"], &[("QUEUE_LISTEN_ADDR", "127.0.0.1:0")]);
        let endpoint = queue.line_with("AWS_ENDPOINT_URL=").split(' ').next().unwrap().to_owned();
        let (host, port) = redis.host_and_port().unwrap();
        let variables = vec![
            ("DATABASE_URL", postgres.connection_uri()),
            ("REDIS_URL", format!("redis://{host}:{port}")),
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", "any".into()),
            ("AWS_SECRET_ACCESS_KEY", "any".into()),
            ("JWT_SECRET", SECRET.into()),
            ("LISTEN_ADDR", "127.0.0.1:0".into()),
        ];
        Stores { postgres, redis, _queue: queue, variables }
    }

    pub fn variables(&self) -> Vec<(&str, &str)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// What a variable is set to.
    pub fn get(&self, name: &str) -> &str {
        &self.variables.iter().find(|(other, _)| *other == name).unwrap().1
    }

    pub fn set(&mut self, name: &'static str, value: &str) {
        self.variables.retain(|(other, _)| *other != name);
        self.variables.push((name, value.to_owned()));
    }

    pub fn redis_client(&self) -> redis::Client {
        redis::Client::open(self.redis.connection_info()).unwrap()
    }

    /// Runs a command to its end and returns what it printed.
    pub fn run(&self, name: &str, arguments: &[&str]) -> String {
        output(&mut command(name, arguments, &self.variables()))
    }

    /// Waits until the read model is what the database says, with nothing on its way.
    pub async fn until_nothing_differs(&self) {
        until("nothing differs", async || {
            let verify = Process::start("projector", &["verify", "--in-flight", "0s"], &self.variables());
            tokio::task::block_in_place(|| verify.end()).success()
        })
        .await;
    }

    /// With what the processes need.
    pub fn prepared() -> Stores {
        Stores::prepared_with(&[])
    }

    pub fn prepared_with(settings: &[(&str, &str)]) -> Stores {
        let mut stores = Stores::start_with(settings);
        stores.prepare();
        stores
    }

    /// Creates what the processes need, and tells them of the queue.
    pub fn prepare(&mut self) {
        assert!(self.run("migration", &["up"]).contains("up to date"));
        let created = self.run("projector", &["queues", "create"]);
        let url = created.lines().next().unwrap().split_whitespace().last().unwrap().to_owned();
        self.set("QUEUE_URL", &url);
    }
}

impl Services {
    pub fn start(each: usize) -> Services {
        Services::on(Stores::prepared(), each)
    }

    pub fn on(stores: Stores, each: usize) -> Services {
        let start = |name: &str| Process::start(name, &[], &stores.variables());
        let mut apis: Vec<Process> = (0..each).map(|_| start("api")).collect();
        let mut projectors: Vec<Process> = (0..each).map(|_| start("projector")).collect();
        let of_apis: Vec<String> = apis.iter_mut().map(|api| api.line_with("ready address=")).collect();
        let of_projectors = projectors
            .iter_mut()
            .map(|projector| projector.line_with("ready health=").split(' ').next().unwrap().to_owned());
        let health = of_apis.iter().cloned().chain(of_projectors).collect();
        let token = stores.run("api", &["token", "--scope", ALL]);
        let users = of_apis.iter().map(|address| User::new(address, token.trim())).collect();
        Services { stores, apis, projectors, users, health }
    }
}

/// Where Debian keeps the programs of PostgreSQL.
fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin")).max()
}

pub fn postgres_program(name: &str) -> PathBuf {
    postgres_programs().map_or_else(|| name.into(), |programs| programs.join(name))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub fn sql(text: String) -> Statement {
    Statement::from_string(DbBackend::Postgres, text)
}
