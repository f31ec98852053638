//! What the handles ask of the writer, and what it answers.

use tokio::sync::oneshot;

use super::{
    DeadLetter, Disposal, FunctionState, Handover, Park, Parked, Quarantined, QueueError, Retry, Ticket,
    Wait,
    retention::Expired,
    rows::{Table, end_of_attempt},
};
use crate::domain::{
    clock::Timestamp,
    delivery::FunctionRef,
    event::Event,
    ids::{BindingId, DeliveryId, EventId},
    outcome::Attempt,
};

/// One request, with where its answer goes.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) work: Work,
    pub(super) reply: oneshot::Sender<Result<Answer, QueueError>>,
    /// Rows that earlier transactions have done of it: the largest requests are done in steps.
    pub(super) so_far: u64,
}

/// What is to be done. It may be tried more than once, so nothing is taken out of it.
#[derive(Debug)]
pub(super) enum Work {
    Park(Box<ParkRow>),
    Delivered(DeliveryId),
    Retry(Box<Retry>),
    Await(Wait),
    CameLate(DeliveryId, Attempt),
    Bury(Box<LetterRow>),
    Quarantine(Quarantined),
    Hold {
        binding: BindingId,
        held: bool,
        now: Timestamp,
    },
    Dispose {
        binding: BindingId,
        disposal: Disposal,
        running: Vec<DeliveryId>,
        now: Timestamp,
    },
    Replay {
        id: DeliveryId,
        now: Timestamp,
    },
    Rebind {
        id: DeliveryId,
        binding: BindingId,
    },
    Discard(DeliveryId),
    KeepFunction {
        function: FunctionRef,
        state: Option<FunctionState>,
    },
    /// Shows that the file can be written: by a write when the last one failed, else by its commit alone.
    Probe {
        write: bool,
    },
    Requarantine {
        id: u64,
        reason: String,
        now: Timestamp,
    },
    Unquarantine(u64),
    Expire(Expired),
    HandOver(Vec<Handover>, i64),
    BringForward {
        function: FunctionRef,
        latest: Timestamp,
        now: Timestamp,
    },
    KeepSkew(i64),
    /// A row that cannot be read goes to the quarantine.
    Reject {
        table: Table,
        seq: i64,
        problem: String,
    },
    Close,
}

impl Work {
    /// Bytes that it brings along.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Park(park) => park.stored.payload.len(),
            Self::Bury(letter) => letter.stored.payload.len(),
            Self::Quarantine(item) => item.bytes.len(),
            _ => 0,
        }
    }

    /// Whether it may touch very many rows, and is done in steps.
    pub(super) fn is_long(&self) -> bool {
        matches!(self, Self::Hold { .. } | Self::Dispose { .. } | Self::BringForward { .. } | Self::Expire(_))
    }

    /// Whether nothing but its own delivery waits for it: it comes after what a sender, a person or the reconciler waits for.
    pub(super) fn can_wait(&self) -> bool {
        matches!(self, Self::Retry(_))
    }

    /// Whether an `Ok` would mean that something is safe which was not before.
    pub(super) fn takes_on(&self) -> bool {
        matches!(
            self,
            Self::Park(_) | Self::Bury(_) | Self::Quarantine(_) | Self::Replay { .. } | Self::Probe { .. }
        )
    }

    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Park(_) => "park",
            Self::Delivered(_) => "delivered",
            Self::Retry(_) => "retry",
            Self::Await(_) => "wait for a result",
            Self::CameLate(..) => "note a late result",
            Self::Bury(_) => "bury",
            Self::Quarantine(_) | Self::Reject { .. } => "quarantine",
            Self::Hold { .. } => "hold",
            Self::Dispose { .. } => "dispose",
            Self::Replay { .. } => "replay",
            Self::Rebind { .. } => "rebind",
            Self::Discard(_) => "discard",
            Self::KeepFunction { .. } => "keep a function's state",
            Self::Probe { .. } => "probe",
            Self::Requarantine { .. } => "requarantine",
            Self::Unquarantine(_) => "unquarantine",
            Self::Expire(_) => "expire",
            Self::HandOver(..) => "hand_over",
            Self::BringForward { .. } => "bring_forward",
            Self::KeepSkew(_) => "keep_skew",
            Self::Close => "close",
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Answer {
    Parked(Parked),
    Was(bool),
    Count(u64),
    Function(Option<FunctionRef>),
    /// The number of what was kept.
    Kept(u64),
    Nothing,
}

