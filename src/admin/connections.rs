//! A listener whose connections are bounded: so many at once, and none that makes no progress for long.
//!
//! Requests have bounds of their own; this one keeps connections without a request from using up the process's file
//! descriptors, which the sources need. When every place is taken, the connection that has waited longest for a request
//! makes room for the next one ([`crate::places`]). Whoever was answered with success keeps its connection before
//! strangers, and nobody loses it while a request is in progress, which is from the end of its head until its answer is
//! handed to the kernel. Clients that are closed between two requests connect again.
//!
//! Progress is an answer written: who sends a head byte by byte, or reads no answer, would hold a place for ever without
//! being silent.
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

use axum::{
    Router,
    extract::{ConnectInfo, Request, connect_info::Connected},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    serve::{IncomingStream, Listener},
};
use http::{HeaderValue, header};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Problem;
use crate::places::{LAST_HEADS, Place, Places, Standing};

/// Longer than any request may take.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// How HTTP/2 begins (RFC 9113, section 3.4), as far as no request of HTTP/1 does.
const HTTP2: &[u8] = b"PRI ";

/// Serves on so many connections at once until `stop`, then finishes what has begun.
pub(super) async fn serve(
    listener: TcpListener,
    room: usize,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let router = router.layer(middleware::from_fn(in_progress));
    let places = Places::new(room);
    let listener = Bounded { listener, places: places.clone() };
    let served = axum::serve(listener, router.into_make_service_with_connect_info::<Seat>())
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    let cleared = async {
        stop.cancelled().await;
        sleep(LAST_HEADS).await;
        places.clear();
        std::future::pending().await
    };
    tokio::select! {
        ended = served.into_future() => ended,
        never = cleared => never,
    }
}

/// Tells how the request's connection stands. (Answers are whole here: they are sent when they were flushed once.)
async fn in_progress(
    ConnectInfo(Seat(standing)): ConnectInfo<Seat>,
    request: Request,
    next: Next,
) -> Response {
    if !standing.begin() {
        let mut answer = Problem::new(503, "busy", "Too many connections at once")
            .detail("this connection was just being closed for another one; nothing was done")
            .remedy("connect again")
            .into_response();
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return answer;
    }
    // Health and metrics are anybody's to ask.
    let is_served = !matches!(request.uri().path(), "/health/live" | "/health/ready" | "/metrics");
    let answer = next.run(request).await;
    standing.answered(is_served && answer.status().is_success());
    answer
}

/// How the connection stands on which a request came.
#[derive(Debug, Clone)]
struct Seat(Arc<Standing>);

impl Connected<IncomingStream<'_, Bounded>> for Seat {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        Self(stream.io().place.standing())
    }
}

/// A listener with room for so many connections; one more is accepted and waits, others stay in the system's backlog.
#[derive(Debug)]
struct Bounded {
    listener: TcpListener,
    places: Places,
}

impl Listener for Bounded {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let place = self.places.take().await;
        let held = Held {
            stream,
            patience: Box::pin(sleep(MAX_WAIT)),
            given_up: Box::pin(place.standing().given_up().cancelled_owned()),
            is_asked: false,
            opening: Some(HTTP2),
            place,
        };
        (held, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that holds its place, and is closed when for [`MAX_WAIT`] nothing comes after an answer, no answer after
/// the first byte of a request, or nothing of an answer is taken; and at once when its place is given to another.
#[derive(Debug)]
struct Held {
    stream: TcpStream,
    patience: Pin<Box<Sleep>>,
    given_up: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Whether something came since the last byte of an answer went out.
    is_asked: bool,
    /// What of HTTP/2's beginning has not come yet; none once something else came.
    opening: Option<&'static [u8]>,
    place: Place,
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
        if self.given_up.as_mut().poll(cx).is_ready() {
            return Poll::Ready(io::ErrorKind::ConnectionAborted.into());
        }
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
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.place.standing().flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::Semaphore,
    };

    use super::*;

    /// How long anything may take that should be quick, on a machine that is busy.
    const SOON: Duration = Duration::from_secs(30);

    async fn served(room: usize) -> SocketAddr {
        serving(room, Arc::new(Semaphore::new(0))).await
    }

    /// Serves `/`, and `/slow`, which is answered when the gate lets it.
    async fn serving(room: usize, gate: Arc<Semaphore>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slow = get(|| async move {
            gate.acquire().await.unwrap().forget();
            "slowly"
        });
        let router = Router::new().route("/", get(|| async { "in" })).route("/slow", slow);
        tokio::spawn(serve(listener, room, router, CancellationToken::new()));
        address
    }

    async fn begin(address: SocketAddr, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }

    /// What is said until the end, which comes soon.
    async fn rest(stream: &mut TcpStream) -> io::Result<String> {
        let mut text = String::new();
        let read = tokio::time::timeout(SOON, stream.read_to_string(&mut text)).await.expect("no end");
        read.map(|_| text)
    }

    async fn ask(address: SocketAddr) -> String {
        let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        rest(&mut begin(address, request).await).await.unwrap()
    }

    /// Asks, and keeps the connection; the answer's last byte was read.
    async fn ask_and_stay(stream: &mut TcpStream) {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"in") {
            said.push(tokio::time::timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
        }
    }

    #[tokio::test]
    async fn connections_on_which_nothing_is_asked_keep_nobody_out() {
        let gate = Arc::new(Semaphore::new(0));
        let room = 64;
        let address = serving(room, Arc::clone(&gate)).await;
        let mut silent = Vec::new();
        for number in 0..room {
            silent.push(begin(address, if number % 2 == 0 { "" } else { "GET / HTTP/1.1\r\nHo" }).await);
        }
        let mut slow = begin(address, "GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let mut known = TcpStream::connect(address).await.unwrap();
        ask_and_stay(&mut known).await;
        for number in 0..40 {
            silent.push(begin(address, if number % 2 == 0 { "" } else { "GET / HTTP/1.1\r\nHo" }).await);
        }
        assert!(ask(address).await.ends_with("in"));
        // The first ones made room for the last ones, and for the one that asked.
        for gone in &mut silent[..42] {
            assert!(rest(gone).await.unwrap_or_default().is_empty());
        }
        ask_and_stay(&mut known).await;
        gate.add_permits(1);
        assert!(rest(&mut slow).await.unwrap().ends_with("slowly"), "a request in progress was cut off");
        let last = silent.last_mut().unwrap();
        last.write_all(b"st: x\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(rest(last).await.unwrap().ends_with("in"), "more were closed than made room");
    }

    #[tokio::test]
    async fn a_connection_waits_for_its_place_while_requests_are_in_progress_on_all_others() {
        let gate = Arc::new(Semaphore::new(0));
        let address = serving(1, Arc::clone(&gate)).await;
        let mut first = begin(address, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let waiting = tokio::spawn(async move { ask(address).await });
        let early = tokio::time::timeout(Duration::from_millis(200), first.read_u8()).await;
        assert!(early.is_err() && !waiting.is_finished());
        gate.add_permits(1);
        assert!(
            rest(&mut first).await.unwrap().ends_with("slowly"),
            "kept alive, and then closed for the next"
        );
        let answer = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
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
