//! The mirror with real databases: start, following, reload, absence, heartbeats.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio_util::sync::{CancellationToken, DropGuard};
use triggerd::{
    catalog::{Catalog, CatalogOptions},
    domain::{
        binding::{Binding, State},
        clock::SystemClock,
        entropy::SeededEntropy,
        event::{Event, StorageName},
        event_name::EventName,
        ids::EventId,
    },
    mirror::{Authority, Mirror, MirrorHandle, MirrorOptions, MirrorParts, Start},
    relations::{MySqlOptions, MySqlRelations, Relations, Role, SqliteRelations},
};

use super::{at, bind, progress, read};
use crate::harness::{
    database::{self, Database, Engine, SqlServer},
    suite::{Ctx, Test, tests},
    wait::{eventually, wait_for},
};

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [MySql] mirror_follows_what_another_daemon_changes;
        [MariaDb] mirror_reloads_from_a_restored_and_from_another_database;
        [MySql] mirror_that_was_never_filled_waits_and_one_that_was_starts_from_its_copy;
        [MySql] mirror_tells_the_revision_in_force;
        [MySql] kicked_mirror_does_not_wait_for_its_period;
        [MySql] what_no_revision_tells_is_found_by_loading_everything_once_in_a_while;
        [] own_relations_are_in_force_at_once_and_after_a_restart;
    }
}

/// One daemon's half of the work: file, catalog, mirror.
struct Daemon {
    relations: Arc<dyn Relations>,
    catalog: Arc<Catalog>,
    mirror: MirrorHandle,
    local: Arc<SqliteRelations>,
    worker: tokio::task::JoinHandle<()>,
    stop: DropGuard,
}

fn shared(database: &Database) -> Result<Arc<dyn Relations>> {
    let mut options = MySqlOptions::new(database.url.clone().into());
    options.connect_within = Duration::from_millis(500);
    options.answer_within = Duration::from_secs(3);
    Ok(Arc::new(MySqlRelations::new(options)?))
}

fn fast(node: &str) -> MirrorOptions {
    let mut options = MirrorOptions::new(node);
    options.period = Duration::from_millis(50);
    options.silence = Duration::from_secs(2);
    options
}

impl Daemon {
    async fn start(folder: &Path, database: Option<&Database>, options: MirrorOptions) -> Result<Self> {
        let role = if database.is_some() { Role::Mirror } else { Role::Authority };
        let local = Arc::new(SqliteRelations::open(&folder.join("relations.db"), role).await?);
        let catalog = Arc::new(Catalog::open(Arc::clone(&local), CatalogOptions::default()).await?);
        let (relations, authority) = match database {
            Some(database) => {
                let relations = shared(database)?;
                (Arc::clone(&relations), Authority::Shared(relations))
            }
            None => (Arc::clone(&local) as Arc<dyn Relations>, Authority::Own),
        };
        let parts = MirrorParts {
            authority,
            local: Arc::clone(&local),
            catalog: Arc::clone(&catalog),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SeededEntropy::new(1)),
        };
        let (worker, mirror) = Mirror::new(parts, options).await?;
        let stop = CancellationToken::new();
        let run = worker.run(stop.clone());
        let worker = tokio::spawn(async move { run.await.expect("the mirror ran") });
        Ok(Self { relations, catalog, mirror, local, worker, stop: stop.drop_guard() })
    }

    async fn stop(self) -> Result<()> {
        drop(self.stop);
        tokio::time::timeout(LIMIT, self.worker).await??;
        self.local.close().await;
        Ok(())
    }

    async fn fires(&self, bucket: &str) -> Result<usize> {
        Ok(self.catalog.matching(&event(bucket)).await?.len())
    }

    async fn wait_until_fires(&self, bucket: &str, count: usize) -> Result<()> {
        eventually("the change is in force", LIMIT, async || {
            let fires = self.fires(bucket).await?;
            ensure!(fires == count, "{fires} fire, not {count}; {:?}", self.mirror.status());
            Ok(())
        })
        .await
    }
}

/// An event that the bindings of this suite match.
fn event(bucket: &str) -> Event {
    Event {
        id: EventId::from_bytes([0; 16]),
        storage: StorageName::new("default"),
        bucket: bucket.into(),
        key: "in/ünï 图片/a.jpg".into(),
        name: EventName::new("s3:ObjectCreated:Put"),
        time: at(0),
        size: None,
        etag: None,
        content_type: None,
        version_id: None,
        sequencer: None,
        principal: "alice".into(),
        user_metadata: std::collections::BTreeMap::new(),
        record: serde_json::value::RawValue::from_string("{}".into()).expect("it is JSON"),
    }
}

