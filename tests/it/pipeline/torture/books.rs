//! The books: what was offered, what each function was called for, what is still owed.
//!
//! *Offered* is an event that somebody said yes to: MinIO answered 200 to its upload, or the broker acknowledged its
//! notification. From then on each function that it fires is owed a call that it *answers* (or a dead letter), whatever
//! breaks. A call may come before the yes; an upload that failed is not offered, and a call for it is no fault.
//!
//! *Answered* is a call whose function has written its answer whole. A function whose platform is killed under it cannot
//! write (nobody reads), and is owed another call. What was answered to a platform that dies before it hands the answer on
//! may be called again: that is a duplicate, and counted.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The functions under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Function {
    /// Its platform is never touched.
    Steady,
    /// Its platform suffers.
    Weak,
    /// It fails every time: each of its events must become a dead letter.
    Broken,
}

impl Function {
    pub(super) const ALL: [Self; 3] = [Self::Steady, Self::Weak, Self::Broken];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Weak => "weak",
            Self::Broken => "broken",
        }
    }

    /// Whether an event of this key fires it, where it is bound.
    fn is_fired_by(self, key: &str) -> bool {
        self != Self::Broken || key.starts_with(FATAL)
    }
}

/// Keys that begin so fire the function that fails.
pub(super) const FATAL: &str = "dead/";

/// When an event was sent, and when somebody said yes to it.
#[derive(Debug, Clone, Copy)]
struct Offer {
    sent: Instant,
    at: Instant,
}

/// Sums since the beginning.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    /// Events.
    pub(super) offered: usize,
    /// Deliveries that the function answered at least once.
    pub(super) delivered: usize,
    /// Dead letters.
    pub(super) dead: usize,
    /// Calls beyond the first of a delivery, of functions that never fail.
    pub(super) duplicates: usize,
}

/// How long some events took.
#[derive(Debug, Default)]
pub(super) struct Spans {
    /// From sending to the yes.
    pub(super) answer: Latencies,
    /// From the yes to the function; none where the function was called before.
    pub(super) since_yes: Latencies,
    /// From sending to the function.
    pub(super) since_sent: Latencies,
}

/// Times, ascending.
#[derive(Debug, Default)]
pub(super) struct Latencies(Vec<Duration>);

impl Latencies {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that this share of them did not exceed, in milliseconds, or a dash where there are none.
    pub(super) fn millis(&self, share: f64) -> String {
        self.quantile(share).map_or("-".into(), |time| format!("{:.1}", time.as_secs_f64() * 1_000.0))
    }

    fn quantile(&self, share: f64) -> Option<Duration> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let at = (self.0.len().checked_sub(1)? as f64 * share).round() as usize;
        self.0.get(at).copied()
    }
}

#[derive(Debug, Default)]
struct Calls {
    /// First call for a key.
    first: HashMap<String, Instant>,
    /// Calls of a delivery.
    of_delivery: HashMap<String, u32>,
    /// Keys of which a call was answered.
    answered: HashSet<String>,
    /// Deliveries of which a call was answered.
    delivered: HashSet<String>,
    repeated: usize,
}

#[derive(Debug, Default)]
struct State {
    offered: BTreeMap<String, Offer>,
    calls: HashMap<Function, Calls>,
    letters: HashSet<(Function, String)>,
    owed: HashSet<(Function, String)>,
}

impl State {
    fn is_paid(&self, function: Function, key: &str) -> bool {
        let answered = || self.calls.get(&function).is_some_and(|calls| calls.answered.contains(key));
        let letter = || self.letters.contains(&(function, key.to_owned()));
        if function == Function::Broken { letter() } else { answered() || letter() }
    }
}

/// The books of one run.
#[derive(Debug)]
pub(super) struct Books {
    functions: &'static [Function],
    state: Mutex<State>,
}

