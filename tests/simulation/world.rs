//! Everything outside of the process, and what is remembered of a run: it survives the crashes.
//!
//! **Time** is tokio's paused time: it passes only when nothing can run. Each life of the process has a runtime of its
//! own, so the time of the lives before is added. The wall clock runs beside it and jumps as the plan says.
//!
//! **A crash** strikes at one of the *steps* that the simulated parts count: before and after everything that has an
//! effect outside of the process or waits for something there. From that moment nothing has any effect any more (each
//! part waits for ever), and the runtime is dropped with all its tasks.
//!
//! **The trace** is a hash over what happened, in order; the same seed gives the same hash. `SEED=n` prints it.

use std::{
    fmt::{self, Write},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use triggerd::domain::{
    clock::{Clock, Timestamp},
    ids::DeliveryId,
};

use crate::{
    bindings::Relating,
    books::Books,
    chance::Chance,
    disk::Disk,
    operator::Walk,
    results::Execution,
    scenario::{EPOCH, Scenario},
};

/// Seconds by which what is on disk may differ from the jumps that there were: it is written down a while after a change,
/// and steady time catches up.
const UNSEEN: u64 = 45;

/// The world of one seed.
pub(crate) struct World {
    pub(crate) plan: Scenario,
    verbose: bool,
    state: Mutex<State>,
    died: Notify,
    /// Every connection breaks.
    pub(crate) hiccup: Notify,
    /// A platform has accepted an asynchronous call.
    pub(crate) accepted: Notify,
}

/// What changes.
pub(crate) struct State {
    pub(crate) chance: Chance,
    pub(crate) disk: Disk,
    pub(crate) books: Books,
    pub(crate) relating: Relating,
    /// Everything is well from now on.
    pub(crate) calm: bool,
    pub(crate) life: u32,
    /// What an operator has not come to the end of.
    pub(crate) walk: Option<Walk>,
    /// Asynchronous calls that platforms have accepted.
    pub(crate) executions: Vec<Execution>,
    trace: Trace,
    time: Time,
    steps: u64,
    crash_at: Option<u64>,
    crashed: bool,
    crashes: u32,
}

struct Time {
    /// Of the lives before.
    before: Duration,
    /// This life's beginning; none between two lives.
    began: Option<Instant>,
    jumped: i64,
    /// What it had jumped by when a life began with nothing parked.
    steady_ahead: i64,
}

/// FNV-1a over everything that was noted.
struct Trace {
    hash: u64,
    lines: u64,
}

impl Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("seed", &self.plan.seed).finish_non_exhaustive()
    }
}

impl State {
    /// Since the beginning of the run, crashes included.
    pub(crate) fn elapsed(&self) -> Duration {
        self.time.elapsed()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.time.wall()
    }

    /// The time by which everything waits, as long as no jump went unseen.
    pub(crate) fn steady(&self) -> Timestamp {
        let now = EPOCH.plus(self.elapsed()).as_micros();
        Timestamp::from_micros(now + self.time.steady_ahead * 1_000_000)
    }

    pub(crate) fn life_began(&self) -> Duration {
        self.time.before
    }

    pub(crate) fn is_crashed(&self) -> bool {
        self.crashed
    }

    pub(crate) fn sick(&mut self, percent: u64) -> bool {
        !self.calm && self.chance.percent(percent)
    }
}

impl Time {
    fn elapsed(&self) -> Duration {
        self.before + self.began.map_or(Duration::ZERO, |began| instant() - began)
    }

