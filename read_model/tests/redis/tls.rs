//! URLs, logins and certificates.

use std::path::Path;

use iso_currency::Currency;
use read_model::{Applied, ConnectError, Projection, Queries, Redis, RedisAddress};
use redis_test::server::RedisServer;
use redis_test::utils::{TlsFilePaths, get_random_available_port};
use test_support::certificates::Certificates;

use crate::support::{event, server, until};

/// Each of these characters has a meaning in URLs.
const PASSWORD: &str = "p#a/s@s%41w:o?rd";

/// A server that only speaks TLS, with the user `shop`.
fn tls_server(certificates: &Certificates) -> (RedisServer, RedisAddress) {
    let (redis_crt, redis_key) = (certificates.server(), certificates.key());
    let files = TlsFilePaths { redis_crt, redis_key, ca_crt: certificates.authority() };
    let port = get_random_available_port();
    let address = ::redis::ConnectionAddr::TcpTls { host: "127.0.0.1".into(), port, insecure: false, tls_params: None };
    let start = |command: &mut std::process::Command| {
        command.args(["--user", "shop", "on", &format!(">{PASSWORD}"), "~*", "&*", "+@all"]).spawn().unwrap()
    };
    let server =
        RedisServer::new_with_addr_tls_modules_and_spawner(address, None, Some(files), false, None, &[], start);
    let address = RedisAddress {
        url: format!("rediss://127.0.0.1:{port}"),
        username: Some("shop".into()),
        password: Some(PASSWORD.into()),
        ca_file: Some(certificates.authority()),
    };
    (server, address)
}

async fn connect(address: &RedisAddress) -> Result<Redis, ConnectError> {
    Redis::connect_to(address, 16, Currency::USD).await
}

/// The error of connecting, with its cause.
async fn failure(address: &RedisAddress) -> String {
    let Err(error) = connect(address).await else { panic!("connected to {}", address.url) };
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

#[tokio::test]
async fn only_a_server_with_a_trusted_certificate_is_used() {
    let (certificates, others) = (Certificates::of("IP:127.0.0.1"), Certificates::of("IP:127.0.0.1"));
    let (_server, address) = tls_server(&certificates);
    until("it connects", async || connect(&address).await.is_ok()).await;
    let redis = connect(&address).await.unwrap();
    assert_eq!(redis.apply(&[event(1, 1, 5)]).await, [Ok(Applied::Now)]);
    assert_eq!(redis.clients(&[1]).await.unwrap()[0].as_ref().unwrap().version, 1);
    drop(redis.changes().await.expect("a subscription has a connection of its own"));

    let other_name = RedisAddress { url: address.url.replace("127.0.0.1", "localhost"), ..address.clone() };
    let without = |ca_file| RedisAddress { ca_file, ..address.clone() };
    for address in [without(None), without(Some(others.authority())), other_name] {
        let failure = failure(&address).await;
        assert!(
            failure.contains("check its host and REDIS_CA_FILE: ") && failure.contains("peer certificate"),
            "{failure}"
        );
    }
    let stranger = RedisAddress { password: Some("wrong".into()), ..address.clone() };
    assert!(failure(&stranger).await.starts_with("the Redis of REDIS_URL refuses the login"));
    let missing = |ca_file: &Path| RedisAddress { ca_file: Some(ca_file.into()), ..address.clone() };
    for ca_file in [Path::new("/does/not/exist"), &certificates.key()] {
        let failure = failure(&missing(ca_file)).await;
        assert!(failure.starts_with(&format!("cannot use REDIS_CA_FILE: {}: ", ca_file.display())), "{failure}");
    }
}

#[tokio::test]
async fn a_login_needs_no_escapes() {
    let server = server().await;
    let client = ::redis::Client::open(server.url.as_str()).unwrap();
    let mut operator = client.get_multiplexed_async_connection().await.unwrap();
    let password = format!(">{PASSWORD}");
    let mut create = ::redis::cmd("ACL");
    create.arg(&["SETUSER", "shop", "on", &password, "~*", "&*", "+@all"]);
    let () = create.query_async(&mut operator).await.unwrap();
    let () = ::redis::cmd("CONFIG").arg(&["SET", "requirepass", PASSWORD]).query_async(&mut operator).await.unwrap();
    let login = |username: Option<&str>, url: &str| RedisAddress {
        url: url.into(),
        username: username.map(Into::into),
        password: Some(PASSWORD.into()),
        ca_file: None,
    };
    for address in [
        login(None, &server.url),
        login(Some("shop"), &server.url),
        login(Some("shop"), &server.url.replace("redis://", "redis://other:login@")),
        login(Some(""), &server.url.replace("redis://", "valkey://")),
    ] {
        connect(&address).await.unwrap();
    }
    assert!(connect(&RedisAddress { password: None, ..login(None, &server.url) }).await.is_err());
}

#[tokio::test]
async fn an_unsupported_url_is_refused_with_one_sentence() {
    let address = |url: &str| RedisAddress { url: url.into(), ..RedisAddress::default() };
    for url in [
        "redis+sentinel://127.0.0.1:26379/mymaster",
        "redis-sentinel://127.0.0.1",
        "sentinel://127.0.0.1",
        "rediss+sentinel://127.0.0.1",
        "http://127.0.0.1",
        "127.0.0.1:6379",
        "redis://127.0.0.1:1,sentinel://127.0.0.1",
        "",
    ] {
        assert!(matches!(connect(&address(url)).await, Err(ConnectError::Unsupported)), "{url}");
    }
    for url in ["redis://:p#ss@127.0.0.1", "redis://:p/ss@127.0.0.1", "redis://"] {
        let failure = failure(&address(url)).await;
        assert!(failure.contains("REDIS_PASSWORD"), "{url}: {failure}");
        assert!(!failure.contains("ss@"), "the password is not repeated: {failure}");
    }
    let without_tls = RedisAddress { ca_file: Some("ca.pem".into()), ..address("redis://127.0.0.1:1") };
    assert!(failure(&without_tls).await.contains("rediss://"));
}
