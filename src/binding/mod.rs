//! The two-way handshake and the reconciler.
