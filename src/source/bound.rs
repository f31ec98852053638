//! The bound on what a source has brought and nobody has settled yet, in number and in bytes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// How full a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// Below the bound.
    Free,
    /// Over the bound: park straight to disk, or refuse, as the source's kind says.
    Pressed,
    /// At twice the bound: nothing more is taken in.
    Full,
}

/// Counts unsettled messages of one source.
#[derive(Debug)]
pub struct Bound {
    max_messages: usize,
    max_bytes: u64,
    messages: AtomicUsize,
    bytes: AtomicU64,
}

/// One message's share of a bound; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    bound: Arc<Bound>,
    bytes: u64,
}

impl Bound {
    /// A bound of this many messages and bytes.
    pub fn new(max_messages: usize, max_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            max_messages: max_messages.max(1),
            max_bytes: max_bytes.max(1),
            messages: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// Counts a message of `bytes`. Without a permit (at twice the bound) it must be refused.
    ///
    /// A single message larger than the whole bound is let in when nothing else is: it could never pass otherwise.
    pub fn take(self: &Arc<Self>, bytes: u64) -> (Pressure, Option<Permit>) {
        let messages = self.messages.fetch_add(1, Ordering::Relaxed) + 1;
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let permit = Permit { bound: Arc::clone(self), bytes };
        if messages <= self.max_messages && total <= self.max_bytes {
            (Pressure::Free, Some(permit))
        } else if messages == 1
            || (messages <= 2 * self.max_messages && total <= self.max_bytes.saturating_mul(2))
        {
            (Pressure::Pressed, Some(permit))
        } else {
            (Pressure::Full, None)
        }
    }

    /// Whether less than half of the bound is in use: time to open again what was closed at the bound.
    pub fn is_below_half(&self) -> bool {
        self.unsettled() <= self.max_messages / 2 && self.bytes.load(Ordering::Relaxed) <= self.max_bytes / 2
    }

    /// Messages that are not settled.
    pub fn unsettled(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.bound.messages.fetch_sub(1, Ordering::Relaxed);
        self.bound.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Pressure::{Free, Full, Pressed},
        *,
    };

    #[test]
    fn pressure_rises_with_messages_and_falls_when_they_settle() {
        let bound = Bound::new(2, 1_000);
        let mut held = Vec::new();
        let take = |held: &mut Vec<Permit>| {
            let (pressure, permit) = bound.take(10);
            held.extend(permit);
            pressure
        };
        assert_eq!([(); 5].map(|()| take(&mut held)), [Free, Free, Pressed, Pressed, Full]);
        assert_eq!(bound.unsettled(), 4);
        held.truncate(1);
        assert!(bound.is_below_half());
        assert_eq!(take(&mut held), Free);
    }

    #[test]
    fn bytes_count_too_and_one_giant_passes_alone() {
        let bound = Bound::new(100, 1_000);
        let (pressure, giant) = bound.take(5_000);
        assert_eq!(pressure, Pressed);
        assert!(bound.take(1).1.is_none());
        drop(giant);
        assert_eq!(bound.take(1_000).0, Free);
    }
}
