//! Rules: the platform's half of each binding, one file per rule, `rules/<id>.json`.
//!
//! A rule is on the disk before its request is answered, and gone from it before a removal is; so an
//! answer holds after a crash. The same rule again is success, whatever became of the first answer; the
//! same id with other contents is a conflict and changes nothing. `confirm_url` is no part of the
//! contents: it is where to confirm, and a repeated rule may bring a new one.

use crate::{
    config::is_name,
    durable,
    event::Event,
    invoke::is_http_url,
    problem::{Kind, Problem},
    signature::{self, Secret},
};
use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::Mutex;

/// More than this many rules are refused.
const MAX_RULES: usize = 100_000;

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
    glob: Option<GlobMatcher>,
}

impl Rule {
    /// Everything that can be said of a rule without asking anyone.
    pub(crate) fn check(&self) -> Result<(), String> {
        let texts = [("storage", &self.storage), ("bucket", &self.bucket)];
        for (field, text) in texts
            .into_iter()
            .chain(self.events.iter().map(|event| ("events", event)))
        {
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
        if [&self.prefix, &self.suffix, &self.glob]
            .into_iter()
            .flatten()
            .any(|text| text.len() > 1024)
        {
            return Err("fields `prefix`, `suffix` and `glob` may have 1024 bytes".to_owned());
        }
        if self.glob.is_some() && (self.prefix.is_some() || self.suffix.is_some()) {
            return Err("field `glob` excludes `prefix` and `suffix`".to_owned());
        }
        if self
            .confirm_url
            .as_ref()
            .is_some_and(|url| !is_http_url(url))
        {
            return Err("field `confirm_url` is not an http or https URL".to_owned());
        }
        self.matcher().map(|_| ())
    }

    fn matcher(&self) -> Result<Option<GlobMatcher>, String> {
        let Some(glob) = &self.glob else {
            return Ok(None);
        };
        let built = GlobBuilder::new(glob)
            .literal_separator(true)
            .backslash_escape(true)
            .build();
        built
            .map(|glob| Some(glob.compile_matcher()))
            .map_err(|error| format!("field `glob`: {error}"))
    }

    fn same_contents(&self, other: &Self) -> bool {
        let events = |rule: &Self| rule.events.iter().cloned().collect::<BTreeSet<_>>();
        (
            &self.storage,
            &self.bucket,
            &self.prefix,
            &self.suffix,
            &self.glob,
            &self.function,
            self.mode,
        ) == (
            &other.storage,
            &other.bucket,
            &other.prefix,
            &other.suffix,
            &other.glob,
            &other.function,
            other.mode,
        ) && events(self) == events(other)
            && self.secret == other.secret
    }
}

impl Stored {
    fn new(id: &str, state: State, rule: Rule) -> Result<Self, String> {
        rule.check()?;
        Ok(Self {
            id: id.to_owned(),
            state,
            glob: rule.matcher()?,
            rule,
        })
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
            Some(format!(
                "event name {name:?} is none of the rule's {:?}",
                rule.events
            ))
        } else if event.bucket != rule.bucket {
            Some(format!(
                "bucket {:?} is not the rule's {:?}",
                event.bucket, rule.bucket
            ))
        } else if let Some(prefix) = rule
            .prefix
            .as_ref()
            .filter(|prefix| !key.starts_with(prefix.as_str()))
        {
            Some(format!(
                "key {key:?} does not begin with the rule's prefix {prefix:?}"
            ))
        } else if let Some(suffix) = rule
            .suffix
            .as_ref()
            .filter(|suffix| !key.ends_with(suffix.as_str()))
        {
            Some(format!(
                "key {key:?} does not end with the rule's suffix {suffix:?}"
            ))
        } else if self.glob.as_ref().is_some_and(|glob| !glob.is_match(key)) {
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
            fields.insert(
                "state".to_owned(),
                serde_json::to_value(self.state).unwrap_or_default(),
            );
            fields.insert("secret_digest".to_owned(), self.rule.secret.digest().into());
        }
        view
    }
}

/// What came of putting a rule.
pub(crate) enum Put {
    Created(Arc<Stored>),
    Same(Arc<Stored>),
}

