//! What happened: the names of MinIO's events, and the sets of them that bindings ask for.
//!
//! Names are case-sensitive and carry the `s3:` prefix. The 32 single names and the six groups are those of
//! `internal/event/name.go` in MinIO RELEASE.2025-09-07; `s3:BucketCreated:*` and `s3:BucketRemoved:*` are *single*
//! names there, in spite of their look. A group holds more than one would guess: `s3:ObjectCreated:*` contains the
//! tagging, retention and legal-hold events, `s3:ObjectRemoved:*` contains `NoOP`.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Every single name; the place in this list is the name's bit in a set.
const NAMES: [&str; 32] = [
    "s3:ObjectAccessed:Get",
    "s3:ObjectAccessed:Head",
    "s3:ObjectAccessed:GetRetention",
    "s3:ObjectAccessed:GetLegalHold",
    "s3:ObjectAccessed:Attributes",
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
    "s3:ObjectCreated:PutRetention",
    "s3:ObjectCreated:PutLegalHold",
    "s3:ObjectCreated:PutTagging",
    "s3:ObjectCreated:DeleteTagging",
    "s3:ObjectRemoved:Delete",
    "s3:ObjectRemoved:DeleteMarkerCreated",
    "s3:ObjectRemoved:DeleteAllVersions",
    "s3:ObjectRemoved:NoOP",
    "s3:LifecycleDelMarkerExpiration:Delete",
    "s3:Replication:OperationFailedReplication",
    "s3:Replication:OperationCompletedReplication",
    "s3:Replication:OperationNotTracked",
    "s3:Replication:OperationMissedThreshold",
    "s3:Replication:OperationReplicatedAfterThreshold",
    "s3:ObjectRestore:Post",
    "s3:ObjectRestore:Completed",
    "s3:ObjectTransition:Failed",
    "s3:ObjectTransition:Complete",
    "s3:Scanner:ManyVersions",
    "s3:Scanner:LargeVersions",
    "s3:Scanner:BigPrefix",
    "s3:BucketCreated:*",
    "s3:BucketRemoved:*",
];

/// The groups that MinIO's configuration knows. `s3:*` and `s3:Scanner:*` are refused by it.
const GROUPS: [&str; 6] = [
    "s3:ObjectAccessed:*",
    "s3:ObjectCreated:*",
    "s3:ObjectRemoved:*",
    "s3:Replication:*",
    "s3:ObjectRestore:*",
    "s3:ObjectTransition:*",
];

/// The name of one event, known to us or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventName(Arc<str>);

impl EventName {
    /// The name as it was sent; a missing `s3:` prefix (AWS leaves it out of records) is added.
    pub fn new(name: &str) -> Self {
        if name.starts_with("s3:") { Self(name.into()) } else { Self(format!("s3:{name}").into()) }
    }

    /// The name, with its prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its prefix, as AWS writes it in records.
    pub fn without_prefix(&self) -> &str {
        self.0.strip_prefix("s3:").unwrap_or(&self.0)
    }

    /// Whether this is one of the names of MinIO RELEASE.2025-09-07. Others are kept, and match no set.
    pub fn is_known(&self) -> bool {
        self.bit() != 0
    }

    /// Its bit in [`EventSet::mask`]; 0 for unknown names.
    pub fn bit(&self) -> u64 {
        bit_of(&self.0)
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that no MinIO sends and no bucket rule can ask for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEventName {
    /// Not a name.
    #[error(
        "`{name}` is no event name of MinIO; use a group ({}) or a single name such as s3:ObjectCreated:Put",
        GROUPS.join(", ")
    )]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// A name that only the listen stream carries.
    #[error("`{name}` never reaches a bucket's targets; MinIO sends it on the listen stream only")]
    ListenOnly {
        /// What was asked for.
        name: String,
    },
    /// No name at all.
    #[error("at least one event name is needed, for example s3:ObjectCreated:*")]
    Empty,
}

/// The events a binding asks for: single names and groups, as they were written, and as bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct EventSet {
    names: Vec<String>,
    mask: u64,
}

