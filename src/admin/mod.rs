//! The admin API and the callbacks' listener.
//!
//! **Who calls.** The operator, by the token in `[admin]`, may do everything. A platform, by its own `api_token`, sees
//! and changes only the bindings of its own functions and their dead letters; what belongs to others is not there for it
//! (404). Confirmations and results of functions carry no bearer token: a confirmation is signed with its binding's
//! secret, a result names the token that its call was given.
//!
//! **Two doors.** The admin listener carries everything; `/health/*` and `/metrics` are open on it without a token while
//! it is on loopback. The callbacks' listener carries only what a platform on another host needs: its own bindings,
//! confirmations, results. The operator's token does not open it.
//!
//! **What a request does.** A change of a binding is written to the relations and the reconciler is woken; nothing here
//! calls a platform or a storage, so an answer never waits for one. A daemon that crashes after the write finds it
//! again: the reconciler reads the whole intended state. When the relations are away, changes get a clear 503, and what
//! this daemon holds itself (dead letters, recent outcomes) is served on.
//!
//! **Bounds.** Bodies of 256 KiB, requests of 30 seconds, 128 requests at once, 256 connections, none of them without
//! progress for more than a minute, nor, when all are taken, without a request; pages are limited. No body is read before everything that its head can say was judged:
//! the bearer token; a result's token, and that its headers have the form of signed ones; a confirmation's binding, the
//! same, and that it was signed now. So a stranger holds no place. Who merely knows a binding's id may begin
//! confirmations: of these 32 at once, for 10 seconds. Every error is a problem document (RFC 9457) that says what
//! to do. No secret is ever part of an answer.

mod access;
mod bindings;
mod callbacks;
mod connections;
mod dead_letters;
mod extract;
mod functions;
mod health;
mod letter_batches;
mod matching;
mod nodes;
mod outcomes;
mod ports;
mod problem;
mod quarantine;
pub mod wire;

#[cfg(test)]
pub(crate) mod fakes;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use http::{HeaderValue, header};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    dispatch::Deliveries,
    domain::{clock::Clock, entropy::Entropy},
    queue::{LetterOffice, Queue},
    relations::Relations,
    telemetry::Recent,
};

pub use access::{Access, Caller};
pub use ports::{
    CallbackAnswer, Callbacks, ConfirmError, Explain, Health, LISTENERS, Part, Reconciler, Reintake, Report,
    Retaken, Unexplained,
};
pub use problem::Problem;

/// Largest body of a request, in bytes.
pub const MAX_BODY: usize = 256 << 10;
/// Largest report of an asynchronous call, in bytes: its result may be in it.
pub const MAX_REPORT: usize = 1 << 20;
const MAX_TIME: Duration = Duration::from_secs(30);
const MAX_REQUESTS: usize = 128;
/// How many of them may be of senders who are believed only once their body is there; and how long that may take.
const MAX_STRANGERS: usize = 32;
const MAX_STRANGERS_TIME: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 256;

/// The names that a binding may use.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Of the storages.
    pub storages: BTreeSet<String>,
    /// Of the storages that have fast targets.
    pub twins: BTreeSet<String>,
    /// Of the platforms.
    pub platforms: BTreeSet<String>,
    /// Of the platforms that cannot send results to this daemon.
    pub silent: BTreeSet<String>,
    /// Most bindings of a platform, by its name.
    pub most: BTreeMap<String, u32>,
}

/// What the handlers work with.
#[derive(Debug)]
pub struct AdminState {
    /// This daemon's name.
    pub node: String,
    /// Who may call.
    pub access: Access,
    /// What a binding may name.
    pub names: Names,
    /// Whether `/metrics` is open on a loopback listener.
    pub open_metrics: bool,
    /// The bindings.
    pub relations: Arc<dyn Relations>,
    /// One dead letter at a time.
    pub queue: Arc<dyn Queue>,
    /// The lists of dead letters and of what is in quarantine.
    pub letters: Arc<dyn LetterOffice>,
    /// Where what was in quarantine is tried again.
    pub reintake: Arc<dyn Reintake>,
    /// What runs now.
    pub deliveries: Arc<dyn Deliveries>,
    /// Who brings bindings in step.
    pub reconciler: Arc<dyn Reconciler>,
    /// What would fire.
    pub catalog: Arc<dyn Explain>,
    /// How the daemon is.
    pub health: Arc<dyn Health>,
    /// Where asynchronous results go.
    pub callbacks: Arc<dyn Callbacks>,
    /// What fired lately.
    pub recent: Arc<Recent>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids and secrets.
    pub entropy: Arc<dyn Entropy>,
}

