//! Keeps the local relations and the catalog in step with the authority.
//!
//! One worker polls the authority's head (one read of one row), takes over what changed into `relations.db`, in one
//! transaction with the head, and then tells the catalog. Where the file is the authority itself there is nothing to
//! copy: the worker sees each revision that this process makes and tells the catalog.
//!
//! **Reload.** Another database id, a revision lower than ours (a restored backup), or a log pruned past us means that
//! everything is loaded anew. So it is once in a while without a reason that could be seen: a backup that was restored
//! and then changed until it passed our revision looks like ordinary changes.
//!
//! **Start.** [`MirrorHandle::ready`] resolves when the first poll has brought the copy up to date, or when the
//! authority has been silent for a while and the copy was filled before. A copy that was never filled takes in nothing:
//! events of bindings that it does not know would be acknowledged and lost.
//!
//! **Absence.** While the authority is away the catalog goes on with what it has; nothing ends, and
//! [`MirrorStatus`] says since when. A binding that is gone elsewhere may still fire here; the platform's rule check
//! guards it.
//!
//! **Crash** before the copy's commit: the same changes are asked for again. After it, before the catalog was told: the
//! catalog is made anew from the file. The heartbeat names the revision that the catalog has in force, never one that
//! was only copied.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::{Catalog, CatalogError},
    domain::{
        clock::{Clock, Timestamp},
        entropy::Entropy,
    },
    relations::{Changes, Head, Relations, RelationsError, SqliteRelations, Touched},
    telemetry::Chain,
};

/// Longest wait between polls that fail.
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// Shortest time between heartbeats that nobody else waits for: each is a write to this host's own disk.
const OWN_HEARTBEAT: Duration = Duration::from_secs(30);

/// Where the bindings are kept.
#[derive(Debug, Clone)]
pub enum Authority {
    /// In a database that daemons share; the local file is a copy.
    Shared(Arc<dyn Relations>),
    /// In the local file.
    Own,
}

/// What the mirror works with.
#[derive(Debug)]
pub struct MirrorParts {
    /// Where the bindings are kept.
    pub authority: Authority,
    /// The local file, opened in the role that fits the authority.
    pub local: Arc<SqliteRelations>,
    /// The catalog of that file.
    pub catalog: Arc<Catalog>,
    /// For heartbeats and for saying when the authority answered.
    pub clock: Arc<dyn Clock>,
    /// For jitter.
    pub entropy: Arc<dyn Entropy>,
}

/// How the mirror follows, and what it reports.
#[derive(Debug, Clone)]
pub struct MirrorOptions {
    /// This daemon's name among the nodes.
    pub node: String,
    /// Where its admin API is reached, for the other nodes.
    pub admin_url: Option<String>,
    /// Longest time between two polls; each wait is between three quarters of it and all of it.
    pub period: Duration,
    /// Longest time between two heartbeats; a revision that came into force is reported at once.
    pub heartbeat: Duration,
    /// Longest time between two loads of everything from a shared authority.
    pub reload: Duration,
    /// How long the authority may be silent before a filled copy is started from.
    pub silence: Duration,
}

impl MirrorOptions {
    /// The usual: a poll every 250 ms, a heartbeat every 2 s, everything anew every hour, a start from the copy after
    /// 10 s of silence.
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            admin_url: None,
            period: Duration::from_millis(250),
            heartbeat: Duration::from_secs(2),
            reload: Duration::from_hours(1),
            silence: Duration::from_secs(10),
        }
    }
}

/// From what the daemon starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The copy is as the authority is.
    UpToDate,
    /// The authority is silent; the copy is as it was when it answered last.
    FromCopy,
}

/// How the mirror stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorStatus {
    /// The revision that the catalog has in force.
    pub revision: u64,
    /// Whether the last poll found or brought everything in step.
    pub up_to_date: bool,
    /// When the authority answered last; none if it has not since the start.
    pub answered_at: Option<Timestamp>,
    /// Whether there is anything to match by.
    pub filled: bool,
    /// Whether sources may open, and from what.
    pub start: Option<Start>,
    /// Why it is not up to date, for a person.
    pub problem: Option<String>,
}

/// The mirror's worker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the mirror has ended")]
pub struct MirrorEnded;

/// To ask and to hurry the mirror.
#[derive(Debug, Clone)]
pub struct MirrorHandle {
    status: watch::Receiver<MirrorStatus>,
    kick: Arc<Notify>,
}

