//! The admin API and the callbacks' listener.
