//! A permit, from when it is given to when it comes back: what its attempt says of the function, and what a permit that
//! was not used gives back.

use std::{sync::Arc, time::Duration};

use tokio::sync::OwnedSemaphorePermit;

use super::{Lane, PACE_WINDOW};
use crate::{
    dispatch::breaker::{Signal, Turn},
    domain::outcome::{Class, Outcome},
    telemetry::excerpt,
};

/// Longest reason that is kept with a breaker, in bytes.
const REASON: usize = 200;

/// Leave to call the function once.
#[derive(Debug)]
pub struct LanePermit {
    pub(super) lane: Arc<Lane>,
    pub(super) place: Option<OwnedSemaphorePermit>,
    /// The breaker waits for its outcome.
    pub(super) probe: bool,
    /// It keeps a token of the rate aside.
    pub(super) token: bool,
}

impl LanePermit {
    /// The function is called now.
    pub fn begin(&mut self, now: Duration) {
        if std::mem::take(&mut self.token)
            && let Some(rate) = &mut self.lane.state().rate
        {
            rate.spend(now);
        }
    }

    /// Takes in what the attempt says of the function: its pace, and whether it needs less, or rest.
    pub fn end(
        &mut self,
        outcome: &Outcome,
        (began, now): (Duration, Duration),
        entropy: impl FnOnce() -> u64,
    ) -> Option<Turn> {
        let mut state = self.lane.state();
        let signal = Signal::of(outcome);
        if signal == Signal::Nothing {
            return None;
        }
        if state.pace.len() == PACE_WINDOW {
            state.pace.pop_front();
        }
        let took = now.saturating_sub(began).as_micros();
        state.pace.push_back(u64::try_from(took).unwrap_or(u64::MAX));
        let failed_before = state.last.map_or(0, |(_, failed, _)| failed);
        let failed = if matches!(outcome.class, Class::Ok | Class::Accepted) {
            state.concurrency.succeeded();
            0
        } else {
            failed_before.saturating_add(1)
        };
        state.last = Some((outcome.class, failed, now));
        let trouble = match signal {
            Signal::Overload => state.concurrency.overloaded(began, now) || self.probe,
            Signal::Trouble => true,
            Signal::Answer | Signal::Nothing => false,
        };
        let turn = if trouble {
            state.breaker.troubled(self.probe, (began, now), outcome.retry_after, entropy)
        } else if signal == Signal::Answer {
            state.breaker.answered()
        } else {
            None
        };
        if turn == Some(Turn::Closed) {
            state.blocked_until = None;
        }
        if let Some(Turn::Opened { first, .. }) = turn {
            let detail = format!("{}: {}", outcome.class.as_str(), outcome.detail);
            state.reason = excerpt(detail.trim_end_matches([' ', ':']).as_bytes(), REASON);
            if first {
                state.concurrency.restart(now);
            }
        }
        // The breaker has its answer; a permit that is given back now is no lost probe.
        self.probe = false;
        self.lane.adjust(&mut state);
        turn
    }
}

impl Drop for LanePermit {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        if self.probe {
            state.breaker.probe_lost();
        }
        if self.token
            && let Some(rate) = &mut state.rate
        {
            rate.give_back();
            // Who waits for the next token may have this one.
            state.blocked_until = None;
        }
        if let Some(place) = self.place.take() {
            self.lane.put_back(&mut state, place);
        }
    }
}
