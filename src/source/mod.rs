//! Where events come in. A source knows a transport, not a meaning: it hands on bytes and waits for their
//! acknowledgement.
//!
//! Each message carries an [`Ack`]. Only `intake` acknowledges, and only when every delivery that the message
//! caused is settled or parked. An `Ack` that is dropped unacknowledged tells the source that the message is *not*
//! safe: the webhook answers 503, MQTT closes the connection so that the broker sends the message again.
//!
//! Each source has a bound on unsettled messages, in number and bytes ([`Bound`]). A message over the soft bound
//! is marked `pressed` (intake parks it straight to disk); over twice the bound nothing is taken in at all.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::domain::{clock::Timestamp, event::StorageName};

mod authorization;
mod bound;
pub mod mqtt;
mod refusal;
mod secret;
pub mod webhook;

pub use bound::{Bound, Permit, Pressure};

pub use crate::{config::sources::Redelivers, domain::event::KeyEncoding};

/// Where a message came from; one for each configured source.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The source's name in the config.
    pub source: Arc<str>,
    /// The storage whose events it brings.
    pub storage: StorageName,
    /// How it writes keys.
    pub encoding: KeyEncoding,
    /// What it does with a message that is not acknowledged.
    pub redelivers: Redelivers,
    /// How long an acknowledgement may wait for a first attempt, permit included.
    pub ack_within: Duration,
}

/// One notification as it came in.
#[derive(Debug)]
pub struct Message {
    /// The body, at most the source's limit.
    pub bytes: Bytes,
    /// Length as sent, where the body was longer than the limit and `bytes` is only its beginning.
    pub oversize: Option<u64>,
    /// Where it came from.
    pub origin: Arc<Origin>,
    /// When.
    pub received_at: Timestamp,
    /// Whether the source is over its bound: to be parked without a first attempt.
    pub pressed: bool,
    /// To be acknowledged by intake.
    pub ack: Ack,
}

/// The duty to acknowledge one message. Dropped unused, it says "not safe".
#[derive(Debug)]
pub struct Ack {
    sender: oneshot::Sender<()>,
    /// Given back when the message is settled, whatever came of it.
    _permit: Option<Permit>,
}

/// The source's end of an [`Ack`]: `Ok` when acknowledged, an error when it was dropped.
pub type Acknowledged = oneshot::Receiver<()>;

impl Ack {
    /// An acknowledgement and the end on which its source waits.
    pub fn new(permit: Option<Permit>) -> (Self, Acknowledged) {
        let (sender, receiver) = oneshot::channel();
        (Self { sender, _permit: permit }, receiver)
    }

    /// Tells the source that the message is safe. A source that has gone does not hear it, and will send again.
    pub fn acknowledge(self) {
        let _gone: Result<(), ()> = self.sender.send(());
    }
}
