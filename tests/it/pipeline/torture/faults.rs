//! What is broken, and how it is mended.
//!
//! A fault breaks something, holds it broken for a while, and mends it; nothing waits for the daemon to come to terms
//! with it, which is what is measured. To add one: a variant, its words in the table, and its arm in `strike`.
//!
//! **A full disk** lies under the daemon's state directory only ([`disk_faults`](super::super::disk_faults)). A daemon
//! that is started on one may end by itself, as it may under systemd: there as here it is started again a second later.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::site::Site;
use crate::harness::proxy::{Mode, Proxy};

/// No fault is held for less, unless the longest time is.
const SHORTEST: Duration = Duration::from_secs(2);

/// After how long systemd starts a daemon that has ended.
const RESTART: Duration = Duration::from_secs(1);

/// Longest time between the start of the daemon and its death, at the random points.
const LIFE: Duration = Duration::from_millis(2_500);

/// A part that can be stopped, killed and frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Daemon,
    Mosquitto,
    Minio,
    Database,
    Platform,
}

/// A way that can be spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Broker,
    /// From MinIO's target without `queue_dir`.
    Fast,
    /// From MinIO's webhook with `queue_dir`, where there is one.
    Safe,
    Platform,
    Database,
}

/// What the disk of the queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No write, for want of room.
    Full,
    /// No flush.
    Fails,
    /// Each flush takes two seconds.
    Slow,
}

impl Trouble {
    /// As `disk_faults.c` reads it.
    fn command(self) -> &'static str {
        match self {
            Self::Full => "all 28 0",
            Self::Fails => "sync 5 0",
            Self::Slow => "sync 0 2000",
        }
    }
}

/// What can go wrong.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Nothing, for as long.
    None,
    /// The daemon is killed at so many random points, some of them while it starts.
    Kills(u32),
    /// SIGSTOP, and after a while SIGCONT.
    Freeze(Part),
    /// SIGKILL, and after a while a new start.
    Kill(Part),
    /// SIGTERM, and a new start at once.
    Restart,
    /// The way is spoilt for a while.
    Spoil(Path, Mode),
    /// The disk of the queue is in trouble for a while.
    Disk(Trouble),
    /// The platform hangs, the broker and MinIO are killed, the database is frozen, the disk is full, and the daemon is
    /// killed.
    Everything,
}

impl Fault {
    /// How long it is held, of the longest time: less where all of it would show no more. What runs into somebody's
    /// timeouts and keep-alives (of a minute and less) gets the whole time, what fails at once half of it, and what is
    /// only slow a quarter.
    pub(super) fn held(self, longest: Duration) -> Duration {
        let quarters = match self {
            Self::Freeze(Part::Database) | Self::Kill(_) | Self::Spoil(Path::Broker, Mode::Silent) => 2,
            Self::Freeze(_) | Self::Disk(Trouble::Full) | Self::Everything => 4,
            Self::None | Self::Spoil(..) | Self::Disk(_) => 1,
            Self::Kills(_) | Self::Restart => return Duration::ZERO,
        };
        (longest * quarters / 4).max(longest.min(SHORTEST))
    }

    /// About how long it takes when it is held for so long, without coming to terms with it.
    pub(super) fn takes(self, held: Duration) -> Duration {
        if let Self::Kills(times) = self { LIFE / 2 * times } else { held }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Daemon => "triggerd",
            Self::Mosquitto => "Mosquitto",
            Self::Minio => "MinIO",
            Self::Database => "database",
            Self::Platform => "platform",
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Broker => "way to Mosquitto",
            Self::Fast => "MinIO's fast webhook",
            Self::Safe => "MinIO's safe webhook",
            Self::Platform => "way to the platform",
            Self::Database => "way to the database",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(out, "none"),
            Self::Kills(times) => write!(out, "triggerd killed at {times} random points"),
            Self::Freeze(part) => write!(out, "{part} frozen (SIGSTOP)"),
            Self::Kill(part) => write!(out, "{part} killed (SIGKILL)"),
            Self::Restart => write!(out, "triggerd restarted (SIGTERM)"),
            Self::Spoil(path, mode) => match mode {
                Mode::Pass => write!(out, "{path}: as it is"),
                Mode::Delay { fixed, jitter } => {
                    write!(out, "{path}: {} to {} ms late", fixed.as_millis(), (*fixed + *jitter).as_millis())
                }
                Mode::Limit(bytes) => write!(out, "{path}: {} kB/s", bytes / 1_000),
                Mode::Cut { one_in } => write!(out, "{path}: cut in mid-message, one in {one_in}"),
                Mode::Silent => write!(out, "{path}: silent"),
                Mode::Refuse => write!(out, "{path}: refused"),
            },
            Self::Disk(trouble) => write!(
                out,
                "queue's disk {}",
                match trouble {
                    Trouble::Full => "full",
                    Trouble::Fails => "fails to flush",
                    Trouble::Slow => "flushes in 2 s",
                }
            ),
            Self::Everything => write!(out, "all at once"),
        }
    }
}

