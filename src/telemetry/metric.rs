//! Every metric's name, kind and help, in one place.

/// A metric. Names follow Prometheus' conventions: base units, `_total` for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Messages that came in, by source.
    SourceMessages,
    /// Messages that were refused or dropped, by source and reason.
    SourceRefused,
    /// Calls of functions, by platform and class of outcome.
    Attempts,
    /// How long calls of functions took, by platform.
    AttemptSeconds,
    /// From an event's arrival to its delivery, by platform.
    DeliverySeconds,
    /// Deliveries given up, by platform and reason.
    DeadLetters,
    /// Deliveries parked, by reason.
    Parked,
    /// Queue operations that failed.
    QueueTrouble,
    /// Events that came in, by source and whether they matched a binding.
    Events,
    /// Repeated events, by source and whether the first copy was in flight or settled.
    Repeats,
    /// Notifications that can never be processed, by source.
    Quarantined,
    /// Messages that were refused though their sender does not send them again, by source.
    SourceLost,
    /// Whether a source is connected and subscribed, by source.
    SourceConnected,
    /// Connections that a source lost or could not make, by source and reason.
    SourceDisconnects,
    /// Transactions of the queue.
    QueueCommits,
    /// Rows of the queue that could not be read.
    QueueCorrupt,
    /// Items that left the quarantine for newer ones.
    QuarantineEvicted,
    /// Bindings, by state.
    Bindings,
    /// Changes of a binding's state made by this daemon, by the new state.
    BindingTransitions,
}

/// What kind of metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Seconds, in buckets.
    Histogram,
}

impl Metric {
    /// All metrics; a test holds that every one has its name once.
    pub const ALL: &'static [Self] = &[
        Self::SourceMessages,
        Self::SourceRefused,
        Self::Attempts,
        Self::AttemptSeconds,
        Self::DeliverySeconds,
        Self::DeadLetters,
        Self::Parked,
        Self::QueueTrouble,
        Self::Events,
        Self::Repeats,
        Self::Quarantined,
        Self::SourceLost,
        Self::SourceConnected,
        Self::SourceDisconnects,
        Self::QueueCommits,
        Self::QueueCorrupt,
        Self::QuarantineEvicted,
    ];
    pub const ALL: &'static [Self] =
        &[Self::SourceMessages, Self::SourceRefused, Self::Bindings, Self::BindingTransitions];

    /// Name, kind and help.
    pub fn describe(self) -> (&'static str, Kind, &'static str) {
        match self {
            Self::SourceMessages => {
                ("triggerd_source_messages_total", Kind::Counter, "Messages that came in, by source.")
            }
            Self::SourceRefused => (
                "triggerd_source_refused_total",
                Kind::Counter,
                "Messages that a source refused or dropped, by source and reason.",
            ),
            Self::SourceLost => (
                "triggerd_source_lost_total",
                Kind::Counter,
                "Messages refused though their sender does not send them again, by source.",
            ),
            Self::SourceConnected => (
                "triggerd_source_connected",
                Kind::Gauge,
                "1 while a source is connected and subscribed, by source.",
            ),
            Self::SourceDisconnects => (
                "triggerd_source_disconnects_total",
                Kind::Counter,
                "Connections that a source lost or could not make, by source and reason.",
            ),
            Self::Attempts => (
                "triggerd_attempts_total",
                Kind::Counter,
                "Calls of functions, by platform and class of outcome.",
            ),
            Self::AttemptSeconds => (
                "triggerd_attempt_seconds",
                Kind::Histogram,
                "How long calls of functions took, by platform.",
            ),
            Self::DeliverySeconds => (
                "triggerd_delivery_seconds",
                Kind::Histogram,
                "From an event's arrival to its delivery, by platform.",
            ),
            Self::DeadLetters => {
                ("triggerd_dead_letters_total", Kind::Counter, "Deliveries given up, by platform and reason.")
            }
            Self::Parked => ("triggerd_parked_total", Kind::Counter, "Deliveries parked, by reason."),
            Self::QueueTrouble => {
                ("triggerd_queue_failures_total", Kind::Counter, "Queue operations that failed.")
            }
            Self::Events => (
                "triggerd_events_total",
                Kind::Counter,
                "Events that came in, by source and whether they matched a binding.",
            ),
            Self::Repeats => (
                "triggerd_event_repeats_total",
                Kind::Counter,
                "Repeated events, by source and whether the first copy was in flight or settled.",
            ),
            Self::Quarantined => (
                "triggerd_quarantined_total",
                Kind::Counter,
                "Notifications that can never be processed, by source.",
            ),
            Self::QueueCommits => {
                ("triggerd_queue_commits_total", Kind::Counter, "Transactions committed to the queue file.")
            }
            Self::QueueCorrupt => (
                "triggerd_queue_corrupt_rows_total",
                Kind::Counter,
                "Rows of the queue that could not be read and went to the quarantine.",
            ),
            Self::QuarantineEvicted => (
                "triggerd_quarantine_evicted_total",
                Kind::Counter,
                "Items dropped from the quarantine to make room for newer ones.",
            ),
            Self::Bindings => ("triggerd_bindings", Kind::Gauge, "Bindings, by state."),
            Self::BindingTransitions => (
                "triggerd_binding_transitions_total",
                Kind::Counter,
                "Changes of a binding's state made by this daemon, by the new state.",
            ),
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        self.describe().0
    }

    /// Tells the recorder what it is, so that its help is shown.
    pub fn register(self) {
        let (name, kind, help) = self.describe();
        match kind {
            Kind::Counter => metrics::describe_counter!(name, help),
            Kind::Gauge => metrics::describe_gauge!(name, help),
            Kind::Histogram => metrics::describe_histogram!(name, help),
        }
    }

    /// Counts one, with these labels.
    pub fn count(self, labels: &[(&'static str, String)]) {
        metrics::counter!(self.name(), labels).increment(1);
    }

    /// Sets a gauge, with these labels.
    pub fn set(self, value: f64, labels: &[(&'static str, String)]) {
        metrics::gauge!(self.name(), labels).set(value);
    }

    /// Notes seconds in a histogram, with these labels.
    pub fn observe(self, seconds: f64, labels: &[(&'static str, String)]) {
        metrics::histogram!(self.name(), labels).record(seconds);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut seen = HashSet::new();
        for metric in Metric::ALL {
            let (name, kind, help) = metric.describe();
            assert!(seen.insert(name), "{name} twice");
            assert!(name.starts_with("triggerd_") && help.ends_with('.'), "{name}");
            assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert_eq!(kind == Kind::Histogram, name.ends_with("_seconds"), "{name}");
        }
    }
}
