//! The books: what was promised and what was seen. Whatever does not balance is a violation.
//!
//! While the run goes on:
//!
//! * a message is acknowledged only when each of its deliveries is on disk, dead, or was answered well;
//! * no two attempts of one delivery at once; of a function never more than any of its bindings allows;
//! * no attempt after the delivery's end was recorded, or after the function said yes, within one life (unless the disk
//!   failed for this event, or the source got it back: then it may be repeated);
//! * no attempt for a binding that has been held, or gone, for a while;
//! * what never comes again is on disk before it is fired;
//! * the delivery of one event to one binding has one id, whatever happens;
//! * beside a sick function its neighbour is served soon; where nothing fails, nothing that is due waits for a sweep;
//! * given up only for the reason that is named, and never for an age that it has not, or that is a jump of the clock;
//! * what an operator had forgotten is not called again, unless its event is brought again; what is replayed does not die
//!   again without a call, nor for what attempts from before the replay came to, and no call after has the number of one before;
//! * an item leaves the quarantine when all that it causes is safe (`operator`);
//! * no more calls in any stretch of time than the function's rate allows;
//! * nothing that waits is fired before its time, whatever the wall clock says, nor is it put off by less than its platform
//!   asked; and nothing is fired that is older than its binding allows.
//!
//! At the end: every message is acknowledged or went back to a source that does not repeat (and was counted as lost);
//! every delivery of an acknowledged message was answered well, or is a dead letter, or is held for a paused binding, or
//! was forgotten at an operator's wish; so was every delivery that was replayed, *after* that. Each dead letter was given
//! to its handler function (`estate`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use triggerd::domain::{
    binding::Binding,
    delivery::FunctionRef,
    ids::{BindingId, DeliveryId},
    outcome::Class,
};

use crate::{
    disk::Disk,
    estate::Handed,
    scenario::{Family, Leg, Scenario, Way},
};

/// How long an attempt may take from owning its delivery to its call.
const CLAIMED: Duration = Duration::from_secs(2);

/// Where a message on its way stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LegState {
    Open,
    Acked,
    /// It went back to a source that never sends again.
    Lost,
}

#[derive(Debug, Default)]
pub(crate) struct EventBook {
    /// The bindings that matched whenever it was looked for them.
    pub(crate) matched: Option<BTreeSet<BindingId>>,
    pub(crate) only_once: bool,
    pub(crate) first_sent: Option<Duration>,
    /// This life: the disk failed for it, or its source got it back.
    pub(crate) excused: bool,
}

/// Whether a delivery was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Replay {
    #[default]
    Never,
    /// It was not called since.
    Waits,
    Called,
}

#[derive(Debug, Default)]
pub(crate) struct Track {
    pub(crate) event: u32,
    pub(crate) binding: u8,
    pub(crate) running: bool,
    pub(crate) answered_well: u32,
    /// The numbers of the calls that were answered so; none of them is the number of a call in another life.
    pub(crate) function_faults: BTreeSet<u32>,
    pub(crate) permanent: BTreeSet<u32>,
    /// Each call that was answered so: a repeat of its event, fired from memory after a restart, has the number of the row's
    /// first, and what was inspected between the two is judged by both. (Seed 39036.)
    pub(crate) broken: Vec<u32>,
    /// The good answers are counted from then.
    pub(crate) replay: Replay,
    /// Its last life ([`triggerd::domain::delivery::Delivery::earlier`]).
    pub(crate) life: u32,
    /// An operator had it forgotten; when it was taken from its attempt by that, at the latest.
    pub(crate) silent_from: Option<Duration>,
    /// This life.
    pub(crate) well_now: bool,
    pub(crate) recorded_now: Option<&'static str>,
    pub(crate) row_before: bool,
}

/// How busy a function is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Busy {
    /// Calls under way.
    pub(crate) calls: u32,
    /// When there was no room for another, the last time.
    pub(crate) full_at: Duration,
}

