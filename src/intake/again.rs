//! What was quarantined, tried again: after an upgrade, for example, that understands it.
//!
//! It goes the way of every message, save that its deliveries are parked without a first attempt: whoever asks waits for
//! them to be safe, and no function is waited for. A crash before they are leaves the item in quarantine; after it, trying
//! once more gives the same deliveries under the same ids.

use std::{sync::Arc, time::Duration};

use super::{Intake, Refusal};
use crate::{
    domain::event::Event,
    queue::{Quarantined, REJECTED_ROWS},
    source::{Ack, Origin, Redelivers},
    telemetry::Chain,
};

/// How long the deliveries may take to be on disk.
const SAFE_WITHIN: Duration = Duration::from_secs(20);

/// What came of trying again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Again {
    /// It is understood, and everything that it causes is settled or parked.
    Taken {
        /// Events that it brought.
        events: usize,
        /// Deliveries that they cause.
        deliveries: usize,
    },
    /// It can still not be processed; why.
    Hopeless(String),
    /// The bindings could not be read, or the deliveries not be parked.
    Unsafe,
}

impl Intake {
    /// Tries what is in quarantine, as if `origin` had brought it.
    pub async fn again(&self, item: &Quarantined, origin: &Origin) -> Again {
        if (item.bytes.len() as u64) < item.length {
            let kept = item.bytes.len();
            return Again::Hopeless(format!(
                "only the first {kept} of its {} bytes were kept; store the object again instead",
                item.length
            ));
        }
        // Whoever brought it: the quarantine keeps it until it is safe.
        let origin = Arc::new(Origin { redelivers: Redelivers::Yes, ..origin.clone() });
        let understood = if item.source == REJECTED_ROWS {
            self.understand_row(&item.bytes).await
        } else {
            self.understand(&item.bytes, &origin).await
        };
        let matched = match understood {
            Ok(matched) => matched,
            Err(Refusal::Hopeless(reason)) => return Again::Hopeless(reason),
            Err(Refusal::Later) => return Again::Unsafe,
        };
        let (events, deliveries) =
            (matched.len(), matched.iter().map(|(_, bindings)| bindings.len()).sum::<usize>());
        let (ack, acknowledged) = Ack::new(None);
        self.hand_on(matched, ack, &origin, true);
        match tokio::time::timeout(SAFE_WITHIN, acknowledged).await {
            Ok(Ok(())) => Again::Taken { events, deliveries },
            Ok(Err(_)) | Err(_) => Again::Unsafe,
        }
    }

    /// A row of our own queue that could not be read holds an event as we write it.
    async fn understand_row(&self, bytes: &[u8]) -> Result<super::Matched, Refusal> {
        let event: Result<Event, _> = serde_json::from_slice(bytes);
        let event = event.map_err(|error| Refusal::Hopeless(Chain(&error).to_string()))?;
        self.match_all(vec![event]).await
    }
}
