//! A listener whose connections are bounded: so many at once, and none that makes no progress for long.
//!
//! Requests have bounds of their own; this one keeps connections without a request from using up the process's file
//! descriptors, which the sources need. Progress is an answer written: who sends a head byte by byte, or reads no answer,
//! would hold a place for ever without being silent.
//!
//! **No HTTP/2.** Its pings are answered below the requests, so that a connection would make progress without asking for
//! anything, and one connection's streams take the places of many. What begins as HTTP/2 does is closed.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};

/// Longer than any request may take.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// How HTTP/2 begins (RFC 9113, section 3.4), as far as no request of HTTP/1 does.
const HTTP2: &[u8] = b"PRI ";

/// A listener with room for so many connections; more wait in the system's backlog.
#[derive(Debug)]
pub(super) struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Bounded {
    /// This listener with room for so many.
    pub(super) fn new(listener: TcpListener, room: usize) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(room)) }
    }
}

impl Listener for Bounded {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        // The semaphore is never closed; were it, the connection would only not be counted.
        let permit = Arc::clone(&self.room).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (
            Held {
                stream,
                patience: Box::pin(sleep(MAX_WAIT)),
                is_asked: false,
                opening: Some(HTTP2),
                _permit: permit,
            },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that holds its place, and is closed when for [`MAX_WAIT`] nothing comes after an answer, no answer after
/// the first byte of a request, or nothing of an answer is taken.
#[derive(Debug)]
pub(super) struct Held {
    stream: TcpStream,
    patience: Pin<Box<Sleep>>,
    /// Whether something came since the last byte of an answer went out.
    is_asked: bool,
    /// What of HTTP/2's beginning has not come yet; none once something else came.
    opening: Option<&'static [u8]>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Whether this is, with what came before, how HTTP/2 begins.
    fn opens_http2(&mut self, bytes: &[u8]) -> bool {
        let Some(opening) = self.opening else { return false };
        let (expected, rest) = opening.split_at(bytes.len().min(opening.len()));
        self.opening = bytes.starts_with(expected).then_some(rest);
        self.opening.is_some_and(<[u8]>::is_empty)
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.patience.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            if self.opens_http2(buf.filled().get(before..).unwrap_or_default()) {
                return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
            }
            if !self.is_asked {
                self.is_asked = true;
                self.patience.set(sleep(MAX_WAIT));
            }
            return Poll::Ready(read);
        }
        self.is_over(cx).map(Err)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, bytes) {
            self.is_asked = false;
            self.patience.set(sleep(MAX_WAIT));
            return Poll::Ready(written);
        }
        self.is_over(cx).map(Err)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn served(room: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { "in" }));
        tokio::spawn(async move { axum::serve(Bounded::new(listener, room), router).await });
        address
    }

    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_connection_beyond_the_bound_waits_for_its_place() {
        let address = served(1).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        // A part of a request, so that the first one is known to have its place.
        first.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let waiting = tokio::spawn(async move { ask(&mut second).await });
        let early = tokio::time::timeout(Duration::from_millis(200), first.read_u8()).await;
        assert!(early.is_err() && !waiting.is_finished());
        drop(first);
        let answer = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
        assert!(answer.ends_with("in"), "{answer}");
    }

    #[tokio::test]
    async fn http2_is_not_spoken_however_its_beginning_comes() {
        let address = served(2).await;
        for piece in [24, 3, 1] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            for bytes in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".chunks(piece) {
                if stream.write_all(bytes).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let mut answer = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
            assert!(ended.is_ok() && answer.is_empty(), "{answer:?}");
        }
        // Its first letter is no sign of it.
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PROPFIND / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_is_closed() {
        let address = served(1).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(b"GET / HT").await.unwrap();
        let ended = tokio::time::timeout(MAX_WAIT * 2, silent.read_u8()).await;
        assert!(ended.is_ok_and(|read| read.is_err()), "the connection was left open");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_comes_byte_by_byte_is_not_waited_for_for_ever() {
        let address = served(1).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
        let trickle = async {
            while slow.write_all(b"x").await.is_ok() {
                sleep(MAX_WAIT / 4).await;
            }
        };
        assert!(tokio::time::timeout(MAX_WAIT * 3, trickle).await.is_ok(), "the connection was left open");
    }

    #[tokio::test]
    async fn who_takes_no_answer_loses_the_place() {
        let address = served(1).await;
        let mut deaf = TcpStream::connect(address).await.unwrap();
        let asking = tokio::spawn(async move {
            let requests = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
            while deaf.write_all(&requests).await.is_ok() {}
        });
        // Full in both directions: from then on time is all that passes.
        sleep(Duration::from_secs(2)).await;
        assert!(!asking.is_finished());
        tokio::time::pause();
        assert!(tokio::time::timeout(MAX_WAIT * 2, asking).await.is_ok(), "the connection was left open");
    }
}