/// The books of one run.
pub(crate) struct Books {
    pub(crate) family: Family,
    pub(crate) bindings: BTreeMap<BindingId, (Binding, bool)>,
    pub(crate) legs: Vec<(Leg, LegState)>,
    /// Legs that were sent, by number.
    pub(crate) sent: BTreeSet<usize>,
    pub(crate) events: BTreeMap<u32, EventBook>,
    pub(crate) tracks: BTreeMap<DeliveryId, Track>,
    /// Deliveries to handler functions.
    pub(crate) handed: BTreeMap<DeliveryId, Handed>,
    /// Deliveries and bodies that were forgotten at somebody's wish.
    pub(crate) forgotten: BTreeSet<DeliveryId>,
    pub(crate) given_away: BTreeSet<Vec<u8>>,
    pub(crate) calling: BTreeMap<FunctionRef, Busy>,
    /// When a function was called in this life.
    pub(crate) called_at: BTreeMap<FunctionRef, Vec<Duration>>,
    /// Until when a delivery's platform asked to be left alone with it, in this life.
    pub(crate) asked: BTreeMap<DeliveryId, Duration>,
    /// When a delivery's last call of this life ended.
    pub(crate) answered_at: BTreeMap<DeliveryId, Duration>,
    /// When a parked delivery was last read and found.
    pub(crate) row_seen: BTreeMap<DeliveryId, Duration>,
    /// Functions that refuse nothing, so that no breaker opens and no concurrency shrinks.
    steady: BTreeSet<String>,
    /// The wall clock jumped, and a process that ended told nobody: its successor takes it for time that passed.
    pub(crate) unseen_jump: bool,
    pub(crate) attempts: u64,
    pub(crate) violations: Vec<String>,
}

impl Books {
    pub(crate) fn new(plan: &Scenario) -> Self {
        let mut events: BTreeMap<u32, EventBook> = BTreeMap::new();
        for leg in &plan.legs {
            for event in &leg.events {
                let book =
                    events.entry(*event).or_insert(EventBook { only_once: true, ..EventBook::default() });
                book.only_once &= leg.way == Way::No;
            }
        }
        let bindings =
            plan.bindings.iter().map(|one| (one.binding.id, (one.binding.clone(), one.stays_paused)));
        Self {
            family: plan.family,
            bindings: bindings.collect(),
            legs: plan.legs.iter().map(|leg| (leg.clone(), LegState::Open)).collect(),
            sent: BTreeSet::new(),
            events,
            tracks: BTreeMap::new(),
            handed: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            given_away: BTreeSet::new(),
            calling: BTreeMap::new(),
            called_at: BTreeMap::new(),
            asked: BTreeMap::new(),
            answered_at: BTreeMap::new(),
            steady: plan
                .functions
                .iter()
                .zip(0..)
                .filter(|(temper, _)| temper.is_steady())
                .map(|(_, number): (_, u32)| format!("f{number}"))
                .collect(),
            row_seen: BTreeMap::new(),
            unseen_jump: false,
            attempts: 0,
            violations: Vec::new(),
        }
    }

    /// Which event and which binding, for a person.
    pub(crate) fn name(&self, id: DeliveryId) -> String {
        if let Some(handed) = self.handed.get(&id) {
            return format!("letter({})", self.name(handed.letter));
        }
        self.tracks
            .get(&id)
            .map_or_else(|| id.to_string(), |track| format!("e{}→b{}", track.event, track.binding))
    }

    pub(crate) fn begin_life(&mut self, disk: &Disk) {
        self.calling.clear();
        self.called_at.clear();
        self.asked.clear();
        self.answered_at.clear();
        for handed in self.handed.values_mut() {
            handed.begin_anew();
        }
        for (id, track) in &mut self.tracks {
            (track.running, track.well_now, track.recorded_now) = (false, false, None);
            track.row_before = disk.rows.contains_key(id) || disk.dead.contains_key(id);
        }
        for event in self.events.values_mut() {
            event.excused = false;
        }
        // What never comes again was lost with the process, unless it was answered.
        for leg in &self.sent {
            let (message, state) = &mut self.legs[*leg];
            if message.way != Way::Yes && *state == LegState::Open {
                *state = LegState::Lost;
            }
        }
    }

