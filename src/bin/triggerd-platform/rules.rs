//! The rules that are kept: the platform's half of each binding, one file per rule, `rules/<id>.json`.
//!
//! A rule is on the disk before its request is answered, and gone from it before a removal is; so an
//! answer holds after a crash. The same rule again is success, whatever became of the first answer; the
//! same id with other contents is a conflict and changes nothing. `confirm_url` is no part of the
//! contents: it is where to confirm, and a repeated rule may bring a new one.

use crate::{
    config::is_name,
    durable,
    problem::{Kind, Problem},
    rule::{Rule, State, Stored},
};
use anyhow::Context;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::Mutex;

/// More than this many rules are refused.
const MAX_RULES: usize = 100_000;

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
        let names = durable::names(&folder);
        let names = names.with_context(|| format!("cannot read {}", folder.display()))?;
        let mut known = BTreeMap::new();
        for name in names {
            let stored = read(&folder.join(&name));
            let stored = stored.with_context(|| format!("the rule file {name} cannot be read"))?;
            known.insert(stored.id.clone(), Arc::new(stored));
        }
        Ok(Self { folder, known: RwLock::new(known), writing: Mutex::new(()) })
    }

    pub(crate) fn get(&self, id: &str) -> Result<Arc<Stored>, Problem> {
        if !is_name(id) {
            return Err(Problem::new(Kind::BadRequest, "a rule id is 1 to 64 of A-Z a-z 0-9 . _ -"));
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .get(id)
            .cloned()
            .ok_or_else(|| Problem::new(Kind::UnknownRule, format!("there is no rule {id}")))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Stored>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn count(&self) -> usize {
        self.known.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Stores the rule, or finds it stored. `state` is the new rule's; one that is confirmed stays so.
    pub(crate) async fn put(&self, id: &str, rule: Rule, state: State) -> Result<Put, Problem> {
        let _one_at_a_time = self.writing.lock().await;
        match self.get(id) {
            Err(problem) if problem.kind == Kind::UnknownRule => {
                if self.count() >= MAX_RULES {
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
                let state = if state == State::Confirmed { state } else { old.state };
                if old.state == state && old.rule.confirm_url == rule.confirm_url {
                    return Ok(Put::Same(old));
                }
                Ok(Put::Same(self.save(id, state, rule).await?))
            }
        }
    }

    /// Notes that the binding's side has heard of this rule. One that is gone meanwhile stays gone, and
    /// another of the same id is not meant.
    pub(crate) async fn confirm(&self, heard: &Stored) -> Result<(), Problem> {
        let _one_at_a_time = self.writing.lock().await;
        let stored = self.get(&heard.id)?;
        if stored.rule.same_contents(&heard.rule) {
            self.save(&heard.id, State::Confirmed, stored.rule.clone()).await?;
        }
        Ok(())
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<(), Problem> {
        let _one_at_a_time = self.writing.lock().await;
        self.get(id)?;
        let (folder, file) = (self.folder.clone(), format!("{id}.json"));
        blocking(move || durable::remove(&folder, &file)).await?;
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }

    async fn save(&self, id: &str, state: State, rule: Rule) -> Result<Arc<Stored>, Problem> {
        let stored = Stored::new(id, state, rule).map_err(|detail| Problem::new(Kind::BadRequest, detail))?;
        let content = serde_json::to_vec_pretty(&stored).map_err(io::Error::other)?;
        let (folder, file) = (self.folder.clone(), format!("{id}.json"));
        blocking(move || durable::write(&folder, &file, &content)).await?;
        let stored = Arc::new(stored);
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), Arc::clone(&stored));
        Ok(stored)
    }
}

fn read(path: &Path) -> anyhow::Result<Stored> {
    let kept: Stored = serde_json::from_slice(&fs::read(path)?)?;
    Stored::new(&kept.id, kept.state, kept.rule).map_err(anyhow::Error::msg)
}

/// Waits for the disk without holding up the other requests.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
