//! Servers that respond with an error: it is reported in their own words.

use std::path::Path;
use std::process::{Child, Command};

use iso_currency::Currency;
use read_model::{ConnectError, Error, Projection, Queries, Redis, RedisAddress};
use redis_test::server::RedisServer;
use redis_test::utils::get_random_available_port;
use test_support::redis::Redis as Server;

use crate::support::{event, server, until, until_up};

/// The error of connecting, with its cause.
async fn failure(address: &RedisAddress) -> String {
    let Err(error) = Redis::connect_to(address, 16, Currency::USD).await else { panic!("connected") };
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

fn is_unavailable<T>(result: &Result<T, Error>, reason: &str) -> bool {
    matches!(result, Err(error @ Error::Unavailable(_)) if error.to_string().starts_with(&format!("Redis is unavailable: {reason}")))
}

/// A server that keeps its file in a directory.
fn server_in(directory: &Path, port: u16, arguments: &[&str]) -> Server {
    let address = ::redis::ConnectionAddr::Tcp("127.0.0.1".into(), port);
    let start = |command: &mut Command| command.arg("--dir").arg(directory).args(arguments).spawn().unwrap();
    let server = RedisServer::new_with_addr_tls_modules_and_spawner(address, None, None, false, None, &[], start);
    Server { server, url: format!("redis://127.0.0.1:{port}") }
}

#[tokio::test]
async fn a_server_that_cannot_save_or_runs_a_script_says_so() {
    let (directory, port) = (tempfile::tempdir().unwrap(), get_random_available_port());
    let server = server_in(directory.path(), port, &[]);
    until_up(&server.url).await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    assert!(redis.apply(&[event(1, 1, 5)]).await[0].is_ok());
    let () = server.command(&["CONFIG", "SET", "save", "3600 1"]).await;
    drop(directory);
    let _: String = server.command(&["BGSAVE"]).await;
    until("Redis cannot save", async || {
        server.command::<String>(&["INFO", "persistence"]).await.contains("rdb_last_bgsave_status:err")
    })
    .await;
    let result = redis.apply(&[event(1, 2, 5)]).await.remove(0);
    assert!(is_unavailable(&result, "MISCONF Redis is configured to save RDB snapshots"), "{result:?}");
    assert!(redis.clients(&[1]).await.is_ok(), "it can be read");
    let () = server.command(&["CONFIG", "SET", "save", ""]).await;
    assert!(redis.apply(&[event(1, 2, 5)]).await[0].is_ok());

    let () = server.command(&["CONFIG", "SET", "busy-reply-threshold", "1"]).await;
    let mut operator = server.connect().await;
    let endless = tokio::spawn(async move {
        let _: ::redis::RedisResult<()> =
            ::redis::cmd("EVAL").arg("while true do end").arg(0).query_async(&mut operator).await;
    });
    let mut result = Ok(Vec::new());
    until("Redis is busy", async || {
        result = redis.clients(&[1]).await;
        is_unavailable(&result, "BUSY Redis is busy running a script")
    })
    .await;
    let result = redis.apply(&[event(1, 3, 5)]).await.remove(0);
    assert!(is_unavailable(&result, "BUSY Redis is busy running a script"), "{result:?}");
    let () = server.command(&["SCRIPT", "KILL"]).await;
    endless.await.unwrap();
    until("events are applied", async || redis.apply(&[event(1, 3, 5)]).await[0].is_ok()).await;
}

#[tokio::test]
async fn a_server_that_loads_its_data_says_so_until_it_has() {
    let (directory, port) = (tempfile::tempdir().unwrap(), get_random_available_port());
    let mut server = server_in(directory.path(), port, &[]);
    until_up(&server.url).await;
    let redis = Redis::connect(&server.url, 16, Currency::USD).await.unwrap();
    assert!(redis.apply(&[event(1, 1, 5)]).await[0].is_ok());
    let fill = "for i = 1, 300 do redis.call('SET', 'other' .. i, string.rep('x', 100)) end";
    let () = server.command(&["EVAL", fill, "0"]).await;
    let () = server.command(&["SAVE"]).await;
    server.stop();
    // 20 ms for each key, and it responds after each kilobyte.
    let slowly = ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"];
    server = server_in(directory.path(), port, &slowly);
    let loading = "LOADING Redis is loading the dataset in memory";
    let mut result = Ok(Vec::new());
    until("Redis is loading", async || {
        result = redis.clients(&[1]).await;
        is_unavailable(&result, loading)
    })
    .await;
    let result = redis.apply(&[event(1, 2, 5)]).await.remove(0);
    assert!(is_unavailable(&result, loading), "{result:?}");
    let failure = failure(&RedisAddress { url: server.url.clone(), ..RedisAddress::default() }).await;
    assert!(
        failure.starts_with("the Redis of REDIS_URL responds with an error: LOADING Redis is loading"),
        "{failure}"
    );
    until("events are applied", async || redis.apply(&[event(1, 2, 5)]).await[0].is_ok()).await;
    assert_eq!(redis.clients(&[1]).await.unwrap()[0].as_ref().unwrap().version, 2, "with those of the file");
}

#[tokio::test]
async fn a_refused_login_is_explained() {
    let server = server().await;
    let () = server.command(&["CONFIG", "SET", "requirepass", "secret"]).await;
    let address = RedisAddress { url: server.url.clone(), ..RedisAddress::default() };
    let without = failure(&address).await;
    assert!(without.contains("NOAUTH") && without.contains("REDIS_PASSWORD"), "{without}");
    let wrong = failure(&RedisAddress { password: Some("guess".into()), ..address }).await;
    assert!(wrong.contains("authentication failed") && wrong.contains("REDIS_PASSWORD"), "{wrong}");
    assert!(!wrong.contains("guess"), "{wrong}");
}

struct Sentinel(Child);

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_sentinel_is_refused_with_one_sentence() {
    let (directory, port) = (tempfile::tempdir().unwrap(), get_random_available_port());
    let file = directory.path().join("sentinel.conf");
    std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\n")).unwrap();
    let log = std::process::Stdio::null();
    let _sentinel = Sentinel(Command::new("redis-server").arg(file).arg("--sentinel").stdout(log).spawn().unwrap());
    let url = format!("redis://127.0.0.1:{port}");
    until_up(&url).await;
    let Err(error) = Redis::connect(&url, 16, Currency::USD).await else { panic!("connected") };
    assert!(matches!(error, ConnectError::Sentinel), "{error}");
    assert!(error.to_string().starts_with("REDIS_URL names a Redis Sentinel, which is not supported"), "{error}");
}
