//! Reading a client once it has reached a version.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Client, Error, Queries};

/// Pauses between two reads, first and last; each is twice as long as the one before it.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(20)];

/// The outcome of [`client_at`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    Reached(Client),
    /// The client was at this version when the time was up; 0 when none of its events had been applied.
    Behind(i32),
}

/// Reads a client once it includes every event up to `min_version`, waiting at most `wait`.
pub async fn client_at(queries: &dyn Queries, id: i64, min_version: i32, wait: Duration) -> Result<Awaited, Error> {
    let deadline = Instant::now() + wait;
    let [mut pause, longest] = PAUSES;
    let version = |client: &Option<Client>| client.as_ref().map_or(0, |client| client.version);
    // The cached client may be older than the stored one, but it is never newer.
    let mut client = queries.cached_clients(&[id]).await?.pop().flatten();
    if version(&client) < min_version {
        client = queries.clients(&[id]).await?.pop().flatten();
    }
    loop {
        let reached = version(&client);
        match client {
            Some(client) if reached >= min_version => return Ok(Awaited::Reached(client)),
            _ if Instant::now() >= deadline => return Ok(Awaited::Behind(reached)),
            _ => tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await,
        }
        pause = (pause * 2).min(longest);
        client = queries.clients(&[id]).await?.pop().flatten();
    }
}
