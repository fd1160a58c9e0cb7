//! The stores, and the apis and projectors on them, each a process of its own, as in production.

use std::process::Command;

use pgtemp::{PgTempDB, PgTempDBBuilder};
use redis_test::server::RedisServer;
use sea_orm::{ConnectionTrait, Database, DbBackend, Statement};

use crate::postgres;
use crate::process::{Process, command};
use crate::until;
use crate::user::{ALL_SCOPES, SECRET, User};

/// PostgreSQL, Redis and SQS, and the environment variables with which programs find them.
pub struct Stores {
    pub postgres: PgTempDB,
    pub redis: RedisServer,
    _queue: Process,
    variables: Vec<(&'static str, String)>,
}

impl Stores {
    /// Empty stores.
    pub fn start() -> Stores {
        Stores::start_with(&[])
    }

    /// With these settings of PostgreSQL.
    pub fn start_with(settings: &[(&str, &str)]) -> Stores {
        let with = |server: PgTempDBBuilder, (name, value): &(&str, &str)| server.with_config_param(name, value);
        Stores::start_on(settings.iter().fold(postgres::server(), with))
    }

    /// With this PostgreSQL.
    pub fn start_on(postgres: PgTempDBBuilder) -> Stores {
        // A row that a test writes itself must survive a crash, as on a server in production.
        let postgres = postgres.with_config_param("synchronous_commit", "on");
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

    /// With tables and queues.
    pub fn prepared() -> Stores {
        Stores::prepared_with(&[])
    }

    pub fn prepared_with(settings: &[(&str, &str)]) -> Stores {
        let mut stores = Stores::start_with(settings);
        stores.prepare();
        stores
    }

    /// Creates the tables and the queues, and sets `QUEUE_URL`.
    pub fn prepare(&mut self) {
        assert!(self.run("migration", &["up"]).contains("up to date"));
        assert!(self.run("migration", &["sample-data"]).contains("inserted"));
        let created = self.run("projector", &["queues", "create"]);
        let url = created.lines().next().unwrap().split_whitespace().last().unwrap().to_owned();
        self.set("QUEUE_URL", &url);
    }

    pub fn variables(&self) -> Vec<(&str, &str)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// The value of a variable.
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

    /// Starts an empty Redis at the same address.
    pub fn restart_redis(&mut self) {
        let address = self.redis.addr.clone();
        self.redis.stop();
        self.redis = RedisServer::new_with_addr_and_modules(address, &[], false);
    }

    /// Runs a program, which must succeed, and returns what it printed.
    pub fn run(&self, name: &str, arguments: &[&str]) -> String {
        output(&mut command(name, arguments, &self.variables()))
    }

    /// A token with these scopes that is valid for this time, such as `7d`.
    pub fn token(&self, scopes: &str, valid_for: &str) -> String {
        self.run("api", &["token", "--scope", scopes, "--ttl", valid_for]).trim().to_owned()
    }

    /// Adds clients until there are so many. They have no events.
    pub async fn add_clients(&self, count: i64) {
        let db = Database::connect(self.postgres.connection_uri()).await.unwrap();
        let existing = "(SELECT count(*) FROM clients)";
        let insert = format!(
            "INSERT INTO clients (name, email) SELECT 'Client ' || n, n || '@example.com' FROM generate_series({existing} + 1, {count}) n"
        );
        db.execute_unprepared(&insert).await.unwrap();
        db.close().await.unwrap();
    }

    /// Waits until `verify` finds no difference between the read model and the database, with no event on its way.
    pub async fn until_nothing_differs(&self) {
        until("nothing differs", async || {
            let verify = Process::start("projector", &["verify", "--in-flight", "0s"], &self.variables());
            tokio::task::block_in_place(|| verify.wait()).success()
        })
        .await;
    }
}

pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A statement for PostgreSQL.
pub fn sql(text: &str) -> Statement {
    Statement::from_string(DbBackend::Postgres, text)
}

/// Apis and projectors, as many of each.
pub struct Services {
    pub stores: Stores,
    pub apis: Vec<Process>,
    pub projectors: Vec<Process>,
    /// One of each api, with all scopes.
    pub users: Vec<User>,
    /// The addresses of `/health` of all processes.
    pub health: Vec<String>,
}

impl Services {
    pub fn start(number: usize) -> Services {
        Services::start_on(Stores::prepared(), number)
    }

    pub fn start_on(stores: Stores, number: usize) -> Services {
        let start = |name: &str| Process::start(name, &[], &stores.variables());
        let mut apis: Vec<Process> = (0..number).map(|_| start("api")).collect();
        let mut projectors: Vec<Process> = (0..number).map(|_| start("projector")).collect();
        let of_apis: Vec<String> = apis.iter_mut().map(|api| api.line_with("ready address=")).collect();
        let of_projectors = projectors
            .iter_mut()
            .map(|projector| projector.line_with("ready health=").split(' ').next().unwrap().to_owned());
        let health = of_apis.iter().cloned().chain(of_projectors).collect();
        let token = stores.token(ALL_SCOPES, "1h");
        let users = of_apis.iter().map(|address| User::new(address, &token)).collect();
        Services { stores, apis, projectors, users, health }
    }
}
