//! Which bindings an event matches: an index for each bucket, from the local relations.
