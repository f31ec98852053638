//! What the reconciler works with, simulated: relations, a bucket's rules; and the damage that is done to them.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::sleep;
use triggerd::{
    binding::Handle,
    bucket::{BucketError, BucketNotifications, Configuration},
    dispatch::Dispatcher,
    domain::{
        binding::{Binding, State, Wanted},
        clock::Timestamp,
        ids::BindingId,
    },
    relations::{
        AuditEntry, Bound, BucketLock, Changes, Head, HistoryEntry, ListQuery, NewBinding, Node, Progress,
        Relations, RelationsError, Snapshot,
    },
};

use crate::world::{State as Now, World};

/// The target that our rules name.
pub(crate) const TARGET: &str = "arn:minio:sqs::1:webhook";

/// This daemon's name.
pub(crate) const NODE: &str = "one";

const DATABASE: [u8; 16] = [1; 16];

#[derive(Debug)]
pub(crate) struct SimRelations(pub(crate) Arc<World>);

fn unavailable() -> RelationsError {
    RelationsError::Unavailable(sqlx::Error::Io(io::Error::other("simulated")))
}

impl SimRelations {
    async fn read<T>(&self, look: impl FnOnce(&Now) -> T) -> Result<T, RelationsError> {
        self.0.step("reading the relations").await;
        let mut state = self.0.state();
        if state.sick(5) {
            return Err(unavailable());
        }
        Ok(look(&state))
    }

    /// A transaction; its failure may hide that it was done.
    async fn write<T>(&self, act: impl FnOnce(&mut Now) -> Option<T>) -> Result<Option<T>, RelationsError> {
        self.0.step("writing the relations").await;
        let (result, lies) = {
            let state = &mut *self.0.state();
            if state.sick(5) {
                return Err(unavailable());
            }
            let result = act(state);
            if result.is_some() {
                let visible = state.elapsed() + state.chance.millis((0, self.0.plan.lag));
                state.relating.changed(visible);
            }
            (result, state.sick(3))
        };
        self.0.step("the relations' answer").await;
        if lies { Err(unavailable()) } else { Ok(result) }
    }
}

/// A change of one binding, in one transaction with the revision.
fn change<T>(
    state: &mut Now,
    id: BindingId,
    fits: impl FnOnce(&Binding) -> bool,
    act: impl FnOnce(&mut Binding) -> T,
) -> Option<T> {
    let relating = &mut state.relating;
    let binding = relating.authority.get_mut(&id).filter(|binding| fits(binding))?;
    relating.revision += 1;
    binding.revision = relating.revision;
    Some(act(binding))
}

fn is_news(binding: &Binding, progress: &Progress) -> bool {
    let steps = |steps: &[triggerd::domain::binding::Step]| {
        steps.iter().map(|step| (step.name, step.state, step.error.clone())).collect::<Vec<_>>()
    };
    binding.state != progress.state
        || binding.reason != progress.reason
        || steps(&binding.steps) != steps(&progress.steps)
}

#[async_trait]
impl Relations for SimRelations {
    async fn head(&self) -> Result<Head, RelationsError> {
        self.read(|state| Head { database: DATABASE, revision: state.relating.revision }).await
    }

    async fn changes_since(&self, _: Head) -> Result<Changes, RelationsError> {
        Ok(Changes::Reload)
    }

    async fn snapshot(&self) -> Result<Snapshot, RelationsError> {
        self.read(|state| Snapshot {
            head: Head { database: DATABASE, revision: state.relating.revision },
            bindings: state.relating.authority.values().cloned().collect(),
        })
        .await
    }

    async fn bind(&self, _: NewBinding) -> Result<Bound, RelationsError> {
        Err(unavailable())
    }

    async fn unbind(&self, id: BindingId, _: &str, _: Timestamp) -> Result<Option<Binding>, RelationsError> {
        self.write(|state| {
            change(
                state,
                id,
                |binding| binding.state != State::Unbinding,
                |binding| {
                    (binding.wanted, binding.state, binding.reason) =
                        (Wanted::Absent, State::Unbinding, None);
                    binding.clone()
                },
            )
        })
        .await
    }

    async fn binding(&self, id: BindingId) -> Result<Option<Binding>, RelationsError> {
        self.read(|state| state.relating.authority.get(&id).cloned()).await
    }

    async fn bindings(&self, _: &ListQuery) -> Result<Vec<Binding>, RelationsError> {
        self.read(|state| state.relating.authority.values().cloned().collect()).await
    }

    async fn record(
        &self,
        id: BindingId,
        seen_revision: u64,
        progress: &Progress,
    ) -> Result<bool, RelationsError> {
        self.0.note(format_args!("b{} is recorded as {}", id.as_bytes()[0], progress.state));
        let recorded = self
            .write(|state| {
                let same = state.relating.authority.get(&id).filter(|one| one.revision == seen_revision)?;
                if !is_news(same, progress) {
                    return Some(());
                }
                change(
                    state,
                    id,
                    |_| true,
                    |binding| {
                        binding.state = progress.state;
                        binding.reason.clone_from(&progress.reason);
                        binding.steps.clone_from(&progress.steps);
                    },
                )
            })
            .await?;
        Ok(recorded.is_some())
    }