impl Books {
    /// Books of these functions.
    pub(super) fn of(functions: &'static [Function]) -> Self {
        Self { functions, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody has just said yes to an event that was sent then.
    pub(super) fn offered(&self, key: &str, sent: Instant) {
        let mut state = self.lock();
        state.offered.insert(key.to_owned(), Offer { sent, at: Instant::now() });
        for function in self.functions {
            if function.is_fired_by(key) && !state.is_paid(*function, key) {
                state.owed.insert((*function, key.to_owned()));
            }
        }
    }

    /// A function is called: it has begun.
    pub(super) fn called(&self, function: Function, key: &str, delivery: &str) {
        let (mut state, now) = (self.lock(), Instant::now());
        let calls = state.calls.entry(function).or_default();
        calls.first.entry(key.to_owned()).or_insert(now);
        let count = calls.of_delivery.entry(delivery.to_owned()).or_insert(0);
        *count += 1;
        if *count > 1 && function != Function::Broken {
            calls.repeated += 1;
        }
    }

    /// A function has answered a call.
    pub(super) fn answered(&self, function: Function, key: &str, delivery: &str) {
        let mut state = self.lock();
        let calls = state.calls.entry(function).or_default();
        calls.answered.insert(key.to_owned());
        calls.delivered.insert(delivery.to_owned());
        if function != Function::Broken {
            state.owed.remove(&(function, key.to_owned()));
        }
    }

    /// A dead letter is there; whether it is news.
    pub(super) fn died(&self, function: Function, key: &str) -> bool {
        let mut state = self.lock();
        let entry = (function, key.to_owned());
        state.owed.remove(&entry);
        state.letters.insert(entry)
    }

    /// Whether this function is among them.
    pub(super) fn has(&self, function: Function) -> bool {
        self.functions.contains(&function)
    }

    /// What is owed.
    pub(super) fn owed(&self) -> Vec<(Function, String)> {
        self.lock().owed.iter().cloned().collect()
    }

    /// How much is owed.
    pub(super) fn owes(&self) -> usize {
        self.lock().owed.len()
    }

    /// Gives up what is owed: it is lost.
    pub(super) fn write_off(&self, lost: &[(Function, String)]) {
        let mut state = self.lock();
        for one in lost {
            state.owed.remove(one);
        }
    }

    /// The sums by now.
    pub(super) fn totals(&self) -> Totals {
        let state = self.lock();
        Totals {
            offered: state.offered.len(),
            delivered: state
                .calls
                .iter()
                .filter(|(function, _)| **function != Function::Broken)
                .map(|(_, calls)| calls.delivered.len())
                .sum(),
            dead: state.letters.len(),
            duplicates: state.calls.values().map(|calls| calls.repeated).sum(),
        }
    }

    /// How long the events with this prefix that were offered from `from` to `until` took to this function.
    pub(super) fn spans(&self, function: Function, prefix: &str, (from, until): (Instant, Instant)) -> Spans {
        let (state, mut spans) = (self.lock(), Spans::default());
        let Some(calls) = state.calls.get(&function) else { return spans };
        for (key, offer) in &state.offered {
            if key.starts_with(prefix)
                && offer.at >= from
                && offer.at <= until
                && let Some(called) = calls.first.get(key)
            {
                spans.answer.0.push(offer.at.saturating_duration_since(offer.sent));
                spans.since_yes.0.push(called.saturating_duration_since(offer.at));
                spans.since_sent.0.push(called.saturating_duration_since(offer.sent));
            }
        }
        for latencies in [&mut spans.answer, &mut spans.since_yes, &mut spans.since_sent] {
            latencies.0.sort_unstable();
        }
        spans
    }

    /// How many events were offered within the last `window`, and for how many this function was called first in it.
    pub(super) fn pace(&self, function: Function, window: Duration) -> (usize, usize) {
        let (state, now) = (self.lock(), Instant::now());
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) <= window;
        let offered = state.offered.values().filter(|offer| is_recent(&offer.at)).count();
        let called = state
            .calls
            .get(&function)
            .map_or(0, |calls| calls.first.values().filter(|at| is_recent(at)).count());
        (offered, called)
    }

    /// How long after `lifted` this function was called again for keys with this prefix at `rate` a second, counted over
    /// `window`: nothing while it was not.
    pub(super) fn back_after(
        &self,
        function: Function,
        (prefix, rate): (&str, f64),
        window: Duration,
        lifted: Instant,
    ) -> Option<Duration> {
        let state = self.lock();
        let begin = lifted.checked_sub(window)?;
        let mut times: Vec<Instant> = state
            .calls
            .get(&function)?
            .first
            .iter()
            .filter(|(key, at)| **at >= begin && key.starts_with(prefix))
            .map(|(_, at)| *at)
            .collect();
        times.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        let need = (rate * window.as_secs_f64()).floor().max(1.0) as usize;
        let before = times.partition_point(|at| *at <= lifted);
        if before >= need {
            return Some(Duration::ZERO);
        }
        (before..times.len())
            .find(|end| *end + 1 >= need && times[*end] - times[*end + 1 - need] <= window)
            .map(|end| times[end].saturating_duration_since(lifted))
    }
}
