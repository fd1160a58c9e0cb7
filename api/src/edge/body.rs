//! Request bodies: paid for as they arrive, and read into memory that is bounded in total and per caller.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::http::StatusCode;
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::Edge;
use super::quota::{Permit, QuotaKey};
use super::refusal::Refusal;

/// Time for a client to send a whole request body.
pub const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of a body, or received by a WebSocket, that cost 1.
pub const BYTES_PER_POINT: usize = 1024;
/// Memory for bodies that are being read, in bytes. One caller gets at most about an eighth.
pub const MEMORY: usize = 32 * 1024 * 1024;
/// Parts of a body that cost 1. A part is a chunk of the transfer coding, or what arrives at once. It takes about 1 µs.
const PARTS_PER_POINT: usize = 32;
/// A body may have this many parts, and one more for each [`BYTES_PER_PART`] that have arrived.
const FEW_PARTS: usize = 64;
const BYTES_PER_PART: usize = 32;

pub struct RequestBody {
    edge: Arc<Edge>,
    key: QuotaKey,
    /// From the headers, or else of the largest body.
    expected: usize,
    data: BodyDataStream,
    deadline: Instant,
    bytes: usize,
    parts: usize,
    paid: usize,
}

impl RequestBody {
    pub fn new(edge: Arc<Edge>, key: QuotaKey, body: Body) -> RequestBody {
        let max = edge.limits.max_body_bytes;
        let expected =
            body.size_hint().upper().and_then(|bytes| bytes.try_into().ok()).map_or(max, |bytes| max.min(bytes));
        let deadline = Instant::now() + BODY_DEADLINE;
        RequestBody { edge, key, expected, data: body.into_data_stream(), deadline, bytes: 0, parts: 0, paid: 0 }
    }

    /// The whole body, which counts for its caller until the permit is dropped.
    ///
    /// # Errors
    /// When the body is too large, too slow or malformed, or the caller has used up a quota.
    pub async fn read(&mut self) -> Result<(Vec<u8>, Permit), Refusal> {
        let permit = self.edge.bodies.acquire_units(self.key.clone(), self.expected)?;
        let mut body = Vec::new();
        while let Some(part) = self.next().await? {
            body.extend_from_slice(&part);
        }
        Ok((body, permit))
    }

    /// Reads the rest of a refused request and keeps nothing. Unread bytes would reset the connection, and the client might not get
    /// its response. Of a caller that cannot pay, only a few parts are read.
    pub async fn discard(&mut self) {
        let mut unpaid = 0;
        while unpaid <= FEW_PARTS {
            match self.next().await {
                Ok(Some(_)) => {}
                Err(Refusal::RateLimited(_)) => unpaid += 1,
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Charges the next part to the caller. `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        self.check_size()?;
        let part = timeout_at(self.deadline, self.data.next()).await.map_err(|_| {
            let message = format!("The request body did not arrive within {BODY_DEADLINE:?}.");
            Refusal::http(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", message)
        })?;
        let Some(part) = part else { return Ok(None) };
        let part = part.map_err(|_| Refusal::bad_request("The request body cannot be read."))?;
        self.bytes += part.len();
        self.parts += 1;
        let cost = self.bytes / BYTES_PER_POINT + self.parts / PARTS_PER_POINT;
        if cost > self.paid {
            self.edge.executor.charge(&self.key, cost - self.paid)?;
            self.paid = cost;
        }
        Ok(Some(part))
    }

    fn check_size(&self) -> Result<(), Refusal> {
        let max = self.edge.limits.max_body_bytes;
        let max_parts = FEW_PARTS + self.bytes / BYTES_PER_PART;
        let message = match () {
            () if self.bytes > max => format!("The request body is larger than {max} bytes."),
            () if self.parts > max_parts => {
                format!("The request body is sent in too many small parts: {}.", self.parts)
            }
            () => return Ok(()),
        };
        Err(Refusal::http(StatusCode::PAYLOAD_TOO_LARGE, "MAX_BODY_LIMIT", message))
    }
}
