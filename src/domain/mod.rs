//! The words of the trade as types: pure values and pure functions, no I/O, no clock of their own.
//!
//! Everything here can be used from everywhere; nothing here uses another module.

pub mod binding;
pub mod clock;
pub mod delivery;
pub mod entropy;
pub mod event;
pub mod event_name;
pub mod filter;
pub mod glob;
pub mod ids;
pub mod outcome;
pub mod retry;
pub mod secret;
pub mod spec;
pub mod steady;
