//! Which events a binding wants: event names, and the object's key by prefix and suffix, or by glob.
//!
//! Keys are compared decoded, byte for byte, case-sensitively. Prefix and suffix are literal (MinIO's own filters take
//! `*` and `?` in them for wildcards; ours do not) and may overlap in the key. `glob` says what a glob is.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use super::glob::{Glob, MAX_PATTERN};
use super::{event::Event, event_name::EventSet};

/// A filter that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// Both ways of naming keys at once.
    #[error(
        "a glob cannot be combined with prefix or suffix; write both into the glob, for example `in/**/*.jpg`"
    )]
    GlobAndAffix,
    /// A glob that does not parse.
    #[error("`{glob}` is no glob: {reason}")]
    Glob {
        /// What was asked for.
        glob: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A pattern longer than any key.
    #[error("{what} has {bytes} bytes; a key has at most {MAX_PATTERN}")]
    TooLong {
        /// `prefix`, `suffix` or `glob`.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A key never begins with a slash.
    #[error(
        "{what} `{value}` begins with a slash; object keys do not (MinIO drops it), so it would never match"
    )]
    LeadingSlash {
        /// `prefix` or `glob`.
        what: &'static str,
        /// What was asked for.
        value: String,
    },
}

/// Which keys: all, by literal ends, or by glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFilter {
    /// By what the key begins and ends with; empty texts match every key.
    Affix {
        /// The key begins with this.
        prefix: String,
        /// The key ends with this.
        suffix: String,
    },
    /// By a pattern over the whole key.
    Glob(Glob),
}

impl KeyFilter {
    /// Whether the key is wanted.
    pub fn matches(&self, key: &str) -> bool {
        match self {
            Self::Affix { prefix, suffix } => {
                key.starts_with(prefix.as_str()) && key.ends_with(suffix.as_str())
            }
            Self::Glob(glob) => glob.matches(key),
        }
    }

    /// What every matching key begins with.
    pub fn literal_prefix(&self) -> &str {
        match self {
            Self::Affix { prefix, .. } => prefix,
            Self::Glob(glob) => glob.literal_prefix(),
        }
    }
}

/// Which events of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenFilter", into = "WrittenFilter")]
pub struct Filter {
    /// Which names.
    pub events: EventSet,
    /// Which keys.
    pub keys: KeyFilter,
}

/// Why an event does not pass a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The event's name is not asked for.
    Event,
    /// The key does not begin with the prefix.
    Prefix(String),
    /// The key does not end with the suffix.
    Suffix(String),
    /// The key does not match the glob.
    Glob(String),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event => write!(f, "this event is not among the binding's events"),
            Self::Prefix(prefix) => write!(f, "the key does not begin with `{prefix}`"),
            Self::Suffix(suffix) => write!(f, "the key does not end with `{suffix}`"),
            Self::Glob(glob) => write!(f, "the key does not match `{glob}`"),
        }
    }
}

impl Filter {
    /// A filter from its parts, as they come in requests.
    pub fn new(
        events: EventSet,
        prefix: Option<&str>,
        suffix: Option<&str>,
        glob: Option<&str>,
    ) -> Result<Self, InvalidFilter> {
        let written = WrittenFilter {
            events,
            prefix: prefix.map(str::to_owned),
            suffix: suffix.map(str::to_owned),
            glob: glob.map(str::to_owned),
        };
        Self::try_from(written)
    }

    /// Whether the event is wanted.
    pub fn matches(&self, event: &Event) -> bool {
        self.events.contains(&event.name) && self.keys.matches(&event.key)
    }