/// Through which listener a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The admin listener.
    Admin {
        /// Whether only this host reaches it.
        loopback: bool,
    },
    /// The callbacks' listener.
    Callbacks,
}

impl Door {
    /// The admin listener at this address.
    pub fn admin(address: SocketAddr) -> Self {
        Self::Admin { loopback: address.ip().is_loopback() }
    }
}

/// Everything that is served at this door.
pub fn router(state: Arc<AdminState>, door: Door) -> Router {
    let bindings = Router::new()
        .route("/v1/bindings", get(bindings::list).post(bindings::bind))
        .route("/v1/bindings/{id}", get(bindings::show).delete(bindings::unbind));
    let protected = match door {
        Door::Callbacks => bindings,
        Door::Admin { .. } => bindings
            .route("/v1/dead-letters", get(dead_letters::list))
            .route("/v1/dead-letters/replay", post(letter_batches::replay))
            .route("/v1/dead-letters/discard", post(letter_batches::discard))
            .route("/v1/dead-letters/{id}", get(dead_letters::show).delete(dead_letters::discard))
            .route("/v1/dead-letters/{id}/replay", post(dead_letters::replay))
            .route("/v1/quarantine", get(quarantine::list))
            .route("/v1/quarantine/{id}", get(quarantine::show).delete(quarantine::discard))
            .route("/v1/quarantine/{id}/retry", post(quarantine::retry))
            .route("/v1/match", post(matching::explain))
            .route("/v1/functions", get(functions::list))
            .route("/v1/outcomes", get(outcomes::list))
            .route("/v1/nodes", get(nodes::list))
            .route("/v1/nodes/{name}", delete(nodes::forget)),
    };
    let protected =
        protected.route_layer(middleware::from_fn_with_state(Arc::clone(&state), access::require));
    let strangers = Bounds::new(MAX_STRANGERS, MAX_STRANGERS_TIME);
    let open = Router::new()
        .route(
            "/v1/bindings/{id}/confirm",
            post(callbacks::confirm).layer(middleware::from_fn_with_state(strangers, bounded)),
        )
        .route("/v1/callbacks/{token}", post(callbacks::callback).layer(DefaultBodyLimit::max(MAX_REPORT)));
    let bounded = protected
        .merge(open)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Bounds::new(MAX_REQUESTS, MAX_TIME), bounded));
    // How the daemon is, whoever keeps it busy may ask.
    let health = match door {
        Door::Callbacks => Router::new(),
        Door::Admin { .. } => Router::new()
            .route("/health/live", get(health::live))
            .route("/health/ready", get(health::ready))
            .route("/metrics", get(health::metrics))
            .route_layer(middleware::from_fn_with_state(Arc::clone(&state), access::require_off_loopback)),
    };
    bounded
        .merge(health)
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(middleware::map_response(dismiss))
        .layer(Extension(door))
        .with_state(state)
}

/// Serves until `stop`, then finishes what has begun.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    connections::serve(listener, MAX_CONNECTIONS, router, stop).await
}

/// Ends the connection after a request that was at fault: strangers keep no place of one by asking now and then.
async fn dismiss(mut answer: Response) -> Response {
    if answer.status().is_client_error() {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// How many requests may be under way, and how long each may take.
struct Bounds {
    room: Semaphore,
    requests: usize,
    time: Duration,
}

impl Bounds {
    fn new(requests: usize, time: Duration) -> Arc<Self> {
        Arc::new(Self { room: Semaphore::new(requests), requests, time })
    }
}

/// Holds every request to its bounds.
async fn bounded(State(bounds): State<Arc<Bounds>>, request: Request, next: Next) -> Response {
    let Bounds { room, requests, time } = &*bounds;
    let Ok(_permit) = room.try_acquire() else {
        return Problem::new(503, "busy", "Too many requests at once")
            .detail(format!("{requests} requests are under way"))
            .remedy("try again in a moment")
            .retry_after(1)
            .into_response();
    };
    match tokio::time::timeout(*time, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => Problem::new(503, "timeout", "The request took too long")
            .detail(format!(
                "it was not done in {} s; a change may have been made all the same",
                time.as_secs()
            ))
            .remedy("ask again; requests can be repeated safely")
            .retry_after(5)
            .into_response(),
    }
}