/// How far a request has come with this transaction.
#[derive(Debug)]
pub(super) enum Step {
    Done(Result<Answer, QueueError>),
    /// This many rows, and there are more.
    More(u64),
}

impl Step {
    pub(super) fn parked(parked: Parked) -> Self {
        Self::Done(Ok(Answer::Parked(parked)))
    }

    /// Whether it changed the file.
    pub(super) fn wrote(&self) -> bool {
        match self {
            Self::Done(Ok(answer)) => match answer {
                Answer::Parked(parked) => matches!(parked, Parked::Written | Parked::Overflow),
                Answer::Was(was) => *was,
                Answer::Count(rows) => *rows > 0,
                Answer::Function(function) => function.is_some(),
                Answer::Kept(_) | Answer::Nothing => true,
            },
            Self::Done(Err(_)) => false,
            Self::More(_) => true,
        }
    }

    pub(super) fn was(was: bool) -> Self {
        Self::Done(Ok(Answer::Was(was)))
    }
}

/// What parking and burying have in common, as it is stored. The event is made into text by the task that asks, so
/// that the writer need not.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) id: DeliveryId,
    pub(super) event: EventId,
    pub(super) payload: String,
    pub(super) binding: BindingId,
    pub(super) function: FunctionRef,
    pub(super) accepted_at: Timestamp,
    pub(super) attempts: u32,
    pub(super) tries: u32,
    pub(super) earlier: u32,
}

impl Stored {
    /// Bytes of rows and indexes beside the payload, about.
    pub(super) const OVERHEAD: u64 = 512;

    fn new(delivery: &super::Delivery) -> Result<Self, serde_json::Error> {
        let event: &Event = &delivery.event;
        Ok(Self {
            id: delivery.id,
            event: event.id,
            payload: serde_json::to_string(event)?,
            binding: delivery.binding,
            function: delivery.function.clone(),
            accepted_at: delivery.accepted_at,
            attempts: delivery.attempts,
            tries: delivery.tries,
            earlier: delivery.earlier,
        })
    }

    /// Bytes that count for it; a shared event counts for each of its deliveries.
    pub(super) fn weight(&self) -> u64 {
        Self::OVERHEAD + self.payload.len() as u64
    }
}

/// A delivery to be parked, as it is stored.
#[derive(Debug)]
pub(super) struct ParkRow {
    pub(super) stored: Stored,
    pub(super) due: Timestamp,
    pub(super) held_since: Option<Timestamp>,
    /// The moment at which it is parked, as far as the request tells.
    pub(super) moment: Timestamp,
    pub(super) attempt: Option<Attempt>,
    pub(super) ticket: Ticket,
}

impl ParkRow {
    pub(super) fn new(park: Park) -> Result<Self, serde_json::Error> {
        let moment = park.attempt.as_ref().map_or(park.delivery.accepted_at, end_of_attempt);
        Ok(Self {
            stored: Stored::new(&park.delivery)?,
            due: park.due,
            held_since: park.held.then_some(moment),
            moment,
            attempt: park.attempt,
            ticket: park.ticket,
        })
    }
}

/// A dead letter as it is stored.
#[derive(Debug)]
pub(super) struct LetterRow {
    pub(super) stored: Stored,
    pub(super) reason: crate::domain::delivery::DeadReason,
    pub(super) detail: String,
    pub(super) died_at: Timestamp,
    pub(super) attempts: Vec<Attempt>,
    pub(super) replays: u32,
    /// Nothing, unless it is parked.
    pub(super) only_parked: bool,
}

impl LetterRow {
    pub(super) fn new(letter: DeadLetter) -> Result<Self, serde_json::Error> {
        Ok(Self {
            stored: Stored::new(&letter.delivery)?,
            reason: letter.reason,
            detail: letter.detail,
            died_at: letter.died_at,
            attempts: letter.attempts,
            replays: letter.replays,
            only_parked: false,
        })
    }
}
