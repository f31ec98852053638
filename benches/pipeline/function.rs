//! An instant function: a platform that keeps rules and answers each invocation at once, on a thread of its own.
//!
//! Beside it lives one that never answers. The platform speaks the Trigger Rules protocol as far as binding needs it
//! (nothing is stored beyond the process). It checks no signature: what a platform does with a call is not measured here.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use triggerd::domain::secret::SigningSecret;

use crate::ledger::Ledger;

/// What stands before an event's number in an invocation's body.
const MARKER: &str = "\"subject\":\"in/";

/// Digits of an event's number.
pub(crate) const DIGITS: usize = 8;

/// The platform.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    ledger: Arc<Ledger>,
    /// By their paths.
    rules: Mutex<BTreeMap<String, Value>>,
    sample: Mutex<Option<Sample>>,
}

/// An invocation as it came.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Where the event's number stands in the body.
    pub(crate) number_at: usize,
}

impl Function {
    /// Starts it.
    pub(crate) fn start(ledger: Arc<Ledger>) -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { ledger, rules: Mutex::default(), sample: Mutex::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = Arc::clone(&state);
        thread::Builder::new().name("function".into()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&served)));
                }
            });
        })?;
        Ok(Self { address, state })
    }

    /// The first invocation that came.
    pub(crate) fn sample(&self) -> Result<Sample> {
        lock(&self.state.sample).clone().context("the function was never called")
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(|request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(state.answer(request).await) }
    });
    // However a connection ends, what did not arrive is missed in the ledger.
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return respond(StatusCode::BAD_REQUEST, "") };
        let body = body.to_bytes();
        let path = head.uri.path();
        if !path.starts_with("/functions/") {
            return self.answer_rule(&head.method, path, &body);
        }
        if path.starts_with("/functions/hanging/") {
            return std::future::pending().await;
        }
        let Some((number_at, number)) = number(&body) else { return respond(StatusCode::BAD_REQUEST, "") };
        self.ledger.called(number);
        if number == 0 {
            *lock(&self.sample) = Some(Sample { headers: head.headers, body, number_at });
        }
        respond(StatusCode::OK, "ok")
    }

    fn answer_rule(&self, method: &Method, path: &str, body: &[u8]) -> Response<Full<Bytes>> {
        let mut kept = lock(&self.rules);
        match *method {
            Method::PUT => {
                let Ok(mut rule) = serde_json::from_slice::<Value>(body) else {
                    return respond(StatusCode::BAD_REQUEST, "");
                };
                let secret = rule["secret"].take();
                let secret = SigningSecret::parse(secret.as_str().unwrap_or_default());
                rule["secret_digest"] = json!(secret.map(|secret| secret.digest()).unwrap_or_default());
                rule["state"] = json!("confirmed");
                kept.insert(path.to_owned(), rule);
                respond(StatusCode::CREATED, r#"{"state":"confirmed"}"#)
            }
            Method::GET => match kept.get(path) {
                Some(rule) => respond(StatusCode::OK, rule.to_string()),
                None => respond(StatusCode::NOT_FOUND, ""),
            },
            _ => respond(StatusCode::NO_CONTENT, ""),
        }
    }
}

/// The event's number in an invocation's body, and where it stands.
fn number(body: &[u8]) -> Option<(usize, usize)> {
    let body = std::str::from_utf8(body).ok()?;
    let at = body.find(MARKER)? + MARKER.len();
    Some((at, body.get(at..at + DIGITS)?.parse().ok()?))
}

fn respond(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
