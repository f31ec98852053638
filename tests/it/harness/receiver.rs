//! An HTTP receiver that misbehaves on demand: it records what it is sent and answers as the test says at the moment.
//!
//! It stands where a function, a platform or any webhook's endpoint would, and speaks real HTTP on a real port. A
//! request is recorded when its body has arrived, before it is answered, so a test sees also what is never answered.

use std::future::Future as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Result, bail};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use http::{HeaderMap, Method, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::ports::free_port;
use super::wait::{eventually, wait_for};

/// The largest body that is recorded; a larger one is answered 413.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// How long its port is tried.
const BIND_LIMIT: Duration = Duration::from_secs(5);

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Recorded {
    /// A header's value, empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> String {
        self.headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }
}

/// What a request is answered with.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A response, after a delay.
    Respond { status: StatusCode, headers: HeaderMap, body: Bytes, delay: Duration },
    /// A response whose body comes in pieces with a pause before each: so many and then the connection is cut, or
    /// without end.
    Drip { status: StatusCode, piece: Bytes, pause: Duration, pieces: Option<usize> },
    /// These bytes in the place of a response, again and again until the connection is closed.
    Flood(Bytes),
    /// Nothing, with the connection kept open.
    Hang,
    /// Nothing, and the connection is closed.
    Close,
}

impl Answer {
    /// An empty response with this status.
    pub(crate) fn status(status: u16) -> Result<Self> {
        Self::respond(status, Bytes::new())
    }

    /// A response with this status and JSON, and the content type that says so.
    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Result<Self> {
        Self::respond(status, body.to_string().into())?.with_header("content-type", "application/json")
    }

    /// A response with this status and body.
    pub(crate) fn respond(status: u16, body: Bytes) -> Result<Self> {
        let status = StatusCode::from_u16(status)?;
        Ok(Self::Respond { status, headers: HeaderMap::new(), body, delay: Duration::ZERO })
    }

    /// The same with one more header.
    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Result<Self> {
        if let Self::Respond { headers, .. } = &mut self {
            headers.append(name, value.parse()?);
        }
        Ok(self)
    }

    /// The same, but only after this long.
    #[must_use]
    pub(crate) fn after(mut self, wait: Duration) -> Self {
        if let Self::Respond { delay, .. } = &mut self {
            *delay = wait;
        }
        self
    }
}

type Chooser = Arc<dyn Fn(usize, &Recorded) -> Answer + Send + Sync>;

struct Shared {
    requests: Vec<Recorded>,
    /// Whether what comes is not recorded.
    forgets: bool,
    chooser: Chooser,
    /// Cuts every connection that was accepted since the last start.
    all: CancellationToken,
}

/// The receiver. Runs on the test's runtime and ends with it, or when dropped.
pub(crate) struct Receiver {
    port: u16,
    shared: Arc<Mutex<Shared>>,
    serving: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts one that answers everything with an empty 200.
    pub(crate) async fn start() -> Result<Self> {
        let ok = Answer::status(200)?;
        let chooser: Chooser = Arc::new(move |_, _| ok.clone());
        let shared = Arc::new(Mutex::new(Shared {
            requests: Vec::new(),
            forgets: false,
            chooser,
            all: CancellationToken::new(),
        }));
        let mut receiver = Self { port: free_port()?, shared, serving: None };
        receiver.start_again().await?;
        Ok(receiver)
    }

