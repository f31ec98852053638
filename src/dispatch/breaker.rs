//! The circuit breaker of one function: pure, with time and randomness as arguments.
//!
//! A function that cannot be reached, or never answers in time, is not called again and again: its breaker opens, its
//! new events are parked at once, and only a probe now and then asks whether it is back. Whoever waits keeps its
//! attempts and its order, and no connection, permit or log line is spent on what is known to fail.
//!
//! **States.** *Closed*: calls go as they come. *Open*, until a moment: none goes. *Half open*, from that moment on: one
//! probe at a time goes, a delivery like any other. Its outcome closes the breaker, or opens it for longer.
//!
//! **What opens it:** [`FAILURES`] troubles in a row, without one answer in between, the first of them begun at least
//! [`RUN`] ago. Both matter: many calls that run at once fail at once when one packet is lost, and one failure in two (a
//! gateway with a dead backend) makes short runs all the time, and must not cost the other half.
//!
//! **What is trouble**, and what an answer, [`Signal::of`] says. An answer that the function failed is an answer: it is
//! there, and runs. Overload makes the concurrency shrink first (`concurrency`), and is trouble only when one call at a
//! time is still too much.
//!
//! **How long it stays open:** at most [`FIRST`], doubled each time a probe fails, never more than [`LONGEST`]; at least
//! half of that, by chance, so that the functions of one platform do not ask together when it comes back. `Retry-After`
//! makes it longer, up to [`ASKED`]. The longest is short on purpose: a probe costs one call, and a function that is back
//! should have its events within seconds.
//!
//! **Time** is the process's own (monotonic): a jump of the wall clock neither opens nor closes anything. Only what is
//! kept over a restart is a moment of the wall clock; what is left of it is bounded by [`ASKED`] when it is read.

use std::time::Duration;

use crate::domain::outcome::{Class, Outcome};

/// Troubles in a row that open it.
pub const FAILURES: u32 = 5;

/// The least age of such a run.
pub const RUN: Duration = Duration::from_millis(200);

/// The bound of the first time that it is open.
pub const FIRST: Duration = Duration::from_millis(500);

/// The bound of any time that it is open of its own accord.
pub const LONGEST: Duration = Duration::from_secs(4);

/// The longest that it is open because it was asked to wait; so the longest of all.
pub const ASKED: Duration = Duration::from_mins(1);

/// What an attempt says of the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It answered, whatever it answered.
    Answer,
    /// It has more to do than it can.
    Overload,
    /// It, or the way to it, is not there; or it did not answer in time.
    Trouble,
    /// Nothing: we ended the attempt ourselves.
    Nothing,
}

impl Signal {
    /// The rule: throttled, and the platform's 503, are overload. Other platform faults are trouble, and so is a
    /// function that did not end in time (its fault, with no status or with 504). Everything else is an answer.
    pub fn of(outcome: &Outcome) -> Self {
        match (outcome.class, outcome.status) {
            (Class::Interrupted, _) => Self::Nothing,
            (Class::Throttled, _) | (Class::PlatformFault, Some(503)) => Self::Overload,
            (Class::PlatformFault, _) | (Class::FunctionFault, None | Some(504)) => Self::Trouble,
            _ => Self::Answer,
        }
    }
}

/// Whether a call may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Free,
    /// It may, as the probe; its outcome, or that there was none, has to be told.
    Probe,
    /// Not before then.
    Until(Duration),
    /// Not before the probe that is on its way has ended.
    Probing,
}

/// A change of the state that is worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It opened, for this long.
    Opened {
        /// How long.
        wait: Duration,
        /// Whether it was closed before; if not, a probe failed.
        first: bool,
    },
    /// It closed.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed { failures: u32, since: Duration },
    Open { until: Duration },
    HalfOpen { probing: bool },
}

/// One function's breaker.
#[derive(Debug, Clone)]
pub struct Breaker {
    phase: Phase,
    /// How often it opened since it was closed.
    opened: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { phase: Phase::Closed { failures: 0, since: Duration::ZERO }, opened: 0 }
    }
}

impl Breaker {
    /// One that was open before a restart, and would have been for this long yet.
    pub fn restored(left: Duration, opened: u32, now: Duration) -> Self {
        Self { phase: Phase::Open { until: now + left.min(ASKED) }, opened: opened.max(1) }
    }

