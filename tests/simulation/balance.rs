//! What is held against the books: at each acknowledgement, at each call, at each burial, and at the end.

use std::time::Duration;

use triggerd::{
    domain::{delivery::DeadReason, ids::DeliveryId},
    platform::Call,
    queue::DeadLetter,
};

use crate::{
    books::LegState,
    scenario::{Family, Way},
    world::State,
};

/// How soon a neighbour of a sick function is served, at the latest.
const NEIGHBOURLY: Duration = Duration::from_secs(10);

/// How long a delivery may be due while its function is idle, where nothing fails: far less than from sweep to sweep.
const OVERDUE: Duration = Duration::from_secs(4);

/// For how long a binding may be held or gone until no attempt may begin.
const HELD: Duration = Duration::from_secs(5);

/// How long after a jump nothing is given up by age.
const DOUBT: Duration = Duration::from_mins(1);

impl State {
    /// A source heard that a message is safe.
    pub(crate) fn acknowledged(&mut self, leg: usize) -> Option<String> {
        let (message, _) = self.books.legs[leg].clone();
        self.books.legs[leg].1 = LegState::Acked;
        if message.way == Way::Twin {
            return None;
        }
        if message.events.is_empty() {
            let kept = !self.disk.quarantine.is_empty();
            return (!kept).then(|| format!("message {leg} was acknowledged and is not in quarantine"));
        }
        // A panic in matching puts the whole message into quarantine.
        let quarantined = self.disk.quarantine.iter().any(|item| item.bytes == crate::source::body(&message));
        let missing = self.books.unsafe_deliveries(&message, &self.disk).filter(|_| !quarantined)?;
        Some(format!("message {leg} was acknowledged while {missing} was neither settled nor parked"))
    }

    /// A source heard, by silence, that a message is not safe.
    pub(crate) fn given_back(&mut self, leg: usize) {
        let message = self.books.legs[leg].0.clone();
        for event in message.events {
            self.books.excuse_event(event);
        }
        if message.way != Way::Yes && !self.books.is_over(leg) {
            self.books.legs[leg].1 = LegState::Lost;
        }
    }

    /// An attempt begins; everything that is wrong with that.
    pub(crate) fn call_begins(&mut self, call: &Call<'_>) -> Vec<String> {
        let (delivery, binding) = (call.delivery, call.binding);
        let number = crate::source::number_of(&delivery.event.key);
        let mut wrong = Vec::new();
        let elapsed = self.elapsed();
        let on_disk = self.disk.rows.contains_key(&delivery.id);
        let unfit = self.relating.unfit_for(binding.id, elapsed);
        let books = &mut self.books;
        books.attempts += 1;
        let other = books.tracks.iter().find(|(id, track)| {
            **id != delivery.id && track.event == number && track.binding == binding.id.as_bytes()[0]
        });
        if other.is_some() {
            wrong.push("the delivery has another id than before".to_owned());
        }
        let (excused, only_once) =
            books.events.get(&number).map_or((false, false), |book| (book.excused, book.only_once));
        let track = books.track(delivery.id, number, binding.id);
        if track.running {
            wrong.push("two attempts of it at once".to_owned());
        }
        // A repeat of an event of before the restart is not known any more.
        let excused = excused || track.row_before;
        if let (Some(verb), false) = (track.recorded_now, excused) {
            wrong.push(format!("an attempt after its end was recorded ({verb})"));
        }
        if track.well_now && !excused {
            wrong.push("an attempt after the function had said yes".to_owned());
        }
        let is_new = track.answered_well == 0 && !on_disk && !excused && track.recorded_now.is_none();
        if only_once && is_new {
            wrong.push("its source never redelivers, and it is fired before it is on disk".to_owned());
        }
        if unfit.is_some_and(|since| since > HELD) {
            wrong.push("its binding has been held or gone for a while".to_owned());
        }
        track.running = true;
        let (calling, since) = books.calling.entry(delivery.function.clone()).or_default();
        (*calling, *since) = (*calling + 1, elapsed);
        let of_it =
            books.bindings.values().filter(|(one, _)| one.spec.function.to_ref() == delivery.function);
        let most = of_it.map(|(one, _)| one.spec.concurrency).max().unwrap_or(1);
        if *calling > most {
            wrong.push(format!("{calling} calls of its function at once, of {most}"));
        }
        if delivery.function != binding.spec.function.to_ref() {
            wrong.push("its function changed".to_owned());
        }
        let name = self.books.name(delivery.id);
        wrong.into_iter().map(|what| format!("{name}: {what}")).collect()
    }

