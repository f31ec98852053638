//! The storage's half of all bindings of one bucket: its notification configuration.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Storage,
    bucket_rules::{self, Leg},
    decide::Found,
    look::{BucketKey, Core},
};
use crate::{
    bucket::{BucketError, BucketRule, Configuration},
    domain::{
        binding::{Binding, State, StepName, Wanted},
        ids::BindingId,
    },
    relations::RelationsError,
    telemetry::Chain,
};

/// Most buckets whose foreign rules are remembered.
const MAX_REMEMBERED: usize = 10_000;

/// What a bucket's configuration came to.
#[derive(Debug)]
pub(super) struct BucketLooked {
    pub(super) found: Found,
    /// There is no such bucket, so nothing is left to take out of it.
    pub(super) gone: bool,
    /// Bindings that were found to have lost their rules in the bucket, and how.
    pub(super) damaged: BTreeMap<BindingId, String>,
}

/// Which buckets this daemon is writing: the looks of several platforms may come to the same one, and wait for each
/// other before they ask for the lock that all daemons share.
#[derive(Debug, Default)]
pub(super) struct Writers(Mutex<BTreeMap<BucketKey, Arc<tokio::sync::Mutex<()>>>>);

impl Writers {
    fn of(&self, key: &BucketKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut writers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writers.retain(|_, writer| Arc::strong_count(writer) > 1);
        Arc::clone(writers.entry(key.clone()).or_default())
    }
}

impl Core {
    /// Looks at a bucket's configuration and writes it when it lacks something or holds too much of ours.
    pub(super) async fn look_at_bucket(
        &self,
        key: &BucketKey,
        bindings: &[Binding],
    ) -> Result<BucketLooked, RelationsError> {
        let mut looked = BucketLooked { found: Found::Done, gone: false, damaged: BTreeMap::new() };
        let storage = match self.storage(key) {
            Ok(storage) => storage,
            Err(error) => {
                looked.found = Found::Failed(error);
                return Ok(looked);
            }
        };
        let current = match storage.buckets.read(&key.1).await {
            Ok(current) => Some(current),
            Err(error @ BucketError::NoSuchBucket { .. }) => {
                looked.gone = true;
                looked.found = Found::Failed(Chain(&error).to_string());
                None
            }
            Err(error) => {
                looked.found = Found::Failed(Chain(&error).to_string());
                return Ok(looked);
            }
        };
        if let Some(current) = &current {
            self.remember(key, current);
        }
        looked.damaged = self.record_damage(key, bindings, current.as_ref(), storage).await?;
        if let Some(current) = current
            && bucket_rules::plan(&current, &legs(key, bindings, storage)).is_some()
        {
            looked.found = self.write(key, storage).await?;
        }
        Ok(looked)
    }

    fn storage(&self, (storage, _): &BucketKey) -> Result<&Storage, String> {
        let found = self.parts.storages.get(storage).ok_or_else(|| {
            format!("storage `{storage}` is not configured on this daemon; add [storages.{storage}], or unbind before removing it")
        })?;
        if found.targets.is_empty() {
            return Err(format!(
                "storage `{storage}` has no target; name the ARN of one in `targets` of [storages.{storage}]"
            ));
        }
        Ok(found)
    }

    /// Bindings that fire, and whose rules the bucket does not hold: `degraded`, before anything is mended.
    async fn record_damage(
        &self,
        key: &BucketKey,
        bindings: &[Binding],
        current: Option<&Configuration>,
        storage: &Storage,
    ) -> Result<BTreeMap<BindingId, String>, RelationsError> {
        let mut damaged = BTreeMap::new();
        let fires =
            |binding: &&Binding| is_of(key, binding) && matches!(binding.state, State::Armed | State::Active);
        for binding in bindings.iter().filter(fires) {
            let carried = current.is_some_and(|now| {
                let by = |targets| bucket_rules::carries(now, &binding.spec.filter, targets);
                by(&storage.targets) && (!binding.spec.twin || by(&storage.fast_targets))
            });
            if carried {
                continue;
            }
            let what = if current.is_some() { "no longer has the rules of this binding" } else { "is gone" };
            let reason = format!("bucket `{}` on storage `{}` {what}", key.1, key.0);
            if self.fall(binding.clone(), State::Degraded, StepName::Bucket, &reason).await?.is_ok() {
                self.agenda.wake_binding(binding.id);
                damaged.insert(binding.id, reason);
            }
        }
        Ok(damaged)
    }

