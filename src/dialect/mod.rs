//! What a sender's records mean: MinIO's (others later) become [`Event`]s. Pure.
//!
//! A body is one JSON object whose `Records` list holds one record for each event. `Records` that is null or empty
//! is a ping: no events, no error. What cannot be decoded is an [`Undecodable`] that names the field, and the
//! caller quarantines the bytes: a half-understood event is never made, and one bad record spoils its whole body,
//! so that nothing of it is lost unseen.
//!
//! The identity of an event is a hash of the storage's name and the record's bytes exactly as they were sent
//! ([`crate::domain::ids::EventId::of_record`]); they are cut out of the body, never written anew. MinIO's webhook and MQTT targets
//! send the same bytes, and its queue resends them. The listen stream builds a record of its own (raw key, at
//! times another sequencer), so an event has another identity there: one bucket is never given to listen and to a
//! target.
//!
//! Liberal on purpose: names of events that we do not know are kept (they match no binding); version and source of
//! the event, additional fields, and absent or null maps do not matter. Strict on purpose: wrong types, the same
//! field twice, keys that cannot be decoded or contradict the envelope. Nothing here is trusted: `source.host`,
//! `principalId` and `userAgent` are the client's word.

mod form;
mod minio;

use serde::de::DeserializeOwned;

use crate::{
    domain::event::{Event, KeyEncoding, StorageName},
    telemetry::excerpt,
};

/// Most records that a body may hold. MinIO's targets send one, AWS at most ten.
pub const MAX_RECORDS: usize = 1_000;

/// Longest text, in bytes, that an error quotes from a foreign body.
const MAX_QUOTE: usize = 200;

/// Why a body holds no events that we could make sense of.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// Not text.
    #[error("the body is not UTF-8 from byte {at} on")]
    NotText {
        /// Where it stops being text.
        at: usize,
    },
    /// Not JSON, or nested deeper than 128 levels.
    #[error("the body is not JSON")]
    NotJson {
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A field that every event has is not there (or null, or empty).
    #[error("the field {field} is missing")]
    Missing {
        /// Its path, such as `Records[0].s3.bucket.name`.
        field: String,
    },
    /// A field that is not what it should be.
    #[error("the field {field} cannot be read: {reason}")]
    Field {
        /// Its path.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Undecodable {
    fn field(field: impl Into<String>, reason: &dyn std::fmt::Display) -> Self {
        let reason = excerpt(reason.to_string().as_bytes(), MAX_QUOTE);
        Self::Field { field: field.into(), reason }
    }
}

/// The events in one body, as a source of `storage` brought it whose way writes keys in `encoding`.
///
/// An empty list is a ping. The events are in the order of the records.
pub fn decode(bytes: &[u8], storage: &StorageName, encoding: KeyEncoding) -> Result<Vec<Event>, Undecodable> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| Undecodable::NotText { at: error.valid_up_to() })?;
    minio::decode(text, storage, encoding)
}

/// Names the field that `error` was about, by reading `text` once more; only for bodies that are refused anyway.
fn blame<T: DeserializeOwned>(text: &str, within: &str, error: &serde_json::Error) -> Undecodable {
    let mut json = serde_json::Deserializer::from_str(text);
    let (path, error) = match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Err(blamed) => (blamed.path().to_string(), blamed.into_inner().to_string()),
        Ok(_) => (".".to_owned(), error.to_string()),
    };
    let field = match (within, path.as_str()) {
        ("", ".") => "(the whole body)".to_owned(),
        ("", path) => path.to_owned(),
        (within, ".") => within.to_owned(),
        (within, path) => format!("{within}.{path}"),
    };
    Undecodable::field(excerpt(field.as_bytes(), MAX_QUOTE), &error)
}