impl Site {
    /// Breaks it, holds it for `hold`, and mends it.
    pub(super) async fn strike(&mut self, fault: Fault, hold: Duration) -> Result<()> {
        match fault {
            Fault::None => tokio::time::sleep(hold).await,
            Fault::Kills(times) => self.kill_at_random_points(times).await?,
            Fault::Freeze(part) => {
                self.pause(part)?;
                tokio::time::sleep(hold).await;
                self.resume(part)?;
            }
            Fault::Kill(part) => {
                self.kill(part).await?;
                tokio::time::sleep(hold).await;
                self.revive(part).await?;
            }
            Fault::Restart => {
                self.world.daemon.stop().await?;
                self.world.daemon.launch()?;
            }
            Fault::Spoil(path, mode) => {
                self.proxy(path)?.set(mode);
                tokio::time::sleep(hold).await;
                self.proxy(path)?.set(Mode::Pass);
            }
            Fault::Disk(trouble) => {
                self.disk.set(trouble.command())?;
                tokio::time::sleep(hold).await;
                self.world.daemon.must_run()?;
                self.disk.heal()?;
            }
            Fault::Everything => self.break_everything(hold).await?,
        }
        Ok(())
    }

    async fn kill_at_random_points(&mut self, times: u32) -> Result<()> {
        for _ in 0..times {
            tokio::time::sleep(self.dice.time(LIFE)).await;
            // A daemon that ended by itself is another fault than the one that is tried.
            self.world.daemon.must_run()?;
            self.world.daemon.kill9().await?;
            self.world.daemon.launch()?;
        }
        Ok(())
    }

    async fn break_everything(&mut self, hold: Duration) -> Result<()> {
        self.pause(Part::Platform)?;
        self.pause(Part::Database)?;
        self.kill(Part::Mosquitto).await?;
        self.kill(Part::Minio).await?;
        self.disk.set(Trouble::Full.command())?;
        self.kill(Part::Daemon).await?;
        self.revive(Part::Daemon).await?;
        let until = Instant::now() + hold;
        while Instant::now() < until {
            tokio::time::sleep(RESTART.min(hold)).await;
            self.start_if_ended()?;
        }
        self.disk.heal()?;
        self.revive(Part::Minio).await?;
        self.resume(Part::Database)?;
        self.revive(Part::Mosquitto).await?;
        self.resume(Part::Platform)?;
        self.start_if_ended()
    }

    /// As systemd does.
    pub(super) fn start_if_ended(&mut self) -> Result<()> {
        if self.world.daemon.must_run().is_err() {
            self.restarts += 1;
            self.world.daemon.launch()?;
        }
        Ok(())
    }

    fn proxy(&self, path: Path) -> Result<&Proxy> {
        match path {
            Path::Broker => Ok(&self.to_broker),
            Path::Fast => Ok(&self.to_fast),
            Path::Safe => self.to_safe.as_ref().context("this site has no safe webhook"),
            Path::Platform => Ok(&self.to_platform),
            Path::Database => self.to_sql.as_ref().context("this site has no database"),
        }
    }

    pub(super) fn pause(&self, part: Part) -> Result<()> {
        match part {
            Part::Daemon => self.world.daemon.pause(),
            Part::Mosquitto => self.mosquitto.pause(),
            Part::Minio => self.world.minio.pause(),
            Part::Database => self.sql.as_ref().context("this site has no database")?.pause(),
            Part::Platform => self.world.platform.pause(),
        }
    }

    pub(super) fn resume(&self, part: Part) -> Result<()> {
        match part {
            Part::Daemon => self.world.daemon.resume(),
            Part::Mosquitto => self.mosquitto.resume(),
            Part::Minio => self.world.minio.resume(),
            Part::Database => self.sql.as_ref().context("this site has no database")?.resume(),
            Part::Platform => self.world.platform.resume(),
        }
    }

    async fn kill(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Daemon => self.world.daemon.kill9().await,
            Part::Mosquitto => self.mosquitto.kill9().await,
            Part::Minio => self.world.minio.kill9().await,
            Part::Database => self.sql.as_mut().context("this site has no database")?.kill9().await,
            Part::Platform => self.world.platform.kill9().await,
        }
    }

    /// Starts it again; of the daemon nothing is waited for, the others answer then.
    async fn revive(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Daemon => self.world.daemon.launch(),
            Part::Mosquitto => self.mosquitto.start_again().await,
            Part::Minio => self.world.minio.start_again().await,
            Part::Database => self.sql.as_mut().context("this site has no database")?.start_again().await,
            Part::Platform => self.world.platform.start_again().await,
        }
    }
}
