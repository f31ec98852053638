//! Holds the simulated queue's disk against the real queue: any sequence of verbs, the same answers from both.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use triggerd::{
    domain::{
        clock::{ManualClock, Timestamp},
        delivery::{DeadReason, Delivery, FunctionRef},
        event::{Event, StorageName},
        event_name::EventName,
        ids::{DeliveryId, EventId},
        outcome::{Attempt, Class},
    },
    queue::{
        Cursor, DeadLetter, Direction, Disposal, FunctionState, Handover, LetterFilter, LetterOffice,
        LetterQuery, Park, Quarantined, Queue, QueueOptions, Results, Retention, Retry, SqliteQueue, Sweeper,
        Ticket, UnhandedLetter, Wait,
    },
};

use crate::{
    chance::Chance,
    disk::Disk,
    scenario::{EPOCH, binding_id},
};

fn at(seconds: u64) -> Timestamp {
    EPOCH.plus(Duration::from_secs(seconds))
}

fn function(number: u64) -> FunctionRef {
    FunctionRef { platform: "local".into(), name: format!("f{number}").into() }
}

/// One of twelve: two share an event, and each has one of two bindings; each binding has its function.
fn delivery(number: u64) -> Delivery {
    let record = format!(r#"{{"n":{}}}"#, number / 2);
    let event = Event {
        id: EventId::of_record("default", record.as_bytes()),
        storage: StorageName::new("default"),
        bucket: "photos".into(),
        key: format!("e{}", number / 2),
        name: EventName::new("s3:ObjectCreated:Put"),
        time: EPOCH,
        size: None,
        etag: None,
        content_type: None,
        version_id: None,
        sequencer: None,
        principal: String::new(),
        user_metadata: BTreeMap::new(),
        record: RawValue::from_string(record).unwrap(),
    };
    let which = u8::try_from(number % 2).unwrap();
    Delivery::new(Arc::new(event), binding_id(which), function(number % 2), at(number))
}

fn attempt(chance: &mut Chance) -> Attempt {
    Attempt {
        at: at(chance.below(1_000_000)),
        took_us: chance.below(9_000_000),
        class: *chance.pick(&[Class::FunctionFault, Class::BindingBroken, Class::Throttled]),
        status: Some(500),
        detail: "simulated".into(),
    }
}

/// Both, and where the last page of a walk ended.
struct Pair {
    disk: Disk,
    queue: Arc<SqliteQueue>,
    cursor: Option<Cursor>,
}

impl Pair {
    /// One verb at random; what each answered.
    async fn verb(&mut self, chance: &mut Chance) -> (&'static str, [String; 2]) {
        match chance.below(10) {
            0..6 => self.verb_on_deliveries(chance).await,
            6 => self.hand_over(chance).await,
            7 => self.verb_on_items(chance).await,
            8 if chance.percent(20) => self.expire(chance).await,
            8 => self.keep_function(chance).await,
            _ => self.page(chance).await,
        }
    }

    async fn verb_on_deliveries(&mut self, chance: &mut Chance) -> (&'static str, [String; 2]) {
        let (disk, queue) = (&mut self.disk, &self.queue);
        let one = delivery(chance.below(12));
        let (mut id, binding, of) = (one.id, one.binding, one.function.clone());
        // Some of it is asked of the delivery to a handler function that was made of this one's letter.
        let handler =
            disk.rows.values().map(|row| &row.delivery).find(|row| row.letter == Some(id)).map(|row| row.id);
        if let Some(handler) = handler.filter(|_| chance.percent(40)) {
            id = handler;
        }
        let (due, held) = (at(chance.below(100)), chance.percent(30));
        let attempted = chance.percent(50).then(|| attempt(chance));
        let (name, answers) = match chance.below(23) {
            0..4 => {
                let park = Park { delivery: one, due, held, attempt: attempted, ticket: Ticket::default() };
                ("park", both(&disk.park(park.clone()), &queue.park(park).await))
            }
            4 => ("delivered", both(&disk.delivered(id), &queue.delivered(id).await.unwrap())),
            5 | 6 => {
                let (attempts, tries, earlier) = (1, 2, chosen_life(disk, id, chance));
                let retry = Retry { id, due, held, attempts, tries, earlier, attempt: attempted };
                ("retry", both(&disk.retry(retry.clone()), &queue.retry(retry).await.unwrap()))
            }
            7 => {
                let one = Delivery { id, letter: (Some(id) == handler).then_some(one.id), ..one };
                let letter = given_up(known_as(disk, one, chance), DeadReason::Permanent, (due, attempted));
                ("bury", both(&disk.bury(letter.clone()), &queue.bury(letter).await))
            }
            8 => {
                ("hold", both(&disk.hold(binding, held, due), &queue.hold(binding, held, due).await.unwrap()))
            }
            9 => {
                let disposal = if held { Disposal::Discard } else { Disposal::DeadLetter };
                let theirs = queue.dispose(binding, disposal, &[id], due).await.unwrap();
                ("dispose", both(&disk.dispose(binding, disposal, &[id], due), &theirs))
            }
            10 => ("replay", both(&disk.replay(id, due), &queue.replay(id, due).await.unwrap())),
            11 => ("discard", both(&disk.discard(id), &queue.discard(id).await.unwrap())),
            12 => {
                let theirs = queue.parked_function(id).await.unwrap();
                ("parked_function", both(&disk.parked_function(id), &theirs))
            }
            13 => {
                let theirs = queue.due(&of, due, &[id], 3).await.unwrap();
                ("due", both(&shown(&disk.due(&of, due, &[id], 3)), &shown(&theirs)))
            }
            14 | 15 => {
                let (earlier, tries) = (chosen_life(disk, id, chance), *chance.pick(&[0, 0, 2]));
                let wait = Wait { id, earlier, tries, since: due, until: due.plus(Duration::from_secs(50)) };
                ("wait", both(&disk.wait_for_result(wait), &queue.wait_for_result(wait).await.unwrap()))
            }
            16 => {
                let letter = given_up(known_as(disk, one, chance), DeadReason::TooOld, (due, attempted));
                ("bury_parked", both(&disk.bury_parked(letter.clone()), &queue.bury_parked(letter).await))
            }
            17 => {
                let late = Attempt { class: Class::Ok, ..attempt(chance) };
                ("late", both(&disk.came_late(id, late.clone()), &queue.came_late(id, late).await.unwrap()))
            }
            18 => {
                let (ours, theirs) = (disk.parked(id), queue.parked(id).await.unwrap());
                ("parked", both(&shown(ours.as_slice()), &shown(theirs.as_slice())))
            }
            19 => {
                let theirs = queue.bring_forward(&of, due, at(7)).await.unwrap();
                ("bring_forward", both(&disk.bring_forward(&of, due, at(7)), &theirs))
            }
            20 => {
                disk.skew = due.as_micros();
                queue.keep_skew(due.as_micros()).await.unwrap();
                ("keep_skew", both(&disk.skew, &queue.skew().await.unwrap()))
            }
            21 => {
                let heir = binding_id(u8::try_from(chance.below(3)).unwrap());
                ("rebind", both(&disk.rebind(id, heir), &queue.rebind(id, heir).await.unwrap()))
            }
            _ => ("next_due", both(&disk.next_due(&of, &[id]), &queue.next_due(&of, &[id]).await.unwrap())),
        };
        (name, answers)
    }

    /// Letters are looked at, and some of them handed over.
    async fn hand_over(&mut self, chance: &mut Chance) -> (&'static str, [String; 2]) {
        let limit = u32::try_from(chance.between(1, 4)).unwrap();
        let (ours, theirs) = (self.disk.unhanded(limit), self.queue.unhanded(limit).await.unwrap());
        let mut answers = both(&ours, &theirs);
        let Some(upto) = theirs.upto.filter(|_| answers[0] == answers[1]) else {
            return ("unhanded", answers);
        };
        let now = at(chance.below(100));
        let letter = |letter: &UnhandedLetter| Handover { letter: letter.id, function: function(2), now };
        let letters: Vec<Handover> =
            theirs.letters.iter().filter(|_| chance.percent(60)).map(letter).collect();
        // One that is gone meanwhile is passed by.
        if chance.percent(20)
            && let Some(gone) = letters.first()
        {
            let id = gone.letter;
            answers = both(&self.disk.discard(id), &self.queue.discard(id).await.unwrap());
        }
        let ours = self.disk.hand_over(letters.clone(), upto);
        let handed = both(&ours, &self.queue.hand_over(letters, upto).await);
        answers.iter_mut().zip(handed).for_each(|(answer, handed)| answer.push_str(&handed));
        ("hand_over", answers)
    }

    /// A page of letters by a filter, from the beginning or where the last one ended.
    async fn page(&mut self, chance: &mut Chance) -> (&'static str, [String; 2]) {
        let which = chance.below(2);
        let filter = LetterFilter {
            binding: chance.percent(20).then(|| binding_id(u8::try_from(which).unwrap())),
            platform: chance.percent(20).then(|| "local".to_owned()),
            function: chance.percent(20).then(|| format!("f{which}")),
            reason: chance.percent(20).then_some(DeadReason::Permanent),
            since: chance.percent(10).then(|| at(chance.below(60))),
            until: chance.percent(10).then(|| at(chance.below(100))),
            bucket: chance.percent(10).then(|| "photos".to_owned()),
            key_prefix: chance.percent(10).then(|| "e1".to_owned()),
        };
        let direction = *chance.pick(&[Direction::NewestFirst, Direction::OldestFirst]);
        let cursor = self.cursor.filter(|_| chance.percent(50));
        let limit = u32::try_from(chance.between(1, 5)).unwrap();
        let query = LetterQuery { filter, direction, cursor, limit };
        let (ours, theirs) = (self.disk.dead_letters(&query), self.queue.dead_letters(&query).await.unwrap());
        self.cursor = theirs.next;
        let mut left = [0, 0];
        if let Some(cursor) = cursor {
            left[0] = self.disk.letters_left(&query.filter, cursor);
            left[1] = self.queue.letters_left(&query.filter, cursor).await.unwrap();
        }
        let shown = [(ours, left[0]), (theirs, left[1])].map(|(page, left)| {
            let letters: Vec<String> = page.letters.iter().map(|letter| letter_shown(Some(letter))).collect();
            format!("{letters:?} {:?} {left}", page.next)
        });
        ("dead_letters", shown)
    }

    async fn verb_on_items(&mut self, chance: &mut Chance) -> (&'static str, [String; 2]) {
        let (disk, queue) = (&mut self.disk, &self.queue);
        let (id, now) = (chance.below(6), at(chance.below(100)));
        match chance.below(6) {
            0..2 => {
                let item = Quarantined {
                    source: "web".into(),
                    received_at: now,
                    reason: "simulated".into(),
                    bytes: vec![1],
                    length: 1,
                };
                ("quarantine", both(&disk.quarantine(item.clone()), &queue.quarantine(item).await.unwrap()))
            }
            2 => {
                let theirs = queue.requarantine(id, "again", now).await.unwrap();
                ("requarantine", both(&disk.requarantine(id, "again", now), &theirs))
            }
            3 => ("unquarantine", both(&disk.unquarantine(id), &queue.unquarantine(id).await.unwrap())),
            4 => {
                let ours = disk.quarantine.iter().find(|item| item.id == id);
                ("quarantine_item", both(&ours, &queue.quarantine_item(id).await.unwrap().as_ref()))
            }
            _ => {
                let before = chance.percent(50).then_some(id);
                let theirs = queue.quarantine_page(before, 3).await.unwrap();
                ("quarantine_page", both(&disk.quarantine_page(before, 3), &theirs))
            }
        }
    }

    /// The retention, all of it announced.
    async fn expire(&mut self, chance: &mut Chance) -> (&'static str, [String; 2]) {
        let now = at(chance.between(20, 120));
        let age = chance.percent(60).then(|| Duration::from_secs(chance.between(10, 100)));
        let count = chance.percent(60).then(|| chance.below(6));
        let clock = Arc::new(ManualClock::at(now));
        let retention = Retention { age, count, notice: Duration::ZERO };
        let mut sweeper = Sweeper::new(Arc::clone(&self.queue), clock, retention);
        let theirs = sweeper.pass().await.unwrap() + sweeper.pass().await.unwrap();
        let earlier =
            age.map(|age| Timestamp::from_micros(now.as_micros() - i64::try_from(age.as_micros()).unwrap()));
        ("expire", both(&self.disk.expire(earlier, count), &theirs))
    }

    async fn keep_function(&mut self, chance: &mut Chance) -> (&'static str, [String; 2]) {
        let function = function(chance.below(3));
        let state = chance.percent(60).then(|| FunctionState {
            function: function.clone(),
            open_until: at(chance.below(100)),
            opened: u32::try_from(chance.below(5)).unwrap(),
            reason: "simulated".into(),
        });
        self.disk.keep_function_state(function.clone(), state.clone());
        self.queue.keep_function_state(function, state).await.unwrap();
        let theirs = self.queue.function_states().await.unwrap();
        ("function_states", both(&self.disk.function_states(), &theirs))
    }

    /// Everything that can be read of both.
    async fn contents(&self) -> [String; 2] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for number in 0..12 {
            let id = delivery(number).id;
            ours.push(format!("{:?}", self.disk.attempts(id)));
            theirs.push(format!("{:?}", self.queue.attempts(id).await.unwrap()));
            let letter = self.queue.dead_letter(id).await.unwrap();
            ours.push(letter_shown(self.disk.dead_letter(id).as_ref()));
            theirs.push(letter_shown(letter.as_ref()));
        }
        for number in 0..3 {
            let (of, binding) = (function(number), binding_id(u8::try_from(number).unwrap()));
            ours.push(shown(&self.disk.due(&of, at(1_000), &[], 99)));
            theirs.push(shown(&self.queue.due(&of, at(1_000), &[], 99).await.unwrap()));
            ours.push(self.disk.parked_of(binding).to_string());
            theirs.push(self.queue.parked_of(binding).await.unwrap().to_string());
        }
        let query = LetterQuery { limit: 99, ..LetterQuery::default() };
        ours.push(ids(&self.disk.dead_letters(&query).letters));
        theirs.push(ids(&self.queue.dead_letters(&query).await.unwrap().letters));
        ours.push(format!("{:?}", self.disk.quarantine_page(None, 99)));
        theirs.push(format!("{:?}", self.queue.quarantine_page(None, 99).await.unwrap()));
        ours.push(format!("{:?}", self.disk.unhanded(99)));
        theirs.push(format!("{:?}", self.queue.unhanded(99).await.unwrap()));
        ours.push(format!("{:?}{:?}", self.disk.backlog(), self.disk.held_bindings()));
        let (backlog, held) =
            (self.queue.backlog().await.unwrap(), self.queue.held_bindings().await.unwrap());
        theirs.push(format!("{backlog:?}{held:?}"));
        [ours.join("\n"), theirs.join("\n")]
    }
}

