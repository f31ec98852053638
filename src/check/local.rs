//! Probes of this host.

use std::{
    fs,
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
};

use async_trait::async_trait;
use tokio::net::TcpListener;

use crate::config::Config;

use super::{Finding, Probe};

/// The probes that need nothing but the config. `held`: the addresses at which this config's daemon listens now.
pub fn probes(config: &Config, held: &[SocketAddr]) -> Vec<Box<dyn Probe>> {
    let state_dir = config.node.state_dir.clone();
    let mut probes: Vec<Box<dyn Probe>> =
        vec![Box::new(StateDir { path: state_dir, wanted: config.queue.max_bytes })];
    for (part, address) in config.listeners() {
        let ours = held.contains(&address);
        probes.push(Box::new(Listener { part, address, ours }));
    }
    probes
}

/// The state directory: there, writable, with room for the queue.
struct StateDir {
    path: PathBuf,
    wanted: u64,
}

#[async_trait]
impl Probe for StateDir {
    fn part(&self) -> String {
        "node.state_dir".into()
    }

    async fn look(&self) -> Vec<Finding> {
        let (part, path) = (self.part(), self.path.display());
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return vec![missing(part, &self.path, can_be_made(&self.path))];
            }
            Err(error) => {
                return vec![Finding::fail(part, format!("{path}: {error}"), "let the daemon's user in")];
            }
            Ok(meta) if !meta.is_dir() => {
                return vec![Finding::fail(part, format!("{path} is no directory"), "name a directory")];
            }
            Ok(_) => {}
        }
        let probe = self.path.join(format!(".check-{}", std::process::id()));
        let written = fs::write(&probe, b"check").and_then(|()| fs::remove_file(&probe));
        if let Err(error) = written {
            let remedy = format!("run check as root or as the daemon's user, or give {path} to that user");
            return vec![Finding::fail(part, format!("this user cannot write in {path}: {error}"), remedy)];
        }
        let free = rustix::fs::statvfs(&self.path).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        match free {
            Ok(free) if free < self.wanted => {
                let what =
                    format!("{path} has {free} bytes free, fewer than queue.max_bytes ({})", self.wanted);
                vec![Finding::warn(part, what, "make room, or lower `max_bytes` in [queue]")]
            }
            _ => vec![Finding::ok(part, format!("{path} can be written"))],
        }
    }
}

/// A state directory that is not there: the daemon makes it at its first start, if it may.
fn missing(part: String, path: &Path, can_be_made: bool) -> Finding {
    let path = path.display();
    if can_be_made {
        return Finding::ok(part, format!("{path} does not exist yet; it is made at the first start"));
    }
    let remedy =
        format!("`install -d -m 700 -o triggerd -g triggerd {path}` (the systemd unit makes it by itself)");
    Finding::fail(part, format!("{path} does not exist, and this user cannot make it"), remedy)
}

/// Whether this user may write in the nearest folder above that exists.
fn can_be_made(path: &Path) -> bool {
    let above = path.ancestors().skip(1).find(|folder| folder.exists());
    above.is_some_and(|folder| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok())
}

/// What is seen of the queue's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueAnswer {
    /// There is none.
    Missing,
    /// It can be read, and this version knows its schema.
    There {
        /// Deliveries that are parked, those that are held or await a result included.
        parked: u64,
        /// Bytes in use.
        bytes: u64,
    },
    /// It can be read, and a migration is missing.
    Older,
    /// It cannot be read, or not by this version; why, and what to do.
    Unreadable(String),
}

type AskQueue = Box<dyn Fn() -> Pin<Box<dyn Future<Output = QueueAnswer> + Send>> + Send + Sync>;

/// The queue's file: readable, and by this version.
pub struct QueueProbe {
    ask: AskQueue,
}

impl QueueProbe {
    /// A probe that asks by this function, which must neither change the file nor keep a running daemon waiting.
    pub fn new(
        ask: impl Fn() -> Pin<Box<dyn Future<Output = QueueAnswer> + Send>> + Send + Sync + 'static,
    ) -> Self {
        Self { ask: Box::new(ask) }
    }
}

#[async_trait]
impl Probe for QueueProbe {
    fn part(&self) -> String {
        "queue".into()
    }

    async fn look(&self) -> Vec<Finding> {
        let part = self.part();
        vec![match (self.ask)().await {
            QueueAnswer::Missing => {
                Finding::ok(part, "queue.db does not exist yet; it is made at the first start")
            }
            QueueAnswer::There { parked, bytes } => {
                Finding::ok(part, format!("queue.db can be read: {parked} parked, {bytes} bytes"))
            }
            QueueAnswer::Older => Finding::warn(
                part,
                "queue.db has the schema of an older triggerd",
                "start the daemon with migrate_at_start, or run `triggerd migrate`",
            ),
            QueueAnswer::Unreadable(why) => {
                let remedy = "with the daemon stopped, `triggerd queue verify` says more";
                Finding::fail(part, why, remedy)
            }
        }]
    }
}

