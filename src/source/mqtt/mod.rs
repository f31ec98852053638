//! MinIO's MQTT target publishes to a broker; we subscribe there, in MQTT 3.1.1 or 5.
//!
//! **Who acts.** [`MqttSource::run`] makes one connection after another. Within a connection (`connection`)
//! three loops run side by side: one always polls the client (a client that is not polled sends no pings), one
//! hands messages to intake, one waits for their acknowledgements and sends them. None waits for another, so that
//! neither a slow intake nor a slow function stops the pings, and an acknowledgement can never wait for the very
//! loop that must send it.
//!
//! **The session is the durable copy.** QoS 1, a fixed client id, and a session that the broker keeps (3.1.1: no
//! clean session; 5: no clean start, and no expiry). What was not acknowledged the broker sends again, on the next
//! connection and never on the same one. We keep nothing: after a crash at any step the next process of the same
//! client id gets every message that was not acknowledged. A random client id would leave a queue behind at every
//! start.
//!
//! **Acknowledgements** go out in the order of receipt (MQTT 5 demands it), each when its message is safe. One
//! that intake drops (not safe) closes the connection without it; the next is made after a pause. A connection and
//! all that belongs to it is one value: an acknowledgement of an earlier connection finds nobody who would send
//! it, so that an old packet id can never acknowledge a new message. The broker sends that message again, and
//! intake knows it as a repeat.
//!
//! **Subscribed anew on every connection**, whatever the broker says of the session: the topic may have changed in
//! the config, or the session may be lost. A topic that is no longer in the config stays subscribed in the
//! broker's session until that is removed there; its messages are passed on as they are, as retained ones are.
//!
//! **Bounds.** Over the bound messages are marked `pressed`; at twice the bound nothing more is taken in, and when
//! what is in flight has been settled and acknowledged, the connection is made anew, below half of the bound.
//! Brokers are known to overrun the receive-maximum, so it is a hint and not our bound. A packet over the packet
//! limit (at least 16 MiB, never below `max_body`) ends the connection in 3.1.1, and again whenever the broker
//! repeats it, which the log says; in 5 the broker is told the limit and drops such a message by itself. Below it,
//! a body over `max_body` is handed on as its beginning and its length.
//!
//! **Taken over.** Two clients of one id throw each other out for ever. Some brokers say so in MQTT 5; otherwise
//! three connections in a row that were accepted and closed without a word, each within a minute, count as it.
//! That is an alarm, and the next attempt waits longer: 30 s at least where the broker told, else 5 s (`reconnect`).
//!
//! **At QoS 0** (MinIO's default) a message that is published while we are away is lost, and so is one that intake
//! cannot make safe. It is taken in, pressed, and warned of: only the publisher can raise it.

mod connection;
mod reconnect;
mod report;
mod session;
mod settings;
mod trial;
mod v4;
mod v5;

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::{
    connection::{Connection, Ended},
    reconnect::Reconnect,
    report::Report,
    settings::Settings,
};
pub use self::{
    report::MqttState,
    settings::MqttError,
    trial::{TrialError, try_connect},
};
use super::{Bound, Message, Origin, refusal::Refusals};
use crate::{
    config::sources::{MqttConfig, MqttVersion},
    domain::{clock::Clock, entropy::Entropy},
};

/// How often is looked whether the bound is below half again.
const BOUND_PAUSE: Duration = Duration::from_millis(50);

/// A subscription at a broker.
#[derive(Debug)]
pub struct MqttSource {
    settings: Settings,
    version: MqttVersion,
    max_body: usize,
    bound: Arc<Bound>,
    report: Report,
    origin: Arc<Origin>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl MqttSource {
    /// A source of this config on the node of this name. Reads its files; does not connect yet.
    pub fn new(
        config: &MqttConfig,
        node: &str,
        origin: Arc<Origin>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, MqttError> {
        Ok(Self {
            settings: Settings::of(config, node, &origin.source)?,
            version: config.version,
            max_body: config.max_body,
            bound: Bound::new(config.bound.messages, config.bound.bytes),
            report: Report::new(Arc::clone(&origin.source)),
            origin,
            clock,
            entropy,
        })
    }

    /// How it stands, now and whenever that changes.
    pub fn state(&self) -> watch::Receiver<MqttState> {
        self.report.watch()
    }

    /// What is not settled yet.
    pub fn bound(&self) -> Arc<Bound> {
        Arc::clone(&self.bound)
    }

    /// Keeps a connection until `stop`; then takes in no more, acknowledges what becomes safe of what intake has,
    /// says goodbye and returns.
    ///
    /// How long that may take is the caller's decision: dropping this future closes the connection.
    pub async fn run(self, inbox: mpsc::Sender<Message>, stop: CancellationToken) {
        let refusals = Refusals::new(Arc::clone(&self.origin), Arc::clone(&self.clock));
        let connection = Connection {
            settings: &self.settings,
            max_body: self.max_body,
            bound: &self.bound,
            report: &self.report,
            refusals: &refusals,
            origin: &self.origin,
            clock: &*self.clock,
            inbox: &inbox,
            stop: &stop,
        };
        let mut reconnect = Reconnect::default();
        loop {
            let (ended, accepted_at) = match self.version {
                MqttVersion::V311 => connection.serve::<v4::V4>().await,
                MqttVersion::V5 => connection.serve::<v5::V5>().await,
            };
            if stop.is_cancelled() || matches!(ended, Ended::Stopped | Ended::IntakeGone) {
                break;
            }
            let stood = accepted_at.map(|accepted| self.clock.monotonic().saturating_sub(accepted));
            let pause = reconnect.after(ended.cause(), stood, self.entropy.next());
            self.report.ended(&ended, pause);
            let wait = async {
                tokio::time::sleep(pause.wait).await;
                while matches!(ended, Ended::Full) && !self.bound.is_below_half() {
                    tokio::time::sleep(BOUND_PAUSE).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = wait => {}
            }
        }
        self.report.stopped();
    }
}
