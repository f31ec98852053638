//! One request to a platform and its answer, of which a bounded part is read.
//!
//! One client for each platform: HTTP/1.1, connections kept, redirects never followed (events go where the operator
//! said), proxies of the environment not used. Of an answer's head and body at most [`MAX_HEAD`] and [`MAX_BODY`] are
//! read; a longer body is cut and costs its connection, a longer head is no answer. What else may come before and
//! between is bounded by the [connection](super::connection).

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};

use super::{classify::Answer, connection::Connector};

/// Most bytes of an answer's head, and of what is read ahead.
const MAX_HEAD: usize = 32 << 10;

/// Most bytes of an answer's body that are read.
const MAX_BODY: usize = 64 << 10;

/// Connections kept to the platform while nothing is called.
const IDLE_CONNECTIONS: usize = 64;

/// How long each of them is kept.
const IDLE: Duration = Duration::from_secs(90);

const SENDING: &str = "error sending request";
const READING: &str = "error decoding response body: request or response body error";

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// It cannot be written down.
    #[error("builder error")]
    Build(#[from] http::Error),
    /// It found no connection, or no answer began.
    #[error("{SENDING}")]
    Send(#[from] legacy::Error),
    /// The answer's body broke off.
    #[error("{READING}")]
    Body(#[from] hyper::Error),
    /// Not within the time for the whole call.
    #[error("{0}: operation timed out")]
    Time(&'static str),
}

/// What a request carries.
#[derive(Debug, Default)]
pub(super) struct Payload {
    bytes: Option<Bytes>,
    asked_for: Option<Arc<AtomicBool>>,
}

impl Payload {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Some(bytes.into()), asked_for: None }
    }

    /// The body is asked for when a connection stands and the head is written: from then on a function may run.
    pub(super) fn marking(self, asked_for: Arc<AtomicBool>) -> Self {
        Self { asked_for: Some(asked_for), ..self }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(asked_for) = &self.asked_for {
            asked_for.store(true, Ordering::Release);
        }
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// An answer whose body was read up to its bound.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Read {
    pub(super) fn answer(&self) -> Answer<'_> {
        Answer { status: self.status, headers: &self.headers, body: &self.body }
    }
}

/// The HTTP client of one platform.
#[derive(Debug)]
pub(super) struct Exchange {
    client: legacy::Client<Connector, Payload>,
}

impl Exchange {
    pub(super) fn new() -> Result<Self, rustls::Error> {
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_buf_size(MAX_HEAD)
            .build(Connector::new()?);
        Ok(Self { client })
    }

    /// Sends a request and reads its answer, however long that takes.
    pub(super) async fn call(
        &self,
        request: request::Builder,
        payload: Payload,
    ) -> Result<Read, ExchangeError> {
        read(self.send(request, payload).await?).await
    }

    /// The same, within `limit`.
    pub(super) async fn call_within(
        &self,
        limit: Duration,
        request: request::Builder,
        payload: Payload,
    ) -> Result<Read, ExchangeError> {
        let mut doing = SENDING;
        let calling = async {
            let response = self.send(request, payload).await?;
            doing = READING;
            read(response).await
        };
        match tokio::time::timeout(limit, calling).await {
            Ok(read) => read,
            Err(_) => Err(ExchangeError::Time(doing)),
        }
    }

    async fn send(
        &self,
        request: request::Builder,
        payload: Payload,
    ) -> Result<Response<Incoming>, ExchangeError> {
        const AGENT: HeaderValue = HeaderValue::from_static(concat!("triggerd/", env!("CARGO_PKG_VERSION")));
        const ANYTHING: HeaderValue = HeaderValue::from_static("*/*");
        let request: Request<Payload> =
            request.header(header::ACCEPT, ANYTHING).header(header::USER_AGENT, AGENT).body(payload)?;
        Ok(self.client.request(request).await?)
    }
}

/// Reads an answer up to the bound. Whatever is beyond it is not read, and its connection is dropped.
async fn read(response: Response<Incoming>) -> Result<Read, ExchangeError> {
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    while body.len() < MAX_BODY
        && let Some(frame) = incoming.frame().await
    {
        if let Ok(chunk) = frame?.into_data() {
            body.extend_from_slice(&chunk[..chunk.len().min(MAX_BODY - body.len())]);
        }
    }
    Ok(Read { status: head.status, headers: head.headers, body })
}
