//! One change in a bucket, normalised from whatever dialect it came in.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{clock::Timestamp, event_name::EventName, ids::EventId};

/// The name of a storage in the config: one MinIO deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StorageName(Arc<str>);

impl StorageName {
    /// The storage of this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StorageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a source's way writes keys. Never guessed from a key: `%2F` and `+` are legal in a raw name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyEncoding {
    /// Form-urlencoded: MinIO's webhook and MQTT targets.
    Form,
    /// As they are: the listen stream.
    Raw,
}

/// An event. Immutable; shared by the deliveries that it causes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// Identity, from the record's bytes.
    pub id: EventId,
    /// Where it happened.
    pub storage: StorageName,
    /// The bucket.
    pub bucket: String,
    /// The object's key as the user knows it: decoded, whatever way it was sent. Empty for bucket events.
    pub key: String,
    /// What happened.
    pub name: EventName,
    /// When, by the storage's clock.
    pub time: Timestamp,
    /// Bytes; 0 where the storage leaves it out of a creation, none on removals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Entity tag, without quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Media type of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Version; `"null"` in a bucket whose versioning is suspended, none in an unversioned one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// Order hint among writes of one key. Not an identity: later tagging and reading repeat it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequencer: Option<String>,
    /// Who did it: the access key, for service accounts their parent user; empty for anonymous and internal doers.
    #[serde(default)]
    pub principal: String,
    /// `X-Amz-Meta-*` and standard headers that were stored with the object.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub user_metadata: BTreeMap<String, String>,
    /// The record exactly as it was sent (its key in the sender's encoding).
    pub record: Box<RawValue>,
}

impl Event {
    /// Bytes this event takes in memory, roughly; for bounds.
    pub fn weight(&self) -> usize {
        let metadata: usize =
            self.user_metadata.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
        512 + self.key.len() + self.record.get().len() + metadata
    }
}
