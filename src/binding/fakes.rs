//! A platform, a storage and a dispatch that keep their state outside of the reconciler, and a crash at any of their
//! effects, before or after it. The relations are real (SQLite), and crash in the same way.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::{
    bucket::{BucketError, BucketNotifications, BucketRule, Configuration},
    dispatch::{Deliveries, Flow},
    domain::{
        binding::Binding,
        clock::Timestamp,
        delivery::FunctionRef,
        ids::{BindingId, DeliveryId},
        outcome::{Class, Outcome},
    },
    platform::{Call, Driver, Established, Inspection, PlatformError},
    queue::{Disposal, QueueError},
    relations::{
        AuditEntry, Bound, BucketLock, Changes, Head, HistoryEntry, ListQuery, NewBinding, Node, Progress,
        Relations, RelationsError, Snapshot, SqliteRelations,
    },
};

/// Where the process dies: at this effect (counted from 1), before or after it has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crash {
    pub(super) at: usize,
    pub(super) after: bool,
}

/// Everything outside of the process.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Rules by id: the secret's digest and whether it is confirmed.
    pub(super) rules: HashMap<BindingId, (String, bool)>,
    pub(super) functions: HashSet<String>,
    /// Whether rules wait for a call back.
    pub(super) calls_back: bool,
    pub(super) platform_away: bool,
    pub(super) storage_away: bool,
    pub(super) buckets: HashMap<String, Configuration>,
    /// Parked deliveries, and whether they are held.
    pub(super) parked: HashMap<BindingId, (u64, bool)>,
    pub(super) running: u64,
    pub(super) dead: u64,
    /// Effects so far, by name.
    pub(super) effects: Vec<String>,
    crash: Option<Crash>,
}

#[derive(Debug, Default)]
pub(super) struct World {
    state: Mutex<State>,
    died: Notify,
}

impl World {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Plans a crash and counts effects anew.
    pub(super) fn crash(&self, crash: Option<Crash>) {
        let mut state = self.state();
        state.crash = crash;
        state.effects.clear();
    }

    /// Ends when the process has died.
    pub(super) async fn died(&self) {
        self.died.notified().await;
    }

    async fn begin(&self, name: &str) -> bool {
        let crash = {
            let mut state = self.state();
            state.effects.push(name.to_owned());
            state.crash.filter(|crash| crash.at == state.effects.len())
        };
        match crash {
            Some(Crash { after: false, .. }) => self.die().await,
            Some(_) => true,
            None => false,
        }
    }

    async fn die(&self) -> bool {
        self.died.notify_one();
        std::future::pending().await
    }

    async fn effect<T>(&self, name: &str, act: impl FnOnce(&mut State) -> T) -> T {
        let dies = self.begin(name).await;
        let value = act(&mut self.state());
        if dies {
            self.die().await;
        }
        value
    }
}

#[derive(Debug)]
pub(super) struct FakePlatform(pub(super) Arc<World>);

impl FakePlatform {
    fn away(state: &State) -> Result<(), PlatformError> {
        if state.platform_away {
            let (platform, detail) = ("faas".to_owned(), "away".to_owned());
            return Err(PlatformError::Unexpected { platform, what: "anything", status: 503, detail });
        }
        Ok(())
    }
}

#[async_trait]
impl Driver for FakePlatform {
    async fn establish(&self, binding: &Binding, _: &str) -> Result<Established, PlatformError> {
        self.0
            .effect("establish", |state| {
                Self::away(state)?;
                if !state.functions.contains(&binding.spec.function.function) {
                    return Ok(Established::Rejected("no such function".into()));
                }
                let confirmed = !state.calls_back;
                let rule = state.rules.entry(binding.id).or_insert((binding.secret.digest(), confirmed));
                match rule {
                    (digest, _) if *digest != binding.secret.digest() => {
                        Ok(Established::Rejected("conflict".into()))
                    }
                    (_, true) => Ok(Established::Confirmed),
                    _ => Ok(Established::Pending),
                }
            })
            .await
    }

    async fn inspect(&self, binding: &Binding) -> Result<Inspection, PlatformError> {
        let state = self.0.state();
        Self::away(&state)?;
        Ok(match state.rules.get(&binding.id) {
            None => Inspection::Missing,
            Some((digest, _)) if *digest != binding.secret.digest() => {
                Inspection::Changed("the secret".into())
            }
            Some((_, confirmed)) => Inspection::InStep { confirmed: *confirmed },
        })
    }

    async fn withdraw(&self, id: BindingId) -> Result<(), PlatformError> {
        self.0
            .effect("withdraw", |state| {
                Self::away(state)?;
                state.rules.remove(&id);
                Ok(())
            })
            .await
    }

    async fn invoke(&self, _: Call<'_>) -> Outcome {
        Outcome::new(Class::Permanent, None, "not a platform that is invoked")
    }

