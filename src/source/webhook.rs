//! MinIO's webhook target posts here; RustFS's and Ceph's do, too.
//!
//! **Who acts.** One task accepts connections, one task serves each. A request is authorised, counted against the
//! bound, read, handed to intake, and answered when intake has acknowledged it: 200 with an empty body. Nothing is
//! kept here: a crash at any step leaves the request unanswered, and a sender with a queue sends it again.
//!
//! **Why so little is refused.** A MinIO target with `queue_dir` repeats whatever was not answered 2xx for ever,
//! and all events behind it wait. So what cannot be understood is intake's matter (quarantined and acknowledged),
//! a body over the limit is handed on as its beginning (the first [`OVERSIZE_KEPT`] bytes, however low the limit is) with
//! its length, and only these are not 2xx: 401 without
//! the token (with no hint), 404 for what is not a POST to the path, 408 when the body does not come, 503 with
//! `Retry-After` at the bound or when intake could not make the message safe. There is never a redirect: MinIO
//! follows it with a bodiless GET and takes its 2xx for success.
//!
//! **At the bound** ([`Pressure`]) it depends on what the sender does: one that redelivers is asked to (503); one
//! that does not is marked `pressed` and parked, and refused (and counted as lost) only at twice the bound; what a
//! twin target brings too is answered 200 and dropped. A twin is always answered on receipt.
//!
//! **Bounded.** Connections, the time for a head, the time for a body, the size of both, and the time in which nothing
//! of an answer is taken (by the kernel, which closes the connection); bodies being read count against the source's
//! bound from their beginning. Idle connections are closed only after MinIO has done so
//! itself (15 s): otherwise a POST could meet a connection that is just being closed, and one attempt is all some
//! targets make. For the same reason a connection is closed for another one, when every place is taken, only if no
//! request was ever admitted on it ([`crate::places`]): strangers who say nothing keep no sender out, and no sender that
//! was let in once loses its connection for strangers.
//!
//! **Deliberately not.** No TLS and no HTTP/2 (MinIO speaks HTTP/1.1; put a proxy before it where the way is not
//! trusted). A body beyond [`DISCARD_LIMIT`] is answered before it has been read to its end; a sender that minds
//! will repeat it. Probes (HEAD, an empty POST, a connection that is closed without a byte) are answered and not
//! logged.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, error::TrySendError},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Ack, Bound, Message, Origin, Permit, Pressure, Redelivers,
    authorization::{Authorization, UnsendableToken},
    refusal::{Refusal, Refusals},
    secret::{self, UnreadableFile},
};
use crate::{
    config::sources::WebhookConfig,
    domain::clock::Clock,
    places::{LAST_HEADS, Place, Places, Standing},
    telemetry::Metric,
};

/// How much of a body over the limit is kept for the quarantine, in bytes; all of a body that is no larger, whatever the
/// limit is, so that it can be tried again.
pub const OVERSIZE_KEPT: usize = 64 << 10;

/// How much of a body over the limit is read, in bytes.
pub const DISCARD_LIMIT: u64 = 64 << 20;

/// What strangers may take of our time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time. One more has the one closed that has waited longest for a first admitted request; if all
    /// have had one, it waits.
    pub connections: usize,
    /// Time for a request's head, idle time before it included.
    pub head_time: Duration,
    /// Time for a request's body.
    pub body_time: Duration,
    /// Time in which a part of an answer must be taken, or the connection goes.
    pub answer_time: Duration,
}

impl Default for Limits {
    /// The head's time is longer than MinIO keeps an idle connection (15 s).
    fn default() -> Self {
        let time = Duration::from_secs(30);
        Self { connections: 1_024, head_time: time, body_time: time, answer_time: time }
    }
}

/// Largest head, and largest piece of a body in memory, in bytes.
const MAX_BUFFER: usize = 64 << 10;

/// A webhook that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The address is taken, or not ours.
    #[error("source {name}: cannot listen at {address}; is another program (or another triggerd) using it?")]
    Bind {
        /// The source.
        name: Arc<str>,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The token's file.
    #[error("source {name}: no token")]
    TokenFile {
        /// The source.
        name: Arc<str>,
        /// Which file, and why.
        #[source]
        source: UnreadableFile,
    },
    /// The token.
    #[error("source {name}: this token can never arrive")]
    Token {
        /// The source.
        name: Arc<str>,
        /// Why.
        #[source]
        source: UnsendableToken,
    },
}

/// A webhook that listens; requests wait until it [`run`](Self::run)s.
#[derive(Debug)]
pub struct WebhookSource {
    listener: TcpListener,
    address: SocketAddr,
    endpoint: Arc<Endpoint>,
    limits: Limits,
}

