//! One connection to the broker, from CONNECT to its end.
//!
//! Three loops in one task, none of which waits for another: *poll* turns what the client tells into messages,
//! *forward* hands them to intake, *settle* acknowledges them in the order in which they came. The queues between
//! them hold no more than the source's bound lets in, and no more than there are packet ids.
//!
//! A connection that we end ourselves is **closed in order**: nothing more is taken in (what the broker still
//! sends stays unacknowledged, and it sends it again), what is in flight is settled and acknowledged, the goodbye
//! is said, and poll ends with that. At twice the bound this is what makes for progress: an immediate close would
//! lose the acknowledgements with the connection, and the same messages would fill the bound again. At the stop,
//! what was received and not yet handed to intake is dropped. After a message that is not safe, only those before
//! it are acknowledged.
//!
//! A connection that **breaks** leaves behind what was received and not yet handed to intake. That is handed on all the
//! same, though nobody can be told that it is safe: a broker that was killed may have forgotten what it acknowledged to
//! MinIO a moment before (Mosquitto answers before it writes), and ours is then the only copy. What the broker does
//! send again is a repeat.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    reconnect::{Cause, STABLE},
    report::Report,
    session::{Broken, Happening, Protocol, Requests, Session},
    settings::Settings,
};
use crate::{
    domain::clock::Clock,
    source::{
        Ack, Acknowledged, Bound, Message, Origin, Pressure,
        refusal::{Refusal, Refusals},
        webhook::OVERSIZE_KEPT,
    },
    telemetry::Metric,
};

/// Messages that may wait for an acknowledgement: as many as there are packet ids.
const IN_FLIGHT: usize = 65_535;

/// Time from the broker's acceptance to the subscription.
const SUBSCRIBE_TIME: Duration = Duration::from_secs(30);

/// Time for saying goodbye.
const GOODBYE_TIME: Duration = Duration::from_secs(2);

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the source was stopped")]
    Stopped,
    #[error("intake takes no more messages")]
    IntakeGone,
    #[error("no connection")]
    Broken(#[source] Broken),
    #[error("a message could not be made safe; it is not acknowledged, so that the broker sends it again")]
    NotSafe,
    #[error("twice the bound of unsettled messages is reached; the rest stays at the broker")]
    Full,
    #[error("the broker refuses the subscription ({0}); check its access rules and the topic")]
    SubscriptionRefused(String),
    #[error("the broker did not answer the subscription")]
    NoAnswer,
}

impl Ended {
    /// A word for metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::IntakeGone => "intake_gone",
            Self::Broken(Broken::Refused { .. }) => "refused",
            Self::Broken(Broken::TakenOver) => "taken_over",
            Self::Broken(Broken::Ended { .. }) => "ended",
            Self::Broken(Broken::Closed) => "closed",
            Self::Broken(Broken::Failed(_)) => "failed",
            Self::NotSafe => "not_safe",
            Self::Full => "full",
            Self::SubscriptionRefused(_) => "subscription_refused",
            Self::NoAnswer => "no_answer",
        }
    }

    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Broken(Broken::TakenOver) => Cause::TakenOver,
            Self::Broken(Broken::Closed) => Cause::Closed,
            Self::Broken(Broken::Ended { .. } | Broken::Failed(_)) | Self::NoAnswer => Cause::Lost,
            Self::NotSafe | Self::Full => Cause::HeldBack,
            _ => Cause::Other,
        }
    }

    /// Whether only an operator can mend it.
    pub(super) fn is_alarm(&self) -> bool {
        matches!(self, Self::SubscriptionRefused(_) | Self::Broken(Broken::Refused { .. }))
    }
}

/// What all connections of a source are made of.
pub(super) struct Connection<'a> {
    pub(super) settings: &'a Settings,
    pub(super) max_body: usize,
    pub(super) bound: &'a Arc<Bound>,
    pub(super) report: &'a Report,
    pub(super) refusals: &'a Refusals,
    pub(super) origin: &'a Arc<Origin>,
    pub(super) clock: &'a dyn Clock,
    pub(super) inbox: &'a mpsc::Sender<Message>,
    pub(super) stop: &'a CancellationToken,
}