    /// Listens again on the same port after [`stop`](Self::stop); what was recorded stays.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        if self.serving.is_some() {
            bail!("this receiver listens already");
        }
        // A process that is just being started may, until it has become its program, hold a copy of the socket that
        // was there before.
        let listener = eventually("the receiver's port is free", BIND_LIMIT, async || {
            Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await?)
        })
        .await?;
        let listener = Cuttable { listener, shared: Arc::clone(&self.shared) };
        let router = Router::new().fallback(receive).with_state(Arc::clone(&self.shared));
        self.serving = Some(tokio::spawn(async move {
            axum::serve(listener, router.into_make_service_with_connect_info::<Cut>()).await.ok();
        }));
        Ok(())
    }

    /// Stops listening and cuts every connection: further attempts are refused.
    pub(crate) async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // Only when the task has ended is its port free.
            serving.await.ok();
        }
        let all = std::mem::take(&mut lock(&self.shared).all);
        all.cancel();
    }

    /// `http://127.0.0.1:port` followed by `path` (which begins with a slash, or is empty).
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// From now on every request is answered with this.
    pub(crate) fn answer(&self, answer: Answer) {
        self.answer_by(move |_, _| answer.clone());
    }

    /// From now on requests are answered as `choose` says, from how many came before it since the start and the request.
    pub(crate) fn answer_by(&self, choose: impl Fn(usize, &Recorded) -> Answer + Send + Sync + 'static) {
        lock(&self.shared).chooser = Arc::new(choose);
    }

    /// From now on what comes is answered and not recorded: for more than memory should hold.
    pub(crate) fn forget(&self) {
        lock(&self.shared).forgets = true;
    }

    /// What has come so far, in the order in which the bodies were complete.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        lock(&self.shared).requests.clone()
    }

    /// Waits until at least `count` requests have come and returns all that have.
    pub(crate) async fn wait_for_requests(&self, count: usize, limit: Duration) -> Result<Vec<Recorded>> {
        let what = format!("{count} requests at the receiver on port {}", self.port);
        let enough = wait_for(&what, limit, async || lock(&self.shared).requests.len() >= count).await;
        let requests = self.requests();
        enough.map_err(|error| error.context(format!("{} had come", requests.len())))?;
        Ok(requests)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn receive(
    State(shared): State<Arc<Mutex<Shared>>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_LIMIT).await else {
        return empty(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let recorded = Recorded { method: parts.method, uri: parts.uri, headers: parts.headers, body };
    let (chooser, before) = {
        let mut shared = lock(&shared);
        let before = shared.requests.len();
        if !shared.forgets {
            shared.requests.push(recorded.clone());
        }
        (Arc::clone(&shared.chooser), before)
    };
    match chooser(before, &recorded) {
        Answer::Respond { status, headers, body, delay } => {
            tokio::time::sleep(delay).await;
            let mut response = empty(status);
            *response.headers_mut() = headers;
            *response.body_mut() = Body::from(body);
            response
        }
        Answer::Drip { status, piece, pause, pieces } => {
            let body = futures_util::stream::unfold(0, move |sent| {
                let piece = piece.clone();
                async move {
                    if pieces == Some(sent) {
                        return Some((Err(io::Error::from(io::ErrorKind::ConnectionAborted)), sent));
                    }
                    tokio::time::sleep(pause).await;
                    Some((Ok(piece), sent + 1))
                }
            });
            let mut response = empty(status);
            *response.body_mut() = Body::from_stream(body);
            response
        }
        Answer::Flood(piece) => {
            cut.flood.set(piece).ok();
            empty(StatusCode::OK)
        }
        Answer::Hang => std::future::pending().await,
        Answer::Close => {
            cut.now.cancel();
            empty(StatusCode::OK)
        }
    }
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Cuts one connection: its reads and writes fail, before a byte of a response has left. Or floods it instead.
#[derive(Clone)]
struct Cut {
    now: CancellationToken,
    flood: Arc<OnceLock<Bytes>>,
}

impl Connected<IncomingStream<'_, Cuttable>> for Cut {
    fn connect_info(stream: IncomingStream<'_, Cuttable>) -> Self {
        stream.io().cut.clone()
    }
}

struct Cuttable {
    listener: TcpListener,
    shared: Arc<Mutex<Shared>>,
}

impl Listener for Cuttable {
    type Io = CuttableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let now = lock(&self.shared).all.child_token();
        let cancelled = Box::pin(now.clone().cancelled_owned());
        let cut = Cut { now, flood: Arc::default() };
        (CuttableStream { stream, cut, flooded: 0, cancelled }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

struct CuttableStream {
    stream: TcpStream,
    cut: Cut,
    /// Bytes of the flood that have left.
    flooded: usize,
    /// Wakes a reader that waits when the connection is cut.
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl CuttableStream {
    fn check(&self) -> io::Result<()> {
        if self.cut.now.is_cancelled() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl AsyncRead for CuttableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cancelled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(self.check());
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CuttableStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        let Some(piece) = self.cut.flood.get().cloned() else {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        };
        loop {
            let rest = &piece[self.flooded % piece.len()..];
            self.flooded += ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