    /// Every reason why the event is not wanted; none when it is.
    pub fn mismatches(&self, event: &Event) -> Vec<Mismatch> {
        let mut reasons = Vec::new();
        if !self.events.contains(&event.name) {
            reasons.push(Mismatch::Event);
        }
        match &self.keys {
            KeyFilter::Affix { prefix, suffix } => {
                if !event.key.starts_with(prefix.as_str()) {
                    reasons.push(Mismatch::Prefix(prefix.clone()));
                }
                if !event.key.ends_with(suffix.as_str()) {
                    reasons.push(Mismatch::Suffix(suffix.clone()));
                }
            }
            KeyFilter::Glob(glob) => {
                if !glob.matches(&event.key) {
                    reasons.push(Mismatch::Glob(glob.as_str().to_owned()));
                }
            }
        }
        reasons
    }
}

/// A filter as the API, the relations and the platform's rule write it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct WrittenFilter {
    events: EventSet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suffix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    glob: Option<String>,
}

impl TryFrom<WrittenFilter> for Filter {
    type Error = InvalidFilter;

    fn try_from(written: WrittenFilter) -> Result<Self, InvalidFilter> {
        let prefix = written.prefix.unwrap_or_default();
        let suffix = written.suffix.unwrap_or_default();
        let keys = match written.glob {
            Some(_) if !prefix.is_empty() || !suffix.is_empty() => return Err(InvalidFilter::GlobAndAffix),
            Some(glob) if !glob.is_empty() => KeyFilter::Glob(Glob::parse(&glob)?),
            _ => {
                check_length("prefix", &prefix)?;
                check_length("suffix", &suffix)?;
                if prefix.starts_with('/') {
                    return Err(InvalidFilter::LeadingSlash { what: "prefix", value: prefix });
                }
                KeyFilter::Affix { prefix, suffix }
            }
        };
        Ok(Self { events: written.events, keys })
    }
}

impl From<Filter> for WrittenFilter {
    fn from(filter: Filter) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let (prefix, suffix, glob) = match filter.keys {
            KeyFilter::Affix { prefix, suffix } => (some(prefix), some(suffix), None),
            KeyFilter::Glob(glob) => (None, None, Some(glob.as_str().to_owned())),
        };
        Self { events: filter.events, prefix, suffix, glob }
    }
}

fn check_length(what: &'static str, text: &str) -> Result<(), InvalidFilter> {
    if text.len() > MAX_PATTERN {
        return Err(InvalidFilter::TooLong { what, bytes: text.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(
        prefix: Option<&str>,
        suffix: Option<&str>,
        glob: Option<&str>,
    ) -> Result<KeyFilter, InvalidFilter> {
        let events = EventSet::parse(["s3:ObjectCreated:*"]).unwrap();
        Filter::new(events, prefix, suffix, glob).map(|filter| filter.keys)
    }

    #[test]
    fn prefix_and_suffix_are_literal_and_may_overlap() {
        let filter = keys(Some("in/*"), Some(".jpg"), None).unwrap();
        assert!(filter.matches("in/*x.jpg"));
        assert!(!filter.matches("in/x.jpg"));
        assert!(keys(Some("abc"), Some("bcd"), None).unwrap().matches("abcd"));
        assert!(keys(None, None, None).unwrap().matches(""));
    }

    #[test]
    fn impossible_filters_are_refused() {
        assert_eq!(keys(Some("a"), None, Some("b")), Err(InvalidFilter::GlobAndAffix));
        assert!(matches!(keys(None, None, Some("[")), Err(InvalidFilter::Glob { .. })));
        assert!(matches!(keys(Some("/in"), None, None), Err(InvalidFilter::LeadingSlash { .. })));
        assert!(matches!(keys(Some(&"a".repeat(1_025)), None, None), Err(InvalidFilter::TooLong { .. })));
    }

    #[test]
    fn filter_reads_what_it_writes() {
        let events = EventSet::parse(["s3:ObjectCreated:Put"]).unwrap();
        let filter = Filter::new(events, Some("in/"), Some(".jpg"), None).unwrap();
        let written = serde_json::to_string(&filter).unwrap();
        assert_eq!(written, r#"{"events":["s3:ObjectCreated:Put"],"prefix":"in/","suffix":".jpg"}"#);
        assert_eq!(serde_json::from_str::<Filter>(&written).unwrap(), filter);
    }
}
