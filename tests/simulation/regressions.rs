//! Seeds that once found something: run before all others, so that it stays found.
//!
//! A seed means another run when `scenario` draws in another order; what it found is then kept by a test of its own, which
//! the sentence names.

/// The seeds, each with what it found.
pub(crate) const SEEDS: [(u64, &str); 2] = [
    (8382, "a token of a rate taken long before its call let the next call begin together with it"),
    (
        64543,
        "what was recorded late of a handler's delivery removed the next one of a letter that died again",
    ),
];
