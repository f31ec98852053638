//! What is told of daemons: what fired, how their functions flow, how they are.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    admin::ports::{LISTENERS, Part},
    domain::{clock::Timestamp, outcome::Class},
    relations::Node,
    telemetry::RecentOutcome,
};

/// The last outcomes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcomes {
    /// Newest first.
    pub outcomes: Vec<RecentOutcome>,
}

/// How functions flow on this daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Functions {
    /// By platform and name.
    pub functions: Vec<FunctionView>,
}

/// How one function flows on this daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionView {
    /// Its platform.
    pub platform: String,
    /// Its name.
    pub function: String,
    /// Deliveries parked that wait for their time or a permit.
    pub parked: u64,
    /// Deliveries parked that are held, because their binding is degraded, paused or being taken back.
    pub held: u64,
    /// Deliveries parked whose call was accepted, and whose result is awaited.
    #[serde(default)]
    pub awaiting: u64,
    /// Age of the delivery that is parked longest, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_age_s: Option<u64>,
    /// Deliveries parked in a second, over the last minute.
    pub parked_per_s: f64,
    /// Parked deliveries settled in a second, over the last minute: delivered, or given up.
    pub drained_per_s: f64,
    /// Deliveries that became dead letters in a second, over the last minute.
    #[serde(default)]
    pub died_per_s: f64,
    /// What its last calls came to; none when it was not called since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastCallsView>,
    /// Estimated seconds until nothing is parked, held and awaiting ones aside; none when it does not shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_in_s: Option<u64>,
    /// Attempts that run now.
    pub running: u32,
    /// How many may run at once now; less than the limit after the function refused calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// How many its bindings allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<u32>,
    /// How many calls in a second its bindings allow; none without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<f64>,
    /// Its circuit breaker.
    pub breaker: BreakerView,
}

/// What a function's last calls came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCallsView {
    /// What the last one came to.
    pub class: Class,
    /// How many failed in a row up to it, whatever the fault; 0 when it went well.
    pub failed_in_a_row: u32,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How many seconds ago that was.
    pub ago_s: u64,
}

/// A circuit breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerView {
    /// `closed`, `open`, or `half_open`: the next delivery, or the one on its way, is a probe.
    pub state: String,
    /// Until when no call goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_until: Option<Timestamp>,
    /// How many milliseconds that is from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_for_ms: Option<u64>,
    /// Why it opened.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl BreakerView {
    /// One that is closed.
    pub(in crate::admin) fn closed() -> Self {
        Self { state: "closed".to_owned(), open_until: None, open_for_ms: None, reason: String::new() }
    }
}

/// A daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// The revision that its catalog has in force.
    pub revision: u64,
    /// Where its admin API is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_url: Option<String>,
    /// How long ago it was heard of, in seconds.
    pub silent_for_s: u64,
    /// Whether it is the one that answers.
    pub this: bool,
}

impl NodeView {
    /// A node as the one named `this` shows it.
    pub fn new(node: Node, this: &str) -> Self {
        let silent_for_s = node.silent_for.as_secs();
        let this = node.name == this;
        Self { name: node.name, revision: node.revision, admin_url: node.admin_url, silent_for_s, this }
    }
}

/// All daemons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// By name.
    pub nodes: Vec<NodeView>,
}

/// How the daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// Whether all parts are well.
    pub ok: bool,
    /// Each part.
    pub parts: Vec<Part>,
}

impl HealthView {
    /// The addresses at which the daemon listens, of its liveness.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        let part = self.parts.iter().find(|part| part.name == LISTENERS);
        let addresses = part.into_iter().flat_map(|part| part.detail.split(' '));
        addresses.filter_map(|address| address.parse().ok()).collect()
    }
}