impl EventSet {
    /// Reads names and groups. Sorted, without repeats, and without names that a group of the list holds already.
    pub fn parse<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, InvalidEventName> {
        let mut list: Vec<(String, u64)> = Vec::new();
        for name in names {
            let EventName(name) = EventName::new(name.as_ref().trim());
            if name.starts_with("s3:Bucket") && bit_of(&name) != 0 {
                return Err(InvalidEventName::ListenOnly { name: name.to_string() });
            }
            let mask = mask_of(&name);
            if mask == 0 {
                return Err(InvalidEventName::Unknown { name: name.to_string() });
            }
            list.push((name.to_string(), mask));
        }
        if list.is_empty() {
            return Err(InvalidEventName::Empty);
        }
        list.sort();
        list.dedup();
        let needed = |(name, mask): &(String, u64)| {
            !list.iter().any(|(other, wider)| other != name && wider & mask == *mask && wider != mask)
        };
        let names = list.iter().filter(|entry| needed(entry)).map(|(name, _)| name.clone()).collect();
        let mask = list.iter().fold(0, |all, (_, mask)| all | mask);
        Ok(Self { names, mask })
    }

    /// Whether an event of this name is asked for.
    pub fn contains(&self, name: &EventName) -> bool {
        self.mask & name.bit() != 0
    }

    /// One bit for each single name that is asked for.
    pub fn mask(&self) -> u64 {
        self.mask
    }

    /// The names and groups, sorted.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The smallest list of groups and single names that stands for exactly the names of `mask`.
    pub fn names_of_mask(mask: u64) -> Vec<String> {
        let mut left = mask;
        let mut names = Vec::new();
        for group in GROUPS {
            let members = mask_of(group);
            if mask & members == members {
                names.push(group.to_owned());
                left &= !members;
            }
        }
        let singles = NAMES.iter().enumerate().filter(|(bit, _)| left & (1 << bit) != 0);
        names.extend(singles.map(|(_, name)| (*name).to_owned()));
        names.sort();
        names
    }
}

impl TryFrom<Vec<String>> for EventSet {
    type Error = InvalidEventName;

    fn try_from(names: Vec<String>) -> Result<Self, InvalidEventName> {
        Self::parse(names)
    }
}

impl From<EventSet> for Vec<String> {
    fn from(set: EventSet) -> Self {
        set.names
    }
}

fn bit_of(name: &str) -> u64 {
    NAMES.iter().position(|known| *known == name).map_or(0, |bit| 1 << bit)
}

fn mask_of(name: &str) -> u64 {
    let single = bit_of(name);
    if single != 0 || !GROUPS.contains(&name) {
        return single;
    }
    let stem = &name[..name.len() - 1];
    NAMES
        .iter()
        .enumerate()
        .filter(|(_, known)| known.starts_with(stem))
        .fold(0, |mask, (bit, _)| mask | 1 << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_what_minio_puts_into_them() {
        let size = |group: &str| EventSet::parse([group]).unwrap().mask().count_ones();
        assert_eq!(GROUPS.map(size), [5, 8, 4, 5, 2, 2]);
        let created = EventSet::parse(["s3:ObjectCreated:*"]).unwrap();
        assert!(created.contains(&EventName::new("s3:ObjectCreated:PutTagging")));
        assert!(!created.contains(&EventName::new("s3:ObjectRemoved:Delete")));
    }

    #[test]
    fn names_minio_refuses_are_refused() {
        for name in ["s3:*", "s3:Scanner:*", "s3:objectcreated:put", "s3:TestEvent", "s3:", ""] {
            assert!(matches!(EventSet::parse([name]), Err(InvalidEventName::Unknown { .. })), "{name}");
        }
        assert_eq!(EventSet::parse::<&str>([]), Err(InvalidEventName::Empty));
        assert!(matches!(EventSet::parse(["s3:BucketCreated:*"]), Err(InvalidEventName::ListenOnly { .. })));
    }

    #[test]
    fn the_same_set_is_written_the_same_way() {
        let a =
            EventSet::parse(["ObjectCreated:Put", "s3:ObjectCreated:*", "s3:ObjectRemoved:Delete"]).unwrap();
        let b = EventSet::parse(["s3:ObjectRemoved:Delete", "s3:ObjectCreated:*"]).unwrap();
        assert_eq!(a, b);
        assert_eq!(EventSet::names_of_mask(a.mask()), b.names());
    }

    #[test]
    fn unknown_names_are_kept_and_match_nothing() {
        let name = EventName::new("s3:ObjectCreated:Teleported");
        assert!(!name.is_known());
        assert_eq!(name.as_str(), "s3:ObjectCreated:Teleported");
        assert!(!EventSet::parse(["s3:ObjectCreated:*"]).unwrap().contains(&name));
    }
}
