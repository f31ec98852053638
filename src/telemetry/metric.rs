//! Every metric's name, kind and help, in one place.

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

macro_rules! metrics {
    ($($metric:ident: $kind:ident $name:literal, $help:literal;)*) => {
        /// A metric. Names follow Prometheus' conventions: base units, `_total` for counters.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Metric {
            $(#[doc = $help] $metric,)*
        }

        impl Metric {
            /// All metrics.
            pub const ALL: &'static [Self] = &[$(Self::$metric,)*];

            /// Name, kind and help.
            pub fn describe(self) -> (&'static str, Kind, &'static str) {
                match self {
                    $(Self::$metric => ($name, Kind::$kind, $help),)*
                }
            }
        }
    };
}

metrics! {
    SourceMessages: Counter "triggerd_source_messages_total", "Messages that came in, by source.";
    SourceRefused: Counter "triggerd_source_refused_total", "Messages that a source refused or dropped, by source and reason.";
    SourceLost: Counter "triggerd_source_lost_total", "Messages refused though their sender does not send them again, by source.";
    SourceConnected: Gauge "triggerd_source_connected", "1 while a source is connected and subscribed, by source.";
    SourceDisconnects: Counter "triggerd_source_disconnects_total", "Connections that a source lost or could not make, by source and reason.";
    Attempts: Counter "triggerd_attempts_total", "Calls of functions, by platform and class of outcome.";
    AttemptSeconds: Histogram "triggerd_attempt_seconds", "How long calls of functions took, by platform.";
    DeliverySeconds: Histogram "triggerd_delivery_seconds", "From an event's arrival to its delivery, by platform.";
    DeadLetters: Counter "triggerd_dead_letters_total", "Deliveries given up, by platform and reason.";
    LettersReplayed: Counter "triggerd_dead_letters_replayed_total", "Dead letters sent on their way again, by platform.";
    LettersDiscarded: Counter "triggerd_dead_letters_discarded_total", "Dead letters that somebody discarded, by platform.";
    LettersKept: Gauge "triggerd_dead_letters_kept", "Dead letters that are kept.";
    LettersExpiring: Gauge "triggerd_dead_letters_expiring", "Dead letters that will be dropped before long, by why: age (within a day) or count (the oldest, when nine tenths of the greatest number are reached).";
    LettersDropped: Counter "triggerd_dead_letters_dropped_total", "Dead letters dropped by the retention, by why: age or count.";
    HandlersGivenUp: Counter "triggerd_dead_letter_handler_failures_total", "Dead letters that a handler function could not be given, by platform and reason.";
    Results: Counter "triggerd_results_total", "Asynchronous calls whose result was awaited, by platform and result: succeeded, failed, none (in time), or late (after a dead letter); and reports that were not taken: refused, malformed, clocks_apart.";
    Parked: Counter "triggerd_parked_total", "Deliveries parked, by reason.";
    BreakerTrips: Counter "triggerd_breaker_trips_total", "Times that a function's circuit breaker opened (probes that failed not counted), by platform and class of outcome.";
    BreakersOpen: Gauge "triggerd_breakers_open", "Functions whose circuit breaker is not closed, by platform.";
    FunctionsShrunk: Gauge "triggerd_functions_shrunk", "Functions that are called less at once than their bindings allow, because they refused calls, by platform.";
    ParkedDeliveries: Gauge "triggerd_parked_deliveries", "Deliveries parked now, held ones and those that await their result included, by platform; looked at every 30 seconds.";
    ParkedOldest: Gauge "triggerd_parked_oldest_seconds", "Age of the delivery that is parked longest, by platform; looked at every 30 seconds.";
    QueueTrouble: Counter "triggerd_queue_failures_total", "Queue operations that failed.";
    QueueWritable: Gauge "triggerd_queue_writable", "1 while the last write to the queue file was done, 0 while it was not.";
    QueueBytes: Gauge "triggerd_queue_bytes", "Bytes of the queue file in use.";
    QueueMaxBytes: Gauge "triggerd_queue_max_bytes", "Bytes of the queue file that may be in use.";
    ClockSkew: Gauge "triggerd_clock_skew_seconds", "How far the wall clock is ahead of the time by which deliveries wait and age, after it jumped.";
    Events: Counter "triggerd_events_total", "Events that came in, by source and whether they matched a binding.";
    Repeats: Counter "triggerd_event_repeats_total", "Repeated events, by source and whether the first copy was in flight or settled.";
    LoopsSuspected: Counter "triggerd_loops_suspected_total", "Events that seem to be caused by the function which they fire, by platform.";
    Quarantined: Counter "triggerd_quarantined_total", "Notifications that can never be processed, by source.";
    QueueCommits: Counter "triggerd_queue_commits_total", "Transactions committed to the queue file.";
    QueueCorrupt: Counter "triggerd_queue_corrupt_rows_total", "Rows of the queue that could not be read and went to the quarantine.";
    QuarantineEvicted: Counter "triggerd_quarantine_evicted_total", "Items dropped from the quarantine to make room for newer ones.";
    QuarantineLeft: Counter "triggerd_quarantine_left_total", "Items that left the quarantine by the operator's hand, by how: taken (understood when tried again) or discarded.";
    Bindings: Gauge "triggerd_bindings", "Bindings, by state.";
    ReconcilerPasses: Counter "triggerd_reconciler_passes_total", "Passes of the reconciler over the bindings.";
    BindingTransitions: Counter "triggerd_binding_transitions_total", "Changes of a binding's state made by this daemon, by the new state.";
}

impl Metric {
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

    /// Shows a counter at 0, with these labels: Prometheus sees no growth from nothing to 1.
    pub fn begin(self, labels: &[(&'static str, String)]) {
        metrics::counter!(self.name(), labels).increment(0);
    }

    /// Counts one, with these labels.
    pub fn count(self, labels: &[(&'static str, String)]) {
        metrics::counter!(self.name(), labels).increment(1);
    }

    /// Counts so many, with these labels.
    pub fn add(self, count: u64, labels: &[(&'static str, String)]) {
        metrics::counter!(self.name(), labels).increment(count);
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
            assert!(kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(kind != Kind::Counter || !name.ends_with("_seconds"), "{name}");
        }
    }
}
