//! Seeds that once found something: run before all others, so that it stays found.
//!
//! A seed means another run when `scenario` draws in another order; what it found is then kept by a test of its own, which
//! the sentence names.

/// The seeds, each with what it found.
pub(crate) const SEEDS: [(u64, &str); 1] = [(
    0,
    "the simulation itself: time was read outside of the runtime, so that two runs differed",
)];