    /// The first good answer of a neighbour's function comes soon.
    pub(crate) fn is_late(&self, id: DeliveryId) -> Option<String> {
        let track = self.books.tracks.get(&id)?;
        if self.books.family != Family::Neighbours || track.answered_well != 1 || track.binding != 2 {
            return None;
        }
        let waited = self.elapsed().saturating_sub(self.books.events.get(&track.event)?.first_sent?);
        (waited > NEIGHBOURLY)
            .then(|| format!("{} waited {waited:?} beside a sick function", self.books.name(id)))
    }

    /// A delivery that is due, and that nobody takes up though its function is idle.
    pub(crate) fn is_overdue(&self) -> Option<String> {
        let (now, elapsed) = (self.now(), self.elapsed());
        let row = self.disk.rows.values().find(|row| {
            let (calling, since) =
                self.books.calling.get(&row.delivery.function).copied().unwrap_or_default();
            let idle = calling == 0 && elapsed.saturating_sub(since.max(self.life_began())) > OVERDUE;
            // A function whose circuit breaker is open is asked when that time has come.
            let asked =
                self.disk.functions.get(&row.delivery.function).map_or(row.due, |kept| kept.open_until);
            let due = row.held_since.is_none() && now.since(row.due.max(asked)) > OVERDUE;
            idle && due && self.relating.unfit_for(row.delivery.binding, elapsed).is_none()
        })?;
        Some(format!("{} was due at {} and is not taken up", self.books.name(row.delivery.id), row.due))
    }

    /// A delivery is given up; what is wrong with that.
    pub(crate) fn given_up(&self, letter: &DeadLetter) -> Option<String> {
        let id = letter.delivery.id;
        let track = self.books.tracks.get(&id)?;
        let (binding, _) = self.books.bindings.get(&letter.delivery.binding)?;
        let jumped = self.books.jumped_at.map(|at| self.elapsed().saturating_sub(at));
        let in_doubt = jumped.is_some_and(|since| since > Duration::from_millis(500) && since < DOUBT);
        let is_right = match letter.reason {
            DeadReason::TooOld => self.books.jumps && !in_doubt,
            DeadReason::Permanent => track.permanent > 0 || track.broken > 1,
            DeadReason::AttemptsExhausted => track.function_faults >= binding.spec.retry.max_attempts,
            DeadReason::Unbound => self.relating.unfit_for(binding.id, self.elapsed()).is_some(),
            DeadReason::Overflow => true,
        };
        let name = self.books.name(id);
        (!is_right).then(|| format!("{name} was given up as {:?}, which is not so: {track:?}", letter.reason))
    }

    /// What keeps the books from being closed.
    pub(crate) fn open_matters(&self) -> Vec<String> {
        let books = &self.books;
        let mut open: Vec<String> = books
            .open_legs()
            .into_iter()
            .map(|leg| format!("message {leg} ({:?}) is neither acknowledged nor lost", books.legs[leg].0))
            .collect();
        let acked =
            books.legs.iter().filter(|(leg, state)| *state == LegState::Acked && leg.way != Way::Twin);
        for (leg, _) in acked {
            let quarantined = self.disk.quarantine.iter().any(|item| item.bytes == crate::source::body(leg));
            for number in leg.events.iter().filter(|_| !quarantined) {
                open.extend(self.lost(*number).map(|what| format!("{what} was acknowledged and is lost")));
            }
        }
        for (id, row) in &self.disk.rows {
            let paused = books.bindings.get(&row.delivery.binding).is_some_and(|(_, paused)| *paused);
            if !(row.held_since.is_some() && paused) {
                open.push(format!("{} is still parked: due {}", books.name(*id), row.due));
            }
            if self.disk.dead.contains_key(id) {
                open.push(format!("{} is parked and dead", books.name(*id)));
            }
        }
        let running = books.tracks.iter().filter(|(_, track)| track.running);
        open.extend(running.map(|(id, _)| format!("{} is still running", books.name(*id))));
        open
    }

    /// The deliveries of an event that nobody has.
    fn lost(&self, number: u32) -> Option<String> {
        for binding in self.books.events[&number].matched.iter().flatten() {
            let found = self.books.tracks.iter().any(|(id, track)| {
                track.event == number
                    && track.binding == binding.as_bytes()[0]
                    && (track.answered_well > 0
                        || self.disk.rows.contains_key(id)
                        || self.disk.dead.contains_key(id))
            });
            if !found {
                return Some(format!("e{number}→b{}", binding.as_bytes()[0]));
            }
        }
        None
    }

    /// Deliveries by their ends, for the summary: answered well, dead, held; messages lost.
    pub(crate) fn sums(&self) -> [u64; 4] {
        let well = self.books.tracks.values().filter(|track| track.answered_well > 0).count();
        let lost = self.books.legs.iter().filter(|(_, state)| *state == LegState::Lost).count();
        [well, self.disk.dead.len(), self.disk.rows.len(), lost].map(|count| count as u64)
    }
}
