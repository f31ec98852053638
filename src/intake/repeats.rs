//! Which events are on their way, and which were settled a short while ago.
//!
//! Events in flight sit in a plain map, bounded by the sources' bounds and never evicted: a copy of one *joins* it, and
//! both acknowledgements wait for the same settle or park. Identities of settled events sit in a ring of fixed size,
//! first in, first out: a copy of one of these is acknowledged without work. Beyond the ring, or after a restart, a
//! repeat fires again, with the same delivery id.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasherDefault, DefaultHasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{dispatch::Custodian, domain::ids::EventId, source::Ack};

/// Ids are hashes already, and cannot be chosen freely: no need for a random hasher, and runs repeat exactly.
type Hasher = BuildHasherDefault<DefaultHasher>;

/// A message whose acknowledgement waits for all of its events.
#[derive(Debug)]
pub struct Held {
    events: AtomicUsize,
    ack: Mutex<Option<Ack>>,
}

impl Held {
    /// A message of this many events.
    pub fn new(ack: Ack, events: usize) -> Arc<Self> {
        Arc::new(Self { events: AtomicUsize::new(events), ack: Mutex::new(Some(ack)) })
    }

    /// One of its events is settled or parked. After the last, the message is acknowledged.
    pub fn event_is_safe(&self) {
        if self.events.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(ack) = lock(&self.ack).take()
        {
            ack.acknowledge();
        }
    }
}

/// What is known of an event that came in.
#[derive(Debug)]
pub enum Seen {
    /// Nothing: it is in flight from now on.
    New,
    /// A copy is in flight: this one shares its fate.
    Joined,
    /// A copy was settled or parked a short while ago.
    Settled,
}

/// The events in flight and the ring.
#[derive(Debug)]
pub struct Repeats {
    ring_size: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_flight: HashMap<EventId, Vec<Arc<Held>>, Hasher>,
    settled: HashSet<EventId, Hasher>,
    ring: VecDeque<EventId>,
}

impl Repeats {
    /// Events that the daemon remembers: some minutes at hundreds of events a second, 5 MiB.
    pub const WINDOW: usize = 65_536;

    /// A memory of this many settled events.
    pub fn new(ring_size: usize) -> Arc<Self> {
        Arc::new(Self { ring_size: ring_size.max(1), state: Mutex::default() })
    }

    /// Notes that an event came in. `held` (none on a source that was acknowledged on receipt) is told when it is safe.
    pub fn begin(&self, id: EventId, held: Option<&Arc<Held>>) -> Seen {
        let mut state = lock(&self.state);
        if state.settled.contains(&id) {
            return Seen::Settled;
        }
        if let Some(waiting) = state.in_flight.get_mut(&id) {
            waiting.extend(held.cloned());
            return Seen::Joined;
        }
        state.in_flight.insert(id, held.into_iter().cloned().collect());
        Seen::New
    }

    /// The event is settled or parked: all that wait for it are told.
    pub fn settle(&self, id: EventId) {
        let mut state = lock(&self.state);
        let waiting = state.in_flight.remove(&id);
        if state.settled.insert(id) {
            state.ring.push_back(id);
            if state.ring.len() > self.ring_size
                && let Some(oldest) = state.ring.pop_front()
            {
                state.settled.remove(&oldest);
            }
        }
        drop(state);
        for held in waiting.into_iter().flatten() {
            held.event_is_safe();
        }
    }

    /// The event is not safe: whoever waits for it is let go unacknowledged, and a repeat begins anew.
    pub fn abandon(&self, id: EventId) {
        let waiting = lock(&self.state).in_flight.remove(&id);
        for held in waiting.into_iter().flatten() {
            drop(lock(&held.ack).take());
        }
    }

    /// Events in flight.
    pub fn in_flight(&self) -> usize {
        lock(&self.state).in_flight.len()
    }
}

/// Waits for the deliveries of one event.
#[derive(Debug)]
pub struct Pending {
    id: EventId,
    left: AtomicUsize,
    abandoned: AtomicUsize,
    repeats: Arc<Repeats>,
}

