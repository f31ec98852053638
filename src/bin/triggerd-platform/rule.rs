//! One rule: what may be said in it, when two are the same, and which events fit it.

use crate::{
    event::Event,
    invoke::is_http_url,
    signature::{self, Secret},
};
use globset::GlobBuilder;
use regex::{Captures, Regex, bytes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What `PUT /rules/{id}` carries.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) storage: String,
    pub(crate) bucket: String,
    pub(crate) events: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) suffix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) glob: Option<String>,
    pub(crate) function: String,
    pub(crate) mode: Mode,
    #[serde(serialize_with = "signature::into_file")]
    pub(crate) secret: Secret,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) confirm_url: Option<String>,
}

/// How the binding means to call. Kept and shown; a call says for itself by `Prefer`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Sync,
    Async,
}

/// Whether the binding's side knows that the rule stands.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Pending,
    Confirmed,
}

/// A rule as it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) id: String,
    pub(crate) state: State,
    pub(crate) rule: Rule,
    #[serde(skip)]
    glob: Option<bytes::Regex>,
}

impl Rule {
    /// Everything that can be said of a rule without asking anyone.
    pub(crate) fn check(&self) -> Result<(), String> {
        let texts = [("storage", &self.storage), ("bucket", &self.bucket)];
        for (field, text) in texts.into_iter().chain(self.events.iter().map(|event| ("events", event))) {
            if text.is_empty() || text.len() > 255 {
                return Err(format!("field `{field}` must have 1 to 255 characters"));
            }
        }
        if !(1..=64).contains(&self.events.len()) {
            return Err("field `events` must name 1 to 64 events".to_owned());
        }
        if let Some(event) = self.events.iter().find(|event| !event.starts_with("s3:")) {
            return Err(format!("field `events`: {event:?} does not begin with s3:"));
        }
        if [&self.prefix, &self.suffix, &self.glob].into_iter().flatten().any(|text| text.len() > 1024) {
            return Err("fields `prefix`, `suffix` and `glob` may have 1024 bytes".to_owned());
        }
        if self.glob.is_some() && (self.prefix.is_some() || self.suffix.is_some()) {
            return Err("field `glob` excludes `prefix` and `suffix`".to_owned());
        }
        if self.confirm_url.as_ref().is_some_and(|url| !is_http_url(url)) {
            return Err("field `confirm_url` is not an http or https URL".to_owned());
        }
        self.matcher().map(|_| ())
    }

    fn matcher(&self) -> Result<Option<bytes::Regex>, String> {
        let Some(glob) = &self.glob else {
            return Ok(None);
        };
        let wrong = |error: &dyn std::fmt::Display| format!("field `glob`: {error}");
        let parsed = GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build();
        let parsed = parsed.map_err(|error| wrong(&error))?;
        // The library counts bytes. A key is text: `?` is a character, of however many bytes of UTF-8.
        let class = Regex::new(r"\\.|\[(\^?)((?:[^\]\\]|\\.)+)\](\*?)").map_err(|error| wrong(&error))?;
        let expression = class.replace_all(parsed.regex(), |found: &Captures<'_>| {
            if &found[0][..1] == "[" && &found[1] == "^" && found[3].is_empty() {
                format!(r"(?:[^{}\x80-\xFF]|[\xC2-\xF4][\x80-\xBF]+)", &found[2])
            } else {
                found[0].to_owned()
            }
        });
        let mut matcher = bytes::RegexBuilder::new(&expression);
        let matcher = matcher.unicode(false).dot_matches_new_line(true).build();
        matcher.map(Some).map_err(|error| wrong(&error))
    }

    /// The same in all but `confirm_url`; the order of events is no difference.
    pub(crate) fn same_contents(&self, other: &Self) -> bool {
        let events = |rule: &Self| rule.events.iter().cloned().collect::<BTreeSet<_>>();
        (&self.storage, &self.bucket, &self.prefix, &self.suffix, &self.glob, &self.function, self.mode)
            == (
                &other.storage,
                &other.bucket,
                &other.prefix,
                &other.suffix,
                &other.glob,
                &other.function,
                other.mode,
            )
            && events(self) == events(other)
            && self.secret == other.secret
    }
}

impl Stored {
    pub(crate) fn new(id: &str, state: State, rule: Rule) -> Result<Self, String> {
        rule.check()?;
        Ok(Self { id: id.to_owned(), state, glob: rule.matcher()?, rule })
    }

    /// Which part of the rule the event does not fit, in words; `None` when it fits.
    pub(crate) fn mismatch(&self, event: &Event) -> Option<String> {
        let rule = &self.rule;
        let (name, key) = (&event.name, &event.key);
        let named = |pattern: &String| {
            pattern == name
                || pattern
                    .strip_suffix('*')
                    .is_some_and(|group| group.ends_with(':') && name.starts_with(group))
        };
        if !rule.events.iter().any(named) {
            Some(format!("event name {name:?} is none of the rule's {:?}", rule.events))
        } else if event.bucket != rule.bucket {
            Some(format!("bucket {:?} is not the rule's {:?}", event.bucket, rule.bucket))
        } else if let Some(prefix) = rule.prefix.as_ref().filter(|prefix| !key.starts_with(prefix.as_str())) {
            Some(format!("key {key:?} does not begin with the rule's prefix {prefix:?}"))
        } else if let Some(suffix) = rule.suffix.as_ref().filter(|suffix| !key.ends_with(suffix.as_str())) {
            Some(format!("key {key:?} does not end with the rule's suffix {suffix:?}"))
        } else if self.glob.as_ref().is_some_and(|glob| !glob.is_match(key.as_bytes())) {
            Some(format!(
                "key {key:?} does not fit the rule's glob {:?}",
                rule.glob.as_deref().unwrap_or_default()
            ))
        } else {
            None
        }
    }

    /// The rule as it may be shown: the secret's digest in the place of the secret.
    pub(crate) fn view(&self) -> serde_json::Value {
        let mut view = serde_json::to_value(&self.rule).unwrap_or_default();
        if let Some(fields) = view.as_object_mut() {
            fields.remove("secret");
            fields.insert("id".to_owned(), self.id.clone().into());
            fields.insert("state".to_owned(), serde_json::to_value(self.state).unwrap_or_default());
            fields.insert("secret_digest".to_owned(), self.rule.secret.digest().into());
        }
        view
    }
}
