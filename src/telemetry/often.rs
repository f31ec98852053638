//! Metrics on the path of every event.
//!
//! The recorder finds a series by name and labels, all of them owned: some allocations and a lock each time. What is
//! counted for every event keeps the handles that it was given, for each thread its own. They are few (label values
//! come from closed sets), and no more than [`KEPT`] are kept; beyond that each is looked up as any other.
//!
//! A handle belongs to the recorder that was there when it was first asked for, so the recorder is installed before
//! anything is counted.

use std::cell::RefCell;

use metrics::{Counter, Histogram};

use super::Metric;

/// Most handles of a thread.
const KEPT: usize = 256;

struct Kept<H> {
    metric: Metric,
    labels: Vec<(&'static str, Box<str>)>,
    handle: H,
}

thread_local! {
    static COUNTERS: RefCell<Vec<Kept<Counter>>> = const { RefCell::new(Vec::new()) };
    static HISTOGRAMS: RefCell<Vec<Kept<Histogram>>> = const { RefCell::new(Vec::new()) };
}

impl Metric {
    /// Counts one, with these labels; for what happens to every event.
    pub fn count_often<const N: usize>(self, labels: [(&'static str, &str); N]) {
        let get = |labels: &[(&'static str, String)]| metrics::counter!(self.name(), labels);
        COUNTERS.with_borrow_mut(|kept| with(kept, self, labels, get, |counter| counter.increment(1)));
    }

    /// Notes seconds in a histogram, with these labels; for what happens to every event.
    pub fn observe_often<const N: usize>(self, seconds: f64, labels: [(&'static str, &str); N]) {
        let get = |labels: &[(&'static str, String)]| metrics::histogram!(self.name(), labels);
        HISTOGRAMS
            .with_borrow_mut(|kept| with(kept, self, labels, get, |histogram| histogram.record(seconds)));
    }
}

/// Uses the handle of this series, the kept one if there is one.
fn with<H, const N: usize>(
    kept: &mut Vec<Kept<H>>,
    metric: Metric,
    labels: [(&'static str, &str); N],
    get: impl FnOnce(&[(&'static str, String)]) -> H,
    then: impl FnOnce(&H),
) {
    let same = |one: &&Kept<H>| {
        one.metric == metric
            && one.labels.len() == N
            && one.labels.iter().zip(labels).all(|(one, (name, value))| one.0 == name && *one.1 == *value)
    };
    if let Some(one) = kept.iter().find(same) {
        return then(&one.handle);
    }
    let handle = get(&labels.map(|(name, value)| (name, value.to_owned())));
    then(&handle);
    if kept.len() < KEPT {
        let labels = labels.iter().map(|(name, value)| (*name, Box::from(*value))).collect();
        kept.push(Kept { metric, labels, handle });
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// What is shown after `count` ran on a thread that has kept nothing yet; and the counters that it keeps then.
    fn shown_after(count: impl FnOnce() + Send) -> (String, usize) {
        let recorder = PrometheusBuilder::new().build_recorder();
        let counted = || {
            metrics::with_local_recorder(&recorder, count);
            COUNTERS.with_borrow(Vec::len)
        };
        let kept = thread::scope(|threads| threads.spawn(counted).join().unwrap());
        (recorder.handle().render(), kept)
    }

    #[test]
    fn a_kept_handle_counts_into_the_same_series_as_one_looked_up() {
        let (shown, kept) = shown_after(|| {
            for _ in 0..3 {
                Metric::Events.count_often([("source", "web"), ("matched", "yes")]);
            }
            Metric::Events.count_often([("source", "web"), ("matched", "no")]);
            Metric::Events.count(&[("source", "web".to_owned()), ("matched", "yes".to_owned())]);
            Metric::AttemptSeconds.observe_often(0.5, [("platform", "local")]);
            Metric::AttemptSeconds.observe_often(0.25, [("platform", "local")]);
        });
        for line in [
            r#"triggerd_events_total{source="web",matched="yes"} 4"#,
            r#"triggerd_events_total{source="web",matched="no"} 1"#,
            r#"triggerd_attempt_seconds_sum{platform="local"} 0.75"#,
        ] {
            assert!(shown.contains(line), "{line} is not in\n{shown}");
        }
        assert_eq!(kept, 2);
    }

    #[test]
    fn the_handles_kept_are_bounded() {
        let (shown, kept) = shown_after(|| {
            for source in 0..=KEPT {
                Metric::Quarantined.count_often([("source", &*source.to_string())]);
                Metric::Quarantined.count_often([("source", &*source.to_string())]);
            }
        });
        assert_eq!(kept, KEPT);
        assert!(shown.contains(&format!("triggerd_quarantined_total{{source=\"{KEPT}\"}} 2")));
    }
}