    async fn remove(&self, id: BindingId, _: Timestamp) -> Result<bool, RelationsError> {
        self.0.note(format_args!("b{} is removed", id.as_bytes()[0]));
        let removed = self
            .write(|state| {
                change(state, id, |binding| binding.state == State::Unbinding, |_| ())?;
                state.relating.authority.remove(&id)
            })
            .await?;
        Ok(removed.is_some())
    }

    async fn history(&self, _: BindingId, _: u32) -> Result<Vec<HistoryEntry>, RelationsError> {
        Ok(Vec::new())
    }

    async fn audit(&self, _: Option<u64>, _: u32) -> Result<Vec<AuditEntry>, RelationsError> {
        Ok(Vec::new())
    }

    async fn heartbeat(&self, _: &str, revision: u64, _: Option<&str>) -> Result<(), RelationsError> {
        self.write(|state| {
            state.relating.reported = Some(revision);
            None::<()>
        })
        .await
        .map(drop)
    }

    async fn nodes(&self) -> Result<Vec<Node>, RelationsError> {
        self.read(|state| {
            let node = |revision| Node {
                name: NODE.to_owned(),
                revision,
                admin_url: None,
                silent_for: Duration::ZERO,
            };
            state.relating.reported.map(node).into_iter().collect()
        })
        .await
    }

    async fn forget_node(&self, _: &str) -> Result<bool, RelationsError> {
        Ok(false)
    }

    async fn lock_bucket(&self, _: &str, _: &str) -> Result<Option<Box<dyn BucketLock>>, RelationsError> {
        let free = self.read(|state| !state.relating.locked).await?;
        if !free {
            return Ok(None);
        }
        self.0.state().relating.locked = true;
        Ok(Some(Box::new(Lock(Arc::clone(&self.0)))))
    }
}

/// Given up with its connection, at a crash too.
#[derive(Debug)]
struct Lock(Arc<World>);

impl BucketLock for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.state().relating.locked = false;
    }
}

#[derive(Debug)]
pub(crate) struct SimStorage(pub(crate) Arc<World>);

impl SimStorage {
    async fn step(&self, what: &'static str) -> Result<(), BucketError> {
        self.0.step(what).await;
        let (wait, away) = {
            let state = &mut *self.0.state();
            (state.chance.millis((0, 30)), state.sick(10))
        };
        sleep(wait).await;
        self.0.step(what).await;
        if away {
            let (storage, endpoint) = ("default".to_owned(), "nowhere".to_owned());
            return Err(BucketError::Unreachable { storage, endpoint, source: "simulated".into() });
        }
        Ok(())
    }
}

#[async_trait]
impl BucketNotifications for SimStorage {
    async fn read(&self, _: &str) -> Result<Configuration, BucketError> {
        self.step("reading the bucket's rules").await?;
        Ok(self.0.state().relating.bucket.clone())
    }

    async fn write(&self, _: &str, configuration: &Configuration) -> Result<(), BucketError> {
        self.step("writing the bucket's rules").await?;
        self.0.state().relating.bucket = configuration.clone();
        Ok(())
    }
}

/// The mirror, and who follows it: as the daemon's foundation does it, every 100 ms.
pub(crate) async fn follow(world: Arc<World>, handle: Handle, dispatcher: Dispatcher) {
    let relations = SimRelations(Arc::clone(&world));
    let (mut woken, mut released) = (None, None);
    loop {
        let revision = {
            let state = &mut *world.state();
            let elapsed = state.elapsed();
            state.relating.follow(Some(elapsed), elapsed);
            Some(state.relating.mirror_revision)
        };
        if revision != woken && relations.heartbeat(NODE, revision.unwrap_or(0), None).await.is_ok() {
            woken = revision;
            handle.wake();
        }
        if revision != released && dispatcher.release_strays().await.is_ok() {
            released = revision;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Takes rules away, here and there, and unbinds what is to be unbound.
pub(crate) async fn damage(world: Arc<World>, handle: Handle) {
    let relations = SimRelations(Arc::clone(&world));
    let ids: Vec<BindingId> = world.plan.bindings.iter().map(|one| one.binding.id).collect();
    loop {
        let wait = world.state().chance.millis((100, 8_000));
        sleep(wait).await;
        if !world.state().calm {
            let state = &mut *world.state();
            match state.chance.below(4) {
                0 => state.relating.bucket = Configuration::of(Vec::new()),
                1 | 2 => {
                    let id = *state.chance.pick(&ids);
                    state.relating.rules.remove(&id);
                }
                _ => {
                    let id = *state.chance.pick(&ids);
                    state.relating.rules.insert(id, "another".into());
                }
            }
        }
        for one in &world.plan.bindings {
            let (elapsed, there) = {
                let state = world.state();
                (state.elapsed(), state.relating.authority.get(&one.binding.id).map(|binding| binding.state))
            };
            let is_due = one.unbound_at.is_some_and(|at| at <= elapsed);
            if is_due && there.is_some_and(|state| state != State::Unbinding) {
                world.note(format_args!("b{} is unbound", one.binding.id.as_bytes()[0]));
                let now = world.state().now();
                if relations.unbind(one.binding.id, "operator", now).await.is_ok() {
                    handle.wake_binding(one.binding.id);
                }
            }
        }
    }
}