/// All rules, in memory for reading and on the disk for good.
pub(crate) struct Rules {
    folder: PathBuf,
    known: RwLock<BTreeMap<String, Arc<Stored>>>,
    writing: Mutex<()>,
}

impl Rules {
    /// Reads every rule. One that cannot be read is an error with its file's name: starting without it would
    /// turn its deliveries away.
    pub(crate) fn open(state_dir: &Path) -> anyhow::Result<Self> {
        let folder = state_dir.join("rules");
        let mut known = BTreeMap::new();
        for (name, content) in durable::read_all(&folder)? {
            let read = |content: &[u8]| -> Result<Stored, String> {
                let kept: Stored =
                    serde_json::from_slice(content).map_err(|error| error.to_string())?;
                Stored::new(&kept.id, kept.state, kept.rule)
            };
            let stored = read(&content)
                .map_err(|error| anyhow::anyhow!("the rule file {name} cannot be read: {error}"))?;
            known.insert(stored.id.clone(), Arc::new(stored));
        }
        Ok(Self {
            folder,
            known: RwLock::new(known),
            writing: Mutex::new(()),
        })
    }

    pub(crate) fn get(&self, id: &str) -> Result<Arc<Stored>, Problem> {
        if !is_name(id) {
            return Err(Problem::new(
                Kind::BadRequest,
                "a rule id is 1 to 64 of A-Z a-z 0-9 . _ -",
            ));
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .get(id)
            .cloned()
            .ok_or_else(|| Problem::new(Kind::UnknownRule, format!("there is no rule {id}")))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Stored>> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Stores the rule, or finds it stored. `state` is the new rule's; one that is confirmed stays so.
    pub(crate) async fn put(&self, id: &str, rule: Rule, state: State) -> Result<Put, Problem> {
        let _one_at_a_time = self.writing.lock().await;
        match self.get(id) {
            Err(problem) if problem.kind == Kind::UnknownRule => {
                if self.all().len() >= MAX_RULES {
                    return Err(Problem::new(
                        Kind::Refused,
                        format!("this platform keeps at most {MAX_RULES} rules"),
                    ));
                }
                Ok(Put::Created(self.save(id, state, rule).await?))
            }
            Err(problem) => Err(problem),
            Ok(old) if !old.rule.same_contents(&rule) => Err(Problem::new(
                Kind::Conflict,
                format!("rule {id} exists with other contents; remove it first"),
            )),
            Ok(old) => {
                let state = if state == State::Confirmed {
                    state
                } else {
                    old.state
                };
                if old.state == state && old.rule.confirm_url == rule.confirm_url {
                    return Ok(Put::Same(old));
                }
                Ok(Put::Same(self.save(id, state, rule).await?))
            }
        }
    }

    /// Notes that the binding's side has heard of the rule; a rule that is gone meanwhile stays gone.
    pub(crate) async fn confirm(&self, id: &str) -> Result<(), Problem> {
        let _one_at_a_time = self.writing.lock().await;
        let stored = self.get(id)?;
        self.save(id, State::Confirmed, stored.rule.clone())
            .await
            .map(|_| ())
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<(), Problem> {
        let _one_at_a_time = self.writing.lock().await;
        self.get(id)?;
        let (folder, file) = (self.folder.clone(), format!("{id}.json"));
        blocking(move || durable::remove(&folder, &file)).await?;
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        Ok(())
    }

    async fn save(&self, id: &str, state: State, rule: Rule) -> Result<Arc<Stored>, Problem> {
        let stored = Stored::new(id, state, rule)
            .map_err(|detail| Problem::new(Kind::BadRequest, detail))?;
        let content = serde_json::to_vec_pretty(&stored).map_err(io::Error::other)?;
        let (folder, file) = (self.folder.clone(), format!("{id}.json"));
        blocking(move || durable::write(&folder, &file, &content)).await?;
        let stored = Arc::new(stored);
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.to_owned(), Arc::clone(&stored));
        Ok(stored)
    }
}

/// Waits for the disk without holding up the other requests.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}
