//! The two-way handshake and the reconciler.

pub mod bucket_rules;
