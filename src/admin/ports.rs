//! What the admin API needs of others, as small traits that the composition root fills.

use std::fmt::Debug;

use async_trait::async_trait;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::{
    domain::{binding::Binding, event::Event, ids::BindingId},
    queue::Quarantined,
    relations::RelationsError,
};

use super::wire::Explanation;

/// The reconciler's handle.
#[async_trait]
pub trait Reconciler: Send + Sync + Debug {
    /// Something about this binding changed; look at it soon.
    fn wake(&self, id: BindingId);

    /// Whether a confirmation under this id can be right by its headers; of which binding. Asked before its body is read.
    async fn expects(&self, id: BindingId, headers: &HeaderMap) -> Result<Binding, ConfirmError>;

    /// A platform says that it holds the rule. The signature in the headers is checked with the binding's secret.
    fn confirm(&self, binding: &Binding, headers: &HeaderMap, body: &[u8]) -> Result<(), ConfirmError>;
}

/// Why a confirmation was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// There is no such binding.
    #[error("there is no such binding")]
    Unknown,
    /// The signature is missing, wrong, or too old; which, for a person.
    #[error("the confirmation is not signed with the binding's secret: {0}")]
    Signature(String),
    /// The body is no confirmation; why.
    #[error("this is no confirmation: {0}")]
    Malformed(String),
    /// The binding is not waiting for it (rejected, or being taken back); why.
    #[error("the binding does not wait for a confirmation: {0}")]
    Stale(String),
    /// The relations could not be read or written.
    #[error("the confirmation could not be recorded")]
    Relations(#[from] RelationsError),
}

/// The catalog, as far as it explains.
#[async_trait]
pub trait Explain: Send + Sync + Debug {
    /// Every binding of the event's bucket: whether it would fire for this event, and why not.
    async fn explain(&self, event: &Event) -> Result<Vec<Explanation>, Unexplained>;
}

/// The catalog could not read the bindings.
#[derive(Debug, thiserror::Error)]
#[error("the catalog cannot read the bindings")]
pub struct Unexplained(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The part of liveness whose detail is the addresses at which the daemon listens.
pub const LISTENERS: &str = "listeners";

/// One part of the daemon, as health shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which part: `relations`, `queue`, `source minio`, …
    pub name: String,
    /// Whether it does its work.
    pub ok: bool,
    /// How it is, for a person.
    pub detail: String,
}

/// How the daemon is.
pub trait Health: Send + Sync + Debug {
    /// The parts whose failing only a restart mends.
    fn liveness(&self) -> Vec<Part>;

    /// The parts that must work for events to be taken in.
    fn readiness(&self) -> Vec<Part>;

    /// All metrics in the text format of Prometheus.
    fn metrics(&self) -> String;
}

/// What came of an asynchronous result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackAnswer {
    /// It is recorded.
    Recorded,
    /// It was recorded before.
    Repeated,
    /// Nothing waits for a result under this token.
    Unknown,
    /// It is not signed as it has to be; why.
    Refused(String),
    /// It is signed, by a clock that is far from ours; how far.
    ClocksApart(String),
    /// It is signed, and is no report of this call; why.
    Malformed(String),
    /// The daemon of this name waits for it.
    OtherNode(String),
    /// It cannot be judged in this moment: its call is still being made.
    Busy,
    /// It could not be recorded now.
    Unavailable,
}

/// Where the results of asynchronous calls go.
#[async_trait]
pub trait Callbacks: Send + Sync + Debug {
    /// A report that can be right by its token and its headers, or the answer without having read it.
    async fn expects<'a>(
        &'a self,
        token: &'a str,
        headers: &'a HeaderMap,
    ) -> Result<Box<dyn Report + 'a>, CallbackAnswer>;
}

/// A report of a function's result that is worth reading: its token was made by us for its call.
#[async_trait]
pub trait Report: Send + Sync {
    /// Takes it, now that its body is there.
    async fn take(self: Box<Self>, body: &[u8]) -> CallbackAnswer;
}

/// What came of trying what was in quarantine again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retaken {
    /// It is understood, and everything that it causes is safe.
    Taken {
        /// Events that it brought.
        events: usize,
        /// Deliveries that they cause.
        deliveries: usize,
    },
    /// It can still not be processed; why.
    Hopeless(String),
    /// The source that brought it is not in the config, so nobody knows whose events they are.
    NoSource,
    /// It could not be matched or parked now.
    NotNow,
}

/// Intake, for what is in quarantine.
#[async_trait]
pub trait Reintake: Send + Sync + Debug {
    /// Tries it again, on the way of every message.
    async fn again(&self, item: &Quarantined) -> Retaken;
}