    fn wall(&self) -> Timestamp {
        let now = EPOCH.plus(self.elapsed()).as_micros();
        Timestamp::from_micros(now.saturating_add(self.jumped * 1_000_000))
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where the simulation reads tokio's paused time")]
fn instant() -> Instant {
    Instant::now()
}

impl World {
    pub(crate) fn new(plan: Scenario, verbose: bool) -> Self {
        let state = State {
            chance: Chance::new(plan.seed ^ 0x5eed),
            disk: Disk::new(plan.disk.share, plan.disk.room),
            books: Books::new(&plan),
            relating: Relating::new(&plan),
            calm: false,
            life: 0,
            walk: None,
            executions: Vec::new(),
            trace: Trace { hash: 0xcbf2_9ce4_8422_2325, lines: 0 },
            time: Time { before: Duration::ZERO, began: None, jumped: 0, steady_ahead: 0 },
            steps: 0,
            crash_at: None,
            crashed: false,
            crashes: 0,
        };
        let [died, hiccup, accepted] = [(); 3].map(|()| Notify::new());
        Self { plan, verbose, state: Mutex::new(state), died, hiccup, accepted }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The same after a run that may have ended in a panic.
    pub(crate) fn state_after(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process begins; in its runtime. It may be one that dies.
    pub(crate) fn begin_life(&self) {
        let mut state = self.state();
        state.life += 1;
        state.time.began = Some(instant());
        let (most, steps) = self.plan.crashes;
        let dies = state.crashes < most && !state.calm;
        state.crash_at = dies.then(|| state.steps + 1 + state.chance.below(steps));
        let life = state.life;
        drop(state);
        self.note(format_args!("life {life} begins"));
        let state = &mut *self.state();
        state.books.begin_life(&state.disk);
        if state.disk.rows.is_empty() {
            state.time.steady_ahead = state.time.jumped;
        } else {
            let jumped = state.time.jumped - state.time.steady_ahead;
            state.books.unseen_jump |= jumped.abs_diff(state.disk.skew / 1_000_000) > UNSEEN;
        }
    }

    /// The process is gone; its successor is there a second later. Before its runtime is dropped.
    pub(crate) fn end_life(&self, how: &str) {
        self.note(format_args!("life ends {how}"));
        let mut state = self.state();
        state.time.before = state.time.elapsed() + Duration::from_secs(1);
        state.time.began = None;
        // Whatever the dropped tasks still do has no effect.
        state.crashed = true;
    }

    /// To be called before the next life, after the runtime was dropped.
    pub(crate) fn bury_life(&self) {
        self.state().crashed = false;
    }

    /// Counts one step; does not return when the process dies at it, or has died.
    pub(crate) async fn step(&self, at: &str) {
        if self.dies(at) {
            std::future::pending::<()>().await;
        }
    }

    fn dies(&self, at: &str) -> bool {
        let dies = {
            let mut state = self.state();
            state.steps += 1;
            if state.crashed {
                return true;
            }
            state.crash_at == Some(state.steps)
        };
        if dies {
            self.note(format_args!("CRASH at {at}"));
            let mut state = self.state();
            state.crashed = true;
            state.crashes += 1;
            self.died.notify_one();
        }
        dies
    }

    /// Ends when the process has died.
    pub(crate) async fn died(&self) {
        self.died.notified().await;
    }

    /// Becomes well.
    pub(crate) fn calm(&self) {
        self.note(format_args!("everything is well from now on"));
        let mut state = self.state();
        state.calm = true;
        // Whoever sees the alarm of a full queue makes room.
        state.disk.room = usize::MAX;
        state.crash_at = None;
    }

    pub(crate) fn jump(&self, seconds: i64) {
        self.note(format_args!("the wall clock jumps by {seconds} s"));
        let mut state = self.state();
        state.time.jumped += seconds;
    }

    /// Writes a line into the trace.
    pub(crate) fn note(&self, line: fmt::Arguments<'_>) {
        let mut state = self.state();
        if state.crashed {
            return;
        }
        let elapsed = state.elapsed();
        // Hashing cannot fail.
        let _hashed: fmt::Result = writeln!(state.trace, "{} {line}", elapsed.as_micros());
        state.trace.lines += 1;
        drop(state);
        if self.verbose {
            crate::say(format_args!("{:>10.3} s  {line}", elapsed.as_secs_f64()));
        }
    }

    /// Hash and length of the trace.
    pub(crate) fn trace(&self) -> (u64, u64) {
        let state = self.state_after();
        (state.trace.hash, state.trace.lines)
    }

    /// Notes something that must not be.
    pub(crate) fn violation(&self, what: fmt::Arguments<'_>) {
        self.note(format_args!("VIOLATION: {what}"));
        self.state().books.violations.push(what.to_string());
    }

    pub(crate) fn name(&self, id: DeliveryId) -> String {
        self.state().books.name(id)
    }
}

/// The process's clock.
#[derive(Debug)]
pub(crate) struct SimClock(pub(crate) std::sync::Arc<World>);

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.0.state().now()
    }

    fn monotonic(&self) -> Duration {
        let state = self.0.state();
        state.time.began.map_or(Duration::ZERO, |began| instant() - began)
    }
}