/// A binding that matches from now on.
async fn armed(relations: &dyn Relations, bucket: &str, function: &str, seed: u64) -> Result<Binding> {
    let made = bind(relations, bucket, function, seed).await?;
    ensure!(relations.record(made.id, made.revision, &progress(State::Armed, None, 1)).await?);
    read(relations, made.id).await
}

async fn execute(database: &Database, sql: &str) -> Result<()> {
    let mut connection = database.connect().await?;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

async fn mirror_follows_what_another_daemon_changes(ctx: Ctx) -> Result<()> {
    let database = database::shared(Engine::MySql).await?;
    let other = shared(&database)?;
    armed(&*other, "before", "f", 1).await?;
    let daemon = Daemon::start(ctx.folder(), Some(&database), fast("n1")).await?;
    ensure!(daemon.mirror.ready().await? == Start::UpToDate);
    ensure!(daemon.fires("before").await? == 1 && daemon.fires("after").await? == 0);
    let made = armed(&*other, "after", "f", 2).await?;
    daemon.wait_until_fires("after", 1).await?;
    ensure!(daemon.fires("before").await? == 1);
    other.unbind(made.id, "operator", at(2)).await?;
    daemon.wait_until_fires("after", 0).await?;
    ensure!(daemon.catalog.binding(made.id).await?.is_some_and(|seen| seen.state == State::Unbinding));
    other.remove(made.id, at(3)).await?;
    let head = other.head().await?;
    tokio::time::timeout(LIMIT, daemon.mirror.reached(head.revision)).await??;
    ensure!(daemon.catalog.binding(made.id).await?.is_none());
    ensure!(daemon.local.copied_head().await? == Some(head));
    daemon.stop().await
}

async fn mirror_reloads_from_a_restored_and_from_another_database(ctx: Ctx) -> Result<()> {
    let database = database::shared(Engine::MariaDb).await?;
    let other = shared(&database)?;
    let kept = armed(&*other, "kept", "f", 1).await?;
    let backup = other.head().await?;
    let lost = armed(&*other, "lost", "f", 2).await?;
    let daemon = Daemon::start(ctx.folder(), Some(&database), fast("n1")).await?;
    daemon.mirror.ready().await?;
    ensure!(daemon.fires("kept").await? + daemon.fires("lost").await? == 2);
    // As a restored backup looks: the later binding, its changes and the revision are as if they had never been.
    let restore = format!(
        "START TRANSACTION; DELETE FROM binding WHERE revision > {0}; \
         DELETE FROM binding_change WHERE revision > {0}; UPDATE revision SET revision = {0}; COMMIT",
        backup.revision
    );
    execute(&database, &restore).await?;
    daemon.wait_until_fires("lost", 0).await?;
    ensure!(daemon.fires("kept").await? == 1 && daemon.catalog.binding(lost.id).await?.is_none());
    ensure!(daemon.mirror.status().revision == backup.revision);
    // Another database that happens to be at the same revision.
    let another = "START TRANSACTION; UPDATE revision SET database_id = UNHEX(REPEAT('ab', 16)); \
         DELETE FROM binding; COMMIT";
    execute(&database, another).await?;
    daemon.wait_until_fires("kept", 0).await?;
    ensure!(daemon.catalog.binding(kept.id).await?.is_none());
    daemon.stop().await
}

async fn mirror_that_was_never_filled_waits_and_one_that_was_starts_from_its_copy(ctx: Ctx) -> Result<()> {
    let mut server = SqlServer::start(Engine::MySql).await?;
    let database = server.create_database().await?;
    armed(&*shared(&database)?, "photos", "f", 1).await?;
    server.stop().await?;
    let daemon = Daemon::start(ctx.folder(), Some(&database), fast("n1")).await?;
    // Twice the silence after which a filled copy would be started from.
    let waited = tokio::time::timeout(Duration::from_secs(4), daemon.mirror.ready()).await;
    ensure!(waited.is_err(), "an empty copy was started from: {waited:?}");
    let status = daemon.mirror.status();
    ensure!(!status.filled && !status.up_to_date && status.answered_at.is_none(), "{status:?}");
    ensure!(status.problem.is_some_and(|problem| problem.contains("does not answer")));
    server.start_again().await?;
    ensure!(tokio::time::timeout(LIMIT, daemon.mirror.ready()).await?? == Start::UpToDate);
    ensure!(daemon.fires("photos").await? == 1);
    let answered = daemon.mirror.status().answered_at;
    ensure!(answered.is_some());
    server.kill9().await?;
    let gone = async || !daemon.mirror.status().up_to_date;
    wait_for("the absence is told", LIMIT, gone).await?;
    ensure!(daemon.fires("photos").await? == 1, "events stopped with the database");
    daemon.stop().await?;

    let again = Daemon::start(ctx.folder(), Some(&database), fast("n1")).await?;
    ensure!(again.mirror.status().start.is_none(), "no time was given to the authority");
    ensure!(tokio::time::timeout(LIMIT, again.mirror.ready()).await?? == Start::FromCopy);
    ensure!(again.fires("photos").await? == 1);
    server.start_again().await?;
    let other = shared(&database)?;
    eventually("the server answers again", LIMIT, async || Ok(other.head().await?)).await?;
    armed(&*other, "texts", "f", 2).await?;
    again.wait_until_fires("texts", 1).await?;
    ensure!(again.mirror.status().up_to_date && again.mirror.status().problem.is_none());
    again.stop().await
}

async fn mirror_tells_the_revision_in_force(ctx: Ctx) -> Result<()> {
    let database = database::shared(Engine::MySql).await?;
    let mut options = fast("n1");
    options.admin_url = Some("http://127.0.0.1:1/".into());
    options.heartbeat = Duration::from_hours(1);
    let daemon = Daemon::start(ctx.folder(), Some(&database), options).await?;
    daemon.mirror.ready().await?;
    let made = armed(&*daemon.relations, "photos", "f", 1).await?;
    eventually("the revision is reported", LIMIT, async || {
        let nodes = daemon.relations.nodes().await?;
        ensure!(nodes.len() == 1 && nodes[0].name == "n1" && nodes[0].revision == made.revision, "{nodes:?}");
        ensure!(nodes[0].admin_url.as_deref() == Some("http://127.0.0.1:1/"));
        Ok(())
    })
    .await?;
    ensure!(daemon.fires("photos").await? == 1, "reported before it was in force");
    daemon.stop().await
}

async fn what_no_revision_tells_is_found_by_loading_everything_once_in_a_while(ctx: Ctx) -> Result<()> {
    let database = database::shared(Engine::MySql).await?;
    armed(&*shared(&database)?, "photos", "f", 1).await?;
    let mut options = fast("n1");
    options.reload = Duration::from_secs(1);
    let daemon = Daemon::start(ctx.folder(), Some(&database), options).await?;
    daemon.mirror.ready().await?;
    ensure!(daemon.fires("photos").await? == 1);
    // What remains of a backup that was restored and then changed up to our revision.
    execute(&database, "DELETE FROM binding").await?;
    daemon.wait_until_fires("photos", 0).await?;
    daemon.stop().await
}

async fn kicked_mirror_does_not_wait_for_its_period(ctx: Ctx) -> Result<()> {
    let database = database::shared(Engine::MySql).await?;
    let mut options = fast("n1");
    options.period = Duration::from_hours(1);
    let daemon = Daemon::start(ctx.folder(), Some(&database), options).await?;
    daemon.mirror.ready().await?;
    let made = armed(&*daemon.relations, "photos", "f", 1).await?;
    daemon.mirror.kick();
    tokio::time::timeout(LIMIT, daemon.mirror.reached(made.revision)).await??;
    ensure!(daemon.fires("photos").await? == 1);
    daemon.stop().await
}

async fn own_relations_are_in_force_at_once_and_after_a_restart(ctx: Ctx) -> Result<()> {
    let mut options = fast("n1");
    options.period = Duration::from_hours(1);
    let daemon = Daemon::start(ctx.folder(), None, options.clone()).await?;
    ensure!(daemon.mirror.ready().await? == Start::UpToDate);
    let made = armed(&*daemon.relations, "photos", "f", 1).await?;
    tokio::time::timeout(LIMIT, daemon.mirror.reached(made.revision)).await??;
    ensure!(daemon.fires("photos").await? == 1);
    daemon.relations.unbind(made.id, "operator", at(2)).await?;
    daemon.wait_until_fires("photos", 0).await?;
    daemon.relations.remove(made.id, at(3)).await?;
    let other = armed(&*daemon.relations, "photos", "g", 2).await?;
    daemon.wait_until_fires("photos", 1).await?;
    ensure!(daemon.catalog.binding(made.id).await?.is_none());
    daemon.stop().await?;
    let again = Daemon::start(ctx.folder(), None, options).await?;
    ensure!(again.mirror.ready().await? == Start::UpToDate && again.fires("photos").await? == 1);
    eventually("the revision is reported", LIMIT, async || {
        let nodes = again.relations.nodes().await?;
        ensure!(nodes.len() == 1 && nodes[0].revision == other.revision, "{nodes:?}");
        Ok(())
    })
    .await?;
    again.stop().await
}
