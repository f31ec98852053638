//! What stands before anything moves: the state directory, the queue, the relations, the catalog.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use crate::{
    binding,
    bucket::S3Buckets,
    catalog::{Catalog, CatalogOptions},
    config::{Config, platforms::DriverKind},
    dispatch::Dispatcher,
    domain::{clock::Clock, entropy::Entropy, event::StorageName},
    lifecycle::Workers,
    mirror::{Authority, Mirror, MirrorHandle, MirrorOptions, MirrorParts, Start},
    platform::{Driver, rules::RulesDriver},
    queue::{QueueOptions, SqliteQueue, StateDirLock, Timekeeper, Writer, lock_state_dir},
    relations::{MySqlOptions, MySqlRelations, Relations, RelationsError, Role, SqliteRelations},
    telemetry::Chain,
};

/// How often it is looked whether the catalog moved on, to wake the reconciler.
const WAKE_EVERY: Duration = Duration::from_millis(100);

/// The stores and what follows them.
pub(super) struct Foundation {
    /// Steady time.
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) queue: Arc<SqliteQueue>,
    /// Where bindings are kept: the shared database, or the local file.
    pub(super) authority: Arc<dyn Relations>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) mirror: MirrorHandle,
    workers: Option<(Writer, Mirror, Timekeeper)>,
    /// Held for the life of the process.
    _lock: StateDirLock,
}

