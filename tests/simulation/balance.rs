//! What is held against the books: at each acknowledgement, at each call, at each burial, and at the end.

use std::{collections::BTreeSet, time::Duration};

use triggerd::{
    domain::{
        clock::Timestamp,
        delivery::{DeadReason, Delivery, FunctionRef},
        ids::DeliveryId,
    },
    platform::Call,
    queue::DeadLetter,
};

use crate::{
    books::{LegState, Replay},
    scenario::{Family, Leg, Way},
    world::State,
};

/// How soon a neighbour of a sick function is served, at the latest.
const NEIGHBOURLY: Duration = Duration::from_secs(10);

/// How long a delivery may be due while its function is idle, where nothing fails: far less than from sweep to sweep.
const OVERDUE: Duration = Duration::from_secs(4);

/// For how long a binding may be held or gone until no attempt may begin.
const HELD: Duration = Duration::from_secs(5);

/// How much sooner than planned it may be tried, beside a twentieth of the time: a jump this small is none.
const EARLY: Duration = Duration::from_secs(6);

impl State {
    /// A source heard that a message is safe.
    pub(crate) fn acknowledged(&mut self, leg: usize) -> Option<String> {
        let (message, _) = self.books.legs[leg].clone();
        self.books.legs[leg].1 = LegState::Acked;
        if message.way == Way::Twin {
            return None;
        }
        if message.events.is_empty() {
            let kept = self.is_quarantined(&message);
            return (!kept).then(|| format!("message {leg} was acknowledged and is not in quarantine"));
        }
        // A panic in matching puts the whole message into quarantine.
        let quarantined = self.is_quarantined(&message);
        let missing = self.books.unsafe_deliveries(&message, &self.disk).filter(|_| !quarantined)?;
        Some(format!("message {leg} was acknowledged while {missing} was neither settled nor parked"))
    }

    /// Whether a message's bytes are in quarantine, or were discarded there by an operator.
    fn is_quarantined(&self, message: &Leg) -> bool {
        let body = crate::source::body(message);
        self.books.given_away.contains(&body)
            || self.disk.quarantine.iter().any(|item| item.what.bytes == body)
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
        self.books.attempts += 1;
        let excused = self.books.events.get(&number).is_some_and(|book| book.excused);
        let mut wrong = match delivery.letter {
            Some(letter) => self.books.handler_called(letter, call, excused),
            None => self.function_called(call, number, excused),
        };
        // What this call comes to says how long the next one waits. (Seeds 2694, 5370: it fell, and said nothing.)
        self.books.asked.remove(&delivery.id);
        let unfit = self.relating.unfit_for(binding.id, self.elapsed());
        if unfit.is_some_and(|since| since > HELD) {
            wrong.push("its binding has been held or gone for a while".to_owned());
        }
        wrong.extend(self.too_many(&delivery.function));
        let name = self.books.name(delivery.id);
        wrong.into_iter().map(|what| format!("{name}: {what}")).collect()
    }

    /// What is wrong with a call of a binding's own function.
    fn function_called(&mut self, call: &Call<'_>, number: u32, excused: bool) -> Vec<String> {
        let (delivery, binding) = (call.delivery, call.binding);
        let mut wrong = self.ill_timed(call, excused);
        let elapsed = self.elapsed();
        let on_disk = self.disk.rows.contains_key(&delivery.id);
        let is_dead = self.disk.dead.contains_key(&delivery.id);
        let books = &mut self.books;
        let other = books.tracks.iter().find(|(id, track)| {
            **id != delivery.id && track.event == number && track.binding == binding.id.as_bytes()[0]
        });
        if other.is_some() {
            wrong.push("the delivery has another id than before".to_owned());
        }
        // What was read a moment ago may have been settled or cleared since. (Seeds 16227, 20526.)
        let seen = books.row_seen.get(&delivery.id) == Some(&elapsed);
        if !on_disk && !seen && binding.spec.await_result().is_some() {
            wrong.push("its result is awaited, and it is fired without a row".to_owned());
        }
        let only_once = books.events.get(&number).is_some_and(|book| book.only_once);
        let track = books.track(delivery.id, number, binding.id);
        if track.running {
            wrong.push("two attempts of it at once".to_owned());
        }
        if track.silent_from.is_some_and(|from| elapsed > from) && !excused {
            wrong.push("it is called though an operator had it forgotten".to_owned());
        }
        // A repeat of an event of before the restart is not known any more.
        let excused = excused || track.row_before;
        if let (Some(verb), false) = (track.recorded_now, excused) {
            wrong.push(format!("an attempt after its end was recorded ({verb})"));
        }
        if track.well_now && !excused {
            wrong.push("an attempt after the function had said yes".to_owned());
        }
        // Cleared after the pump has read it and before its call, it is on disk as a dead letter. (To call it is no fault: a call
        // that began a moment sooner could not be taken back either, and what it comes to finds no row. Seeds 7799, 7815.)
        // Discarded by that, it is nowhere. (Seed 50528.)
        let just_forgotten = track.silent_from.is_some_and(|from| elapsed <= from);
        let is_gone = is_dead || just_forgotten || track.recorded_now.is_some();
        let is_new = track.answered_well == 0 && !on_disk && !is_gone && !excused;
        if only_once && is_new {
            wrong.push("its source never redelivers, and it is fired before it is on disk".to_owned());
        }
        if delivery.earlier == track.life && delivery.number() <= track.life {
            wrong.push("its call has the number of one from before its replay".to_owned());
        }
        track.running = true;
        if track.replay == Replay::Waits && delivery.earlier == track.life {
            track.replay = Replay::Called;
        }
        if delivery.function != binding.spec.function.to_ref() {
            wrong.push("its function changed".to_owned());
        }
        wrong
    }

