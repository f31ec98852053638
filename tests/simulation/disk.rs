//! What is on the simulated disk: the queue's contents, with the semantics of `queue.db`.
//!
//! Each verb is one method on plain maps (those on dead letters and the quarantine are in `letters`). `agree` holds them
//! against the real queue, verb by verb. A verb that the `Queue` trait gains is one method here and one line in `queue`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use triggerd::{
    domain::{
        clock::Timestamp,
        delivery::{DeadReason, Delivery, FunctionRef},
        ids::{BindingId, DeliveryId},
        outcome::{Attempt, Class},
    },
    queue::{Backlog, DeadLetter, Disposal, FunctionState, Item, Park, Parked, QueueError, Retry, Wait},
};

/// A parked delivery.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) seq: u64,
    pub(crate) delivery: Delivery,
    pub(crate) due: Timestamp,
    pub(crate) held_since: Option<Timestamp>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) replays: u32,
}

impl Row {
    /// Whether what an attempt of this life, after so many tries, says may be recorded on it.
    fn is_of(&self, (earlier, tries): (u32, u32)) -> bool {
        self.delivery.earlier == earlier && self.delivery.tries <= tries
    }
}

/// The queue's contents, and its bounds in rows.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) rows: BTreeMap<DeliveryId, Row>,
    /// With their positions.
    pub(crate) dead: BTreeMap<DeliveryId, (i64, DeadLetter)>,
    pub(crate) quarantine: Vec<Item>,
    pub(crate) functions: BTreeMap<FunctionRef, FunctionState>,
    /// Up to which position dead letters were looked at for their handler functions.
    pub(crate) handed: i64,
    pub(crate) skew: i64,
    seq: u64,
    letters: i64,
    /// The number of the newest item of the quarantine.
    pub(crate) items: u64,
    /// No part of `queue.db`: what was just forgotten at somebody's wish, for the books.
    pub(crate) just_forgotten: Vec<DeliveryId>,
    /// Nor this: what is wrong with burials that were written.
    pub(crate) wrongly_buried: Vec<String>,
    /// Rows that one function may have parked.
    pub(crate) share: usize,
    /// Rows and dead letters in all.
    pub(crate) room: usize,
}

impl Disk {
    pub(crate) fn new(share: usize, room: usize) -> Self {
        Self {
            rows: BTreeMap::new(),
            dead: BTreeMap::new(),
            quarantine: Vec::new(),
            functions: BTreeMap::new(),
            handed: 0,
            skew: 0,
            seq: 0,
            letters: 0,
            items: 0,
            just_forgotten: Vec::new(),
            wrongly_buried: Vec::new(),
            share,
            room,
        }
    }

    pub(crate) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn next_position(&mut self) -> i64 {
        self.letters += 1;
        self.letters
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() + self.dead.len() >= self.room
    }

    pub(crate) fn park(&mut self, park: Park) -> Result<Parked, QueueError> {
        let Park { delivery, due, held, attempt, .. } = park;
        if self.rows.contains_key(&delivery.id) || self.dead.contains_key(&delivery.id) {
            return Ok(Parked::AlreadyThere);
        }
        if self.is_full() {
            return Err(QueueError::Full { bytes: 0 });
        }
        let moment = attempt.as_ref().map_or(delivery.accepted_at, end_of);
        let seq = self.next_seq();
        let parked = self.rows.values().filter(|row| row.delivery.function == delivery.function).count();
        let attempts: Vec<Attempt> = attempt.into_iter().collect();
        if parked >= self.share {
            let letter = DeadLetter {
                reason: DeadReason::Overflow,
                detail: "overflow".into(),
                died_at: moment,
                attempts,
                replays: 0,
                delivery,
            };
            let position = self.next_position();
            self.dead.insert(letter.delivery.id, (position, letter));
            return Ok(Parked::Overflow);
        }
        let held_since = held.then_some(moment);
        self.rows.insert(delivery.id, Row { seq, delivery, due, held_since, attempts, replays: 0 });
        Ok(Parked::Written)
    }

    pub(crate) fn delivered(&mut self, id: DeliveryId) -> bool {
        self.rows.remove(&id).is_some()
    }