impl Pending {
    /// An event with this many deliveries (at least one).
    pub fn new(id: EventId, deliveries: usize, repeats: Arc<Repeats>) -> Arc<Self> {
        Arc::new(Self { id, left: AtomicUsize::new(deliveries), abandoned: AtomicUsize::new(0), repeats })
    }

    fn one_less(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            if self.abandoned.load(Ordering::Acquire) == 0 {
                self.repeats.settle(self.id);
            } else {
                self.repeats.abandon(self.id);
            }
        }
    }
}

impl Custodian for Pending {
    fn safe(&self) {
        self.one_less();
    }

    fn abandoned(&self) {
        self.abandoned.fetch_add(1, Ordering::AcqRel);
        self.one_less();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dispatch::Custody, source::Acknowledged};

    fn id(number: u32) -> EventId {
        EventId::from_bytes(std::array::from_fn(|at| number.to_be_bytes()[at % 4]))
    }

    fn message(events: usize) -> (Arc<Held>, Acknowledged) {
        let (ack, acknowledged) = Ack::new(None);
        (Held::new(ack, events), acknowledged)
    }

    #[test]
    fn a_joined_copy_is_acknowledged_with_the_first_and_not_before() {
        let repeats = Repeats::new(10);
        let ((first, mut first_acked), (second, mut second_acked)) = (message(1), message(1));
        assert!(matches!(repeats.begin(id(1), Some(&first)), Seen::New));
        assert!(matches!(repeats.begin(id(1), Some(&second)), Seen::Joined));
        let pending = Pending::new(id(1), 2, Arc::clone(&repeats));
        Custody::new(pending.clone()).safe();
        assert!(first_acked.try_recv().is_err() && second_acked.try_recv().is_err());
        Custody::new(pending).safe();
        assert!(first_acked.try_recv().is_ok() && second_acked.try_recv().is_ok());
        assert!(matches!(repeats.begin(id(1), None), Seen::Settled));
    }

    #[test]
    fn one_delivery_that_is_not_safe_keeps_every_copy_unacknowledged() {
        let repeats = Repeats::new(10);
        let ((first, mut first_acked), (second, mut second_acked)) = (message(1), message(1));
        repeats.begin(id(1), Some(&first));
        repeats.begin(id(1), Some(&second));
        let pending = Pending::new(id(1), 2, Arc::clone(&repeats));
        drop(Custody::new(pending.clone()));
        Custody::new(pending).safe();
        drop((first, second));
        for acked in [&mut first_acked, &mut second_acked] {
            assert_eq!(acked.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Closed));
        }
        assert!(matches!(repeats.begin(id(1), None), Seen::New), "a repeat begins anew");
    }

    #[test]
    fn a_message_waits_for_all_of_its_events() {
        let repeats = Repeats::new(10);
        let (held, mut acked) = message(2);
        repeats.begin(id(1), Some(&held));
        repeats.begin(id(2), Some(&held));
        repeats.settle(id(1));
        assert!(acked.try_recv().is_err());
        repeats.settle(id(2));
        assert!(acked.try_recv().is_ok());
    }

    #[test]
    fn the_ring_forgets_the_oldest_only() {
        let repeats = Repeats::new(2);
        for number in 1..=3 {
            repeats.begin(id(number), None);
            repeats.settle(id(number));
        }
        assert!(matches!(repeats.begin(id(3), None), Seen::Settled));
        assert!(matches!(repeats.begin(id(2), None), Seen::Settled));
        assert!(matches!(repeats.begin(id(1), None), Seen::New));
        assert_eq!(repeats.in_flight(), 1);
    }

    #[test]
    fn the_window_is_as_large_as_is_promised() {
        let size = u32::try_from(Repeats::WINDOW).unwrap();
        let repeats = Repeats::new(Repeats::WINDOW);
        for number in 0..size {
            repeats.begin(id(number), None);
            repeats.settle(id(number));
        }
        assert!(matches!(repeats.begin(id(0), None), Seen::Settled));
        repeats.begin(id(size), None);
        repeats.settle(id(size));
        assert!(matches!(repeats.begin(id(1), None), Seen::Settled));
        assert!(matches!(repeats.begin(id(0), None), Seen::New));
        let promise = include_str!("../../docs/guarantees.md");
        assert!(promise.contains("(the last 65,536 events, until a restart)") && size == 65_536);
    }
}
