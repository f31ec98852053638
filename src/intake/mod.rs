//! Intake: bytes become events, events become deliveries, and the acknowledgement is held until all of them are safe.
//!
//! For each message: decode, recognise repeats, match, hand each delivery to dispatch. Only this module acknowledges:
//!
//! * when every delivery of every event of the message is settled or parked;
//! * at once, when it causes none (no event, no binding that matches, all of it settled already);
//! * when it can never be processed and its bytes are in quarantine: a sender must not repeat it for ever;
//! * on receipt, from a source that is the fast leg of twin targets: the safe leg brings every event again.
//!
//! Whatever else happens (the queue cannot be written, the bindings cannot be read, a panic, the end of the process) the
//! acknowledgement is dropped, and the source keeps the message.
//!
//! Decoding and matching run over foreign data; a panic in them is caught, and the message is quarantined.
//!
//! A binding whose function seems to fire it again is told of (`loops`); its events are delivered all the same.

mod again;
mod loops;
mod repeats;
#[cfg(test)]
mod tests;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, poll};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

#[cfg(test)]
use self::tests::decoding::decode;
pub use self::{again::Again, loops::Loops, repeats::Repeats};
use self::{
    loops::AFTERMATH,
    repeats::{Held, Pending, Seen},
};
#[cfg(not(test))]
use crate::dialect::decode;
use crate::{
    dispatch::{Custody, Dispatcher, Plan, Submission},
    domain::{
        binding::Binding,
        clock::{Clock, Timestamp},
        delivery::Delivery,
        event::Event,
        ids::DeliveryId,
    },
    queue::{Quarantined, Queue},
    source::{Ack, Message, Origin, Redelivers},
    telemetry::{
        Chain, Recent,
        happening::{EventReceived, EventRepeated, LoopSuspected, MessageQuarantined},
    },
};

/// Most bytes of a message that are kept in quarantine.
pub const QUARANTINE_BYTES: usize = 64 << 10;

/// Latest that an event comes by a storage's queue while all is well, about.
const LATE: Duration = Duration::from_secs(10);

/// How often an idle intake shows that it lives.
const IDLE: Duration = Duration::from_secs(5);

/// The events of a message, each with the bindings that it fires.
type Matched = Vec<(Event, Vec<Arc<Binding>>)>;

/// Why a message is not handed on.
#[derive(Debug)]
enum Refusal {
    /// It can never be processed; why.
    Hopeless(String),
    /// Not now: its source keeps it.
    Later,
}

/// What intake asks of the catalog.
#[async_trait]
pub trait Matcher: Send + Sync + std::fmt::Debug {
    /// The bindings that the event fires.
    async fn matching(&self, event: &Event) -> anyhow::Result<Vec<Arc<Binding>>>;
}