impl WebhookSource {
    /// Listens at the configured address; port 0 takes any free one.
    pub async fn bind(
        config: &WebhookConfig,
        origin: Arc<Origin>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WebhookError> {
        let name = || Arc::clone(&origin.source);
        let token = secret::read(config.token.as_ref(), config.token_file.as_ref())
            .map_err(|source| WebhookError::TokenFile { name: name(), source })?;
        let authorization = token
            .map(|token| Authorization::of_token(&token))
            .transpose()
            .map_err(|source| WebhookError::Token { name: name(), source })?;
        if authorization.is_none() && !config.listen.ip().is_loopback() {
            tracing::warn!(
                source = %origin.source, listen = %config.listen,
                "no token is set, so everybody who reaches this address can make events; set `token` and the target's `auth_token`"
            );
        }
        let bind = |source| WebhookError::Bind { name: name(), address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let endpoint = Endpoint {
            path: config.path.clone(),
            authorization,
            max_body: config.max_body,
            bound: Bound::new(config.bound.messages, config.bound.bytes),
            refusals: Refusals::new(Arc::clone(&origin), Arc::clone(&clock)),
            origin,
            clock,
        };
        Ok(Self { listener, address, endpoint: Arc::new(endpoint), limits: Limits::default() })
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is not settled yet.
    pub fn bound(&self) -> Arc<Bound> {
        Arc::clone(&self.endpoint.bound)
    }

    /// Serves until `stop`; then accepts nothing more, lets running requests be answered, and returns.
    ///
    /// How long that may take is the caller's decision: dropping this future ends all connections.
    pub async fn run(self, inbox: mpsc::Sender<Message>, stop: CancellationToken) {
        let Self { listener, endpoint, limits, .. } = self;
        let mut connections = JoinSet::new();
        let (places, mut next) = (Places::new(limits.connections), None);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => tell_panic(&endpoint, ended),
                place = places.take(), if next.is_some() => {
                    if let Some(stream) = next.take() {
                        let serving = Serving { endpoint: Arc::clone(&endpoint), inbox: inbox.clone(), limits, place };
                        connections.spawn(serve(stream, serving, stop.clone()));
                    }
                }
                accepted = listener.accept(), if next.is_none() => match accepted {
                    Ok((stream, _)) => next = Some(stream),
                    Err(error) => {
                        tracing::warn!(source = %endpoint.origin.source, %error, "a connection was not accepted");
                        // Out of descriptors: trying again at once would only spin.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(listener);
        let mut last_heads = pin!(tokio::time::sleep(LAST_HEADS));
        loop {
            tokio::select! {
                ended = connections.join_next() => match ended {
                    Some(ended) => tell_panic(&endpoint, ended),
                    None => return,
                },
                () = last_heads.as_mut(), if !last_heads.is_elapsed() => places.clear(),
            }
        }
    }
}

fn tell_panic(endpoint: &Endpoint, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(source = %endpoint.origin.source, %error, "a request ended in a panic, unanswered");
    }
}

/// What a connection needs.
struct Serving {
    endpoint: Arc<Endpoint>,
    inbox: mpsc::Sender<Message>,
    limits: Limits,
    place: Place,
}

async fn serve(stream: TcpStream, serving: Serving, stop: CancellationToken) {
    let Serving { endpoint, inbox, limits, place } = serving;
    let (standing, given_up) = (place.standing(), place.standing().given_up());
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was not set");
    }
    // Who sends request after request and reads no answer would hold the connection for ever: hyper then waits to write,
    // and minds no time for heads.
    let answer_time = u32::try_from(limits.answer_time.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, answer_time) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT was not set");
    }
    let source = Arc::clone(&endpoint.origin.source);
    let service = service_fn(move |request: Request<Incoming>| {
        let (endpoint, inbox, standing) = (Arc::clone(&endpoint), inbox.clone(), Arc::clone(&standing));
        async move { Ok::<_, Infallible>(endpoint.answer(request, &inbox, limits, &standing).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = given_up.cancelled() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = given_up.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%source, %error, "a connection ended early");
    }
}

/// What all connections share.
#[derive(Debug)]
struct Endpoint {
    path: String,
    authorization: Option<Authorization>,
    max_body: usize,
    bound: Arc<Bound>,
    refusals: Refusals,
    origin: Arc<Origin>,
    clock: Arc<dyn Clock>,
}

/// A body, or its beginning and its length.
struct Read {
    bytes: Bytes,
    oversize: Option<u64>,
}

impl Endpoint {
    async fn answer(
        &self,
        request: Request<Incoming>,
        inbox: &mpsc::Sender<Message>,
        limits: Limits,
        standing: &Standing,
    ) -> Response<Empty<Bytes>> {
        match self.take(request, inbox, limits, standing).await {
            Ok(()) | Err(Refusal::TwinDropped) => respond(StatusCode::OK),
            Err(Refusal::Unauthorized) => last(StatusCode::UNAUTHORIZED),
            Err(Refusal::NotFound) => last(StatusCode::NOT_FOUND),
            Err(Refusal::Incomplete) => respond(StatusCode::REQUEST_TIMEOUT),
            Err(Refusal::Bound | Refusal::NotSafe) => {
                let mut response = respond(StatusCode::SERVICE_UNAVAILABLE);
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                response
            }
        }
    }

    /// Authorises, counts, reads and hands over one request, and waits until it is safe.
    async fn take(
        &self,
        request: Request<Incoming>,
        inbox: &mpsc::Sender<Message>,
        limits: Limits,
        standing: &Standing,
    ) -> Result<(), Refusal> {
        self.admit(&request, standing).inspect_err(|refusal| self.refusals.tell(*refusal))?;
        let body = request.into_body();
        let declared = body.size_hint().exact();
        if declared == Some(0) {
            return Ok(());
        }
        let counted = declared.unwrap_or(u64::MAX).min(self.room() as u64);
        let (permit, pressed) = self.count(counted).inspect_err(|refusal| self.refusals.tell(*refusal))?;
        let read = match tokio::time::timeout(limits.body_time, self.read(body, declared)).await {
            Ok(Ok(read)) if read.bytes.is_empty() => return Ok(()),
            Ok(Ok(read)) => read,
            Ok(Err(_)) | Err(_) => {
                self.refusals.tell(Refusal::Incomplete);
                return Err(Refusal::Incomplete);
            }
        };
        self.hand_over(read, pressed, permit, inbox).await.inspect_err(|refusal| self.refusals.tell(*refusal))
    }

    /// Whether to look at the request at all, on a connection that stays for it. HEAD is an old MinIO's probe.
    fn admit(&self, request: &Request<Incoming>, standing: &Standing) -> Result<(), Refusal> {
        if request.uri().path() != self.path || ![Method::POST, Method::HEAD].contains(request.method()) {
            return Err(Refusal::NotFound);
        }
        let given = request.headers().get(header::AUTHORIZATION);
        match &self.authorization {
            Some(authorization) if !authorization.admits(given) => Err(Refusal::Unauthorized),
            // Never waiting again: this connection is the sender's from now on.
            _ if standing.begin() => Ok(()),
            _ => Err(Refusal::NotSafe),
        }
    }

    /// A share of the bound for so many bytes, and whether the message is pressed.
    fn count(&self, bytes: u64) -> Result<(Option<Permit>, bool), Refusal> {
        let (pressure, permit) = self.bound.take(bytes);
        match (pressure, self.origin.redelivers) {
            (Pressure::Free, _) => Ok((permit, false)),
            (Pressure::Full, Redelivers::Yes | Redelivers::No) => Err(Refusal::Bound),
            (Pressure::Pressed | Pressure::Full, Redelivers::Twin) => Err(Refusal::TwinDropped),
            // Larger than the whole bound, and alone: it could never pass otherwise.
            (Pressure::Pressed, Redelivers::Yes) if self.bound.unsettled() > 1 => Err(Refusal::Bound),
            (Pressure::Pressed, Redelivers::Yes | Redelivers::No) => Ok((permit, true)),
        }
    }

    /// Most bytes of a body that are in memory: a body within the limit, or what is kept of one over it.
    fn room(&self) -> usize {
        self.max_body.max(OVERSIZE_KEPT)
    }

    /// Reads a body: all of it, or over the limit its beginning, the rest being thrown away.
    async fn read(&self, mut body: Incoming, declared: Option<u64>) -> Result<Read, hyper::Error> {
        let capacity = declared.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let mut kept = Vec::with_capacity(capacity.min(self.room()));
        let mut length = 0u64;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            length += data.len() as u64;
            let room = self.room().saturating_sub(kept.len());
            kept.extend_from_slice(&data[..data.len().min(room)]);
            if length > DISCARD_LIMIT.max(self.max_body as u64) {
                length = length.max(declared.unwrap_or(0));
                break;
            }
        }
        let oversize = (length > self.max_body as u64).then_some(length);
        if oversize.is_some() {
            kept.truncate(OVERSIZE_KEPT);
            kept.shrink_to_fit();
        }
        Ok(Read { bytes: kept.into(), oversize })
    }

    async fn hand_over(
        &self,
        read: Read,
        pressed: bool,
        permit: Option<Permit>,
        inbox: &mpsc::Sender<Message>,
    ) -> Result<(), Refusal> {
        Metric::SourceMessages.count_often([("source", &self.origin.source)]);
        let (ack, acknowledged) = Ack::new(permit);
        let message = Message {
            bytes: read.bytes,
            oversize: read.oversize,
            origin: Arc::clone(&self.origin),
            received_at: self.clock.now(),
            pressed,
            ack,
        };
        if self.origin.redelivers == Redelivers::Twin {
            return match inbox.try_send(message) {
                Ok(()) => Ok(()),
                Err(TrySendError::Full(_) | TrySendError::Closed(_)) => Err(Refusal::TwinDropped),
            };
        }
        inbox.send(message).await.map_err(|_| Refusal::NotSafe)?;
        acknowledged.await.map_err(|_| Refusal::NotSafe)
    }
}

/// The end of a connection: strangers keep no place of one by asking now and then.
fn last(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut response = respond(status);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn respond(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    response
}
