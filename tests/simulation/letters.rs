//! The dead letters and the quarantine on the simulated disk, and what an operator asks of them.

use async_trait::async_trait;
use triggerd::{
    domain::{
        clock::Timestamp,
        delivery::{Delivery, FunctionRef},
        ids::{BindingId, DeliveryId},
    },
    queue::{
        Cursor, DeadLetter, Direction, Handover, Item, LetterFilter, LetterOffice, LetterPage, LetterQuery,
        Quarantined, QueueError, Unhanded, UnhandedLetter,
    },
};

use crate::{
    disk::{Disk, Row},
    queue::SimQueue,
};

/// The window of a walk, `low` and `high` themselves not in it; outside of the queue it is a text.
fn window(cursor: Cursor) -> (i64, i64) {
    let text = cursor.to_string();
    let (low, high) = text.split_once('-').unwrap();
    (low.parse().unwrap(), high.parse().unwrap())
}

fn cursor((low, high): (i64, i64)) -> Cursor {
    format!("{low}-{high}").parse().unwrap()
}

fn fits(letter: &DeadLetter, filter: &LetterFilter) -> bool {
    let (delivery, event) = (&letter.delivery, &letter.delivery.event);
    filter.binding.is_none_or(|binding| binding == delivery.binding)
        && filter.platform.as_deref().is_none_or(|platform| platform == &*delivery.function.platform)
        && filter.function.as_deref().is_none_or(|name| name == &*delivery.function.name)
        && filter.reason.is_none_or(|reason| reason == letter.reason)
        && filter.since.is_none_or(|since| letter.died_at >= since)
        && filter.until.is_none_or(|until| letter.died_at < until)
        && filter.bucket.as_deref().is_none_or(|bucket| bucket == event.bucket)
        && filter.key_prefix.as_deref().is_none_or(|prefix| event.key.starts_with(prefix))
}

/// Whether a letter is of what the walk itself is narrowed to, by which what is left is counted.
fn in_scope(letter: &DeadLetter, filter: &LetterFilter) -> bool {
    let (binding, platform, function) = (filter.binding, filter.platform.clone(), filter.function.clone());
    let scope = match (binding, platform, function) {
        (Some(binding), ..) => LetterFilter { binding: Some(binding), ..LetterFilter::default() },
        (None, platform @ Some(_), function @ Some(_)) => {
            LetterFilter { platform, function, ..LetterFilter::default() }
        }
        _ => LetterFilter::default(),
    };
    fits(letter, &scope)
}

impl Disk {
    pub(crate) fn dead_letter(&self, id: DeliveryId) -> Option<DeadLetter> {
        self.dead.get(&id).map(|(_, letter)| letter.clone())
    }

    pub(crate) fn dead_letters(&self, query: &LetterQuery) -> LetterPage {
        let newest = self.dead.values().map(|(position, _)| *position).max().unwrap_or(0);
        let (low, high) = match (query.cursor, query.direction) {
            (Some(cursor), _) => window(cursor),
            (None, Direction::NewestFirst) => (0, i64::MAX),
            (None, Direction::OldestFirst) => (0, newest + 1),
        };
        let mut found: Vec<&(i64, DeadLetter)> = self
            .dead
            .values()
            .filter(|(position, letter)| (low + 1..high).contains(position) && fits(letter, &query.filter))
            .collect();
        found.sort_by_key(|(position, _)| *position);
        if query.direction == Direction::NewestFirst {
            found.reverse();
        }
        let limit = query.limit.clamp(1, LetterQuery::MAX_LIMIT) as usize;
        found.truncate(limit);
        let last = found.last().filter(|_| found.len() >= limit).map(|(position, _)| *position);
        let next = last.map(|last| match query.direction {
            Direction::NewestFirst => cursor((low, last)),
            Direction::OldestFirst => cursor((last, high)),
        });
        LetterPage { letters: found.into_iter().map(|(_, letter)| letter.clone()).collect(), next }
    }

    pub(crate) fn letters_left(&self, filter: &LetterFilter, cursor: Cursor) -> u64 {
        let (low, high) = window(cursor);
        let left = self
            .dead
            .values()
            .filter(|(position, letter)| (low + 1..high).contains(position) && in_scope(letter, filter));
        left.count() as u64
    }

    pub(crate) fn replay(&mut self, id: DeliveryId, now: Timestamp) -> Option<FunctionRef> {
        let (_, letter) = self.dead.remove(&id)?;
        let mut delivery = letter.delivery;
        delivery.earlier += delivery.tries + 1;
        (delivery.attempts, delivery.tries, delivery.accepted_at) = (0, 0, now);
        let function = delivery.function.clone();
        let seq = self.next_seq();
        let replays = letter.replays + 1;
        self.rows
            .insert(id, Row { seq, delivery, due: now, held_since: None, attempts: Vec::new(), replays });
        Some(function)
    }

    pub(crate) fn rebind(&mut self, id: DeliveryId, binding: BindingId) -> bool {
        self.dead.get_mut(&id).is_some_and(|(_, letter)| {
            letter.delivery.binding = binding;
            true
        })
    }

    pub(crate) fn discard(&mut self, id: DeliveryId) -> bool {
        let was_there = self.dead.remove(&id).is_some();
        if was_there {
            self.just_forgotten.push(id);
        }
        was_there
    }

