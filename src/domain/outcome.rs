//! What came of an attempt: a small closed set, decided once by the platform's driver.
//!
//! Whose fault it was decides what it costs: throttling and platform faults wait without using up the function's
//! attempts (only the maximum event age ends them); function faults use attempts; a permanent answer ends the delivery
//! at once; a broken binding parks it and wakes the reconciler.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;

/// The class of an attempt's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The function ran and succeeded.
    Ok,
    /// The platform took the event and will run the function (asynchronous).
    Accepted,
    /// Too much at once: wait and try again.
    Throttled,
    /// The platform or the way to it failed: wait and try again.
    PlatformFault,
    /// The function ran and failed.
    FunctionFault,
    /// Trying again cannot help.
    Permanent,
    /// The platform does not know the rule, or does not accept its signature.
    BindingBroken,
    /// We ended it ourselves, by shutting down.
    Interrupted,
}

impl Class {
    /// The word for it in logs, metrics and databases.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Accepted => "accepted",
            Self::Throttled => "throttled",
            Self::PlatformFault => "platform_fault",
            Self::FunctionFault => "function_fault",
            Self::Permanent => "permanent",
            Self::BindingBroken => "binding_broken",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its class.
    pub class: Class,
    /// The HTTP status of the answer, where there was one.
    pub status: Option<u16>,
    /// What happened, for a person; at most [`Outcome::MAX_DETAIL`] bytes, no secrets.
    pub detail: String,
    /// How long the platform asks us to wait (`Retry-After`).
    pub retry_after: Option<Duration>,
}

impl Outcome {
    /// Longest detail, in bytes.
    pub const MAX_DETAIL: usize = 1_024;

    /// An outcome; `detail` is cut to its limit at a character boundary.
    pub fn new(class: Class, status: Option<u16>, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if detail.len() > Self::MAX_DETAIL {
            let end = (0..=Self::MAX_DETAIL).rev().find(|at| detail.is_char_boundary(*at)).unwrap_or(0);
            detail.truncate(end);
        }
        Self { class, status, detail, retry_after: None }
    }

    /// The same with the platform's wish to wait.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }
}

/// One attempt as it is kept with parked deliveries and dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// What class of outcome.
    pub class: Class,
    /// HTTP status, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What happened, for a person.
    pub detail: String,
}
