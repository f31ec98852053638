//! triggerd fires functions from object-storage events.