fn both(ours: &impl std::fmt::Debug, theirs: &impl std::fmt::Debug) -> [String; 2] {
    [format!("{ours:?}"), format!("{theirs:?}")]
}

/// Mostly the life in which a delivery is parked.
fn chosen_life(disk: &Disk, id: DeliveryId, chance: &mut Chance) -> u32 {
    let now = disk.parked(id).map_or(0, |delivery| delivery.earlier);
    if chance.percent(80) { now } else { now.saturating_sub(1) }
}

/// Mostly as it is parked.
fn known_as(disk: &Disk, one: Delivery, chance: &mut Chance) -> Delivery {
    Delivery { tries: *chance.pick(&[0, 2]), earlier: chosen_life(disk, one.id, chance), ..one }
}

fn given_up(
    delivery: Delivery,
    reason: DeadReason,
    (died_at, attempted): (Timestamp, Option<Attempt>),
) -> DeadLetter {
    let (detail, attempts) = ("simulated".to_owned(), attempted.into_iter().collect());
    DeadLetter { delivery, reason, detail, died_at, attempts, replays: 0 }
}

fn shown(deliveries: &[Delivery]) -> String {
    let one = |one: &Delivery| {
        let Delivery { id, accepted_at, attempts, tries, earlier, letter, awaiting, .. } = one;
        format!("{id} {accepted_at} {attempts} {tries} {earlier} {letter:?} {awaiting:?}")
    };
    deliveries.iter().map(one).collect::<Vec<_>>().join(",")
}