impl Foundation {
    pub(super) async fn lay(
        config: &Config,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> anyhow::Result<Self> {
        let state_dir = &config.node.state_dir;
        let lock = lock_state_dir(state_dir)?;
        let (queue, writer) = open_queue(config, config.relations.migrate_at_start).await?;
        let queue = Arc::new(queue);
        let (clock, timekeeper) = Timekeeper::wind(queue.clone(), clock).await.context("queue.db")?;
        let clock: Arc<dyn Clock> = clock;
        let shared = shared(config)?;
        let local = open_local(state_dir, shared.is_some(), config.relations.migrate_at_start).await?;
        let catalog = Arc::new(Catalog::open(Arc::clone(&local), catalog_options(config)).await?);
        let (authority, follow): (Arc<dyn Relations>, _) = match shared {
            Some(shared) => {
                refuse_misfit(shared.as_ref()).await?;
                (shared.clone(), Authority::Shared(shared))
            }
            None => (local.clone(), Authority::Own),
        };
        let parts = MirrorParts {
            authority: follow,
            local,
            catalog: Arc::clone(&catalog),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
        };
        let admin_url = config.admin.public_url.clone().unwrap_or_else(|| config.admin.local_url());
        let options =
            MirrorOptions { admin_url: Some(admin_url), ..MirrorOptions::new(config.node.name.as_str()) };
        let (worker, mirror) = Mirror::new(parts, options).await?;
        let workers = Some((writer, worker, timekeeper));
        Ok(Self { clock, entropy, queue, authority, catalog, mirror, workers, _lock: lock })
    }

    /// Starts the queue's writer, the mirror, and what wakes the reconciler when the bindings changed.
    pub(super) fn spawn(
        &mut self,
        back: &mut Workers,
        reconciler: &binding::Handle,
        dispatcher: &Dispatcher,
        stop: &CancellationToken,
    ) {
        let Some((writer, mirror, timekeeper)) = self.workers.take() else { return };
        back.spawn("the queue's writer", async move {
            writer.run().await;
            Ok(())
        });
        let keeping = stop.clone();
        back.spawn("the timekeeper", async move {
            timekeeper.run(keeping).await;
            Ok(())
        });
        let following = stop.clone();
        back.spawn("the mirror", async move { Ok(mirror.run(following).await?) });
        let (mirror, reconciler, stop) = (self.mirror.clone(), reconciler.clone(), stop.clone());
        let dispatcher = dispatcher.clone();
        back.spawn("what follows the bindings", async move {
            let (mut woken, mut released, mut told) = (None, None, false);
            loop {
                let status = mirror.status();
                let revision = Some(status.revision);
                if revision != woken {
                    woken = revision;
                    reconciler.wake();
                }
                // Whoever mended a binding released its deliveries where it runs; here they are released now.
                if revision != released && status.start.is_some() {
                    match dispatcher.release_strays().await {
                        Ok(_) => (released, told) = (revision, false),
                        Err(error) if !std::mem::replace(&mut told, true) => {
                            tracing::error!(error = %Chain(&error), "held deliveries wait");
                        }
                        Err(_) => (),
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(WAKE_EVERY) => (),
                    () = stop.cancelled() => break,
                }
            }
            Ok(())
        });
    }

    /// Resolves when events may be taken in.
    pub(super) async fn bindings_known(&self) -> anyhow::Result<()> {
        match self.mirror.ready().await? {
            Start::UpToDate => (),
            Start::FromCopy => tracing::warn!(
                revision = self.catalog.revision(),
                "the relations database does not answer; starting with the bindings as they were when it did"
            ),
        }
        Ok(())
    }
}

/// Brings every schema up to this version's.
pub(super) async fn migrate(config: &Config) -> anyhow::Result<()> {
    let state_dir = &config.node.state_dir;
    let _lock = lock_state_dir(state_dir).context("`triggerd migrate` needs the daemon stopped")?;
    let shared = shared(config)?;
    if let Some(shared) = &shared {
        shared.migrate().await.context("the shared relations")?;
    }
    open_local(state_dir, shared.is_some(), true).await.context("relations.db")?.close().await;
    let (queue, writer) = open_queue(config, true).await?;
    let writer = tokio::spawn(writer.run());
    queue.close().await;
    writer.await?;
    Ok(())
}

async fn open_queue(config: &Config, migrate: bool) -> anyhow::Result<(SqliteQueue, Writer)> {
    let options = queue_options(config, migrate);
    let path = config.node.state_dir.join("queue.db");
    SqliteQueue::open(&path, &options).await.with_context(|| format!("{} cannot be opened", path.display()))
}

/// The queue's bounds as the config has them.
pub(super) fn queue_options(config: &Config, migrate: bool) -> QueueOptions {
    QueueOptions {
        max_bytes: config.queue.max_bytes,
        function_share: config.queue.function_share,
        dead_letter_reserve: config.queue.dead_letter_reserve,
        max_attempts_kept: config.queue.max_attempts_kept,
        quarantine_items: config.queue.quarantine_items,
        quarantine_bytes: config.queue.quarantine_bytes,
        migrate,
        ..QueueOptions::default()
    }
}

pub(super) async fn open_local(
    state_dir: &Path,
    is_copy: bool,
    migrate: bool,
) -> anyhow::Result<Arc<SqliteRelations>> {
    let path = state_dir.join("relations.db");
    let role = if is_copy { Role::Mirror } else { Role::Authority };
    let opened = if migrate {
        SqliteRelations::open(&path, role).await
    } else {
        SqliteRelations::open_migrated(&path, role).await
    };
    Ok(Arc::new(opened.with_context(|| format!("{} cannot be opened", path.display()))?))
}

fn shared(config: &Config) -> anyhow::Result<Option<Arc<MySqlRelations>>> {
    let Some(url) = &config.relations.url else { return Ok(None) };
    let options =
        MySqlOptions { migrate: config.relations.migrate_at_start, ..MySqlOptions::new(url.clone()) };
    Ok(Some(Arc::new(MySqlRelations::new(options).context("relations.url")?)))
}

/// A database that is away is waited for; one that does not fit this version never will.
async fn refuse_misfit(shared: &MySqlRelations) -> anyhow::Result<()> {
    match shared.head().await {
        Ok(_) => Ok(()),
        Err(error @ (RelationsError::Newer { .. } | RelationsError::NotMigrated { .. })) => Err(error.into()),
        Err(error) => {
            tracing::warn!(
                error = %Chain(&error),
                "the relations database cannot be used now; bindings cannot be changed until it can"
            );
            Ok(())
        }
    }
}

fn catalog_options(config: &Config) -> CatalogOptions {
    let ignore_principals = config.storages.iter().map(|(name, storage)| {
        (StorageName::new(name.as_str()), storage.ignore_principals.iter().cloned().collect())
    });
    CatalogOptions { ignore_principals: ignore_principals.collect(), ..CatalogOptions::default() }
}

/// The platforms' drivers, by the platforms' names.
pub(super) fn drivers(config: &Config) -> anyhow::Result<HashMap<String, Arc<dyn Driver>>> {
    let mut drivers: HashMap<String, Arc<dyn Driver>> = HashMap::new();
    for (name, platform) in &config.platforms {
        let driver = match platform.driver {
            DriverKind::Rules => {
                let Some(token) = platform.token.clone() else {
                    bail!("platforms.{name}: `token` or `token_file` is missing")
                };
                RulesDriver::new(name, &platform.url, token)?
                    .with_handler(platform.dead_letter_function.clone())
            }
        };
        drivers.insert(name.clone(), Arc::new(driver));
    }
    Ok(drivers)
}

/// The storages, by their names.
pub(super) fn storages(config: &Config) -> anyhow::Result<HashMap<StorageName, binding::Storage>> {
    let mut storages = HashMap::new();
    for (name, storage) in &config.storages {
        let Some(secret_key) = &storage.secret_key else {
            bail!("storages.{name}: `secret_key` or `secret_key_file` is missing")
        };
        let buckets = Arc::new(S3Buckets::new(name, storage, secret_key));
        let (targets, fast_targets) = (storage.targets.clone(), storage.fast_targets.clone());
        let storage = binding::Storage { buckets, targets, fast_targets };
        storages.insert(StorageName::new(name.as_str()), storage);
    }
    Ok(storages)
}
