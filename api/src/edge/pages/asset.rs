//! Files of the pages. Many clients may read them slowly at the same time, so they share one copy, compressed once: with Brotli when the
//! pages are built, because its best quality takes seconds, and with gzip at the first request.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::edge::executor::VALIDATION_COST;
use crate::edge::negotiation::{MediaType, accepts_coding};
use crate::edge::quota::QuotaKey;
use crate::edge::{COMPRESS_ABOVE, Edge, response};

/// The compressed files by their path.
static COMPRESSED: LazyLock<Mutex<HashMap<String, Bytes>>> = LazyLock::new(Mutex::default);

/// A file that is built in. `brotli` is the same file in that coding, if it is built in, too. Assets can be cached for ever because their
/// names contain a hash of their content.
pub fn page_file(
    path: &str,
    media_type: &str,
    content: Cow<'static, [u8]>,
    brotli: Option<Cow<'static, [u8]>>,
    policy: &str,
    request: &HeaderMap,
) -> Response {
    let cache = if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = [(CONTENT_TYPE, media_type), (CACHE_CONTROL, cache), (CONTENT_SECURITY_POLICY, policy)];
    let encoding = |coding| [(CONTENT_ENCODING, coding), (VARY, "accept-encoding")];
    if let Some(brotli) = brotli.filter(|_| accepts_coding(request, "br")) {
        return (headers, encoding("br"), shared(brotli)).into_response();
    }
    if accepts_coding(request, "gzip") && content.len() as u64 > COMPRESS_ABOVE {
        return (headers, encoding("gzip"), compressed(path, &content)).into_response();
    }
    (headers, shared(content)).into_response()
}

fn shared(content: Cow<'static, [u8]>) -> Bytes {
    match content {
        Cow::Borrowed(content) => Bytes::from_static(content),
        Cow::Owned(content) => content.into(),
    }
}

fn compressed(path: &str, content: &[u8]) -> Bytes {
    let mut files = COMPRESSED.lock().unwrap_or_else(PoisonError::into_inner);
    let file = files.entry(path.to_owned()).or_insert_with(|| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        // Writing to memory cannot fail.
        let _ = encoder.write_all(content);
        encoder.finish().unwrap_or_default().into()
    });
    file.clone()
}

/// Charges a file to the address of its reader.
pub async fn charge(
    State(edge): State<Arc<Edge>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let key = QuotaKey::of_address(edge.address(request.headers(), peer));
    match edge.executor.charge(&key, VALIDATION_COST) {
        Ok(()) => next.run(request).await,
        Err(refusal) => response::refused(MediaType::Json, refusal),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header::ACCEPT_ENCODING;

    use super::*;

    #[test]
    fn a_file_has_the_best_coding_that_its_reader_accepts() {
        let file = |brotli: Option<&'static [u8]>, accepted: &'static str| {
            let request = HeaderMap::from_iter([(ACCEPT_ENCODING, accepted.parse().unwrap())]);
            let content: &[u8] = &[b'x'; 5_000];
            let response = page_file("test/coding", "text/css", content.into(), brotli.map(Cow::from), "", &request);
            let header = |name| response.headers().get(&name).map(|value| value.to_str().unwrap().to_owned());
            (header(CONTENT_ENCODING), header(VARY))
        };
        let vary = Some("accept-encoding".to_owned());
        for (brotli, accepted, coding) in [
            (Some(&b"br"[..]), "gzip, deflate, br", "br"),
            (Some(b"br"), "gzip, br;q=0", "gzip"),
            (None, "gzip, br", "gzip"),
        ] {
            assert_eq!(file(brotli, accepted), (Some(coding.to_owned()), vary.clone()), "{accepted}");
        }
        assert_eq!(file(Some(b"br"), "identity"), (None, None));
    }

    #[test]
    fn all_readers_of_a_file_share_one_copy() {
        static FILE: &[u8] = &[b'x'; 5_000];
        assert_eq!(shared(Cow::Borrowed(FILE)).as_ptr(), FILE.as_ptr());
        let (first, second) = (compressed("test/file", FILE), compressed("test/file", FILE));
        assert_eq!(first.as_ptr(), second.as_ptr());
        assert!(first.len() < 100 && first.starts_with(&[0x1f, 0x8b]), "{} bytes", first.len());
    }
}
