//! One function's way out: its permits, and what is known of its pace.
//!
//! A lane belongs to a function, not to a binding: however many bindings call it, it gets at most its limit of calls at
//! once. **A permit** is leave to call the function once. It takes three things: a place among the calls that run at once
//! (`concurrency` says how many), a token of its rate (`rate`), and the breaker's consent (`breaker`). What an attempt
//! says of the function goes back into all three. The token is kept aside with the permit and spent when the call begins;
//! a permit that was not used gives it and its probe back.
//!
//! The number of places may change while permits are out; one that is lowered takes effect as they come back.
//!
//! **New events park at once** while the lane has deliveries parked that are due (order and fairness), while its recent
//! median is longer than the source would wait (no pointless waiting), while its breaker is not closed, and while its
//! rate is used up. First attempts never take a probe: it goes to the delivery that waits longest.
//!
//! **Behind** is a lane whose due deliveries wait for a permit. It lists itself on the pump's agenda when one comes back;
//! what waits for a moment (the rate's next token, the end of the breaker's time) is looked at at that moment.
//!
//! **What its last calls came to** is kept beside that, for the operator: a function that answers that it failed has a
//! closed breaker, and looks well by its pace alone.
//!
//! Everything here is one short lock of one function. Nothing waits under it, and nothing of another function does.

mod flow;
mod permit;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::flow::Last;
pub use self::{
    flow::{Count, Flow, LastCalls},
    permit::LanePermit,
};
use super::{
    agenda::Agenda,
    breaker::{Admission, Breaker},
    concurrency::Concurrency,
    meter::Meter,
    rate::Rate,
};
use crate::{
    domain::{
        clock::{Clock, Timestamp},
        delivery::FunctionRef,
        ids::DeliveryId,
        spec::FunctionLimits,
    },
    queue::FunctionState,
    telemetry::happening::ParkedBecause,
};

/// Attempts whose length the median is taken of.
const PACE_WINDOW: usize = 15;

/// One function's permits and pace.
#[derive(Debug)]
pub struct Lane {
    /// Which function.
    pub function: FunctionRef,
    places: Arc<Semaphore>,
    state: Mutex<LaneState>,
    agenda: Arc<Agenda>,
}

#[derive(Debug)]
struct LaneState {
    concurrency: Concurrency,
    breaker: Breaker,
    /// Why the breaker opened last.
    reason: String,
    rate: Option<Rate>,
    /// Places in circulation, those that are to be taken out of it not counted.
    places: u32,
    /// Places to take out of circulation as they come back, after their number was lowered.
    surplus: u32,
    /// Lengths of the last attempts, in microseconds.
    pace: VecDeque<u64>,
    /// When the pump must look again; none when nothing is parked.
    next_due: Option<Timestamp>,
    /// Due deliveries wait for a permit.
    behind: bool,
    /// No permit is given out before.
    blocked_until: Option<Duration>,
    /// It stands on the agenda.
    listed: bool,
    /// When the pump is going to look without being told.
    alarm: Option<Duration>,
    /// Its limits were never asked for.
    fresh: bool,
    /// Deliveries that an attempt owns.
    running: BTreeSet<DeliveryId>,
    parked: Meter,
    settled: Meter,
    died: Meter,
    /// What the last calls came to, the moment by the process's own clock.
    last: Option<Last>,
    /// The same of results that were awaited.
    reported: Option<Last>,
}

/// Why there is no permit now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// As many run as may at once, or a probe is out. Whoever is behind is listed when that changes.
    Busy,
    /// Not before then: the breaker is open, or the rate used up.
    Until(Duration),
}

impl Lane {
    /// A lane with this many places, listed on `agenda` when the pump has to look at it.
    pub fn new(function: FunctionRef, limit: u32, agenda: Arc<Agenda>) -> Arc<Self> {
        let concurrency = Concurrency::new(limit);
        let places = concurrency.now();
        Arc::new(Self {
            function,
            places: Arc::new(Semaphore::new(places as usize)),
            state: Mutex::new(LaneState {
                concurrency,
                breaker: Breaker::default(),
                reason: String::new(),
                rate: None,
                places,
                surplus: 0,
                pace: VecDeque::with_capacity(PACE_WINDOW),
                next_due: None,
                behind: false,
                blocked_until: None,
                listed: false,
                alarm: None,
                fresh: true,
                running: BTreeSet::new(),
                parked: Meter::default(),
                settled: Meter::default(),
                died: Meter::default(),
                last: None,
                reported: None,
            }),
            agenda,
        })
    }

