//! What a lane tells of itself: how much waits for its function, runs and dies, and what its last calls came to.

use std::{sync::Arc, time::Duration};

use super::{Lane, LaneState};
use crate::{
    dispatch::rate::Rate,
    domain::{clock::Timestamp, delivery::FunctionRef, outcome::Class},
};

/// What a function's last calls came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastCalls {
    /// What the last one came to.
    pub class: Class,
    /// How many failed in a row up to it; 0 when it went well.
    pub failed: u32,
    /// When it ended.
    pub ended: Timestamp,
}

/// What became of deliveries, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// One was parked.
    Parked,
    /// A parked one is parked no longer: delivered, or given up.
    Settled,
    /// One became a dead letter, parked before or not.
    Died,
}

/// What is known of a function's flow.
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    /// Which function.
    pub function: FunctionRef,
    /// Deliveries whose attempt runs now.
    pub running: u32,
    /// How many calls may run at once now.
    pub concurrency: u32,
    /// How many its bindings allow.
    pub concurrency_limit: u32,
    /// How many calls its bindings allow in a second.
    pub rate_limit: Option<f64>,
    /// Deliveries parked in a second, over the last minute.
    pub parked_per_s: f64,
    /// Parked deliveries settled in a second, over the last minute: delivered, or given up.
    pub drained_per_s: f64,
    /// Deliveries that became dead letters in a second, over the last minute.
    pub died_per_s: f64,
    /// What its last calls came to; none when it was not called since the daemon started.
    pub last: Option<LastCalls>,
    /// `closed`, `open` or `half_open`.
    pub breaker: &'static str,
    /// Until when it is open.
    pub open_until: Option<Timestamp>,
    /// Why it opened; empty when it is closed.
    pub reason: String,
}
/// What came of the last one, how many failed in a row up to it, and when it ended.
pub(super) type Last = (Class, u32, Duration);

impl LaneState {
    /// Of a call that was accepted, what its function came to says more, where that is known.
    fn last_known(&self) -> Option<Last> {
        let accepted = self.last.is_none_or(|(class, ..)| class == Class::Accepted);
        self.reported.filter(|_| accepted).or(self.last)
    }
}
impl Lane {
    /// Counts one more.
    pub fn count(&self, what: Count, now: Duration) {
        let mut state = self.state();
        match what {
            Count::Parked => state.parked.add(now),
            Count::Settled => state.settled.add(now),
            Count::Died => state.died.add(now),
        }
    }

    /// A result that was awaited came, or did not come in time.
    pub fn reported(&self, class: Class, now: Duration) {
        let mut state = self.state();
        let before = state.reported.map_or(0, |(_, failed, _)| failed);
        state.reported = Some((class, if class == Class::Ok { 0 } else { before.saturating_add(1) }, now));
    }

    /// When it was called last, or a result of it came; none when it was not since the daemon started.
    pub fn called_at(&self) -> Option<Duration> {
        let state = self.state();
        [state.last, state.reported].into_iter().flatten().map(|(_, _, at)| at).max()
    }

    /// A lane in the place of an idle one whose function no binding calls: it can only tell how that flowed, and what was
    /// learned or allowed is to be learned and asked for anew. None when it is such a lane already.
    pub fn begun_anew(&self) -> Option<Arc<Self>> {
        let old = self.state();
        if old.fresh && old.pace.is_empty() {
            return None;
        }
        let lane = Self::new(self.function.clone(), 1, Arc::clone(&self.agenda));
        let mut new = lane.state();
        (new.last, new.reported) = (old.last, old.reported);
        (new.parked, new.settled, new.died) = (old.parked.clone(), old.settled.clone(), old.died.clone());
        drop(new);
        Some(lane)
    }

    /// How it flows.
    pub fn flow(&self, now: Timestamp, monotonic: Duration) -> Flow {
        let mut state = self.state();
        let open_until = state.breaker.open_until(monotonic);
        Flow {
            function: self.function.clone(),
            running: u32::try_from(state.running.len()).unwrap_or(u32::MAX),
            concurrency: state.concurrency.now(),
            concurrency_limit: state.concurrency.limit(),
            rate_limit: state.rate.as_ref().map(Rate::per_second),
            parked_per_s: state.parked.per_second(monotonic),
            drained_per_s: state.settled.per_second(monotonic),
            died_per_s: state.died.per_second(monotonic),
            last: state.last_known().map(|(class, failed, at)| {
                let ago = i64::try_from(monotonic.saturating_sub(at).as_micros()).unwrap_or(i64::MAX);
                let ended = Timestamp::from_micros(now.as_micros().saturating_sub(ago));
                LastCalls { class, failed, ended }
            }),
            breaker: state.breaker.state(monotonic),
            open_until: open_until.map(|until| now.plus(until.saturating_sub(monotonic))),
            reason: if open_until.is_some() { state.reason.clone() } else { String::new() },
        }
    }
}