fn letter_shown(letter: Option<&DeadLetter>) -> String {
    letter.map_or_else(String::new, |letter| {
        let one = shown(std::slice::from_ref(&letter.delivery));
        format!("{one} {:?} {} {:?} {}", letter.reason, letter.died_at, letter.attempts, letter.replays)
    })
}

fn ids(letters: &[DeadLetter]) -> String {
    letters.iter().map(|letter| letter.delivery.id.to_string()).collect::<Vec<_>>().join(",")
}

/// Runs so many sequences; the first difference is the error.
pub(crate) fn agree(sequences: u64, start: u64) -> Result<u64, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut verbs = 0;
    for seed in start..start + sequences {
        verbs += runtime.block_on(sequence(seed))?;
    }
    Ok(verbs)
}

async fn sequence(seed: u64) -> Result<u64, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let (queue, writer) = SqliteQueue::open(&path, &QueueOptions::default()).await.unwrap();
    let writer = tokio::spawn(writer.run());
    let mut pair = Pair { disk: Disk::new(usize::MAX, usize::MAX), queue: Arc::new(queue), cursor: None };
    let (chance, mut said) = (&mut Chance::new(seed), Vec::new());
    let verbs = chance.between(1, 60);
    for _ in 0..verbs {
        let (verb, [ours, theirs]) = pair.verb(chance).await;
        said.push(format!("{verb}: {theirs}"));
        if ours != theirs {
            return Err(format!("sequence {seed}: {verb}: simulated {ours}, real {theirs}; {said:#?}"));
        }
    }
    let [ours, theirs] = pair.contents().await;
    if ours != theirs {
        return Err(format!("sequence {seed}: simulated\n{ours}\nreal\n{theirs}\n{said:#?}"));
    }
    pair.queue.close().await;
    writer.await.unwrap();
    Ok(verbs)
}