    /// Sets what the function's bindings allow.
    pub fn set_limits(&self, limits: FunctionLimits, now: Duration) {
        let mut state = self.state();
        state.fresh = false;
        state.concurrency.set_limit(limits.concurrency);
        let rate = state.rate.take();
        if rate.as_ref().map(Rate::per_second) == limits.rate {
            state.rate = rate;
        } else {
            let kept = |to: f64| rate.map_or_else(|| Rate::new(to, now), |from| from.changed_to(to, now));
            state.rate = limits.rate.map(kept);
            state.blocked_until = None;
        }
        self.adjust(&mut state);
    }

    /// Brings the places in step with the concurrency.
    fn adjust(&self, state: &mut LaneState) {
        let wanted = state.concurrency.now();
        if wanted > state.places {
            let grown = wanted - state.places;
            let kept = grown.min(state.surplus);
            state.surplus -= kept;
            self.places.add_permits((grown - kept) as usize);
        } else {
            let shrunk = state.places - wanted;
            let forgotten = self.places.forget_permits(shrunk as usize);
            state.surplus += shrunk - u32::try_from(forgotten).unwrap_or(shrunk);
        }
        state.places = wanted;
    }

    /// How many calls at once its function's bindings allow.
    pub fn at_once(&self) -> usize {
        self.state().concurrency.limit() as usize
    }

