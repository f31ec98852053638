//! Signals, stopping in two phases, readiness and the watchdog.