/// A message that waits for its acknowledgement; without a packet id there is nothing to send.
struct Unsettled {
    packet_id: Option<u16>,
    acknowledged: Acknowledged,
}

/// One connection's state.
struct Epoch<'a> {
    of: &'a Connection<'a>,
    /// Nothing more is taken in.
    closing: CancellationToken,
    /// Why we close it ourselves.
    why: Mutex<Option<Ended>>,
    /// When the broker accepted it, by the monotonic clock.
    accepted_at: Mutex<Option<Duration>>,
}

/// The way out of the polling loop.
struct Outlets {
    forward: mpsc::Sender<Message>,
    settle: mpsc::Sender<Unsettled>,
}

impl Connection<'_> {
    /// Connects and serves until the end; tells it, and when (by the monotonic clock) the broker had accepted.
    pub(super) async fn serve<P: Protocol>(&self) -> (Ended, Option<Duration>) {
        let (session, requests) = P::open(self.settings);
        let (forward, forwarded) = mpsc::channel(IN_FLIGHT);
        let (settle, settled) = mpsc::channel(IN_FLIGHT);
        let epoch = Epoch {
            of: self,
            closing: self.stop.child_token(),
            why: Mutex::default(),
            accepted_at: Mutex::default(),
        };
        let steady = async {
            tokio::time::sleep(STABLE).await;
            self.report.steady();
            std::future::pending().await
        };
        let ended = {
            let mut forwarding = pin!(epoch.forward(forwarded));
            let ended = tokio::select! {
                ended = epoch.poll(session, &requests, Outlets { forward, settle }) => ended,
                ended = &mut forwarding => ended,
                ended = epoch.settle(settled, &requests) => ended,
                ended = steady => ended,
            };
            if matches!(ended, Ended::Broken(_)) {
                tokio::select! {
                    _rest_is_with_intake = forwarding => {}
                    () = self.stop.cancelled() => {}
                }
            }
            ended
        };
        let Epoch { why, accepted_at, .. } = epoch;
        let ended = match (ended, why.into_inner().unwrap_or_else(PoisonError::into_inner)) {
            (Ended::Stopped, Some(why)) => why,
            (ended, _) => ended,
        };
        (ended, accepted_at.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Epoch<'_> {
    /// Takes in nothing more on this connection, of the first reason that was given.
    fn close(&self, why: Ended) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.closing.cancel();
    }

    async fn poll<S: Session, R: Requests>(&self, mut session: S, requests: &R, outlets: Outlets) -> Ended {
        let mut waiting: Option<Pin<Box<Sleep>>> = None;
        let (mut warned, mut goodbye) = (false, false);
        loop {
            let unanswered = async {
                match waiting.as_mut() {
                    Some(limit) => limit.await,
                    None => std::future::pending().await,
                }
            };
            // Only an end drops the session's future.
            let happening = tokio::select! {
                happening = session.next() => happening,
                () = unanswered => return Ended::NoAnswer,
            };
            match happening {
                Ok(Happening::Accepted) => {
                    *self.accepted_at.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(self.of.clock.monotonic());
                    self.of.report.accepted();
                    if !requests.subscribe(&self.of.settings.topic) {
                        return Ended::SubscriptionRefused("it is no topic filter".to_owned());
                    }
                    waiting = Some(Box::pin(tokio::time::sleep(SUBSCRIBE_TIME)));
                }
                Ok(Happening::Subscribed) => {
                    waiting = None;
                    self.of.report.subscribed(&self.of.settings.topic);
                }
                Ok(Happening::SubscriptionRefused(reason)) => return Ended::SubscriptionRefused(reason),
                Ok(Happening::Published { payload, packet_id }) => {
                    if packet_id.is_none() && !warned {
                        warned = true;
                        self.of.report.came_at_qos_0();
                    }
                    if !self.closing.is_cancelled() {
                        self.take(payload, packet_id, &outlets);
                    }
                }
                // Read on until the broker has closed: a socket closed with something unread is reset, and the broker
                // may then lose our last acknowledgements and the goodbye. `settle` bounds the wait.
                Ok(Happening::Disconnected) => goodbye = true,
                Ok(Happening::Other) => {}
                Err(_) if goodbye => return Ended::Stopped,
                Err(broken) => return Ended::Broken(broken),
            }
        }
    }

    /// Counts a message and puts it into both queues, or closes when the bound is full.
    fn take(&self, payload: Bytes, packet_id: Option<u16>, outlets: &Outlets) {
        let length = payload.len();
        let oversize = (length > self.of.max_body).then_some(length as u64);
        let bytes = match oversize {
            // A copy, so that the large packet's memory is given back.
            Some(_) => Bytes::copy_from_slice(&payload[..OVERSIZE_KEPT.min(length)]),
            None => payload,
        };
        let (pressure, permit) = self.of.bound.take(bytes.len() as u64);
        if pressure == Pressure::Full {
            self.of.refusals.tell(Refusal::Bound);
            return self.close(Ended::Full);
        }
        let (ack, acknowledged) = Ack::new(permit);
        match outlets.settle.try_send(Unsettled { packet_id, acknowledged }) {
            Ok(()) => {}
            // Settle has just begun to close.
            Err(TrySendError::Closed(_)) => return,
            Err(TrySendError::Full(_)) => return self.close(Ended::Full),
        }
        Metric::SourceMessages.count_often([("source", &self.of.origin.source)]);
        let message = Message {
            bytes,
            oversize,
            origin: Arc::clone(self.of.origin),
            received_at: self.of.clock.now(),
            pressed: pressure == Pressure::Pressed || packet_id.is_none(),
            ack,
        };
        // A message that does not fit is dropped with its acknowledgement, which settle takes for not safe.
        if outlets.forward.try_send(message).is_err() {
            self.close(Ended::Full);
        }
    }

    async fn forward(&self, mut messages: mpsc::Receiver<Message>) -> Ended {
        loop {
            let message = tokio::select! {
                biased;
                () = self.of.stop.cancelled() => break,
                message = messages.recv() => message,
            };
            // The polling loop has ended, and all that it received is handed on.
            let Some(message) = message else { return Ended::Stopped };
            tokio::select! {
                biased;
                () = self.of.stop.cancelled() => break,
                sent = self.of.inbox.send(message) => {
                    if sent.is_err() {
                        return Ended::IntakeGone;
                    }
                }
            }
        }
        drop(messages);
        std::future::pending().await
    }

    async fn settle<R: Requests>(&self, mut unsettled: mpsc::Receiver<Unsettled>, requests: &R) -> Ended {
        loop {
            let next = tokio::select! {
                biased;
                () = self.closing.cancelled(), if !unsettled.is_closed() => {
                    unsettled.close();
                    continue;
                }
                next = unsettled.recv() => next,
            };
            let Some(Unsettled { packet_id, acknowledged }) = next else { break };
            match (acknowledged.await, packet_id) {
                (Ok(()), Some(packet_id)) => requests.acknowledge(packet_id).await,
                (Ok(()), None) => {}
                (Err(_), _) if self.of.stop.is_cancelled() => break,
                (Err(_), Some(_)) => {
                    self.of.refusals.tell(Refusal::NotSafe);
                    self.close(Ended::NotSafe);
                    break;
                }
                (Err(_), None) => self.of.refusals.tell(Refusal::NotSafe),
            }
        }
        drop(unsettled);
        if self.of.report.is_connected() {
            requests.disconnect().await;
            tokio::time::sleep(GOODBYE_TIME).await;
        }
        Ended::Stopped
    }
}
