//! Whether a binding fires itself: its function writes into the bucket what fires it again.
//!
//! Of each binding the last deliveries are remembered. A new event that fires it is taken for a *child* of one of them
//! when the object's name is derived from the other's (it holds its stem as a word of its own, or is the same key) and
//! the function ran for that one at this moment or a short while ago. A child is one deeper than its parent; at
//! [`SUSPICIOUS`] the binding is told of, once a minute: the remedy is the operator's (`ignore_principals`, a narrower
//! filter). An event that its source brings again is the same event, and no child.
//!
//! **No event is dropped by it**, and nothing waits for it: names prove nothing, and a client that writes one key again
//! and again looks the same. A function that gives its output a name of its own is not noticed.
//!
//! **Bounded:** [`BINDINGS`] bindings, of each the last [`DELIVERIES`] deliveries, of each the name's first
//! [`NAME_BYTES`] bytes. All of it is lost at a restart, which costs a later warning.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::domain::ids::{BindingId, DeliveryId};

/// Depth at which a binding is told of.
pub const SUSPICIOUS: u32 = 3;

/// How long after its end a function's attempt may still be the cause of an event.
pub const AFTERMATH: Duration = Duration::from_secs(2);

/// The least time between two warnings of one binding.
const PAUSE: Duration = Duration::from_mins(1);

/// Most bindings that are remembered; the one that was quiet for longest goes.
const BINDINGS: usize = 512;

/// Most deliveries remembered of one binding.
const DELIVERIES: usize = 128;

/// Longest part of an object's name that is remembered, in bytes.
const NAME_BYTES: usize = 128;

/// A suspicion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspicion {
    /// How many times in a row an event was a child of the one before.
    pub depth: u32,
    /// The last path segment of the parent's key.
    pub parent: String,
    /// Whether it is to be told, or was told within the last minute.
    pub is_due: bool,
}

/// The deliveries that are remembered.
#[derive(Debug, Default)]
pub struct Loops {
    bindings: Mutex<BTreeMap<BindingId, Trace>>,
}

#[derive(Debug, Default)]
struct Trace {
    deliveries: VecDeque<Seen>,
    last: Duration,
    told: Option<Duration>,
}

#[derive(Debug)]
struct Seen {
    delivery: DeliveryId,
    /// Of the whole key.
    key: u64,
    /// Last path segment.
    name: String,
    depth: u32,
}

impl Loops {
    /// Notes that an event of this key fires a binding, at `now` by the monotonic clock; a suspicion, if there is one.
    ///
    /// `is_alive` says of an earlier delivery whether its function runs, or ran until a short while ago; it is asked
    /// only where the names fit.
    pub fn note(
        &self,
        (binding, delivery): (BindingId, DeliveryId),
        key: &str,
        now: Duration,
        is_alive: impl Fn(DeliveryId) -> bool,
    ) -> Option<Suspicion> {
        let mut bindings = self.bindings.lock().unwrap_or_else(PoisonError::into_inner);
        if bindings.len() >= BINDINGS && !bindings.contains_key(&binding) {
            let quietest = bindings.iter().min_by_key(|(_, trace)| trace.last).map(|(id, _)| *id);
            quietest.and_then(|id| bindings.remove(&id));
        }
        let trace = bindings.entry(binding).or_default();
        trace.last = now;
        if trace.deliveries.iter().any(|seen| seen.delivery == delivery) {
            // Its source brings the same event again: nobody's child.
            return None;
        }
        let (name, hash) = (cut(name(key)), hash(key));
        let parent = trace.parent(name, hash, is_alive);
        let (depth, parent) = parent.map_or((0, None), |seen| (seen.depth + 1, Some(seen.name.clone())));
        trace.remember(Seen { delivery, key: hash, name: name.to_owned(), depth });
        let parent = parent.filter(|_| depth >= SUSPICIOUS)?;
        let is_due = trace.told.is_none_or(|told| now.saturating_sub(told) >= PAUSE);
        if is_due {
            trace.told = Some(now);
        }
        Some(Suspicion { depth, parent, is_due })
    }
}

impl Trace {
    /// The delivery that an event of this name most likely comes from: the last of the same key, or else the one with
    /// the longest stem in it. Of several with that stem the least deep: files that come together are no chain.
    fn parent(&self, name: &str, key: u64, is_alive: impl Fn(DeliveryId) -> bool) -> Option<&Seen> {
        let same = self.deliveries.iter().rev().find(|seen| seen.key == key);
        if let Some(same) = same.filter(|seen| is_alive(seen.delivery)) {
            return Some(same);
        }
        let mut kin: Vec<&Seen> =
            self.deliveries.iter().filter(|seen| holds_word(name, stem(&seen.name))).collect();
        kin.sort_by_key(|seen| (usize::MAX - stem(&seen.name).len(), seen.depth));
        kin.into_iter().find(|seen| is_alive(seen.delivery))
    }

    fn remember(&mut self, seen: Seen) {
        if self.deliveries.len() >= DELIVERIES {
            self.deliveries.pop_front();
        }
        self.deliveries.push_back(seen);
    }
}

/// Last path segment; that of a folder's marker is the folder's.
fn name(key: &str) -> &str {
    let key = key.trim_end_matches('/');
    key.rsplit_once('/').map_or(key, |(_, name)| name)
}

