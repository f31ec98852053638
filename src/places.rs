//! The places that a listener has for connections, and who gives up theirs when all are taken.
//!
//! **Who acts.** The one task that accepts takes a place for each connection ([`Places::take`]); the place is free again
//! when the connection drops it. Each connection tells how it stands ([`Standing`]):
//!
//! ```text
//!  waiting ──begin──► busy ──answered──► answered ──flushed──► waiting, from now on
//!     └─ every place is taken, and a new connection comes ──► given up, and closed by whoever serves it
//! ```
//!
//! **What is promised.** Connections on which nothing is asked keep nobody out: the one that has waited longest makes room
//! for the next, first among those that were never served (to which a head that comes slowly, or was refused, is all one),
//! then among those that were. One that is new has [`FAIR`] to send its head, as long as anybody has waited longer. A
//! connection with a request in progress is never given up; when all are busy, the next one waits until one ends or waits,
//! or does not take its answer for [`SLOW`]. Who begins and never says [`Standing::answered`] is never given up again.
//!
//! **At the same moment** a request may begin on a connection that is being given up. One lock decides: either it has begun,
//! and another is looked for, or [`Standing::begin`] says no, and nothing may be done for the request.
//!
//! **Bounded and cheap.** One connection beyond the places is accepted, and waits for room. One is given up at a time; looking
//! for it takes one pass over the places, and only when all are taken. A request costs its own connection's lock, which nobody
//! else wants but in such a pass.
//!
//! **Deliberately not.** Who opens connections faster than all places can be worked through in the time that an honest head
//! takes to arrive still keeps others out: that is for a proxy or a firewall. No places per address: behind a proxy all
//! come from one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// So long a connection may wait before others that wait are asked first to make room.
const FAIR: Duration = Duration::from_secs(2);

/// So long an answer may be taken, when others wait for the place.
const SLOW: Duration = Duration::from_secs(10);

/// So long a stop waits for heads that have begun, before [`Places::clear`].
pub(crate) const LAST_HEADS: Duration = Duration::from_secs(1);

/// All places of one listener.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    room: usize,
    /// Counts up whenever a connection begins to wait, so that the order of waiting needs no clock.
    turns: AtomicU64,
    taken: Mutex<BTreeMap<u64, Arc<Standing>>>,
    /// A place is free, or somebody waits who was busy.
    changed: Notify,
}

impl Shared {
    fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }
}

impl Places {
    /// Places for so many connections.
    pub(crate) fn new(room: usize) -> Self {
        let (turns, taken, changed) = (AtomicU64::default(), Mutex::default(), Notify::new());
        Self { shared: Arc::new(Shared { room, turns, taken, changed }) }
    }

    /// A place for one more connection, as soon as there is one. For one task at a time; it may give up waiting.
    pub(crate) async fn take(&self) -> Place {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            self.make_room();
            // What changed since the look above is told at once; that somebody takes too long is not told.
            _ = timeout(FAIR, self.shared.changed.notified()).await;
        }
    }

    fn try_take(&self) -> Option<Place> {
        let mut taken = lock(&self.shared.taken);
        if taken.len() >= self.shared.room {
            return None;
        }
        let number = self.shared.turn();
        let standing = Arc::new(Standing {
            stand: Mutex::new(Stand::Waiting { served: false, turn: number, since: now() }),
            given_up: CancellationToken::new(),
            shared: Arc::clone(&self.shared),
        });
        taken.insert(number, Arc::clone(&standing));
        Some(Place { number, standing })
    }

    /// Has the one go that has waited longest, unless one is on its way out.
    fn make_room(&self) {
        let (taken, now) = (lock(&self.shared.taken), now());
        loop {
            let mut first: Option<(Rank, &Arc<Standing>)> = None;
            for standing in taken.values() {
                let stand = *lock(&standing.stand);
                if matches!(stand, Stand::GivenUp) {
                    return;
                }
                if let Some(rank) = stand.rank(now)
                    && first.is_none_or(|(other, _)| rank < other)
                {
                    first = Some((rank, standing));
                }
            }
            let Some((_, standing)) = first else { return };
            if standing.give_up(now) {
                return;
            }
        }
    }

    /// Has all go on which no request is in progress: the listener stops, and nobody is to be waited for who only begins.
    pub(crate) fn clear(&self) {
        let now = now();
        for standing in lock(&self.shared.taken).values() {
            standing.give_up(now);
        }
    }
}

/// Who goes first: the lowest.
type Rank = (u8, bool, u64);

/// A connection's place: free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    standing: Arc<Standing>,
}

impl Place {
    /// How the connection stands.
    pub(crate) fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.standing.shared;
        lock(&shared.taken).remove(&self.number);
        shared.changed.notify_one();
    }
}

/// How a connection stands.
#[derive(Debug)]
pub(crate) struct Standing {
    stand: Mutex<Stand>,
    given_up: CancellationToken,
    shared: Arc<Shared>,
}

#[derive(Debug, Clone, Copy)]
enum Stand {
    /// For a request's head.
    Waiting {
        served: bool,
        turn: u64,
        since: Instant,
    },
    Busy,
    /// The answer is made and not sent yet.
    Answered {
        served: bool,
        since: Instant,
    },
    GivenUp,
}

