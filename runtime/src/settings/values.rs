//! Values of settings: durations and addresses.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;

/// The longest duration of a setting: ten years. No time overflows when it is added.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Parses a duration such as `500ms` or `8h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    duration_from(Duration::ZERO)(text)
}

/// Returns a parser of durations that refuses those below `least`.
pub fn duration_from(least: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    duration_between(least, LONGEST)
}

/// Returns a parser of durations from `least` to `most`, which is whole days.
pub fn duration_between(least: Duration, most: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| match humantime::parse_duration(text) {
        Ok(duration) if duration < least => Err(format!("must be at least {}", humantime::format_duration(least))),
        Ok(duration) if duration > most => Err(format!("must be at most {}d", most.as_secs() / (24 * 60 * 60))),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses an address to listen on, such as `127.0.0.1:8080` or `localhost:8080`.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port.parse::<u16>();
    match (text.parse(), host, &port) {
        (Ok(address), ..) => Ok(address),
        (Err(_), "localhost", Ok(port)) => Ok((Ipv4Addr::LOCALHOST, *port).into()),
        _ => {
            let port = port.unwrap_or(8080);
            Err(format!("write 127.0.0.1:{port} to serve only this machine, or 0.0.0.0:{port} to serve all networks"))
        }
    }
}

/// Listens on the address of a setting.
///
/// # Errors
/// With the name of the variable, and why the operating system refused.
pub async fn listen(address: SocketAddr, variable: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} ({variable})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_bounds() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("99999999999d").unwrap_err(), "must be at most 3650d");
        assert_eq!(duration_from(Duration::from_secs(1))("10ms").unwrap_err(), "must be at least 1s");
        assert!(duration("5").unwrap_err().contains("time unit needed"));
        assert!(["", "-1s", "s", "99999999999999999999999d"].into_iter().all(|text| duration(text).is_err()));
    }

    #[test]
    fn an_address_without_a_host_is_explained() {
        assert_eq!(listen_address("localhost:80").unwrap().to_string(), "127.0.0.1:80");
        assert_eq!(listen_address("[::]:80").unwrap().to_string(), "[::]:80");
        for (text, port) in [(":81", 81), ("81", 81), ("orders.example.com:81", 81), ("127.0.0.1", 8080), ("", 8080)] {
            let error = listen_address(text).unwrap_err();
            assert!(
                error.contains(&format!("127.0.0.1:{port}")) && error.contains(&format!("0.0.0.0:{port}")),
                "{error}"
            );
        }
    }
}
