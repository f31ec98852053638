//! Identifiers: 16 bytes each, one type for each kind of thing so that two cannot be swapped.
//!
//! They are shown and read as 32 lower-case hexadecimal digits (a hyphenated UUID is read too).
//!
//! * An **event id** is a versioned hash of the storage's name and the record exactly as it was sent, so that the
//!   same notification has the same id on whatever way and however often it comes.
//! * A **delivery id** is a hash of event id and binding id: the same on every attempt, after every restart.
//! * A **binding id** is a UUIDv7, made when the binding is; it is also the id of the platform's rule.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::clock::Timestamp;

/// A text that is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected 32 hexadecimal digits")]
pub struct InvalidId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id made of these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes, as databases keep them.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// The id in a database column; any other length than 16 bytes is refused.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
                bytes.try_into().map(Self).map_err(|_| InvalidId)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Several are shown for each event, so not byte by byte.
                f.write_str(uuid::Uuid::from_bytes(self.0).simple().encode_lower(&mut [0; 32]))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                uuid::Uuid::try_parse(text)
                    .map(|uuid| Self(uuid.into_bytes()))
                    .map_err(|_| InvalidId)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// Which event: see the module's header for how it is derived.
    EventId
}
id! {
    /// One event on its way to one binding's function.
    DeliveryId
}
id! {
    /// A binding, and the platform's rule for it.
    BindingId
}

impl EventId {
    /// The identity of `record` (the JSON text of one record, exactly as sent) from the storage of this name.
    pub fn of_record(storage: &str, record: &[u8]) -> Self {
        Self(hash(&[b"triggerd event 1", storage.as_bytes(), record]))
    }
}

impl DeliveryId {
    /// The delivery of `event` to `binding`.
    pub fn of(event: EventId, binding: BindingId) -> Self {
        Self(hash(&[b"triggerd delivery 1", &event.0, &binding.0]))
    }
}

impl DeliveryId {
    /// The delivery of a dead letter to the function that handles dead letters; another for each time that it dies.
    ///
    /// The moment tells them apart, for a count of replays begins anew where the letter was dropped and its event
    /// came again: what is written down late of the first delivery must not settle the second.
    pub fn of_letter(letter: Self, died_at: Timestamp) -> Self {
        Self(hash(&[b"triggerd dead letter 2", &letter.0, &died_at.as_micros().to_be_bytes()]))
    }
}

impl BindingId {
    /// A new UUIDv7 of this time (milliseconds) and these random bits.
    pub fn new(now: Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(now.as_micros() / 1_000).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().into_bytes())
    }
}

/// SHA-256 over length-prefixed parts, cut to 128 bits: no two lists of parts give the same input.
fn hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_id_depends_on_storage_and_every_byte() {
        let id = EventId::of_record("default", b"{\"a\":1}");
        assert_eq!(id, EventId::of_record("default", b"{\"a\":1}"));
        assert_ne!(id, EventId::of_record("other", b"{\"a\":1}"));
        assert_ne!(id, EventId::of_record("default", b"{\"a\": 1}"));
        assert_ne!(EventId::of_record("a", b"bc"), EventId::of_record("ab", b"c"));
    }

    #[test]
    fn event_id_never_changes_between_versions() {
        // Stored delivery ids depend on it: a change here needs a new version in the hash's first part.
        assert_eq!(EventId::of_record("default", b"{}").to_string(), "922530bf9d73a357ca532367f32a2f0e");
    }

    #[test]
    fn id_reads_what_it_shows() {
        let id = BindingId::new(Timestamp::from_micros(1_700_000_000_000_000), [7; 10]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 32);
        assert!("nonsense".parse::<BindingId>().is_err());
        assert!(BindingId::from_slice(&[1, 2]).is_err());
    }
}
