//! How a source stands, told in one place: the state that others look at, the log, and the metrics.

use std::sync::Arc;

use tokio::sync::watch;

use super::{connection::Ended, reconnect::Pause};
use crate::telemetry::{Chain, Metric, excerpt};

/// Longest error text that is kept, in bytes.
const MAX_ERROR: usize = 500;

/// How an MQTT source stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MqttState {
    /// The broker has accepted the connection.
    pub connected: bool,
    /// The subscription stands, so that messages can come.
    pub subscribed: bool,
    /// Another client with our client id takes the session; an operator has to end one of the two.
    pub taken_over: bool,
    /// Connections that the broker has accepted so far.
    pub connections: u64,
    /// Why the last connection ended, until one stood for a minute.
    pub last_error: Option<String>,
}

#[derive(Debug)]
pub(super) struct Report {
    source: Arc<str>,
    state: watch::Sender<MqttState>,
}

impl Report {
    pub(super) fn new(source: Arc<str>) -> Self {
        Self { source, state: watch::Sender::default() }
    }

    pub(super) fn watch(&self) -> watch::Receiver<MqttState> {
        self.state.subscribe()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state.borrow().connected
    }

    pub(super) fn accepted(&self) {
        self.state.send_modify(|state| {
            state.connected = true;
            state.connections += 1;
        });
        tracing::debug!(source = %self.source, "connected to the broker");
    }

    pub(super) fn subscribed(&self, topic: &str) {
        self.state.send_modify(|state| state.subscribed = true);
        self.gauge(1.0);
        tracing::info!(source = %self.source, topic, "connected and subscribed");
    }

    /// The connection has stood for a while.
    pub(super) fn steady(&self) {
        self.state.send_if_modified(|state| {
            let news = state.subscribed && (state.taken_over || state.last_error.is_some());
            if news {
                state.taken_over = false;
                state.last_error = None;
            }
            news
        });
    }

    pub(super) fn came_at_qos_0(&self) {
        tracing::warn!(
            source = %self.source,
            "messages come at QoS 0, which the broker does not keep for us; set `qos=1` at MinIO's target"
        );
    }

    pub(super) fn ended(&self, ended: &Ended, pause: Pause) {
        let error = excerpt(Chain(ended).to_string().as_bytes(), MAX_ERROR);
        let reason = if pause.taken_over { "taken_over" } else { ended.name() };
        let labels = [("source", self.source.to_string()), ("reason", reason.to_owned())];
        Metric::SourceDisconnects.count(&labels);
        self.gauge(0.0);
        let (source, wait_ms) = (&self.source, u64::try_from(pause.wait.as_millis()).unwrap_or(u64::MAX));
        if pause.taken_over {
            tracing::error!(
                %source, error, wait_ms,
                "another client uses our client id (or so it looks), and the two throw each other out: give each daemon a node name, or `client_id`, of its own"
            );
        } else if ended.is_alarm() {
            tracing::error!(%source, error, wait_ms, "the broker refuses us");
        } else {
            tracing::warn!(%source, error, wait_ms, "not connected to the broker; trying again");
        }
        self.state.send_modify(|state| {
            state.connected = false;
            state.subscribed = false;
            state.taken_over = pause.taken_over;
            state.last_error = Some(error);
        });
    }

    pub(super) fn stopped(&self) {
        self.gauge(0.0);
        self.state.send_modify(|state| {
            state.connected = false;
            state.subscribed = false;
        });
    }

    fn gauge(&self, value: f64) {
        Metric::SourceConnected.set(value, &[("source", self.source.to_string())]);
    }
}