    pub(crate) fn sent(&mut self, leg: usize, elapsed: Duration) {
        self.sent.insert(leg);
        for event in &self.legs[leg].0.events {
            if let Some(book) = self.events.get_mut(event) {
                book.first_sent.get_or_insert(elapsed);
            }
        }
        for event in self.legs[leg].0.events.clone() {
            self.brought_again(event);
        }
    }

    /// Its deliveries may be called whatever was forgotten before.
    pub(crate) fn brought_again(&mut self, event: u32) {
        for track in self.tracks.values_mut().filter(|track| track.event == event) {
            track.silent_from = None;
        }
    }

    /// Intake has looked for the bindings of an event.
    pub(crate) fn matched(&mut self, event: u32, found: impl Iterator<Item = BindingId>) {
        let found: BTreeSet<BindingId> = found.collect();
        let Some(book) = self.events.get_mut(&event) else { return };
        book.matched = Some(match book.matched.take() {
            Some(before) => before.intersection(&found).copied().collect(),
            None => found,
        });
    }

    /// Something about the delivery failed on disk: its event may be repeated.
    pub(crate) fn excuse(&mut self, id: DeliveryId) {
        if let Some(event) = self.tracks.get(&id).map(|track| track.event) {
            self.excuse_event(event);
        }
    }

    pub(crate) fn excuse_event(&mut self, event: u32) {
        if let Some(book) = self.events.get_mut(&event) {
            book.excused = true;
        }
    }

    /// Whether the result of a binding's calls is awaited.
    pub(crate) fn awaits(&self, binding: u8) -> bool {
        let mut bindings = self.bindings.iter();
        bindings.any(|(id, (one, _))| id.as_bytes()[0] == binding && one.spec.await_result().is_some())
    }

    /// A report of a success comes.
    pub(crate) fn succeeded(&mut self, id: DeliveryId) {
        if let Some(track) = self.tracks.get_mut(&id) {
            track.answered_well += 1;
        }
    }

    /// The platform has heard that its report settled the delivery.
    pub(crate) fn settled_by_report(&mut self, id: DeliveryId) {
        if let Some(track) = self.tracks.get_mut(&id) {
            track.recorded_now = Some("by its result");
        }
    }

    /// A report of a failure comes, of the call that is awaited or was under way when the process ended.
    pub(crate) fn failed(&mut self, id: DeliveryId, number: u32) {
        if let Some(track) = self.tracks.get_mut(&id) {
            track.function_faults.insert(number);
        }
    }

    /// A verb on a delivery is on disk, whatever who asked hears; in which life it is parked now.
    pub(crate) fn happened(&mut self, id: DeliveryId, verb: &'static str, value: &str, life: Option<u32>) {
        let unheard = self.tracks.get(&id).filter(|track| track.answered_well == 0);
        if (verb, value) == ("delivered", "true") && unheard.is_some_and(|track| self.awaits(track.binding)) {
            let name = self.name(id);
            self.violations.push(format!("{name} was settled though nobody said that it succeeded"));
        }
        // Only a source's message parks: one that was under way when the delivery was forgotten brings it again, and intake, whose
        // message it is, knows nothing of what an operator has forgotten. (Seed 9826.)
        if (verb, value) == ("park", "Written")
            && let Some(track) = self.tracks.get_mut(&id)
        {
            track.silent_from = None;
        }
        if verb != "replay" || value == "None" {
            return;
        }
        self.asked.remove(&id);
        // What the function said yes to meanwhile is settled: its attempt, which goes on, removes whatever is there.
        let Some(track) = self.tracks.get_mut(&id).filter(|track| !track.well_now) else { return };
        track.recorded_now = None;
        track.silent_from = None;
        track.answered_well = 0;
        track.replay = Replay::Waits;
        track.life = life.unwrap_or_default();
    }

    /// A delivery was forgotten at somebody's wish; none of its attempts may begin after `from`.
    pub(crate) fn forgotten(&mut self, id: DeliveryId, from: Option<Duration>) {
        self.forgotten.insert(id);
        if let Some(track) = self.tracks.get_mut(&id) {
            track.silent_from = Some(from.map_or(Duration::ZERO, |from| from + CLAIMED));
        }
    }

