//! Every metric's name, kind and help, in one place.

/// A metric. Names follow Prometheus' conventions: base units, `_total` for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Messages that came in, by source.
    SourceMessages,
    /// Messages that were refused or dropped at a bound, by source.
    SourceRefused,
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
                "Messages refused or dropped at a source's bound, by source.",
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