    /// Drops letters as the retention does: those that died before a moment, and all but the newest so many.
    pub(crate) fn expire(&mut self, before: Option<Timestamp>, count: Option<u64>) -> u64 {
        let mut positions: Vec<i64> = self.dead.values().map(|(position, _)| *position).collect();
        positions.sort_unstable_by_key(|position| std::cmp::Reverse(*position));
        let beyond = count.and_then(|count| positions.get(usize::try_from(count).unwrap_or(usize::MAX)));
        let expired: Vec<DeliveryId> = self
            .dead
            .iter()
            .filter(|(_, (position, letter))| {
                before.is_some_and(|moment| letter.died_at < moment)
                    || beyond.is_some_and(|beyond| position <= beyond)
            })
            .map(|(id, _)| *id)
            .collect();
        expired.into_iter().filter(|id| self.discard(*id)).count() as u64
    }

    pub(crate) fn unhanded(&self, limit: u32) -> Unhanded {
        let mut found: Vec<&(i64, DeadLetter)> =
            self.dead.values().filter(|(position, _)| *position > self.handed).collect();
        found.sort_by_key(|(position, _)| *position);
        found.truncate(limit as usize);
        let letters = found.iter().map(|(_, letter)| UnhandedLetter {
            id: letter.delivery.id,
            binding: letter.delivery.binding,
            platform: letter.delivery.function.platform.clone(),
        });
        Unhanded { letters: letters.collect(), upto: found.last().map(|(position, _)| *position) }
    }

    pub(crate) fn hand_over(&mut self, letters: Vec<Handover>, upto: i64) -> Result<u64, QueueError> {
        let mut parked = 0;
        for Handover { letter, function, now } in letters {
            let Some((position, dead)) = self.dead.get(&letter) else { continue };
            if self.is_full() {
                self.handed = self.handed.max(position - 1);
                return Err(QueueError::Full { bytes: 0 });
            }
            let id = DeliveryId::of_letter(letter, dead.died_at);
            if self.rows.contains_key(&id) {
                continue;
            }
            let delivery = Delivery {
                id,
                event: dead.delivery.event.clone(),
                binding: dead.delivery.binding,
                function,
                accepted_at: now,
                attempts: 0,
                tries: 0,
                earlier: 0,
                letter: Some(letter),
                awaiting: None,
            };
            let seq = self.next_seq();
            let attempts = Vec::new();
            self.rows.insert(id, Row { seq, delivery, due: now, held_since: None, attempts, replays: 0 });
            parked += 1;
        }
        self.handed = self.handed.max(upto);
        Ok(parked)
    }

    pub(crate) fn quarantine(&mut self, what: Quarantined) -> u64 {
        self.items += 1;
        self.quarantine.push(Item { id: self.items, what, tries: 0, tried_at: None });
        self.items
    }

    pub(crate) fn quarantine_page(&self, before: Option<u64>, limit: u32) -> Vec<Item> {
        let older = self.quarantine.iter().rev().filter(|item| before.is_none_or(|before| item.id < before));
        older.take(limit as usize).cloned().collect()
    }

    pub(crate) fn requarantine(&mut self, id: u64, reason: &str, now: Timestamp) -> bool {
        let Some(item) = self.quarantine.iter_mut().find(|item| item.id == id) else { return false };
        item.what.reason = Quarantined::reason_after(&item.what.reason, reason);
        (item.tries, item.tried_at) = (item.tries + 1, Some(now));
        true
    }

    pub(crate) fn unquarantine(&mut self, id: u64) -> bool {
        let before = self.quarantine.len();
        self.quarantine.retain(|item| item.id != id);
        self.quarantine.len() < before
    }
}

#[async_trait]
impl LetterOffice for SimQueue {
    async fn dead_letters(&self, query: &LetterQuery) -> Result<LetterPage, QueueError> {
        self.read("dead_letters", |disk| disk.dead_letters(query)).await
    }

    async fn letters_left(&self, filter: &LetterFilter, cursor: Cursor) -> Result<u64, QueueError> {
        self.read("letters_left", |disk| disk.letters_left(filter, cursor)).await
    }

    async fn rebind(&self, id: DeliveryId, binding: BindingId) -> Result<bool, QueueError> {
        self.write("rebind", Some(id), move |disk| Ok(disk.rebind(id, binding))).await
    }

    async fn parked_function(&self, id: DeliveryId) -> Result<Option<FunctionRef>, QueueError> {
        self.read("parked_function", |disk| disk.parked_function(id)).await
    }

    async fn quarantine_page(&self, before: Option<u64>, limit: u32) -> Result<Vec<Item>, QueueError> {
        self.read("quarantine_page", |disk| disk.quarantine_page(before, limit)).await
    }

    async fn quarantine_item(&self, id: u64) -> Result<Option<Item>, QueueError> {
        self.read("quarantine_item", |disk| disk.quarantine.iter().find(|item| item.id == id).cloned()).await
    }

    async fn requarantine(&self, id: u64, reason: &str, now: Timestamp) -> Result<bool, QueueError> {
        let reason = reason.to_owned();
        self.write("requarantine", None, move |disk| Ok(disk.requarantine(id, &reason, now))).await
    }

    async fn unquarantine(&self, id: u64) -> Result<bool, QueueError> {
        self.write("unquarantine", None, move |disk| Ok(disk.unquarantine(id))).await
    }
}