    /// A verb on a delivery is on disk and was not withheld from who asked.
    pub(crate) fn recorded(&mut self, id: DeliveryId, verb: &'static str, value: &str) {
        if let Some(handed) = self.handed.get_mut(&id) {
            handed.is_over |= verb == "delivered" && value == "true";
        }
        let Some(track) = self.tracks.get_mut(&id) else { return };
        match (verb, value) {
            ("delivered" | "bury", "true") | ("park", "Overflow") => track.recorded_now = Some(verb),
            _ => (),
        }
    }

    pub(crate) fn track(&mut self, id: DeliveryId, event: u32, binding: BindingId) -> &mut Track {
        let binding = binding.as_bytes()[0];
        self.tracks.entry(id).or_insert_with(|| Track { event, binding, ..Track::default() })
    }

    /// Made known before it is parked for the first time, for the trace.
    pub(crate) fn expect(&mut self, id: DeliveryId, event: u32, binding: BindingId) {
        self.track(id, event, binding);
    }

    /// The answer was sent, or the call was dropped.
    pub(crate) fn call_ended(
        &mut self,
        (id, number): (DeliveryId, u32),
        function: &FunctionRef,
        (class, elapsed): (Option<Class>, Duration),
    ) {
        let room = self.room(function);
        self.answered_at.insert(id, elapsed);
        if let Some(busy) = self.calling.get_mut(function) {
            if busy.calls >= room {
                busy.full_at = elapsed;
            }
            busy.calls = busy.calls.saturating_sub(1);
        }
        let well = matches!(class, Some(Class::Ok | Class::Accepted));
        if let Some(handed) = self.handed.get_mut(&id) {
            handed.ended(well);
        }
        let awaits = self.tracks.get(&id).is_some_and(|track| self.awaits(track.binding));
        let Some(track) = self.tracks.get_mut(&id) else { return };
        track.running = false;
        match class {
            // What its report says, or that there is none, may be the function's fault.
            Some(Class::Accepted) if awaits => drop(track.function_faults.insert(number)),
            Some(Class::Ok | Class::Accepted) => {
                track.answered_well += 1;
                track.well_now = true;
            }
            Some(Class::FunctionFault) => drop(track.function_faults.insert(number)),
            Some(Class::Permanent) => drop(track.permanent.insert(number)),
            Some(Class::BindingBroken) => track.broken.push(number),
            _ => (),
        }
    }

    /// How many calls at once a function has room for, whatever it answered.
    pub(crate) fn room(&self, function: &FunctionRef) -> u32 {
        if !self.steady.contains(&*function.name) {
            return 1;
        }
        let of_it = || self.bindings.values().filter(|(one, _)| one.spec.function.to_ref() == *function);
        // What its rate keeps back waits beside an idle function.
        if of_it().any(|(one, _)| one.spec.rate_limit.is_some()) {
            return 1;
        }
        of_it().map(|(one, _)| one.spec.concurrency).min().unwrap_or(1)
    }

    /// Whether a message may be acknowledged now; what is missing.
    pub(crate) fn unsafe_deliveries(&self, leg: &Leg, disk: &Disk) -> Option<String> {
        for number in &leg.events {
            let book = &self.events[number];
            for binding in book.matched.iter().flatten() {
                let found = self
                    .tracks
                    .iter()
                    .find(|(_, track)| track.event == *number && track.binding == binding.as_bytes()[0]);
                let is_safe = found.is_some_and(|(id, track)| self.is_safe(*id, track, disk));
                if !is_safe {
                    return Some(format!("e{number}→b{}", binding.as_bytes()[0]));
                }
            }
        }
        None
    }

    /// Whether somebody has a delivery, or has had it.
    pub(crate) fn is_safe(&self, id: DeliveryId, track: &Track, disk: &Disk) -> bool {
        track.answered_well > 0
            || disk.rows.contains_key(&id)
            || disk.dead.contains_key(&id)
            || self.forgotten.contains(&id)
    }

    pub(crate) fn is_over(&self, leg: usize) -> bool {
        self.legs[leg].1 != LegState::Open
    }

    pub(crate) fn open_legs(&self) -> Vec<usize> {
        (0..self.legs.len()).filter(|leg| !self.is_over(*leg)).collect()
    }
}
