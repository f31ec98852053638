//! Which bindings an event matches: an index for each bucket, from the local relations.
//!
//! The catalog reads `relations.db` and nothing else, so the path of an event never waits for MySQL, and does not care
//! whether the file is the authority or a copy. What it keeps in memory is bounded:
//!
//! * which buckets have bindings: all of them, so that an event of any other bucket costs one look-up and no SQL;
//! * an index of each bucket in use, built on first use, the least recently used ones given up first;
//! * the bindings that fired lately, likewise.
//!
//! **Changes.** Each bucket has a generation, and all together have one; caches are keyed by it. A change is written to
//! the file first and then told to [`Catalog::apply`], which gives the touched buckets new generations. So a load that
//! began before the change lands under a key that nobody asks for any more: what was read is never older than its
//! generation, and a load needs no lock against changes. An index that is newer than the other is harmless, because
//! each binding's state is checked again when it is found.
//!
//! **After a crash** nothing of it is left, and [`Catalog::open`] reads the buckets from the file again.

mod explain;
mod index;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use moka::{future::Cache, policy::EvictionPolicy};

pub use explain::{Explanation, Reason};
use index::{BucketIndex, Builder};

use crate::{
    domain::{
        binding::Binding, delivery::FunctionRef, event::Event, event::StorageName, ids::BindingId,
        spec::FunctionLimits,
    },
    relations::{Head, Relations, RelationsError, SqliteRelations, Touched},
};

/// Bindings that are read from the file at once.
const BATCH: usize = 500;
/// What a cached binding takes beside its texts: the row, its event names, its steps.
const BINDING_BYTES: usize = 1_024;
/// Functions whose limit is remembered.
const LIMITS: u64 = 10_000;

