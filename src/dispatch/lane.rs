//! One function's way out: its permits, and what is known of its pace.
//!
//! A lane belongs to a function, not to a binding: however many bindings call it, it gets at most its limit of calls at
//! once. The limit may change while permits are out; one that is lowered takes effect as they come back.
//!
//! **New events park at once** while the lane has deliveries parked that are due (order and fairness), or while its
//! recent median is longer than the source would wait (no pointless waiting).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::domain::{clock::Timestamp, delivery::FunctionRef};

/// Attempts whose length the median is taken of.
const PACE_WINDOW: usize = 15;

/// One function's permits and pace.
#[derive(Debug)]
pub struct Lane {
    /// Which function.
    pub function: FunctionRef,
    permits: Arc<Semaphore>,
    state: Mutex<LaneState>,
    /// Wakes the pump when a permit comes back or something was parked.
    pump: Arc<Notify>,
}

#[derive(Debug)]
struct LaneState {
    limit: u32,
    /// Permits to take out of circulation as they come back, after the limit was lowered.
    surplus: u32,
    /// Lengths of the last attempts, in microseconds.
    pace: VecDeque<u64>,
    /// When the pump must look again; none when nothing is parked.
    next_due: Option<Timestamp>,
    /// Due deliveries wait for a permit.
    behind: bool,
}

/// Leave to call the function once.
#[derive(Debug)]
pub struct LanePermit {
    lane: Arc<Lane>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Lane {
    /// A lane with this many permits; `pump` is told when one comes back.
    pub fn new(function: FunctionRef, limit: u32, pump: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            function,
            permits: Arc::new(Semaphore::new(limit as usize)),
            state: Mutex::new(LaneState {
                limit,
                surplus: 0,
                pace: VecDeque::with_capacity(PACE_WINDOW),
                next_due: None,
                behind: false,
            }),
            pump,
        })
    }

    /// Sets how many calls may run at once.
    pub fn set_limit(&self, limit: u32) {
        let mut state = self.state();
        if limit > state.limit {
            let grown = limit - state.limit;
            let kept = grown.min(state.surplus);
            state.surplus -= kept;
            self.permits.add_permits((grown - kept) as usize);
        } else {
            let shrunk = state.limit - limit;
            let forgotten = self.permits.forget_permits(shrunk as usize);
            state.surplus += shrunk - u32::try_from(forgotten).unwrap_or(shrunk);
        }
        state.limit = limit;
    }

    /// A permit, when one is free now.
    pub fn try_permit(self: &Arc<Self>) -> Option<LanePermit> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(LanePermit { lane: Arc::clone(self), permit: Some(permit) })
    }

    /// A permit, first come first served; waits for as long as it takes.
    pub async fn permit(self: &Arc<Self>) -> Option<LanePermit> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        Some(LanePermit { lane: Arc::clone(self), permit: Some(permit) })
    }

    #[cfg(test)]
    fn free(&self) -> usize {
        self.permits.available_permits()
    }

    /// Notes how long an attempt took.
    pub fn note_pace(&self, took: Duration) {
        let mut state = self.state();
        if state.pace.len() == PACE_WINDOW {
            state.pace.pop_front();
        }
        state.pace.push_back(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Whether a new event of a source that waits this long is better parked at once.
    pub fn parks_at_once(&self, ack_within: Duration) -> bool {
        let state = self.state();
        if state.behind {
            return true;
        }
        // A median needs a few attempts before it says anything.
        if state.pace.len() < 3 {
            return false;
        }
        let mut lengths: Vec<u64> = state.pace.iter().copied().collect();
        let middle = lengths.len() / 2;
        let (_, median, _) = lengths.select_nth_unstable(middle);
        u128::from(*median) > ack_within.as_micros()
    }

    /// Something of this function was parked, due then.
    pub fn note_parked(&self, due: Timestamp) {
        {
            let mut state = self.state();
            state.next_due = Some(state.next_due.map_or(due, |next| next.min(due)));
        }
        self.pump.notify_one();
    }

    /// For the pump: whether it should look now. If so, what it knew of the next due time is taken, so that what is
    /// parked while it looks is not overwritten by what it finds.
    pub fn take_due(&self, now: Timestamp) -> bool {
        let mut state = self.state();
        let look = state.behind || state.next_due.is_some_and(|due| due <= now);
        if look {
            state.next_due = None;
        }
        look
    }

    /// For the pump: what it found. `behind`: due deliveries are left that wait for a permit.
    pub fn looked(&self, behind: bool, next_due: Option<Timestamp>) {
        let mut state = self.state();
        state.behind = behind;
        state.next_due = state.next_due.into_iter().chain(next_due).min();
    }

    /// When the pump must look again.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.state().next_due
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LanePermit {
    fn drop(&mut self) {
        {
            let mut state = self.lane.state();
            if state.surplus > 0 {
                state.surplus -= 1;
                if let Some(permit) = self.permit.take() {
                    permit.forget();
                }
            }
        }
        drop(self.permit.take());
        // Asked after the permit is back: a pump that says it is behind only now, and then tries once more, gets it.
        if self.lane.state().behind {
            self.lane.pump.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(limit: u32) -> Arc<Lane> {
        let function = FunctionRef { platform: "local".into(), name: "thumb".into() };
        Lane::new(function, limit, Arc::new(Notify::new()))
    }

    #[test]
    fn limit_lowered_while_permits_are_out_holds_as_they_come_back() {
        let lane = lane(3);
        let permits: Vec<_> = (0..3).map(|_| lane.try_permit().unwrap()).collect();
        lane.set_limit(1);
        drop(permits);
        assert_eq!(lane.free(), 1);
        lane.set_limit(4);
        assert_eq!(lane.free(), 4);
    }

    #[test]
    fn limit_raised_before_the_surplus_came_back_adds_up() {
        let lane = lane(4);
        let permits: Vec<_> = (0..4).map(|_| lane.try_permit().unwrap()).collect();
        lane.set_limit(1);
        lane.set_limit(2);
        drop(permits);
        assert_eq!(lane.free(), 2);
    }

    #[test]
    fn a_slow_function_gets_its_events_by_the_queue() {
        let lane = lane(1);
        let wait = Duration::from_millis(25);
        lane.note_pace(Duration::from_secs(1));
        assert!(!lane.parks_at_once(wait), "one attempt is no median");
        lane.note_pace(Duration::from_secs(1));
        lane.note_pace(Duration::from_millis(1));
        assert!(lane.parks_at_once(wait));
        for _ in 0..PACE_WINDOW {
            lane.note_pace(Duration::from_millis(1));
        }
        assert!(!lane.parks_at_once(wait), "it became fast again");
    }

    #[test]
    fn what_is_parked_during_a_look_is_not_forgotten() {
        let lane = lane(1);
        let (early, later) = (Timestamp::from_micros(5), Timestamp::from_micros(900));
        lane.note_parked(early);
        assert!(lane.take_due(early));
        lane.note_parked(early);
        lane.looked(false, Some(later));
        assert_eq!(lane.next_due(), Some(early));
    }

    #[test]
    fn due_deliveries_go_before_new_events() {
        let lane = lane(1);
        let now = Timestamp::from_micros(10);
        assert!(!lane.take_due(now));
        lane.note_parked(Timestamp::from_micros(5));
        assert!(lane.take_due(now));
        lane.looked(true, Some(Timestamp::from_micros(5)));
        assert!(lane.parks_at_once(Duration::from_secs(1)));
        assert!(lane.take_due(now));
        lane.looked(false, None);
        assert!(!lane.parks_at_once(Duration::from_secs(1)) && !lane.take_due(now));
    }
}