fn cut(name: &str) -> &str {
    let end = (0..=name.len().min(NAME_BYTES)).rev().find(|at| name.is_char_boundary(*at));
    &name[..end.unwrap_or(0)]
}

/// Without its last extension.
fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => name,
    }
}

/// Whether `word` stands in `name` with no letter or digit right before or after it: `a` in `a.jpg.copy`, and `img-1` in
/// `thumb_img-1.jpg`, but not in `img-10.jpg`.
fn holds_word(name: &str, word: &str) -> bool {
    !word.is_empty()
        && name.match_indices(word).any(|(at, _)| {
            let before = name[..at].chars().next_back();
            let after = name[at + word.len()..].chars().next();
            !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
        })
}

fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINDING: BindingId = BindingId::from_bytes([7; 16]);
    const NOW: Duration = Duration::from_secs(1_000);

    fn delivery(number: usize) -> DeliveryId {
        DeliveryId::from_bytes((number as u128).to_be_bytes())
    }

    /// The depths of the suspicions of these keys, one after the other, 0 where there is none.
    fn depths(keys: &[&str]) -> Vec<u32> {
        let loops = Loops::default();
        let note = |(number, key): (usize, &&str)| {
            loops.note((BINDING, delivery(number)), key, NOW, |_| true).map_or(0, |found| found.depth)
        };
        keys.iter().enumerate().map(note).collect()
    }

    #[test]
    fn a_chain_of_derived_names_is_suspected_from_its_third_link_on() {
        let chain = ["in/a.jpg", "in/a.jpg.copy", "in/a.jpg.copy.copy", "in/a.jpg.copy.copy.copy"];
        assert_eq!(depths(&chain), [0, 0, 0, 3]);
        let chain = ["in/a.jpg", "thumbs/t-a.jpg", "thumbs/t-t-a.jpg", "thumbs/t-t-t-a.jpg"];
        assert_eq!(depths(&chain), [0, 0, 0, 3]);
    }

    #[test]
    fn the_same_key_again_and_again_is_a_chain_and_so_are_two_in_turn() {
        assert_eq!(depths(&["a.jpg"; 5]), [0, 0, 0, 3, 4]);
        let turns = depths(&["a.jpg", "a.webp", "a.jpg", "a.webp", "a.jpg", "a.webp", "a.jpg", "a.webp"]);
        assert!(turns.last().is_some_and(|depth| *depth >= SUSPICIOUS), "{turns:?}");
    }

    #[test]
    fn what_people_upload_together_is_no_chain() {
        let numbered: Vec<String> = (1..2_000).map(|number| format!("in/img-{number}.jpg")).collect();
        let mut numbered: Vec<&str> = numbered.iter().map(String::as_str).collect();
        assert!(depths(&numbered).iter().all(|depth| *depth == 0));
        numbered.sort_unstable();
        assert!(depths(&numbered).iter().all(|depth| *depth == 0));
        let beside = ["film.mp4", "film.srt", "film.nfo", "film.jpg", "film.de.srt", "film.en.srt"];
        assert_eq!(depths(&beside), [0; 6]);
        assert_eq!(depths(&["x/1.jpg", "x/2.jpg", "x/3.jpg", "x/4.jpg"]), [0; 4]);
    }

    #[test]
    fn only_what_runs_or_has_just_ended_is_a_parent() {
        let loops = Loops::default();
        for number in 0..9 {
            assert_eq!(loops.note((BINDING, delivery(number)), "a.jpg", NOW, |_| false), None);
        }
        let first = |of: DeliveryId| of == delivery(0);
        assert_eq!(loops.note((BINDING, delivery(9)), "a.jpg.copy", NOW, first), None, "its depth is 1");
    }

    #[test]
    fn the_same_event_again_is_no_chain() {
        let loops = Loops::default();
        for _ in 0..9 {
            assert_eq!(loops.note((BINDING, delivery(1)), "a.jpg", NOW, |_| true), None);
        }
    }

    #[test]
    fn it_is_to_be_told_once_a_minute_for_each_binding() {
        let loops = Loops::default();
        let note = |binding: u8, number: usize, at: Duration| {
            let ids = (BindingId::from_bytes([binding; 16]), delivery(number));
            loops.note(ids, "a.jpg", at, |_| true).map(|found| found.is_due)
        };
        let told: Vec<_> = (0..6).map(|number| note(1, number, NOW)).collect();
        assert_eq!(told, [None, None, None, Some(true), Some(false), Some(false)]);
        let other: Vec<_> = (0..4).map(|number| note(2, number, NOW)).collect();
        assert_eq!(other, [None, None, None, Some(true)]);
        assert_eq!(note(1, 6, NOW + PAUSE), Some(true));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let loops = Loops::default();
        let long = "ä".repeat(1_000);
        for number in 0..BINDINGS * 2 {
            let binding = BindingId::from_bytes((number as u128).to_be_bytes());
            let at = NOW + Duration::from_millis(number as u64);
            loops.note((binding, delivery(number)), &long, at, |_| true);
        }
        for number in 0..DELIVERIES * 2 {
            loops.note((BINDING, delivery(number)), &long, NOW * 2, |_| true);
        }
        let bindings = loops.bindings.lock().unwrap();
        assert_eq!((bindings.len(), bindings[&BINDING].deliveries.len()), (BINDINGS, DELIVERIES));
        assert!(bindings[&BINDING].deliveries.iter().all(|seen| seen.name.len() <= NAME_BYTES));
    }
}