    pub(crate) fn retry(&mut self, retry: Retry) -> bool {
        let row = self.rows.get_mut(&retry.id);
        let Some(row) = row.filter(|row| row.is_of((retry.earlier, retry.tries))) else { return false };
        let moment = retry.attempt.as_ref().map_or(retry.due, end_of);
        if retry.held {
            row.held_since = row.held_since.or(Some(moment));
        } else if let Some(since) = row.held_since.take() {
            row.delivery.accepted_at = row.delivery.accepted_at.plus(moment.since(since));
        }
        row.due = retry.due;
        row.delivery.awaiting = None;
        (row.delivery.attempts, row.delivery.tries) = (retry.attempts, retry.tries);
        row.attempts.extend(retry.attempt);
        true
    }

    pub(crate) fn wait_for_result(&mut self, wait: Wait) -> bool {
        let row = self.rows.get_mut(&wait.id);
        let as_called = |row: &Row| (row.delivery.earlier, row.delivery.tries) == (wait.earlier, wait.tries);
        let Some(row) = row.filter(|row| as_called(row)) else { return false };
        (row.due, row.delivery.awaiting, row.held_since) = (wait.until, Some(wait.since), None);
        true
    }

    pub(crate) fn parked(&self, id: DeliveryId) -> Option<Delivery> {
        self.rows.get(&id).map(|row| row.delivery.clone())
    }

    pub(crate) fn bury_parked(&mut self, letter: DeadLetter) -> Result<bool, QueueError> {
        if self.rows.contains_key(&letter.delivery.id) { self.bury(letter) } else { Ok(false) }
    }

    pub(crate) fn came_late(&mut self, id: DeliveryId, attempt: Attempt) -> bool {
        let Some((_, letter)) = self.dead.get_mut(&id) else { return false };
        if !letter.attempts.iter().any(|attempt| attempt.class == Class::Ok) {
            letter.attempts.push(attempt);
        }
        true
    }

    pub(crate) fn bury(&mut self, mut letter: DeadLetter) -> Result<bool, QueueError> {
        let id = letter.delivery.id;
        if self.dead.contains_key(&id) {
            return Ok(false);
        }
        letter.delivery.awaiting = None;
        if self.rows.get(&id).is_some_and(|row| row.delivery.letter.is_some()) {
            self.rows.remove(&id);
            return Ok(false);
        }
        if self.rows.get(&id).is_some_and(|row| !row.is_of((letter.delivery.earlier, letter.delivery.tries)))
        {
            return Ok(false);
        }
        if let Some(row) = self.rows.remove(&id) {
            letter.replays = letter.replays.max(row.replays);
            let mut attempts = row.attempts;
            let known: BTreeSet<_> = attempts.iter().map(|attempt| attempt.at).collect();
            attempts.extend(letter.attempts.into_iter().filter(|attempt| !known.contains(&attempt.at)));
            letter.attempts = attempts;
        } else if self.is_full() {
            return Err(QueueError::Full { bytes: 0 });
        }
        let position = self.next_position();
        self.dead.insert(id, (position, letter));
        Ok(true)
    }

