//! Connections to platforms that read no more than an answer may have.
//!
//! The HTTP client reads interim answers (1xx) in a loop and hands none of them on: who sends them without end would
//! keep the client's task, and with it a thread of the daemon, for as long as bytes come, and some of them all
//! threads. So a connection counts what it reads. It fails once it has read [`MOST`] since something of a request was
//! written: no answer that we read to our own bound needs as much, whatever it is made of. And after [`TURN`] bytes
//! that came without a pause it lets other tasks run first.
//!
//! It counts what TLS has opened; what TLS itself reads is bounded by how often tokio lets a task read in one turn.

use std::{
    error::Error,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use rustls::{ClientConfig, crypto::aws_lc_rs};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower_service::Service;

/// Longest time to get a connection: name, TCP and TLS.
const CONNECT: Duration = Duration::from_secs(5);

/// Most bytes that are read after a request. A head and a body that are read to their bounds, in chunks of one byte
/// (six on the wire), and what is read ahead take less.
const MOST: usize = 512 << 10;

/// Most bytes that are read before other tasks have their turn.
const TURN: usize = 64 << 10;

/// How long a connection may be silent before its peer is asked whether it is there, and between two questions.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How often it is asked in vain.
const KEEPALIVE_TRIES: u32 = 3;

/// How long what was sent may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// A platform's answer has more bytes than any answer may have.
#[derive(Debug, thiserror::Error)]
#[error("the platform answered more than {MOST} bytes to one request; interim answers (1xx) count")]
struct TooLong;

/// Not within [`CONNECT`].
#[derive(Debug, thiserror::Error)]
#[error("operation timed out")]
pub(super) struct TimedOut;

/// Makes bounded connections; certificates are held against those of the operating system.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    inner: HttpsConnector<HttpConnector>,
}

impl Connector {
    pub(super) fn new() -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new();
        // The scheme is the outer connector's affair.
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_keepalive_retries(Some(KEEPALIVE_TRIES));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()?
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { inner: HttpsConnector::from((tcp, tls)) })
    }
}

type Stream = TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Bounded<Stream>>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, platform: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(CONNECT, self.inner.call(platform));
        Box::pin(async move {
            let stream = connecting.await.map_err(|_| TimedOut)??;
            Ok(TokioIo::new(Bounded::new(TokioIo::new(stream))))
        })
    }
}

/// A stream that counts what is read of it.
#[derive(Debug)]
pub(super) struct Bounded<S> {
    stream: S,
    /// Bytes read since something was written.
    read: usize,
    /// Bytes read since it had none to read, or let others run.
    turn: usize,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, read: 0, turn: 0 }
    }

    fn written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = written {
            self.read = 0;
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read >= MOST {
            return Poll::Ready(Err(io::Error::other(TooLong)));
        }
        if self.turn >= TURN {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_pending() {
            self.turn = 0;
        }
        let read = buffer.filled().len() - before;
        self.read += read;
        self.turn += read;
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Connection> Connection for Bounded<S> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_read_after_a_request_is_bounded_and_each_request_begins_anew() {
        let (ours, mut theirs) = tokio::io::duplex(TURN);
        let mut ours = Bounded::new(ours);
        tokio::spawn(async move { while theirs.write_all(&[b'x'; 1000]).await.is_ok() {} });
        for _ in 0..3 {
            let mut answer = vec![0; MOST];
            ours.read_exact(&mut answer).await.unwrap();
            let error = ours.read_u8().await.unwrap_err();
            assert!(error.to_string().contains("1xx"), "{error}");
            ours.write_all(b"GET").await.unwrap();
        }
    }

    #[test]
    fn others_run_before_more_than_a_turn_is_read() {
        let mut endless = Bounded::new(tokio::io::repeat(b'x'));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut turns = Vec::new();
        while turns.len() < 3 {
            let (mut bytes, mut read) = ([0; 4096], 0);
            loop {
                let mut buffer = ReadBuf::new(&mut bytes);
                if Pin::new(&mut endless).poll_read(&mut cx, &mut buffer).is_pending() {
                    break;
                }
                read += buffer.filled().len();
                assert!(read <= TURN, "{read}");
            }
            turns.push(read);
        }
        assert_eq!(turns, [TURN; 3]);
    }
}
