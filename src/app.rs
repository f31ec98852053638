//! Composition root: the only place that knows the concrete parts.
