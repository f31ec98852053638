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
//! * given up only for the reason that is named, and never for its age near a jump of the clock.
//!
//! At the end: every message is acknowledged or went back to a source that does not repeat (and was counted as lost);
//! every delivery of an acknowledged message was answered well, or is a dead letter, or is held for a paused binding.

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
    scenario::{Family, Leg, Scenario, Way},
};

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

#[derive(Debug, Default)]
pub(crate) struct Track {
    pub(crate) event: u32,
    pub(crate) binding: u8,
    pub(crate) running: bool,
    pub(crate) answered_well: u32,
    pub(crate) function_faults: u32,
    pub(crate) permanent: u32,
    pub(crate) broken: u32,
    /// This life.
    pub(crate) well_now: bool,
    pub(crate) recorded_now: Option<&'static str>,
    pub(crate) row_before: bool,
}

/// The books of one run.
pub(crate) struct Books {
    pub(crate) family: Family,
    pub(crate) jumps: bool,
    pub(crate) bindings: BTreeMap<BindingId, (Binding, bool)>,
    pub(crate) legs: Vec<(Leg, LegState)>,
    /// Legs that were sent, by number.
    pub(crate) sent: BTreeSet<usize>,
    pub(crate) events: BTreeMap<u32, EventBook>,
    pub(crate) tracks: BTreeMap<DeliveryId, Track>,
    /// Calls under way, and since when it has been as many.
    pub(crate) calling: BTreeMap<FunctionRef, (u32, Duration)>,
    pub(crate) jumped_at: Option<Duration>,
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
            jumps: !plan.jumps.is_empty(),
            bindings: bindings.collect(),
            legs: plan.legs.iter().map(|leg| (leg.clone(), LegState::Open)).collect(),
            sent: BTreeSet::new(),
            events,
            tracks: BTreeMap::new(),
            calling: BTreeMap::new(),
            jumped_at: None,
            attempts: 0,
            violations: Vec::new(),
        }
    }

    /// Which event and which binding, for a person.
    pub(crate) fn name(&self, id: DeliveryId) -> String {
        self.tracks
            .get(&id)
            .map_or_else(|| id.to_string(), |track| format!("e{}→b{}", track.event, track.binding))
    }

    pub(crate) fn begin_life(&mut self, disk: &Disk) {
        self.calling.clear();
        self.jumped_at = None;
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

    pub(crate) fn jumped(&mut self, elapsed: Duration) {
        self.jumped_at = Some(elapsed);
    }

    pub(crate) fn sent(&mut self, leg: usize, elapsed: Duration) {
        self.sent.insert(leg);
        for event in &self.legs[leg].0.events {
            if let Some(book) = self.events.get_mut(event) {
                book.first_sent.get_or_insert(elapsed);
            }
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

    /// A verb on a delivery is on disk and was not withheld from who asked.
    pub(crate) fn recorded(&mut self, id: DeliveryId, verb: &'static str, value: &str) {
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
        id: DeliveryId,
        function: &FunctionRef,
        (class, elapsed): (Option<Class>, Duration),
    ) {
        if let Some(calling) = self.calling.get_mut(function) {
            *calling = (calling.0.saturating_sub(1), elapsed);
        }
        let Some(track) = self.tracks.get_mut(&id) else { return };
        track.running = false;
        match class {
            Some(Class::Ok | Class::Accepted) => {
                track.answered_well += 1;
                track.well_now = true;
            }
            Some(Class::FunctionFault) => track.function_faults += 1,
            Some(Class::Permanent) => track.permanent += 1,
            Some(Class::BindingBroken) => track.broken += 1,
            _ => (),
        }
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
                let is_safe = found.is_some_and(|(id, track)| {
                    track.answered_well > 0 || disk.rows.contains_key(id) || disk.dead.contains_key(id)
                });
                if !is_safe {
                    return Some(format!("e{number}→b{}", binding.as_bytes()[0]));
                }
            }
        }
        None
    }

    pub(crate) fn is_over(&self, leg: usize) -> bool {
        self.legs[leg].1 != LegState::Open
    }

    pub(crate) fn open_legs(&self) -> Vec<usize> {
        (0..self.legs.len()).filter(|leg| !self.is_over(*leg)).collect()
    }
}