    /// What is wrong with the moment of a call of a binding's own function.
    fn ill_timed(&self, call: &Call<'_>, excused: bool) -> Vec<String> {
        let (delivery, books, elapsed) = (call.delivery, &self.books, self.elapsed());
        let mut wrong = Vec::new();
        if books.unseen_jump {
            return wrong;
        }
        let excused = excused || books.tracks.get(&delivery.id).is_some_and(|track| track.row_before);
        // A repeat of its event fires it anew, with no tries before.
        let waited = delivery.tries > 0 || !excused;
        let slack = EARLY + elapsed / 20;
        let row = self.disk.rows.get(&delivery.id);
        let early = row.map_or(Duration::ZERO, |row| row.due.since(self.steady()));
        if waited && early > slack {
            wrong.push(format!("fired {early:?} before its time"));
        }
        let (age, oldest) = (self.steady().since(delivery.accepted_at), call.binding.spec.max_event_age());
        if age > oldest + slack {
            wrong.push(format!("fired at an age of {age:?}, of {oldest:?}"));
        }
        wrong
    }

    /// An attempt's delivery is to wait; what is wrong with how long.
    pub(crate) fn put_off(&mut self, delivery: &Delivery, due: Timestamp) -> Option<String> {
        // Heard once: released with its binding it is due at once, and may come to nothing without a call. (Seed 35165.)
        let (asked, now) = (self.books.asked.remove(&delivery.id)?, self.steady());
        let (binding, _) = self.books.bindings.get(&delivery.binding)?;
        let oldest = delivery.accepted_at.plus(binding.spec.max_event_age());
        let (asked, waits, left) = (asked.saturating_sub(self.elapsed()), due.since(now), oldest.since(now));
        // A wait that would end beyond the maximum age ends up to a second before it.
        let slack = EARLY + self.elapsed() / 20;
        let is_right = waits + slack >= asked.min(left) || self.books.unseen_jump;
        let name = self.books.name(delivery.id);
        (!is_right).then(|| format!("{name} is put off by {waits:?}, and its platform asked for {asked:?}"))
    }