/// The parts that intake works with.
#[derive(Debug, Clone)]
pub struct Intake {
    /// Which bindings match.
    pub matcher: Arc<dyn Matcher>,
    /// Where deliveries go.
    pub dispatcher: Dispatcher,
    /// Where the quarantine is.
    pub queue: Arc<dyn Queue>,
    /// What is in flight, shared by all sources.
    pub repeats: Arc<Repeats>,
    /// Which bindings seem to fire themselves.
    pub loops: Arc<Loops>,
    /// The recent outcomes.
    pub recent: Arc<Recent>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Intake {
    /// Takes messages until the sources have ended, with a `beat` after each and while there is none.
    ///
    /// A message whose bindings are not at hand (they must be read from the disk first) waits for them in a task of its
    /// own, and keeps no other back.
    pub async fn run(self, mut inbox: mpsc::Receiver<Message>, beat: impl Fn() + Send) {
        // One timer for all: a timeout for each message would be set and taken back for each.
        let mut idle = interval(IDLE);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                message = inbox.recv() => match message {
                    Some(message) => {
                        let intake = self.clone();
                        let mut taken = Box::pin(async move { intake.take(message).await });
                        if poll!(taken.as_mut()).is_pending() {
                            tokio::spawn(taken);
                        }
                    }
                    None => return,
                },
                _ = idle.tick() => (),
            }
            beat();
        }
    }

    /// Takes one message; returns when its deliveries are with dispatch, not when they are safe.
    pub async fn take(&self, message: Message) {
        let origin = Arc::clone(&message.origin);
        if message.oversize.is_some() {
            return self.quarantine(message, "larger than the source's limit (max_body)");
        }
        match self.understand(&message.bytes, &origin).await {
            Ok(matched) => self.hand_on(matched, message.ack, &origin, message.pressed),
            Err(Refusal::Hopeless(reason)) => self.quarantine(message, &reason),
            Err(Refusal::Later) => (),
        }
    }

    /// Reads the events and finds their bindings.
    async fn understand(&self, bytes: &[u8], origin: &Origin) -> Result<Matched, Refusal> {
        let decoded = catch_unwind(AssertUnwindSafe(|| decode(bytes, &origin.storage, origin.encoding)));
        match decoded {
            Ok(Ok(events)) => self.match_all(events).await,
            Ok(Err(error)) => Err(Refusal::Hopeless(Chain(&error).to_string())),
            Err(_panic) => Err(Refusal::Hopeless("decoding panicked; see the log".to_owned())),
        }
    }

    /// Finds the bindings of all of a message's events. Before anything is handed on, so that a panic leaves the message
    /// whole to the quarantine.
    async fn match_all(&self, events: Vec<Event>) -> Result<Matched, Refusal> {
        let mut matched = Vec::with_capacity(events.len());
        for event in events {
            match AssertUnwindSafe(self.matcher.matching(&event)).catch_unwind().await {
                Ok(Ok(bindings)) => matched.push((event, bindings)),
                Ok(Err(error)) => {
                    tracing::error!(error = %Chain(error.as_ref()),
                        "the bindings cannot be read; the notification stays where it is");
                    return Err(Refusal::Later);
                }
                Err(_panic) => return Err(Refusal::Hopeless("matching panicked; see the log".to_owned())),
            }
        }
        Ok(matched)
    }

    /// Hands every delivery to dispatch.
    fn hand_on(&self, matched: Matched, ack: Ack, origin: &Arc<Origin>, pressed: bool) {
        if matched.is_empty() {
            return ack.acknowledge();
        }
        let held = Self::hold(ack, origin, matched.len());
        for (event, bindings) in matched {
            self.deliver(event, bindings, held.as_ref(), (origin, pressed));
        }
    }

    /// Keeps the acknowledgement until the events are safe; the fast leg of a twin gets it at once.
    fn hold(ack: Ack, origin: &Origin, events: usize) -> Option<Arc<Held>> {
        if origin.redelivers == Redelivers::Twin {
            ack.acknowledge();
            return None;
        }
        Some(Held::new(ack, events))
    }

    fn deliver(
        &self,
        event: Event,
        bindings: Vec<Arc<Binding>>,
        held: Option<&Arc<Held>>,
        (origin, pressed): (&Origin, bool),
    ) {
        let id = event.id;
        match self.repeats.begin(id, held) {
            Seen::New => (),
            Seen::Joined => return EventRepeated { source: &origin.source, in_flight: true }.tell(),
            Seen::Settled => {
                EventRepeated { source: &origin.source, in_flight: false }.tell();
                if let Some(held) = held {
                    held.event_is_safe();
                }
                return;
            }
        }
        let at = self.clock.now();
        EventReceived { event: &event, source: &origin.source, matched: bindings.len(), at }
            .tell(&self.recent);
        if bindings.is_empty() {
            return self.repeats.settle(id);
        }
        let plan =
            Plan { ack_within: origin.ack_within, park_first: origin.redelivers == Redelivers::No, pressed };
        let event = Arc::new(event);
        let pending = Pending::new(id, bindings.len(), Arc::clone(&self.repeats));
        for binding in bindings {
            let function = binding.spec.function.to_ref();
            let delivery = Delivery::new(Arc::clone(&event), binding.id, function, at);
            self.watch_for_loops(&delivery, &binding);
            let custody = Custody::new(pending.clone());
            self.dispatcher.submit(Submission { delivery, binding, plan, custody });
        }
    }

    fn watch_for_loops(&self, delivery: &Delivery, binding: &Binding) {
        let (at, event) = (delivery.accepted_at, &delivery.event);
        // A queue of the storage's brings an event some seconds late.
        let happened = if at.since(event.time) <= LATE { at.min(event.time) } else { at };
        let is_alive =
            |other| self.dispatcher.is_running(other) || self.has_just_run(other, happened, binding);
        let ids = (binding.id, delivery.id);
        if let Some(suspicion) = self.loops.note(ids, &event.key, self.clock.monotonic(), is_alive) {
            let (depth, parent) = (suspicion.depth, suspicion.parent.as_str());
            LoopSuspected { delivery, depth, parent, at, is_due: suspicion.is_due }.tell(&self.recent);
        }
    }

    /// Whether an earlier delivery's function ended a short while before `moment`, or may run asynchronously.
    fn has_just_run(&self, delivery: DeliveryId, moment: Timestamp, binding: &Binding) -> bool {
        self.recent.of_delivery(delivery).is_some_and(|outcome| {
            let (ended, aftermath) = match outcome.outcome.as_str() {
                "accepted" => (outcome.at, binding.spec.timeout()),
                _ if outcome.outcome.starts_with("callback_") => (outcome.at, AFTERMATH),
                _ => (outcome.at.plus(Duration::from_micros(outcome.took_us)), AFTERMATH),
            };
            moment.since(ended) <= aftermath
        })
    }

    /// Keeps a message's bytes and acknowledges it then, in a task of its own: a flood of what cannot be processed, or a
    /// slow disk, keeps no other message back. The source waits for the acknowledgement, and so does a stop.
    fn quarantine(&self, message: Message, reason: &str) {
        let length = message.oversize.unwrap_or(message.bytes.len() as u64);
        let kept = &message.bytes[..message.bytes.len().min(QUARANTINE_BYTES)];
        let item = Quarantined {
            source: message.origin.source.to_string(),
            received_at: message.received_at,
            reason: reason.to_owned(),
            bytes: kept.to_vec(),
            length,
        };
        let (intake, ack) = (self.clone(), message.ack);
        let (origin, reason) = (message.origin, reason.to_owned());
        tokio::spawn(async move {
            match intake.queue.quarantine(item).await {
                Ok(item) => {
                    MessageQuarantined { item, source: &origin.source, reason: &reason, length }.tell();
                    ack.acknowledge();
                }
                Err(error) => intake.dispatcher.note_trouble("keep a message in quarantine", &error),
            }
        });
    }
}