    /// Whether calls go as they come.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed { .. })
    }

    /// Until when no call goes; none when it is closed, now at the latest when it is half open.
    pub fn open_until(&self, now: Duration) -> Option<Duration> {
        match self.phase {
            Phase::Closed { .. } => None,
            Phase::Open { until } => Some(until),
            Phase::HalfOpen { .. } => Some(now),
        }
    }

    /// The word for its state.
    pub fn state(&self, now: Duration) -> &'static str {
        match self.phase {
            Phase::Closed { .. } => "closed",
            Phase::Open { until } if now < until => "open",
            Phase::Open { .. } | Phase::HalfOpen { .. } => "half_open",
        }
    }

    /// How often it opened since it was closed.
    pub fn opened(&self) -> u32 {
        self.opened
    }

    /// Whether a call may go now. A probe is given out once.
    pub fn admit(&mut self, now: Duration) -> Admission {
        match self.phase {
            Phase::Closed { .. } => Admission::Free,
            Phase::Open { until } if now < until => Admission::Until(until),
            Phase::HalfOpen { probing: true } => Admission::Probing,
            Phase::Open { .. } | Phase::HalfOpen { probing: false } => {
                self.phase = Phase::HalfOpen { probing: true };
                Admission::Probe
            }
        }
    }

    /// The probe ended without an outcome (its delivery had to be held, for example): the next may go.
    pub fn probe_lost(&mut self) {
        if let Phase::HalfOpen { probing } = &mut self.phase {
            *probing = false;
        }
    }

    /// An answer came, to the probe or to a call that had begun before: the function is there.
    pub fn answered(&mut self) -> Option<Turn> {
        let was_closed = self.is_closed();
        *self = Self::default();
        (!was_closed).then_some(Turn::Closed)
    }

    /// A call that began then met trouble. What was not the probe says nothing new to a breaker that is not closed.
    ///
    /// `asked` is what `Retry-After` said; `entropy` is asked for only when it opens.
    pub fn troubled(
        &mut self,
        probe: bool,
        (began, now): (Duration, Duration),
        asked: Option<Duration>,
        entropy: impl FnOnce() -> u64,
    ) -> Option<Turn> {
        let first = match &mut self.phase {
            Phase::Closed { failures, since } => {
                *since = if *failures == 0 { began } else { began.min(*since) };
                *failures += 1;
                if *failures < FAILURES || now.saturating_sub(*since) < RUN {
                    return None;
                }
                true
            }
            Phase::HalfOpen { .. } if probe => false,
            Phase::HalfOpen { .. } | Phase::Open { .. } => return None,
        };
        let bound = (FIRST * (1 << self.opened.min(16))).min(LONGEST);
        self.opened = self.opened.saturating_add(1);
        let half = bound / 2;
        let span = u128::from(u64::try_from(half.as_nanos()).unwrap_or(u64::MAX));
        let jitter = u64::try_from((u128::from(entropy()) * span) >> 64).unwrap_or(0);
        let wait = (half + Duration::from_nanos(jitter)).max(asked.unwrap_or_default().min(ASKED));
        self.phase = Phase::Open { until: now + wait };
        Some(Turn::Opened { wait, first })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// One trouble after the other, each begun when the one before ended, until it opens; when, and for how long.
    fn fail(breaker: &mut Breaker, mut now: Duration, each: Duration) -> (Duration, Duration) {
        for _ in 0..1_000 {
            let began = now;
            now += each;
            if let Some(Turn::Opened { wait, .. }) = breaker.troubled(false, (began, now), None, || 0) {
                return (now, wait);
            }
        }
        panic!("it never opened");
    }

    #[test]
    fn it_opens_for_a_run_of_troubles_and_not_for_one_bad_moment() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            assert_eq!(
                breaker.troubled(false, (ms(0), ms(1)), None, || 0),
                None,
                "all at once is one moment"
            );
        }
        assert_eq!(breaker.admit(ms(1)), Admission::Free);
        assert!(breaker.troubled(false, (ms(0), RUN), None, || 0).is_some(), "it lasted");

        let mut breaker = Breaker::default();
        for at in 0..1_000 {
            breaker.troubled(false, (ms(at), ms(at)), None, || 0);
            if at % 5 == 0 {
                assert_eq!(breaker.answered(), None);
            }
        }
        assert!(breaker.is_closed(), "one answer in five is an answer");
    }

    #[test]
    fn hanging_calls_open_it_with_the_first_that_time_out_together() {
        let mut breaker = Breaker::default();
        let turns: Vec<_> =
            (0..5).map(|_| breaker.troubled(false, (ms(0), ms(30_000)), None, || 0)).collect();
        assert!(turns[..4].iter().all(Option::is_none) && turns[4].is_some());
    }

    #[test]
    fn one_probe_at_a_time_closes_it_or_opens_it_for_longer_up_to_a_bound() {
        let mut breaker = Breaker::default();
        let (mut now, mut wait) = fail(&mut breaker, ms(0), ms(50));
        let mut waits = vec![wait];
        for _ in 0..6 {
            assert_eq!(breaker.admit(now), Admission::Until(now + wait));
            now += wait;
            assert_eq!((breaker.admit(now), breaker.admit(now)), (Admission::Probe, Admission::Probing));
            assert_eq!(breaker.troubled(false, (now, now), None, || 0), None, "a straggler is no probe");
            let Some(Turn::Opened { wait: next, first: false }) =
                breaker.troubled(true, (now, now), None, || 0)
            else {
                panic!("a failed probe opens it again")
            };
            wait = next;
            waits.push(wait);
        }
        // No entropy: half of each bound.
        assert_eq!(waits, [250, 500, 1_000, 2_000, 2_000, 2_000, 2_000].map(ms));
        now += wait;
        assert_eq!(breaker.admit(now), Admission::Probe);
        assert_eq!(breaker.answered(), Some(Turn::Closed));
        assert_eq!((breaker.admit(now), breaker.state(now)), (Admission::Free, "closed"));
        assert_eq!(fail(&mut breaker, now, ms(50)).1, ms(250), "the next outage begins anew");
    }

    #[test]
    fn a_probe_that_comes_to_nothing_gives_its_turn_to_the_next() {
        let mut breaker = Breaker::restored(ms(0), 1, ms(0));
        assert_eq!(breaker.admit(ms(0)), Admission::Probe);
        breaker.probe_lost();
        assert_eq!(breaker.admit(ms(0)), Admission::Probe);
    }

    #[test]
    fn what_it_is_asked_to_wait_is_honoured_within_bounds() {
        let wait = |asked| {
            let mut breaker = Breaker::restored(ms(0), 1, ms(0));
            breaker.admit(ms(0));
            match breaker.troubled(true, (ms(0), ms(0)), Some(asked), || u64::MAX) {
                Some(Turn::Opened { wait, .. }) => wait,
                turn => panic!("{turn:?}"),
            }
        };
        assert_eq!(wait(Duration::from_secs(20)), Duration::from_secs(20));
        assert_eq!(wait(Duration::MAX), ASKED);
        assert!(wait(ms(1)) >= FIRST);
    }

    #[test]
    fn a_clock_that_jumped_does_not_hold_a_restored_one_open() {
        let mut breaker = Breaker::restored(Duration::from_hours(24), 3, ms(7));
        assert_eq!(breaker.admit(ms(7)), Admission::Until(ms(7) + ASKED));
        assert_eq!(breaker.admit(ms(7) + ASKED), Admission::Probe);
    }

    #[test]
    fn signals_tell_who_is_there_from_who_is_not() {
        let signal = |class, status| Signal::of(&Outcome::new(class, status, ""));
        for class in [Class::Ok, Class::Accepted, Class::Permanent, Class::BindingBroken] {
            assert_eq!(signal(class, Some(200)), Signal::Answer);
        }
        assert_eq!(signal(Class::FunctionFault, Some(500)), Signal::Answer);
        assert_eq!(signal(Class::FunctionFault, Some(504)), Signal::Trouble);
        assert_eq!(signal(Class::FunctionFault, None), Signal::Trouble);
        assert_eq!(signal(Class::PlatformFault, None), Signal::Trouble);
        assert_eq!(signal(Class::PlatformFault, Some(502)), Signal::Trouble);
        assert_eq!(signal(Class::PlatformFault, Some(503)), Signal::Overload);
        assert_eq!(signal(Class::Throttled, Some(429)), Signal::Overload);
        assert_eq!(signal(Class::Interrupted, None), Signal::Nothing);
    }

    proptest! {
        /// Whatever happens, a call goes again within the longest time, and no two probes are out together.
        #[test]
        fn it_never_stays_open_for_ever(steps in proptest::collection::vec((0u8..5, 0u64..90_000, any::<u64>()), 1..300)) {
            let mut breaker = Breaker::default();
            let mut now = Duration::ZERO;
            let mut probing = false;
            for (step, pass, entropy) in steps {
                match step {
                    0 => now += ms(pass),
                    1 => match breaker.admit(now) {
                        Admission::Probe => {
                            prop_assert!(!probing);
                            probing = true;
                        }
                        Admission::Until(until) => prop_assert!(until > now && until <= now + ASKED),
                        Admission::Probing => prop_assert!(probing),
                        Admission::Free => prop_assert!(breaker.is_closed()),
                    },
                    2 => {
                        breaker.troubled(probing, (now.saturating_sub(ms(pass)), now), Some(ms(pass)), || entropy);
                        probing = false;
                    }
                    3 => {
                        breaker.answered();
                        probing = false;
                    }
                    _ => {
                        breaker.probe_lost();
                        probing = false;
                    }
                }
            }
            breaker.probe_lost();
            prop_assert!(matches!(breaker.admit(now + ASKED), Admission::Free | Admission::Probe));
        }
    }
}