impl MirrorHandle {
    /// Resolves once sources may open.
    pub async fn ready(&self) -> Result<Start, MirrorEnded> {
        let mut status = self.status.clone();
        let ready = status.wait_for(|status| status.start.is_some()).await.map_err(|_| MirrorEnded)?;
        ready.start.ok_or(MirrorEnded)
    }

    /// Resolves once this revision is in force here. Bound the time: a restored authority may never reach it.
    pub async fn reached(&self, revision: u64) -> Result<(), MirrorEnded> {
        let mut status = self.status.clone();
        let reached = status.wait_for(|status| status.revision >= revision).await;
        reached.map(drop).map_err(|_| MirrorEnded)
    }

    /// How it stands.
    pub fn status(&self) -> MirrorStatus {
        self.status.borrow().clone()
    }

    /// Polls at once: for who has just made a change.
    pub fn kick(&self) {
        self.kick.notify_one();
    }
}

/// What may stop a turn.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Authority(RelationsError),
    #[error("the local copy cannot be kept")]
    Local(#[source] RelationsError),
    #[error("the catalog cannot be kept")]
    Catalog(#[source] CatalogError),
}

/// The worker.
pub struct Mirror {
    parts: MirrorParts,
    options: MirrorOptions,
    status: watch::Sender<MirrorStatus>,
    kick: Arc<Notify>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

/// What the worker remembers from turn to turn.
struct Progress {
    /// How far the local file is; none when it was never filled.
    head: Option<Head>,
    /// When the next load of everything is due, on the monotonic clock.
    reload_at: Duration,
    /// In the file but not yet in the catalog.
    untold: Option<(Touched, Head)>,
    /// The revision of the last heartbeat, and when that was.
    beat: Option<(u64, Duration)>,
    failures: u32,
}

impl Mirror {
    /// A mirror of what the file holds now, and its handle.
    pub async fn new(
        parts: MirrorParts,
        options: MirrorOptions,
    ) -> Result<(Self, MirrorHandle), RelationsError> {
        let filled = match parts.authority {
            Authority::Shared(_) => parts.local.copied_head().await?.is_some(),
            Authority::Own => true,
        };
        let status = watch::Sender::new(MirrorStatus {
            revision: parts.catalog.revision(),
            up_to_date: false,
            answered_at: None,
            filled,
            start: None,
            problem: None,
        });
        let kick = Arc::new(Notify::new());
        let handle = MirrorHandle { status: status.subscribe(), kick: Arc::clone(&kick) };
        Ok((Self { parts, options, status, kick }, handle))
    }

    /// Follows the authority until it is told to stop.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RelationsError> {
        let head = match self.parts.authority {
            Authority::Shared(_) => self.parts.local.copied_head().await?,
            Authority::Own => Some(self.parts.local.head().await?),
        };
        // The catalog may have been opened before the file's last change.
        let untold = head.map(|head| (Touched::All, head));
        let reload_at = self.parts.clock.monotonic() + self.jittered(self.options.reload);
        let progress = Progress { head, reload_at, untold, beat: None, failures: 0 };
        tokio::select! {
            () = stop.cancelled() => {}
            ((), ()) = async { tokio::join!(self.follow(progress), self.start_from_copy()) } => {}
        }
        Ok(())
    }

    async fn start_from_copy(&self) {
        tokio::time::sleep(self.options.silence).await;
        self.status.send_if_modified(|status| {
            let stale = status.filled && status.start.is_none();
            if stale {
                status.start = Some(Start::FromCopy);
            }
            stale
        });
    }

    async fn follow(&self, mut progress: Progress) {
        let mut own_revisions = self.parts.local.revisions();
        loop {
            let result = self.turn(&mut progress).await;
            self.tell(&mut progress, result);
            let wait = tokio::time::sleep(self.wait(progress.failures));
            tokio::select! {
                () = wait => {}
                () = self.kick.notified() => {}
                Ok(()) = own_revisions.changed(), if matches!(self.parts.authority, Authority::Own) => {}
            }
        }
    }

    /// One poll, and all that follows from it.
    async fn turn(&self, progress: &mut Progress) -> Result<(), Trouble> {
        self.tell_catalog(progress).await?;
        match &self.parts.authority {
            Authority::Shared(authority) => self.copy(authority.as_ref(), progress).await?,
            Authority::Own => self.look(progress).await?,
        }
        self.tell_catalog(progress).await?;
        self.beat(progress).await
    }

    /// Brings the file to where the authority is.
    async fn copy(&self, authority: &dyn Relations, progress: &mut Progress) -> Result<(), Trouble> {
        let head = authority.head().await.map_err(Trouble::Authority)?;
        self.answered();
        let now = self.parts.clock.monotonic();
        let overdue = now >= progress.reload_at;
        if progress.head == Some(head) && !overdue {
            return Ok(());
        }
        let changes = match progress.head {
            Some(seen) if !overdue => authority.changes_since(seen).await.map_err(Trouble::Authority)?,
            _ => Changes::Reload,
        };
        let local = &self.parts.local;
        let (touched, head) = match changes {
            Changes::Since { head, changed, gone } => {
                (local.take_over_changes(head, &changed, &gone).await, head)
            }
            Changes::Reload => {
                let snapshot = authority.snapshot().await.map_err(Trouble::Authority)?;
                tracing::debug!(
                    revision = snapshot.head.revision,
                    bindings = snapshot.bindings.len(),
                    "relations are loaded anew"
                );
                progress.reload_at = now + self.jittered(self.options.reload);
                (local.take_over_all(&snapshot).await, snapshot.head)
            }
        };
        progress.untold = Some((touched.map_err(Trouble::Local)?, head));
        progress.head = Some(head);
        Ok(())
    }

    /// The file is the authority: sees what this process changed in it.
    async fn look(&self, progress: &mut Progress) -> Result<(), Trouble> {
        let seen = progress.head.map_or(0, |head| head.revision);
        let (touched, head) = self.parts.local.touched_since(seen).await.map_err(Trouble::Authority)?;
        self.answered();
        if progress.head != Some(head) {
            progress.untold = Some((touched, head));
            progress.head = Some(head);
        }
        Ok(())
    }

    async fn tell_catalog(&self, progress: &mut Progress) -> Result<(), Trouble> {
        if let Some((touched, head)) = &progress.untold {
            self.parts.catalog.apply(touched, *head).await.map_err(Trouble::Catalog)?;
            progress.untold = None;
        }
        Ok(())
    }

    async fn beat(&self, progress: &mut Progress) -> Result<(), Trouble> {
        let (revision, now) = (self.parts.catalog.revision(), self.parts.clock.monotonic());
        let period = match self.parts.authority {
            Authority::Shared(_) => self.options.heartbeat,
            Authority::Own => self.options.heartbeat.max(OWN_HEARTBEAT),
        };
        if progress.beat.is_some_and(|(told, at)| told == revision && now.saturating_sub(at) < period) {
            return Ok(());
        }
        let url = self.options.admin_url.as_deref();
        let authority: &dyn Relations = match &self.parts.authority {
            Authority::Shared(authority) => authority.as_ref(),
            Authority::Own => self.parts.local.as_ref(),
        };
        authority.heartbeat(&self.options.node, revision, url).await.map_err(Trouble::Authority)?;
        progress.beat = Some((revision, now));
        Ok(())
    }

    fn answered(&self) {
        let now = self.parts.clock.now();
        self.status.send_modify(|status| status.answered_at = Some(now));
    }

    /// Says how the turn went: to whoever asks, and in the log when that changes.
    fn tell(&self, progress: &mut Progress, result: Result<(), Trouble>) {
        let problem = result.err().map(|trouble| Chain(&trouble).to_string());
        progress.failures = if problem.is_some() { progress.failures.saturating_add(1) } else { 0 };
        let before = self.status.borrow().problem.clone();
        match (&before, &problem) {
            (None, Some(problem)) => {
                tracing::warn!(%problem, "relations are not up to date; events go on by the copy");
            }
            (Some(_), None) => tracing::info!("relations are up to date again"),
            _ => {}
        }
        self.status.send_modify(|status| {
            status.revision = self.parts.catalog.revision();
            status.up_to_date = problem.is_none();
            status.filled = progress.head.is_some();
            if problem.is_none() && status.start.is_none() {
                status.start = Some(Start::UpToDate);
            }
            status.problem = problem;
        });
    }

    /// The period, longer after failures.
    fn wait(&self, failures: u32) -> Duration {
        let longest = self.options.period.max(LONGEST_WAIT);
        self.jittered(self.options.period.saturating_mul(1 << failures.min(4)).min(longest))
    }

    /// Between three quarters of it and all of it, so that daemons that started together do not come together.
    fn jittered(&self, wait: Duration) -> Duration {
        let quarter = u64::try_from(wait.as_micros() / 4).unwrap_or(u64::MAX);
        wait.saturating_sub(Duration::from_micros(self.parts.entropy.next() % quarter.max(1)))
    }
}
