//! What a sender's records mean: MinIO's (others later) become events. Pure.