    async fn check(&self) -> Result<(), PlatformError> {
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct FakeStorage(pub(super) Arc<World>);

impl FakeStorage {
    fn away(state: &State) -> Result<(), BucketError> {
        if state.storage_away {
            let (storage, endpoint) = ("default".to_owned(), "nowhere".to_owned());
            return Err(BucketError::Unreachable { storage, endpoint, source: "refused".into() });
        }
        Ok(())
    }

    fn missing(bucket: &str) -> BucketError {
        BucketError::NoSuchBucket { storage: "default".into(), bucket: bucket.into() }
    }
}

#[async_trait]
impl BucketNotifications for FakeStorage {
    async fn read(&self, bucket: &str) -> Result<Configuration, BucketError> {
        let state = self.0.state();
        Self::away(&state)?;
        state.buckets.get(bucket).cloned().ok_or_else(|| Self::missing(bucket))
    }

    async fn write(&self, bucket: &str, configuration: &Configuration) -> Result<(), BucketError> {
        self.0
            .effect("write", |state| {
                Self::away(state)?;
                let current = state.buckets.get_mut(bucket).ok_or_else(|| Self::missing(bucket))?;
                *current = configuration.clone();
                Ok(())
            })
            .await
    }
}

#[derive(Debug)]
pub(super) struct FakeDispatch(pub(super) Arc<World>);

#[async_trait]
impl Deliveries for FakeDispatch {
    fn wake(&self, _: &FunctionRef) {}

    fn running(&self, _: BindingId) -> Vec<DeliveryId> {
        Vec::new()
    }

    fn flows(&self) -> Vec<Flow> {
        Vec::new()
    }

    async fn hold(&self, binding: BindingId, held: bool) -> Result<u64, QueueError> {
        let act = |state: &mut State| {
            let deliveries = state.parked.entry(binding).or_default();
            deliveries.1 = held;
            deliveries.0
        };
        Ok(self.0.effect("hold", act).await)
    }

    async fn clear(&self, binding: BindingId, _: Disposal) -> Result<u64, QueueError> {
        let act = |state: &mut State| {
            let (count, _) = state.parked.remove(&binding).unwrap_or_default();
            state.dead += count;
            state.running
        };
        Ok(self.0.effect("clear", act).await)
    }
}

/// Real relations that crash where they change something.
#[derive(Debug)]
pub(super) struct CrashingRelations(pub(super) Arc<World>, pub(super) Arc<SqliteRelations>);

#[async_trait]
impl Relations for CrashingRelations {
    async fn head(&self) -> Result<Head, RelationsError> {
        self.1.head().await
    }
    async fn changes_since(&self, seen: Head) -> Result<Changes, RelationsError> {
        self.1.changes_since(seen).await
    }
    async fn snapshot(&self) -> Result<Snapshot, RelationsError> {
        self.1.snapshot().await
    }
    async fn bind(&self, new: NewBinding) -> Result<Bound, RelationsError> {
        self.1.bind(new).await
    }
    async fn unbind(
        &self,
        id: BindingId,
        by: &str,
        now: Timestamp,
    ) -> Result<Option<Binding>, RelationsError> {
        self.1.unbind(id, by, now).await
    }
    async fn binding(&self, id: BindingId) -> Result<Option<Binding>, RelationsError> {
        self.1.binding(id).await
    }
    async fn bindings(&self, query: &ListQuery) -> Result<Vec<Binding>, RelationsError> {
        self.1.bindings(query).await
    }
    async fn record(
        &self,
        id: BindingId,
        seen_revision: u64,
        progress: &Progress,
    ) -> Result<bool, RelationsError> {
        let dies = self.0.begin(&format!("record {}", progress.state)).await;
        let recorded = self.1.record(id, seen_revision, progress).await;
        if dies {
            self.0.die().await;
        }
        recorded
    }
    async fn remove(&self, id: BindingId, now: Timestamp) -> Result<bool, RelationsError> {
        let dies = self.0.begin("remove").await;
        let removed = self.1.remove(id, now).await;
        if dies {
            self.0.die().await;
        }
        removed
    }
    async fn history(&self, id: BindingId, limit: u32) -> Result<Vec<HistoryEntry>, RelationsError> {
        self.1.history(id, limit).await
    }
    async fn audit(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditEntry>, RelationsError> {
        self.1.audit(before, limit).await
    }
    async fn heartbeat(
        &self,
        node: &str,
        revision: u64,
        admin_url: Option<&str>,
    ) -> Result<(), RelationsError> {
        self.1.heartbeat(node, revision, admin_url).await
    }
    async fn nodes(&self) -> Result<Vec<Node>, RelationsError> {
        self.1.nodes().await
    }
    async fn forget_node(&self, node: &str) -> Result<bool, RelationsError> {
        self.1.forget_node(node).await
    }
    async fn lock_bucket(
        &self,
        storage: &str,
        bucket: &str,
    ) -> Result<Option<Box<dyn BucketLock>>, RelationsError> {
        self.1.lock_bucket(storage, bucket).await
    }
}

/// A rule of somebody else's, with which any bucket begins.
pub(super) fn foreign() -> BucketRule {
    BucketRule {
        id: Some(String::new()),
        target: "arn:minio:sqs::THEIRS:webhook".into(),
        events: vec!["s3:ObjectRemoved:*".into()],
        filters: vec![("suffix".into(), ".tmp".into())],
    }
}
