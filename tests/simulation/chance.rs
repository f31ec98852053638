//! Seeded chance: small, fast, and the same numbers for the same seed in every version of every dependency.

use std::{sync::Mutex, time::Duration};

use triggerd::domain::entropy::Entropy;

/// A sequence of numbers (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Another sequence, which depends on nothing that this one is asked for later.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.next())
    }

    /// A number below `bound`; 0 when that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// A number from `least` to `most`, both included.
    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let at = self.below(items.len() as u64);
        &items[usize::try_from(at).unwrap_or(0)]
    }

    pub(crate) fn millis(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(self.between(least, most))
    }
}

/// The core's randomness.
#[derive(Debug)]
pub(crate) struct SimEntropy(pub(crate) Mutex<Chance>);

impl Entropy for SimEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut chance = self.0.lock().unwrap();
        for piece in bytes.chunks_mut(8) {
            let number = chance.next().to_ne_bytes();
            piece.copy_from_slice(&number[..piece.len()]);
        }
    }
}