    /// A permit, when there is one now; a probe where the breaker asks for one.
    pub fn try_permit(self: &Arc<Self>, now: Duration) -> Result<LanePermit, Refused> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refused::Busy)?;
        let mut state = self.state();
        let probe = match state.breaker.admit(now) {
            Admission::Free => false,
            Admission::Probe => true,
            Admission::Until(until) => return Err(Refused::Until(until)),
            Admission::Probing => return Err(Refused::Busy),
        };
        let token = state.rate.as_mut().map(|rate| rate.keep(now));
        if let Some(Err(next)) = token {
            if probe {
                state.breaker.probe_lost();
            }
            return Err(Refused::Until(next));
        }
        Ok(LanePermit { lane: Arc::clone(self), place: Some(place), probe, token: token.is_some() })
    }

    /// A permit for a first attempt, first come first served; waits for a place for as long as it takes. None when
    /// meanwhile the breaker opened or the rate was used up.
    pub async fn permit(self: &Arc<Self>, clock: &dyn Clock) -> Option<LanePermit> {
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let mut state = self.state();
        if !state.breaker.is_closed() {
            self.put_back(&mut state, place);
            return None;
        }
        let token = state.rate.as_mut().map(|rate| rate.keep(clock.monotonic()));
        if let Some(Err(_)) = token {
            self.put_back(&mut state, place);
            return None;
        }
        Some(LanePermit { lane: Arc::clone(self), place: Some(place), probe: false, token: token.is_some() })
    }

    /// Why a new event of a source that waits this long is better parked at once, if it is.
    pub fn parks_at_once(&self, ack_within: Duration, clock: &dyn Clock) -> Option<ParkedBecause> {
        let state = self.state();
        if !state.breaker.is_closed() {
            return Some(ParkedBecause::BreakerOpen);
        }
        if state.behind {
            return Some(ParkedBecause::Behind);
        }
        if state.rate.as_ref().is_some_and(|rate| rate.ready(clock.monotonic()).is_err()) {
            return Some(ParkedBecause::RateLimited);
        }
        // A median needs a few attempts before it says anything.
        if state.pace.len() < 3 {
            return None;
        }
        let mut lengths: Vec<u64> = state.pace.iter().copied().collect();
        let middle = lengths.len() / 2;
        let (_, median, _) = lengths.select_nth_unstable(middle);
        (u128::from(*median) > ack_within.as_micros()).then_some(ParkedBecause::Behind)
    }

    /// Something of this function was parked, due then.
    pub fn note_parked(self: &Arc<Self>, due: Timestamp) {
        let mut state = self.state();
        state.next_due = Some(state.next_due.map_or(due, |next| next.min(due)));
        self.list(&mut state);
    }

    /// A new event was parked for want of a token or of the breaker's consent, due now: those that come after it do not
    /// go before it.
    pub fn fall_behind(self: &Arc<Self>, due: Timestamp) {
        self.state().behind = true;
        self.note_parked(due);
    }

    /// Has the pump look.
    pub fn look(self: &Arc<Self>) {
        self.list(&mut self.state());
    }

    /// A place comes back; it may have to go out of circulation. Who is behind is told.
    fn put_back(self: &Arc<Self>, state: &mut LaneState, place: OwnedSemaphorePermit) {
        if state.surplus > 0 {
            state.surplus -= 1;
            place.forget();
        } else {
            drop(place);
        }
        // The place is back: a pump that says it is behind only now, and then tries once more, gets it.
        if state.behind && state.blocked_until.is_none() {
            self.list(state);
        }
    }

    fn list(self: &Arc<Self>, state: &mut LaneState) {
        if !std::mem::replace(&mut state.listed, true) {
            self.agenda.list(Arc::clone(self));
        }
    }

    /// For the pump: it was taken from the agenda. Whether its limits were never asked for.
    pub fn unlist(&self) -> bool {
        let mut state = self.state();
        state.listed = false;
        state.fresh
    }

    /// For the pump: whether it should look now. If so, what it knew of the next due time is taken, so that what is
    /// parked while it looks is not overwritten by what it finds.
    pub fn take_due(&self, now: Timestamp, monotonic: Duration) -> bool {
        let mut state = self.state();
        if state.blocked_until.is_some_and(|until| monotonic < until) {
            return false;
        }
        state.blocked_until = None;
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

    /// For the pump: due deliveries wait, and there was no permit before then.
    pub fn blocked(self: &Arc<Self>, until: Duration, now: Duration) {
        let mut state = self.state();
        state.behind = true;
        if state.breaker.is_closed() && state.rate.as_ref().is_none_or(|rate| rate.ready(now).is_ok()) {
            // A token has come back meanwhile.
            self.list(&mut state);
        } else {
            state.blocked_until = Some(until);
        }
    }

    /// For the pump: sets the alarm for the moment at which it has to look without being told, if that is within
    /// `horizon` and before any alarm that is set; when that is.
    pub fn set_alarm(&self, now: Timestamp, monotonic: Duration, horizon: Duration) -> Option<Duration> {
        let mut state = self.state();
        let at = match (state.blocked_until, state.next_due) {
            (Some(until), _) => until,
            (None, Some(due)) if !state.behind => monotonic + due.since(now),
            _ => return None,
        };
        if at > monotonic + horizon || state.alarm.is_some_and(|alarm| alarm <= at) {
            return None;
        }
        state.alarm = Some(at);
        Some(at)
    }

    /// For the pump: an alarm rang.
    pub fn rang(self: &Arc<Self>) {
        let mut state = self.state();
        state.alarm = None;
        self.list(&mut state);
    }

    /// What became of the breaker when it had been open before a restart: open for what is left of its time.
    pub fn restore(&self, kept: FunctionState, now: Timestamp, monotonic: Duration) {
        let mut state = self.state();
        if state.breaker.is_closed() {
            state.breaker = Breaker::restored(kept.open_until.since(now), kept.opened, monotonic);
            state.reason = kept.reason;
            state.concurrency.restart(monotonic);
            self.adjust(&mut state);
        }
    }

    /// What is to be kept over a restart; none when the breaker is closed.
    pub fn to_keep(&self, now: Timestamp, monotonic: Duration) -> Option<FunctionState> {
        let state = self.state();
        let left = state.breaker.open_until(monotonic)?.saturating_sub(monotonic);
        Some(FunctionState {
            function: self.function.clone(),
            open_until: now.plus(left),
            opened: state.breaker.opened(),
            reason: state.reason.clone(),
        })
    }

    /// Whether nothing would be lost with it.
    pub fn is_idle(&self) -> bool {
        let state = self.state();
        state.breaker.is_closed() && state.running.is_empty() && state.next_due.is_none() && !state.behind
    }

    /// An attempt owns this delivery. Whether the function's limits were never asked for.
    pub fn began(&self, id: DeliveryId) -> bool {
        let mut state = self.state();
        state.running.insert(id);
        state.fresh
    }

    /// No attempt owns it any more.
    pub fn ended(&self, id: DeliveryId) {
        self.state().running.remove(&id);
    }

    /// The deliveries that an attempt owns.
    pub fn running(&self) -> Vec<DeliveryId> {
        self.state().running.iter().copied().collect()
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
