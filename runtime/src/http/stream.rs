//! The stream of a connection. It ends when the client reads too slowly, or takes too long to send the head of a request: its line and its
//! headers. It can count what the client sends.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tower_http::metrics::in_flight_requests::InFlightRequestsCounter;

/// How long data may wait for a client, beyond the time that it takes at [`MIN_RATE`].
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Bytes per second that a client must read while data waits for it.
const MIN_RATE: f64 = 32.0 * 1024.0;
/// Time for the head of a request from its first byte on, or from the beginning of the connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Few heads may take longer than this, because each holds memory. Nearly all arrive at once.
const QUICK_HEAD: Duration = Duration::from_secs(1);
/// Bytes that an upgraded connection receives at most until they are taken.
const MAX_UNTAKEN: usize = 8 * 1024;

pub struct ClientStream {
    stream: TcpStream,
    patience: Patience,
    received: Received,
    heads: Heads,
}

impl ClientStream {
    pub fn new(stream: TcpStream, received: Received, heads: Heads) -> ClientStream {
        ClientStream { stream, patience: Patience::default(), received, heads }
    }
}

/// The requests of a connection.
#[derive(Clone, Default)]
pub struct Requests {
    /// How many have begun: their heads are complete.
    begun: Arc<AtomicUsize>,
    /// Those whose responses are not produced yet.
    pub active: InFlightRequestsCounter,
}

impl Requests {
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }
}

/// Limits the time of the heads of a connection.
pub struct Heads {
    requests: Requests,
    /// For the slow heads of all connections.
    slow: Arc<Semaphore>,
    incomplete: Option<Head>,
}

/// A head that is not known to be complete.
struct Head {
    began: Instant,
    /// Requests before its own.
    after: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    slow: Option<OwnedSemaphorePermit>,
}

impl Heads {
    pub fn new(requests: Requests, slow: Arc<Semaphore>) -> Heads {
        let mut heads = Heads { requests, slow, incomplete: None };
        heads.begin();
        heads
    }

    fn begin(&mut self) {
        let (began, after) = (Instant::now(), self.requests.begun());
        self.incomplete = Some(Head { began, after, deadline: None, slow: None });
    }

    fn forget_complete(&mut self) {
        self.incomplete.take_if(|head| head.after < self.requests.begun());
    }

    /// Bytes have arrived. During a request they are its body.
    fn received(&mut self) {
        self.forget_complete();
        if self.incomplete.is_none() && self.requests.active.get() == 0 {
            self.begin();
        }
    }

    /// Completes when a head takes too long.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.forget_complete();
        let Some(head) = &mut self.incomplete else { return Poll::Pending };
        let quick = head.began + QUICK_HEAD;
        ready!(head.deadline.get_or_insert_with(|| Box::pin(sleep_until(quick))).as_mut().poll(context));
        if head.slow.is_some() {
            return Poll::Ready(());
        }
        head.slow = self.slow.clone().try_acquire_owned().ok();
        if head.slow.is_none() {
            return Poll::Ready(());
        }
        head.deadline = Some(Box::pin(sleep_until(head.began + HEAD_TIMEOUT)));
        self.poll_late(context)
    }
}

/// How much longer data may wait for a client. Waiting uses it up, and what the client reads restores it.
struct Patience {
    left: Duration,
    /// Since when data waits, and until when it may.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { left: MAX_WAIT, waiting: None }
    }
}

impl Patience {
    /// # Errors
    /// [`ErrorKind::TimedOut`]
    fn check(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let Poll::Ready(result) = written else {
            let left = self.left;
            let (_, deadline) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
            ready!(deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client reads too slowly")));
        };
        if let Some((since, _)) = self.waiting.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        if let Ok(bytes) = result {
            self.left = (self.left + Duration::from_secs_f64(bytes as f64 / MIN_RATE)).min(MAX_WAIT);
        }
        Poll::Ready(result)
    }
}

/// The bytes that a connection has received since they were last taken. The service that upgrades a connection finds this in the
/// extensions of the request.
#[derive(Clone, Default)]
pub struct Received(Arc<Count>);

#[derive(Default)]
struct Count {
    is_counting: AtomicBool,
    bytes: AtomicUsize,
    /// Waits for [`Received::take`].
    reader: AtomicWaker,
    full: Notify,
}

impl Received {
    /// Counts from now on. Nothing is received while [`MAX_UNTAKEN`] bytes are not taken.
    pub fn count(&self) {
        self.0.is_counting.store(true, Ordering::Relaxed);
    }

    /// Completes when nothing more is received until the bytes are taken.
    pub async fn full(&self) {
        while !self.is_full() {
            self.0.full.notified().await;
        }
    }

    /// The bytes since the last call.
    pub fn take(&self) -> usize {
        let bytes = self.0.bytes.swap(0, Ordering::AcqRel);
        self.0.reader.wake();
        bytes
    }

    fn is_full(&self) -> bool {
        self.0.bytes.load(Ordering::Acquire) >= MAX_UNTAKEN
    }