/// An address to listen at: free, or held by the daemon itself.
struct Listener {
    part: String,
    address: SocketAddr,
    /// Whether the daemon that runs now listens there.
    ours: bool,
}

#[async_trait]
impl Probe for Listener {
    fn part(&self) -> String {
        self.part.clone()
    }

    async fn look(&self) -> Vec<Finding> {
        let address = self.address;
        let Err(error) = TcpListener::bind(address).await else {
            return vec![Finding::ok(&self.part, format!("{address} is free"))];
        };
        let finding = match error.kind() {
            io::ErrorKind::AddrInUse if self.ours => {
                Finding::ok(&self.part, format!("{address} is where this triggerd listens now"))
            }
            io::ErrorKind::AddrInUse => {
                let remedy = format!(
                    "see who it is (`ss -ltnp 'sport = :{}'`), or choose another port",
                    address.port()
                );
                Finding::fail(&self.part, format!("{address} is in use by another process"), remedy)
            }
            io::ErrorKind::AddrNotAvailable => {
                let what = format!("this host does not have the address {}", address.ip());
                Finding::fail(&self.part, what, "use one that `ip address` shows, or 0.0.0.0")
            }
            io::ErrorKind::PermissionDenied => {
                let what = format!("this user may not listen at port {}", address.port());
                Finding::fail(&self.part, what, "use a port from 1024, or run check as the daemon's user")
            }
            _ => Finding::fail(&self.part, format!("{address}: {error}"), "choose another address"),
        };
        vec![finding]
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::{super::Level, *};

    async fn one(probe: impl Probe) -> (Level, String) {
        let findings = probe.look().await;
        assert_eq!(findings.len(), 1, "{findings:?}");
        let finding = &findings[0];
        (finding.level, format!("{} → {}", finding.what, finding.remedy.as_deref().unwrap_or("")))
    }

    #[tokio::test]
    async fn the_state_directory_must_be_there_and_writable_with_room() {
        let folder = TempDir::new().unwrap();
        let at = |path: PathBuf, wanted| StateDir { path, wanted };
        assert_eq!(one(at(folder.path().into(), 1)).await.0, Level::Ok);
        let (level, text) = one(at(folder.path().into(), u64::MAX)).await;
        assert!(level == Level::Warn && text.contains("max_bytes"), "{text}");
        let unmade = folder.path().join("missing");
        let (level, text) = one(at(unmade.clone(), 1)).await;
        assert!(level == Level::Ok && text.contains("made at the first start"), "{text}");
        let barred = missing("node.state_dir".into(), &unmade, false);
        assert!(barred.level == Level::Fail && barred.remedy.unwrap_or_default().contains("install -d"));
        fs::write(folder.path().join("file"), "").unwrap();
        let (level, text) = one(at(folder.path().join("file"), 1)).await;
        assert!(level == Level::Fail && text.contains("no directory"), "{text}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "check leaves nothing behind");
    }

    #[tokio::test]
    async fn a_queue_that_cannot_be_read_fails_and_one_that_is_not_there_yet_does_not() {
        let told = async |answer: QueueAnswer| {
            one(QueueProbe::new(move || {
                let answer = answer.clone();
                Box::pin(async move { answer })
            }))
            .await
        };
        assert_eq!(told(QueueAnswer::Missing).await.0, Level::Ok);
        let (level, text) = told(QueueAnswer::There { parked: 12, bytes: 4_096 }).await;
        assert!(level == Level::Ok && text.contains("12 parked"), "{text}");
        let (level, text) = told(QueueAnswer::Older).await;
        assert!(level == Level::Warn && text.contains("triggerd migrate"), "{text}");
        let (level, text) = told(QueueAnswer::Unreadable("it is damaged".into())).await;
        assert!(level == Level::Fail && text.contains("damaged") && text.contains("verify"), "{text}");
    }

    #[tokio::test]
    async fn addresses_are_free_or_say_who_has_them() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let at = |address, ours| Listener { part: "admin.listen".into(), address, ours };
        let (level, text) = one(at(address, false)).await;
        assert!(level == Level::Fail && text.contains("ss -ltnp"), "{text}");
        assert_eq!(one(at(address, true)).await.0, Level::Ok);
        let (level, text) = one(at("192.0.2.1:0".parse().unwrap(), false)).await;
        assert!(level == Level::Fail && text.contains("ip address"), "{text}");
        drop(taken);
        assert_eq!(one(at(address, false)).await.0, Level::Ok);
    }
}