    /// Counts a call; what is wrong with that many.
    fn too_many(&mut self, function: &FunctionRef) -> Vec<String> {
        let mut wrong = Vec::new();
        let (elapsed, books) = (self.elapsed(), &mut self.books);
        let room = books.room(function);
        let busy = books.calling.entry(function.clone()).or_default();
        busy.calls += 1;
        if busy.calls >= room {
            busy.full_at = elapsed;
        }
        let calling = busy.calls;
        let of_it = || books.bindings.values().filter(|(one, _)| one.spec.function.to_ref() == *function);
        let most = of_it().map(|(one, _)| one.spec.concurrency).max().unwrap_or(1);
        if calling > most {
            wrong.push(format!("{calling} calls of its function at once, of {most}"));
        }
        let called_at = books.called_at.entry(function.clone()).or_default();
        called_at.push(elapsed);
        // All bindings of a function have the same rate here.
        if let Some(rate) = of_it().find_map(|(one, _)| one.spec.rate_limit) {
            let too_many = called_at.iter().rev().zip(1_u32..).find(|(at, count)| {
                let stretch = elapsed.saturating_sub(**at).as_secs_f64();
                f64::from(*count) > stretch.mul_add(rate, (rate / 10.0).max(1.0)) + 1e-3
            });
            if let Some((at, count)) = too_many {
                wrong.push(format!("{count} calls of its function since {at:?}, at {rate} a second"));
            }
        }
        wrong
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

    /// A delivery that is due, and that nobody takes up though its function has room.
    pub(crate) fn is_overdue(&self) -> Option<String> {
        let (now, elapsed) = (self.now(), self.elapsed());
        let row = self.disk.rows.values().find(|row| {
            let function = &row.delivery.function;
            let busy = self.books.calling.get(function).copied().unwrap_or_default();
            let has_room = busy.calls < self.books.room(function)
                && elapsed.saturating_sub(busy.full_at.max(self.life_began())) > OVERDUE;
            // A function whose circuit breaker is open is asked when that time has come.
            let asked = self.disk.functions.get(function).map_or(row.due, |kept| kept.open_until);
            let due = row.held_since.is_none() && now.since(row.due.max(asked)) > OVERDUE;
            // What was answered a moment ago is being written down. (Seed 70257.)
            let answered_at = self.books.answered_at.get(&row.delivery.id);
            let due = due && answered_at.is_none_or(|at| elapsed.saturating_sub(*at) > OVERDUE);
            has_room && due && self.relating.unfit_for(row.delivery.binding, elapsed).is_none()
        })?;
        Some(format!("{} was due at {} and is not taken up", self.name_of(&row.delivery), row.due))
    }

    fn name_of(&self, delivery: &Delivery) -> String {
        let letter = delivery.letter.map(|letter| format!("letter({})", self.books.name(letter)));
        letter.unwrap_or_else(|| self.books.name(delivery.id))
    }

    /// A delivery is given up; what is wrong with that.
    pub(crate) fn given_up(&self, letter: &DeadLetter) -> Option<String> {
        let id = letter.delivery.id;
        let track = self.books.tracks.get(&id)?;
        let (binding, _) = self.books.bindings.get(&letter.delivery.binding)?;
        // (What an attempt of an earlier life came to is none of this one's.)
        let of_life = |calls: &BTreeSet<u32>| calls.range(letter.delivery.earlier + 1..).count();
        let is_right = match letter.reason {
            DeadReason::TooOld => {
                let age = self.steady().since(letter.delivery.accepted_at) + EARLY + self.elapsed() / 20;
                self.books.unseen_jump || age >= binding.spec.max_event_age()
            }
            DeadReason::Permanent => {
                let broken = track.broken.iter().filter(|number| **number > letter.delivery.earlier);
                of_life(&track.permanent) > 0 || broken.count() > 1
            }
            DeadReason::AttemptsExhausted => {
                of_life(&track.function_faults) >= binding.spec.retry.max_attempts as usize
            }
            DeadReason::Unbound => self.relating.unfit_for(binding.id, self.elapsed()).is_some(),
            DeadReason::Overflow => true,
        };
        let of_attempt = !matches!(letter.reason, DeadReason::TooOld | DeadReason::Unbound);
        // (Cleared after its replay and brought again by its source, it is another delivery. Seeds 8271, 9010.)
        let waits = track.replay == Replay::Waits && letter.delivery.earlier == track.life;
        let is_right = is_right && !(of_attempt && waits);
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
            let quarantined = self.is_quarantined(leg);
            for number in leg.events.iter().filter(|_| !quarantined) {
                open.extend(self.lost(*number).map(|what| format!("{what} was acknowledged and is lost")));
            }
        }
        for (id, row) in &self.disk.rows {
            let paused = books.bindings.get(&row.delivery.binding).is_some_and(|(_, paused)| *paused);
            if !(row.held_since.is_some() && paused) {
                open.push(format!("{} is still parked: due {}", self.name_of(&row.delivery), row.due));
            }
            if self.disk.dead.contains_key(id) {
                open.push(format!("{} is parked and dead", books.name(*id)));
            }
        }
        let replayed = books
            .tracks
            .iter()
            .filter(|(id, track)| track.replay != Replay::Never && !books.is_safe(**id, track, &self.disk));
        open.extend(replayed.map(|(id, _)| format!("{} was replayed and is lost", books.name(*id))));
        open.extend(self.unhanded());
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
                    && self.books.is_safe(*id, track, &self.disk)
            });
            if !found {
                return Some(format!("e{number}→b{}", binding.as_bytes()[0]));
            }
        }
        None
    }

    /// Deliveries by their ends, for the summary: answered well, dead, held; messages lost; letters handed over.
    pub(crate) fn sums(&self) -> [u64; 6] {
        let well = self.books.tracks.values().filter(|track| track.answered_well > 0).count();
        let lost = self.books.legs.iter().filter(|(_, state)| *state == LegState::Lost).count();
        let replayed = self.books.tracks.values().filter(|track| track.replay != Replay::Never).count();
        let handed = self.books.handed.len();
        [well, self.disk.dead.len(), self.disk.rows.len(), lost, handed, replayed].map(|count| count as u64)
    }
}