    fn waiting<'a>(
        &'a self,
        function: &'a FunctionRef,
        running: &'a [DeliveryId],
    ) -> impl Iterator<Item = &'a Row> {
        self.rows.values().filter(move |row| {
            row.delivery.function == *function
                && row.held_since.is_none()
                && !running.contains(&row.delivery.id)
        })
    }

    pub(crate) fn due(
        &self,
        function: &FunctionRef,
        now: Timestamp,
        running: &[DeliveryId],
        limit: u32,
    ) -> Vec<Delivery> {
        let mut due: Vec<&Row> = self.waiting(function, running).filter(|row| row.due <= now).collect();
        due.sort_by_key(|row| (row.due, row.seq));
        due.into_iter().take(limit as usize).map(|row| row.delivery.clone()).collect()
    }

    pub(crate) fn next_due(&self, function: &FunctionRef, running: &[DeliveryId]) -> Option<Timestamp> {
        self.waiting(function, running).map(|row| row.due).min()
    }

    pub(crate) fn backlog(&self) -> Vec<Backlog> {
        let mut functions: BTreeMap<FunctionRef, Backlog> = BTreeMap::new();
        let mut rows: Vec<&Row> = self.rows.values().collect();
        rows.sort_by_key(|row| row.seq);
        for row in rows {
            let function = row.delivery.function.clone();
            let backlog = functions.entry(function.clone()).or_insert(Backlog {
                function,
                parked: 0,
                earliest_due: None,
                latest_due: None,
                held: 0,
                awaiting: 0,
                oldest: Some(row.delivery.accepted_at),
            });
            if row.held_since.is_some() {
                backlog.held += 1;
            } else {
                if row.delivery.awaiting.is_some() {
                    backlog.awaiting += 1;
                } else {
                    backlog.parked += 1;
                }
                backlog.earliest_due = backlog.earliest_due.into_iter().chain([row.due]).min();
                backlog.latest_due = backlog.latest_due.max(Some(row.due));
            }
        }
        functions.into_values().collect()
    }

    pub(crate) fn hold(&mut self, binding: BindingId, held: bool, now: Timestamp) -> u64 {
        let mut changed = 0;
        for row in self.rows.values_mut().filter(|row| row.delivery.binding == binding) {
            match (held, row.held_since) {
                (true, None) if row.delivery.awaiting.is_none() => row.held_since = Some(now),
                (false, Some(since)) => {
                    row.held_since = None;
                    row.due = now;
                    row.delivery.accepted_at = row.delivery.accepted_at.plus(now.since(since));
                }
                _ => continue,
            }
            changed += 1;
        }
        changed
    }

    pub(crate) fn bring_forward(&mut self, function: &FunctionRef, latest: Timestamp, now: Timestamp) -> u64 {
        let of_it = self.rows.values_mut().filter(|row| row.delivery.function == *function);
        let mut changed = 0;
        for row in of_it.filter(|row| row.held_since.is_none() && row.due > latest) {
            row.due = if row.delivery.awaiting.is_none() { now } else { latest };
            changed += 1;
        }
        changed
    }

    pub(crate) fn held_bindings(&self) -> Vec<BindingId> {
        let held = self.rows.values().filter(|row| row.held_since.is_some());
        held.map(|row| row.delivery.binding).collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(crate) fn parked_of(&self, binding: BindingId) -> u64 {
        self.rows.values().filter(|row| row.delivery.binding == binding).count() as u64
    }

    pub(crate) fn dispose(
        &mut self,
        binding: BindingId,
        disposal: Disposal,
        running: &[DeliveryId],
        now: Timestamp,
    ) -> u64 {
        let of_it = |row: &&Row| row.delivery.binding == binding && !running.contains(&row.delivery.id);
        let mut rows: Vec<Row> = self.rows.values().filter(of_it).cloned().collect();
        rows.sort_by_key(|row| row.seq);
        let count = rows.len() as u64;
        for Row { mut delivery, attempts, replays, .. } in rows {
            let id = delivery.id;
            delivery.awaiting = None;
            self.rows.remove(&id);
            if disposal == Disposal::Discard || delivery.letter.is_some() {
                self.just_forgotten.push(id);
            } else {
                let reason = DeadReason::Unbound;
                let letter = DeadLetter {
                    delivery,
                    reason,
                    detail: "unbound".into(),
                    died_at: now,
                    attempts,
                    replays,
                };
                let position = self.next_position();
                self.dead.insert(id, (position, letter));
            }
        }
        count
    }

    pub(crate) fn attempts(&self, id: DeliveryId) -> Vec<Attempt> {
        let parked = self.rows.get(&id).map(|row| row.attempts.clone());
        parked.or_else(|| self.dead.get(&id).map(|(_, letter)| letter.attempts.clone())).unwrap_or_default()
    }

    pub(crate) fn parked_function(&self, id: DeliveryId) -> Option<FunctionRef> {
        self.rows.get(&id).map(|row| row.delivery.function.clone())
    }

    pub(crate) fn keep_function_state(&mut self, function: FunctionRef, state: Option<FunctionState>) {
        match state {
            Some(state) => self.functions.insert(function, state),
            None => self.functions.remove(&function),
        };
    }

    pub(crate) fn function_states(&self) -> Vec<FunctionState> {
        self.functions.values().cloned().collect()
    }
}

fn end_of(attempt: &Attempt) -> Timestamp {
    attempt.at.plus(Duration::from_micros(attempt.took_us))
}
