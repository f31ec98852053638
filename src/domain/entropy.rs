//! Randomness as a value that is passed in, so that tests and simulations can seed it.

use std::{fmt, sync::Mutex};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Where random bits come from. Good enough for secrets.
pub trait Entropy: fmt::Debug + Send + Sync {
    /// Fills the buffer with random bytes.
    fn fill(&self, bytes: &mut [u8]);

    /// A random number, uniform over all values.
    fn next(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_ne_bytes(bytes)
    }
}

/// The thread's generator, seeded and reseeded from the operating system.
#[derive(Debug, Default)]
pub struct SystemEntropy;

#[expect(clippy::disallowed_methods, reason = "the one place where the system's randomness is taken")]
impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        rand::rng().fill_bytes(bytes);
    }
}

/// The same numbers for the same seed; for tests.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).fill_bytes(bytes);
    }
}