    /// Reads, writes and reads back under the lock. What is needed is read anew: a binding that another daemon has
    /// provided for since our snapshot is in it, because it was in the relations first.
    async fn write(&self, key: &BucketKey, storage: &Storage) -> Result<Found, RelationsError> {
        let writer = self.writers.of(key);
        let _turn = writer.lock().await;
        let Some(_lock) = self.parts.relations.lock_bucket(key.0.as_str(), &key.1).await? else {
            return Ok(Found::Waiting(format!("another daemon is writing the rules of bucket `{}`", key.1)));
        };
        let bindings = self.parts.relations.snapshot().await?.bindings;
        let after = match self.write_locked(key, storage, &bindings).await {
            Ok(after) => after,
            Err(error) => return Ok(Found::Failed(Chain(&error).to_string())),
        };
        if bucket_rules::plan(&after, &legs(key, &bindings, storage)).is_some() {
            return Ok(Found::Failed(format!(
                "storage `{}` does not return the rules of bucket `{}` as they were written; somebody else may be writing them too",
                key.0, key.1
            )));
        }
        // Whoever rejects or unbinds a binding looks at its bucket afterwards: before our write, then we see it
        // here; or after it, then they see what we wrote.
        let now = self.parts.relations.snapshot().await?.bindings;
        if bucket_rules::plan(&after, &legs(key, &now, storage)).is_some() {
            return Ok(Found::Waiting(format!("what bucket `{}` needs changed while it was written", key.1)));
        }
        Ok(Found::Done)
    }

    /// The configuration as it is after it was written, if it had to be.
    async fn write_locked(
        &self,
        key: &BucketKey,
        storage: &Storage,
        bindings: &[Binding],
    ) -> Result<Configuration, BucketError> {
        let current = storage.buckets.read(&key.1).await?;
        let Some(desired) = bucket_rules::plan(&current, &legs(key, bindings, storage)) else {
            return Ok(current);
        };
        storage.buckets.write(&key.1, &desired).await?;
        let after = storage.buckets.read(&key.1).await?;
        tell_vanished(key, &desired.rules, &after);
        self.remember(key, &after);
        tracing::info!(storage = %key.0, bucket = key.1, rules = after.rules.len(), "a bucket's rules were written");
        Ok(after)
    }

    /// Remembers others' rules, and tells which of those seen before are not there any more: their owner removed
    /// them, or MinIO hides them because their target is not configured, and the next write would lose them for
    /// good.
    fn remember(&self, key: &BucketKey, current: &Configuration) {
        let theirs: Vec<BucketRule> =
            current.rules.iter().filter(|rule| !bucket_rules::is_ours(rule)).cloned().collect();
        let mut remembered = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = remembered.get(key) {
            tell_vanished(key, before, current);
        }
        if theirs.is_empty() {
            remembered.remove(key);
        } else if remembered.len() < MAX_REMEMBERED || remembered.contains_key(key) {
            remembered.insert(key.clone(), theirs);
        }
    }
}

fn tell_vanished(key: &BucketKey, before: &[BucketRule], after: &Configuration) {
    for rule in bucket_rules::vanished(before, after) {
        tracing::warn!(
            storage = %key.0, bucket = key.1, rule = rule.id.as_deref().unwrap_or_default(), target = rule.target,
            "a rule that is not ours has vanished from a bucket: its owner removed it, or its target is no longer \
             configured in MinIO, which then hides it"
        );
    }
}

fn is_of(key: &BucketKey, binding: &Binding) -> bool {
    binding.spec.storage == key.0 && binding.spec.bucket == key.1
}

/// What the bucket must let through, by which targets: for every binding that is wanted, the pending ones too.
fn legs<'a>(key: &BucketKey, bindings: &'a [Binding], storage: &'a Storage) -> [Leg<'a>; 2] {
    let counts = |binding: &&Binding| {
        is_of(key, binding) && binding.wanted == Wanted::Present && binding.state != State::Rejected
    };
    let filters = |twins_only: bool| {
        let wanted = bindings.iter().filter(counts).filter(|binding| binding.spec.twin || !twins_only);
        wanted.map(|binding| &binding.spec.filter).collect()
    };
    [
        Leg { targets: &storage.targets, filters: filters(false) },
        Leg { targets: &storage.fast_targets, filters: filters(true) },
    ]
}
