//! A host that misbehaves on demand (`life_faults.c`), and a listener in systemd's place.

use std::{
    fs,
    io::ErrorKind,
    os::unix::{fs::FileExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::disk_faults::shim;
use crate::harness::wait::eventually;

/// What is wrong with the host of the daemon.
pub(crate) struct Host {
    folder: PathBuf,
    clock: PathBuf,
    control: PathBuf,
}

impl Host {
    /// A host that is well, with its controls in this folder.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize()?;
        let host = Self { clock: folder.join("host.clock"), control: folder.join("host.control"), folder };
        fs::write(&host.clock, 0_i64.to_ne_bytes())?;
        Ok(host)
    }

    /// What the daemon's environment needs; `env` may have another library preloaded.
    pub(crate) fn env(&self, mut env: Vec<(&'static str, String)>) -> Result<Vec<(&'static str, String)>> {
        let library = shim("life_faults", &self.folder)?;
        match env.iter_mut().find(|(name, _)| *name == "LD_PRELOAD") {
            Some((_, others)) => *others = format!("{library}:{others}"),
            None => env.push(("LD_PRELOAD", library)),
        }
        env.push(("LIFE_FAULTS_CLOCK", self.clock.display().to_string()));
        env.push(("LIFE_FAULTS_CONTROL", self.control.display().to_string()));
        Ok(env)
    }

    /// From now on the wall clock is so many seconds ahead of the true time.
    pub(crate) fn set_clock(&self, ahead: i64) -> Result<()> {
        // In place: the daemon has mapped the file.
        let file = fs::OpenOptions::new().write(true).open(&self.clock)?;
        Ok(file.write_all_at(&ahead.to_ne_bytes(), 0)?)
    }

    /// From now on this hangs: see the C file.
    pub(crate) fn hang(&self, what: &str) -> Result<()> {
        let new = self.control.with_extension("new");
        fs::write(&new, what)?;
        Ok(fs::rename(new, &self.control)?)
    }

    /// Nothing hangs any more.
    pub(crate) fn let_go(&self) -> Result<()> {
        self.hang("")
    }
}

/// What systemd is told.
pub(crate) struct Systemd {
    // A folder of a short name: a socket's path has 107 bytes at most.
    folder: TempDir,
    heard: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    ear: Option<JoinHandle<()>>,
}

impl Systemd {
    /// Listens.
    pub(crate) fn listen() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("triggerd-sd-").tempdir()?;
        let socket = UnixDatagram::bind(folder.path().join("notify"))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (heard, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (says, ends) = (Arc::clone(&heard), Arc::clone(&over));
        let ear = std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while !ends.load(Ordering::Acquire) {
                match socket.recv(&mut bytes) {
                    Ok(length) => {
                        let text = String::from_utf8_lossy(&bytes[..length]);
                        says.lock().unwrap().extend(text.lines().map(str::to_owned));
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => (),
                    Err(_) => return,
                }
            }
        });
        Ok(Self { folder, heard, over, ear: Some(ear) })
    }

    /// What the daemon's environment needs, to be restarted when it is silent for this long.
    pub(crate) fn env(&self, watchdog: Duration) -> Vec<(&'static str, String)> {
        vec![
            ("NOTIFY_SOCKET", self.folder.path().join("notify").display().to_string()),
            ("WATCHDOG_USEC", watchdog.as_micros().to_string()),
        ]
    }

    /// How often this was heard.
    pub(crate) fn heard(&self, what: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|line| *line == what).count()
    }

    /// Waits until this was heard so often.
    pub(crate) async fn wait_for(&self, what: &str, count: usize, limit: Duration) -> Result<()> {
        eventually(&format!("`{what}` is heard {count} times"), limit, async || {
            let heard = self.heard(what);
            ensure!(heard >= count, "{heard} times so far");
            Ok(())
        })
        .await
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(ear) = self.ear.take() {
            ear.join().ok();
        }
    }
}
