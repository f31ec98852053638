//! triggerd fires functions from object-storage events.
//!
//! The pipeline on one page, in reading order:
//!
//! ```text
//!  source ─────► intake ────────► catalog ───────► dispatch ───────► settle
//!  mqtt          decode dialect    which bindings   permit, invoke     delivered  → acknowledge
//!  webhook       normalise         match?           via platform       try later  → park → acknowledge
//!                identify          (memory)         driver             given up   → dead letter → acknowledge
//!                                     ▲                 ▲
//!                 relations ──────────┘   queue ────────┘ parked deliveries that are due
//!                 (MySQL, the authority)  (SQLite, this host's own)
//! ```
//!
//! An event is acknowledged to its source only when every delivery it caused is settled or parked; only
//! [`intake`] acknowledges. [`platform`] classifies answers, [`settle`] decides, [`queue`] records and
//! [`dispatch`] only moves. Bindings have one code path, the reconciler in [`binding`].
//! `ARCHITECTURE.md` follows one event, one failing delivery and one binding from end to end.

pub mod admin;
pub mod app;
pub mod binding;
pub mod bucket;
pub mod catalog;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
pub mod dialect;
pub mod dispatch;
pub mod domain;
pub mod intake;
pub mod lifecycle;
pub mod mirror;
mod places;
pub mod platform;
pub mod queue;
pub mod relations;
pub mod settle;
pub mod source;
pub mod telemetry;
