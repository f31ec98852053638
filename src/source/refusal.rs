//! What a source did not take in, told in one place: counted each time, logged at most once a minute for each
//! reason.

use std::{sync::Arc, time::Duration};

use super::{Origin, Redelivers};
use crate::{
    domain::clock::Clock,
    telemetry::{Metric, Seldom},
};

/// The least time between two log lines of one reason.
const PAUSE: Duration = Duration::from_mins(1);

/// Why a message, or a request, was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Refusal {
    /// The source is at its bound, and the sender will send again.
    Bound,
    /// The source is at its bound, and a twin target brings the event too.
    TwinDropped,
    /// What was taken in could be neither settled nor parked.
    NotSafe,
    /// The body did not come in time or not to its end.
    Incomplete,
    /// The sender has not the token.
    Unauthorized,
    /// Not the target's path, or not a POST.
    NotFound,
}

impl Refusal {
    fn name(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::TwinDropped => "twin_dropped",
            Self::NotSafe => "not_safe",
            Self::Incomplete => "incomplete",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
        }
    }

    /// Whether a message, and not only a request of whomsoever, was refused.
    fn is_of_a_message(self) -> bool {
        matches!(self, Self::Bound | Self::NotSafe | Self::Incomplete)
    }

    fn explain(self) -> &'static str {
        match self {
            Self::Bound => {
                "more unsettled messages than the source's bound allows; functions or the disk are too slow"
            }
            Self::TwinDropped => "dropped at the source's bound; the twin target brings these events",
            Self::NotSafe => "a message could be neither settled nor parked and is not acknowledged",
            Self::Incomplete => "a body did not come in time, or not to its end",
            Self::Unauthorized => {
                "a request without the right token; compare the source's token with the target's auth_token"
            }
            Self::NotFound => {
                "a request that is no POST to the source's path; compare it with the target's endpoint"
            }
        }
    }
}

/// Tells the refusals of one source.
#[derive(Debug)]
pub(super) struct Refusals {
    origin: Arc<Origin>,
    clock: Arc<dyn Clock>,
    told: Seldom<Refusal>,
}

impl Refusals {
    pub(super) fn new(origin: Arc<Origin>, clock: Arc<dyn Clock>) -> Self {
        Self { origin, clock, told: Seldom::once_in(PAUSE) }
    }

    /// Tells one. A message that nobody sends again is counted as lost, too.
    pub(super) fn tell(&self, refusal: Refusal) {
        let source = self.origin.source.to_string();
        let reason = refusal.name();
        Metric::SourceRefused.count(&[("source", source.clone()), ("reason", reason.to_owned())]);
        let lost = refusal.is_of_a_message() && self.origin.redelivers == Redelivers::No;
        if lost {
            Metric::SourceLost.count(&[("source", source.clone())]);
        }
        if let Some(untold) = self.told.is_due(refusal, self.clock.monotonic()) {
            let what = refusal.explain();
            if lost {
                tracing::error!(
                    source,
                    reason,
                    untold,
                    "LOST: {what}; this source never sends again (told once a minute)"
                );
            } else {
                tracing::warn!(source, reason, untold, "{what} (told once a minute)");
            }
        }
    }
}
