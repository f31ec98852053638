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

mod repeats;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

pub use self::repeats::Repeats;
use self::repeats::{Held, Pending, Seen};
use crate::{
    dialect,
    dispatch::{Custody, Dispatcher, Plan, Submission},
    domain::{binding::Binding, clock::Clock, delivery::Delivery, event::Event},
    queue::{Quarantined, Queue},
    source::{Ack, Message, Origin, Redelivers},
    telemetry::{
        Chain, Recent,
        happening::{EventReceived, EventRepeated, MessageQuarantined, QueueTrouble},
    },
};

/// Most bytes of a message that are kept in quarantine.
pub const QUARANTINE_BYTES: usize = 64 << 10;

/// How often an idle intake shows that it lives.
const IDLE: Duration = Duration::from_secs(5);

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
    /// The recent outcomes.
    pub recent: Arc<Recent>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Intake {
    /// Takes messages until the sources have ended, with a `beat` after each and while there is none.
    pub async fn run(self, mut inbox: mpsc::Receiver<Message>, beat: impl Fn() + Send) {
        // One timer for all: a timeout for each message would be set and taken back for each.
        let mut idle = interval(IDLE);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                message = inbox.recv() => match message {
                    Some(message) => self.take(message).await,
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
            return self.quarantine(message, "larger than the source's limit (max_body)").await;
        }
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            dialect::decode(&message.bytes, &origin.storage, origin.encoding)
        }));
        let events = match decoded {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => {
                let reason = Chain(&error).to_string();
                return self.quarantine(message, &reason).await;
            }
            Err(_panic) => return self.quarantine(message, "decoding panicked; see the log").await,
        };
        if events.is_empty() {
            return message.ack.acknowledge();
        }
        // Matched before anything is handed on, so that a panic leaves the message whole to the quarantine.
        let mut matched = Vec::with_capacity(events.len());
        for event in events {
            match AssertUnwindSafe(self.matcher.matching(&event)).catch_unwind().await {
                Ok(Ok(bindings)) => matched.push((event, bindings)),
                Ok(Err(error)) => {
                    tracing::error!(error = %Chain(error.as_ref()), source = %origin.source,
                        "the bindings cannot be read; the notification stays with its source");
                    return;
                }
                Err(_panic) => return self.quarantine(message, "matching panicked; see the log").await,
            }
        }
        let held = Self::hold(message.ack, &origin, matched.len());
        for (event, bindings) in matched {
            self.deliver(event, bindings, held.as_ref(), (&origin, message.pressed));
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
            let custody = Custody::new(pending.clone());
            self.dispatcher.submit(Submission { delivery, binding, plan, custody });
        }
    }

    async fn quarantine(&self, message: Message, reason: &str) {
        let length = message.oversize.unwrap_or(message.bytes.len() as u64);
        MessageQuarantined { source: &message.origin.source, reason, length }.tell();
        let kept = &message.bytes[..message.bytes.len().min(QUARANTINE_BYTES)];
        let item = Quarantined {
            source: message.origin.source.to_string(),
            received_at: message.received_at,
            reason: reason.to_owned(),
            bytes: kept.to_vec(),
            length,
        };
        match self.queue.quarantine(item).await {
            Ok(()) => message.ack.acknowledge(),
            Err(error) => QueueTrouble { verb: "keep a message in quarantine", error: &error }.tell(),
        }
    }
}