    fn is_counting(&self) -> bool {
        self.0.is_counting.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        if self.is_counting() {
            self.0.bytes.fetch_add(bytes, Ordering::AcqRel);
            if self.is_full() {
                self.0.full.notify_one();
            }
        }
    }

    fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_full() {
            self.0.reader.register(context.waker());
            // It may have been taken since.
            if self.is_full() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.received.poll_room(context));
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.received.add(buffer.filled().len() - before);
        if self.received.is_counting() {
            return result; // upgraded: no heads any more
        }
        match result {
            Poll::Pending => {
                ready!(self.heads.poll_late(context));
                Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client sends a head too slowly")))
            }
            result => {
                self.heads.received();
                result
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.patience.check(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.patience.check(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::timeout;

    use super::*;

    /// The two ends of a connection whose buffers are small.
    async fn connection(received: Received) -> (ClientStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let client = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&stream).set_send_buffer_size(4_096).unwrap();
        let heads = Heads::new(Requests::default(), Arc::new(Semaphore::new(1)));
        (ClientStream::new(stream, received, heads), client)
    }

    async fn written(stream: &mut ClientStream) -> Option<ErrorKind> {
        let written = async {
            stream.write_all(&[b'x'; 1_000_000]).await?;
            stream.flush().await
        };
        written.await.err().map(|error| error.kind())
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_disconnected() {
        let (mut stream, _client) = connection(Received::default()).await;
        tokio::time::pause();
        let began = Instant::now();
        assert_eq!(written(&mut stream).await, Some(ErrorKind::TimedOut));
        assert!(began.elapsed() <= MAX_WAIT + Duration::from_secs(1), "{:?}", began.elapsed());
    }

    /// How long data waits for a client that reads so many bytes each second, up to five minutes.
    async fn waited_for(bytes: usize) -> Duration {
        let (mut patience, began) = (Patience::default(), Instant::now());
        while began.elapsed() < Duration::from_secs(300) {
            let waits = poll_fn(|context| patience.check(context, Poll::Pending));
            if timeout(Duration::from_secs(1), waits).await.is_ok() {
                break;
            }
            poll_fn(|context| patience.check(context, Poll::Ready(Ok(bytes)))).await.unwrap();
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_must_read_at_the_minimum_rate() {
        assert_eq!(waited_for(0).await.as_secs(), 10);
        assert_eq!(waited_for(16 * 1024).await.as_secs(), 19);
        assert_eq!(waited_for(33 * 1024).await.as_secs(), 300);
        assert_eq!(waited_for(10_000_000).await.as_secs(), 300);
    }

    /// Reads until that fails, and returns after how many seconds; `None` if it does not fail within five minutes.
    async fn read_failed(stream: &mut ClientStream) -> Option<f64> {
        let (began, mut buffer) = (Instant::now(), [0; 64]);
        while let Ok(read) = timeout(Duration::from_secs(300), stream.read(&mut buffer)).await {
            if let Err(error) = read {
                assert_eq!(error.kind(), ErrorKind::TimedOut);
                return Some(began.elapsed().as_secs_f64().round());
            }
        }
        None
    }

    #[tokio::test]
    async fn few_heads_may_take_ten_seconds_and_all_others_one() {
        let connection = || connection(Received::default());
        let [mut one, mut other, mut idle] = [connection().await, connection().await, connection().await];
        one.1.write_all(b"GET").await.unwrap();
        other.1.write_all(b"GET").await.unwrap();
        tokio::time::pause();
        let slow = Arc::new(Semaphore::new(1));
        for (stream, _) in [&mut one, &mut other, &mut idle] {
            stream.heads = Heads::new(Requests::default(), slow.clone());
        }
        idle.0.heads.requests.begin();
        let (one_failed, other_failed, idle_failed) =
            tokio::join!(read_failed(&mut one.0), read_failed(&mut other.0), read_failed(&mut idle.0));
        let mut failed = [one_failed, other_failed].map(Option::unwrap);
        failed.sort_by(f64::total_cmp);
        assert_eq!((failed, idle_failed), ([1.0, 10.0], None), "nothing limits the time between two requests here");
        idle.1.write_all(b"GET").await.unwrap();
        assert_eq!(read_failed(&mut idle.0).await, Some(1.0), "another connection has the only permit");
        drop((one, other));
    }

    #[tokio::test]
    async fn what_is_received_is_counted_and_bounded() {
        let received = Received::default();
        let (mut stream, mut client) = connection(received.clone()).await;
        client.write_all(b"before").await.unwrap();
        let mut buffer = [0; 6];
        stream.read_exact(&mut buffer).await.unwrap();
        received.count();
        let writer = tokio::spawn(async move {
            client.write_all(&[b'x'; 10 * MAX_UNTAKEN]).await.unwrap();
            client
        });
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 10 * MAX_UNTAKEN];
            stream.read_exact(&mut buffer).await.unwrap();
        });
        let mut total = 0;
        while total < 9 * MAX_UNTAKEN {
            received.full().await;
            total += received.take();
        }
        reader.await.unwrap();
        assert_eq!(total + received.take(), 10 * MAX_UNTAKEN);
        writer.await.unwrap();
    }
}
