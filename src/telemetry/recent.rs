//! The last outcomes, in memory, for the question "did it fire, and what came of it?".

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};

use crate::domain::{
    clock::Timestamp,
    ids::{BindingId, DeliveryId, EventId},
};

/// Most bytes that are remembered of one text: the longest key that S3 allows. What comes in may say anything.
const TEXT: usize = 1_024;

/// One outcome, as it is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecentOutcome {
    /// When.
    pub at: Timestamp,
    /// Which event.
    pub event: EventId,
    /// Which delivery; none when the event matched no binding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryId>,
    /// To which binding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<BindingId>,
    /// The function's platform; none when the event matched no binding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Arc<str>>,
    /// The function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<Arc<str>>,
    /// In which bucket.
    pub bucket: String,
    /// The object's key.
    pub key: String,
    /// What happened to it.
    pub name: String,
    /// What came of it: an outcome's class, `unmatched`, `parked`, `dead`, `callback_succeeded`, …
    pub outcome: String,
    /// How long the attempt took, in microseconds.
    pub took_us: u64,
    /// The result's or the error's beginning.
    pub detail: String,
}

/// A ring of recent outcomes: fixed in size, the oldest go, and of each text the beginning is kept.
#[derive(Debug)]
pub struct Recent {
    limit: usize,
    ring: Mutex<VecDeque<RecentOutcome>>,
}

impl Recent {
    /// A ring of this many.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), ring: Mutex::new(VecDeque::new()) }
    }

    /// Notes one.
    pub fn note(&self, mut outcome: RecentOutcome) {
        let RecentOutcome { bucket, key, name, detail, .. } = &mut outcome;
        [bucket, key, name, detail].into_iter().for_each(cut);
        let mut ring = self.ring.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let oldest = if ring.len() >= self.limit { ring.pop_front() } else { None };
        ring.push_back(outcome);
        drop(ring);
        // Its texts are given back when nobody waits for the lock any more.
        drop(oldest);
    }

    /// The last outcome of this delivery, while it is remembered.
    pub fn of_delivery(&self, delivery: DeliveryId) -> Option<RecentOutcome> {
        let ring = self.ring.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ring.iter().rev().find(|outcome| outcome.delivery == Some(delivery)).cloned()
    }

    /// The last ones, newest first, of one binding or of all.
    pub fn latest(&self, binding: Option<BindingId>, limit: usize) -> Vec<RecentOutcome> {
        self.latest_where(limit, |outcome| binding.is_none() || outcome.binding == binding)
    }

    /// The last ones that are `wanted`, newest first.
    pub fn latest_where(&self, limit: usize, wanted: impl Fn(&RecentOutcome) -> bool) -> Vec<RecentOutcome> {
        let ring = self.ring.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ring.iter().rev().filter(|outcome| wanted(outcome)).take(limit).cloned().collect()
    }
}

fn cut(text: &mut String) {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT));
        text.push('…');
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_however_long_they_come_in() {
        let recent = Recent::new(2);
        let long = "ä".repeat(500_000);
        recent.note(RecentOutcome {
            at: Timestamp::default(),
            event: EventId::from_bytes([1; 16]),
            delivery: None,
            binding: None,
            platform: None,
            function: None,
            bucket: long.clone(),
            key: format!("a{long}"),
            name: long.clone(),
            outcome: "unmatched".into(),
            took_us: 0,
            detail: long,
        });
        let kept = recent.latest(None, 1).remove(0);
        assert!(kept.key.starts_with("aä") && kept.key.ends_with("ä…"));
        for text in [&kept.bucket, &kept.key, &kept.name, &kept.detail] {
            assert!(text.len() <= TEXT + '…'.len_utf8(), "{} bytes", text.len());
        }
    }

    #[test]
    fn the_longest_key_that_there_is_stays_whole() {
        let mut key = "k".repeat(TEXT);
        cut(&mut key);
        assert_eq!(key, "k".repeat(TEXT));
    }
}