impl Stand {
    /// When it is this one's turn to go; none that may stay.
    fn rank(self, now: Instant) -> Option<Rank> {
        match self {
            Self::Waiting { served, turn, since } => {
                Some((if now - since < FAIR { 2 } else { 0 }, served, turn))
            }
            Self::Answered { served, since } if now - since >= SLOW => Some((1, served, 0)),
            Self::Answered { .. } | Self::Busy | Self::GivenUp => None,
        }
    }
}

impl Standing {
    /// A request has begun, so that this connection is not given up. False: it was, and nothing may be done for the request.
    #[must_use]
    pub(crate) fn begin(&self) -> bool {
        let mut stand = lock(&self.stand);
        if matches!(*stand, Stand::GivenUp) {
            return false;
        }
        *stand = Stand::Busy;
        true
    }

    /// The request has its answer; `served` says that it was one of those that are served here, and no stranger's.
    pub(crate) fn answered(&self, served: bool) {
        let mut stand = lock(&self.stand);
        if matches!(*stand, Stand::Busy) {
            *stand = Stand::Answered { served, since: now() };
        }
    }

    /// What was to be sent is sent: if that was an answer, the connection waits from now on.
    pub(crate) fn flushed(&self) {
        let mut stand = lock(&self.stand);
        if let Stand::Answered { served, .. } = *stand {
            *stand = Stand::Waiting { served, turn: self.shared.turn(), since: now() };
            drop(stand);
            self.shared.changed.notify_one();
        }
    }

    /// Is cancelled when the connection is to be closed for another.
    pub(crate) fn given_up(&self) -> CancellationToken {
        self.given_up.clone()
    }

    fn give_up(&self, now: Instant) -> bool {
        let mut stand = lock(&self.stand);
        if stand.rank(now).is_none() {
            return false;
        }
        *stand = Stand::GivenUp;
        drop(stand);
        self.given_up.cancel();
        true
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "tokio's clock: tests pause it, and timers beside it follow it"
)]
fn now() -> Instant {
    Instant::now()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    fn taken(places: &Places) -> Place {
        places.take().now_or_never().expect("no place is free")
    }

    fn is_given_up(place: &Place) -> bool {
        place.standing.given_up.is_cancelled()
    }

    fn serve(place: &Place, served: bool) {
        assert!(place.standing.begin());
        place.standing.answered(served);
        place.standing.flushed();
    }

    #[tokio::test]
    async fn the_one_that_has_waited_longest_goes_and_strangers_before_those_who_were_served() {
        let places = Places::new(4);
        let mut there: Vec<_> = (0..4).map(|_| taken(&places)).collect();
        for (at, served) in [(0, true), (2, true), (1, false)] {
            serve(&there[at], served);
        }
        // The silent one, then the one who was refused; then those who were served.
        for expected in [3, 1, 0, 2] {
            assert!(places.take().now_or_never().is_none());
            assert!(places.take().now_or_never().is_none(), "one at a time");
            let gone: Vec<_> = (0..4).filter(|at| is_given_up(&there[*at])).collect();
            assert_eq!(gone, [expected]);
            assert!(!there[expected].standing.begin(), "a request began on what is closed");
            // Its place is free before the next one can have it.
            let silent = there.remove(expected);
            drop(silent);
            let next = taken(&places);
            assert!(next.standing.begin());
            there.insert(expected, next);
        }
        assert!(places.take().now_or_never().is_none());
        assert!(!there.iter().any(is_given_up), "a busy one was given up");
    }

    #[tokio::test]
    async fn a_newcomer_waits_while_all_are_busy_and_until_an_answer_is_sent() {
        let places = Places::new(1);
        let first = taken(&places);
        assert!(first.standing.begin());
        let mut newcomer = Box::pin(places.take());
        assert!(newcomer.as_mut().now_or_never().is_none() && !is_given_up(&first));
        first.standing.flushed();
        first.standing.answered(true);
        assert!(newcomer.as_mut().now_or_never().is_none() && !is_given_up(&first), "its answer is not sent");
        first.standing.flushed();
        assert!(newcomer.as_mut().now_or_never().is_none() && is_given_up(&first));
        drop(first);
        assert!(newcomer.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_new_has_its_time_while_another_has_waited_longer() {
        let places = Places::new(2);
        let known = taken(&places);
        serve(&known, true);
        advance(FAIR).await;
        let new = taken(&places);
        assert!(places.take().now_or_never().is_none());
        assert!(is_given_up(&known) && !is_given_up(&new), "the newcomer goes for the next newcomer");
        drop(known);
        let newer = taken(&places);
        assert!(places.take().now_or_never().is_none());
        assert!(is_given_up(&new) && !is_given_up(&newer), "nobody has waited longer");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_its_answer_goes_when_another_waits_for_the_place() {
        let places = Places::new(1);
        let slow = taken(&places);
        assert!(slow.standing.begin());
        slow.standing.answered(true);
        let given_up = slow.standing.given_up();
        // Nothing tells that its time is over.
        let newcomer = tokio::spawn({
            let places = places.clone();
            async move { places.take().await }
        });
        timeout(SLOW + FAIR * 2, given_up.cancelled()).await.expect("it keeps its place");
        drop(slow);
        newcomer.await.unwrap();
    }

    #[tokio::test]
    async fn a_stop_waits_for_requests_and_not_for_who_only_begins() {
        let places = Places::new(2);
        let [busy, silent] = [taken(&places), taken(&places)];
        assert!(busy.standing.begin());
        places.clear();
        assert!(is_given_up(&silent) && !is_given_up(&busy));
    }
}