/// The local relations could not be read. The event is not lost: it was not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the catalog cannot read relations.db")]
pub struct CatalogError(#[source] Arc<RelationsError>);

impl From<RelationsError> for CatalogError {
    fn from(error: RelationsError) -> Self {
        Self(Arc::new(error))
    }
}

/// Bounds, and what the config says of the storages.
#[derive(Debug, Clone)]
pub struct CatalogOptions {
    /// Bytes for indexes. One bucket's index must fit, else it is built anew for each event: some 200 bytes a
    /// binding.
    pub index_bytes: u64,
    /// Bytes for bindings.
    pub binding_bytes: u64,
    /// Principals whose events never fire, by storage.
    pub ignore_principals: HashMap<StorageName, HashSet<String>>,
}

impl Default for CatalogOptions {
    /// 512 MiB for indexes, 64 MiB for bindings; nobody is ignored.
    fn default() -> Self {
        Self { index_bytes: 512 << 20, binding_bytes: 64 << 20, ignore_principals: HashMap::new() }
    }
}

/// The bindings, ready to be matched.
pub struct Catalog {
    relations: Arc<SqliteRelations>,
    ignored: HashMap<StorageName, HashSet<String>>,
    bound: RwLock<Bound>,
    /// By the bucket's generation.
    indexes: Cache<u64, Arc<BucketIndex>>,
    /// By the generation of all.
    bindings: Cache<(BindingId, u64), Option<Arc<Binding>>>,
    limits: Cache<(FunctionRef, u64), Option<FunctionLimits>>,
}

#[derive(Debug)]
struct Bound {
    revision: u64,
    generation: u64,
    buckets: HashMap<StorageName, HashMap<Box<str>, u64>>,
}

impl Bound {
    /// Gives the bucket a new generation; the one it had.
    fn renew(&mut self, storage: &StorageName, bucket: &str) -> Option<u64> {
        self.generation += 1;
        self.buckets.entry(storage.clone()).or_default().insert(bucket.into(), self.generation)
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

impl Catalog {
    /// The catalog of what is in the file now.
    pub async fn open(
        relations: Arc<SqliteRelations>,
        options: CatalogOptions,
    ) -> Result<Self, CatalogError> {
        let indexes = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_, index: &Arc<BucketIndex>| index.weight())
            .max_capacity(options.index_bytes)
            .build();
        let bindings = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_, binding: &Option<Arc<Binding>>| binding.as_deref().map_or(64, weight))
            .max_capacity(options.binding_bytes)
            .build();
        let limits = Cache::builder().eviction_policy(EvictionPolicy::lru()).max_capacity(LIMITS).build();
        let bound = RwLock::new(Bound { revision: 0, generation: 0, buckets: HashMap::new() });
        let head = relations.head().await?;
        let catalog =
            Self { relations, ignored: options.ignore_principals, bound, indexes, bindings, limits };
        catalog.apply(&Touched::All, head).await?;
        Ok(catalog)
    }

    /// The revision that is in force.
    pub fn revision(&self) -> u64 {
        self.read(|bound| bound.revision)
    }

    /// Puts a change into force that the file holds already.
    pub async fn apply(&self, touched: &Touched, head: Head) -> Result<(), CatalogError> {
        let stale = match touched {
            Touched::All => {
                let buckets = self.relations.bound_buckets().await?;
                self.write(|bound| {
                    bound.revision = head.revision;
                    bound.buckets.clear();
                    for (storage, bucket) in &buckets {
                        bound.renew(storage, bucket);
                    }
                    // For binding ids that are asked for although no bucket is left.
                    bound.generation += 1;
                });
                self.indexes.invalidate_all();
                Vec::new()
            }
            Touched::Buckets(buckets) => self.write(|bound| {
                bound.revision = head.revision;
                buckets.iter().filter_map(|(storage, bucket)| bound.renew(storage, bucket)).collect()
            }),
        };
        for generation in stale {
            self.indexes.invalidate(&generation).await;
        }
        Ok(())
    }

    /// The bindings that the event fires.
    pub async fn matching(&self, event: &Event) -> Result<Vec<Arc<Binding>>, CatalogError> {
        let mut found = Vec::new();
        let Some((of_bucket, of_all)) = self.generations(&event.storage, &event.bucket) else {
            return Ok(found);
        };
        if self.storage_ignores(event) {
            return Ok(found);
        }
        let index = self.index(of_bucket, &event.storage, &event.bucket).await?;
        let mut missing = Vec::new();
        for id in index.candidates(event.name.bit(), &event.key) {
            match self.bindings.get(&(id, of_all)).await {
                Some(binding) => found.extend(binding),
                None => missing.push(id),
            }
        }
        for batch in missing.chunks(BATCH) {
            for binding in self.relations.these(batch).await? {
                let binding = Arc::new(binding);
                self.bindings.insert((binding.id, of_all), Some(Arc::clone(&binding))).await;
                found.push(binding);
            }
        }
        found.retain(|binding| binding.state.matches() && !ignores(binding, event));
        Ok(found)
    }

    /// A binding as the file has it, in whatever state; none when it is gone.
    pub async fn binding(&self, id: BindingId) -> Result<Option<Arc<Binding>>, CatalogError> {
        let generation = self.read(|bound| bound.generation);
        let load = async {
            let found = self.relations.binding(id).await?;
            Ok::<_, RelationsError>(found.map(Arc::new))
        };
        self.bindings.try_get_with((id, generation), load).await.map_err(CatalogError)
    }

    /// The bindings of a function, in whatever state, oldest first, at most `limit`.
    pub async fn bindings_of_function(
        &self,
        function: &FunctionRef,
        limit: u32,
    ) -> Result<Vec<Binding>, CatalogError> {
        Ok(self.relations.of_function(function, limit).await?)
    }

    /// What a function's bindings allow together (not those that never came to be); none without any.
    pub async fn function_limits(
        &self,
        function: &FunctionRef,
    ) -> Result<Option<FunctionLimits>, CatalogError> {
        let generation = self.read(|bound| bound.generation);
        let load = self.relations.function_limits(function);
        self.limits.try_get_with((function.clone(), generation), load).await.map_err(CatalogError)
    }

    /// What the event means to each binding of its bucket, those that fire first; at most `limit` of them.
    pub async fn explain(&self, event: &Event, limit: usize) -> Result<Vec<Explanation>, CatalogError> {
        let ignored_by_storage = self.storage_ignores(event);
        let (mut firing, mut others) = (Vec::new(), Vec::new());
        let each = |binding: Binding| {
            let mut reasons = Vec::new();
            if !binding.state.matches() {
                reasons.push(Reason::State(binding.state));
            }
            reasons.extend(binding.spec.filter.mismatches(event).into_iter().map(Reason::Mismatch));
            if ignored_by_storage {
                reasons.push(Reason::IgnoredByStorage(event.principal.clone()));
            }
            if ignores(&binding, event) {
                reasons.push(Reason::IgnoredByBinding(event.principal.clone()));
            }
            let fires = reasons.is_empty();
            let list = if fires { &mut firing } else { &mut others };
            if list.len() < limit {
                list.push(Explanation { binding: Arc::new(binding), fires, reasons });
            }
        };
        self.relations.each_of_bucket(&event.storage, &event.bucket, each).await?;
        firing.append(&mut others);
        firing.truncate(limit);
        Ok(firing)
    }

    async fn index(
        &self,
        generation: u64,
        storage: &StorageName,
        bucket: &str,
    ) -> Result<Arc<BucketIndex>, CatalogError> {
        if let Some(index) = self.indexes.get(&generation).await {
            return Ok(index);
        }
        let load = async {
            let mut builder = Builder::default();
            self.relations.each_of_bucket(storage, bucket, |binding| builder.add(&binding)).await?;
            Ok::<_, RelationsError>(Arc::new(builder.finish()))
        };
        let index = self.indexes.try_get_with(generation, load).await.map_err(CatalogError)?;
        if index.is_empty() {
            self.forget(generation, storage, bucket);
        }
        Ok(index)
    }

    /// Notes that no binding of the bucket matches, unless it changed meanwhile.
    fn forget(&self, generation: u64, storage: &StorageName, bucket: &str) {
        self.write(|bound| {
            if let Some(buckets) = bound.buckets.get_mut(storage)
                && buckets.get(bucket) == Some(&generation)
            {
                buckets.remove(bucket);
            }
        });
    }

    /// The bucket's generation and that of all; none when no binding of the bucket matches.
    fn generations(&self, storage: &StorageName, bucket: &str) -> Option<(u64, u64)> {
        self.read(|bound| Some((*bound.buckets.get(storage)?.get(bucket)?, bound.generation)))
    }

    fn storage_ignores(&self, event: &Event) -> bool {
        self.ignored.get(&event.storage).is_some_and(|principals| principals.contains(&event.principal))
    }

    fn read<T>(&self, look: impl FnOnce(&Bound) -> T) -> T {
        look(&self.bound.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Bound) -> T) -> T {
        change(&mut self.bound.write().unwrap_or_else(PoisonError::into_inner))
    }
}

fn ignores(binding: &Binding, event: &Event) -> bool {
    binding.spec.ignore_principals.contains(&event.principal)
}

fn weight(binding: &Binding) -> u32 {
    let texts: usize = binding.spec.ignore_principals.iter().map(String::len).sum();
    let steps: usize = binding.steps.iter().filter_map(|step| step.error.as_ref()).map(String::len).sum();
    let reason = binding.reason.as_ref().map_or(0, String::len);
    let prefix = binding.spec.filter.keys.literal_prefix().len();
    u32::try_from(BINDING_BYTES + texts + steps + reason + prefix).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
