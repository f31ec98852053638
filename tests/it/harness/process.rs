//! Child processes that cannot outlive the tests.
//!
//! Two things hold that. Dropping a [`Process`] kills it and waits for its end. And each is started through `setpriv
//! --pdeathsig KILL`, so that the kernel kills it when its parent dies, however the parent dies. The kernel takes for
//! the parent the *thread* that started the child, and the tests' runtimes end their threads all the time: so one
//! thread, which lives as long as the process, starts them all.
//!
//! `setpriv` replaces itself by the program, so the process id is the server's own.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::wait::{eventually, wait_for};

/// How much of the end of a server's log goes into an error.
const LOG_TAIL_BYTES: u64 = 4096;

/// How long a server may take to leave after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How a server is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    /// Orderly, by SIGTERM.
    Term,
    /// As a crash would, by SIGKILL.
    Kill,
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

static STARTER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        for (mut command, reply) in inbox {
            // The one who asked may be gone (a test over its limit); its child then has no owner and must not stay.
            if let Err(mpsc::SendError(Ok(mut orphan))) = reply.send(command.spawn()) {
                orphan.kill().ok();
                orphan.wait().ok();
            }
        }
    });
    orders
});

/// A running server, killed when dropped. Its output goes to a log file.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` (its program, arguments, environment and folder count), appending its output to `log`.
    pub(crate) fn start(name: &str, command: &Command, log: &Path) -> Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            wrapped.current_dir(folder);
        }
        wrapped.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let (reply, answer) = mpsc::channel();
        STARTER.send((wrapped, reply)).map_err(|_| anyhow!("the thread that starts servers is gone"))?;
        let child = answer.recv().context("the thread that starts servers is gone")?.with_context(|| {
            format!("{name} was not started; remedy: setpriv (Debian's util-linux) must be on PATH")
        })?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process id, which stays the same for the life of this value.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails, with the end of the log, if the process has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself ({status}); {}", self.name, self.log_tail()),
        }
    }

    /// Waits until `ready` succeeds. Fails at once if the process ends before, and after `limit` with `ready`'s last
    /// error; either way with the end of the log.
    pub(crate) async fn gate<F>(&mut self, limit: Duration, mut ready: F) -> Result<()>
    where
        F: AsyncFnMut() -> Result<()>,
    {
        let what = format!("{} is ready", self.name);
        let answered = eventually(&what, limit, async || match self.must_run() {
            Ok(()) => ready().await.map(Ok),
            gone => Ok(gone),
        })
        .await
        .with_context(|| self.log_tail())?;
        // Whoever answered may have been another server on the same port, while this one found it taken.
        answered.and_then(|()| self.must_run())
    }

    /// Ends it in the given way.
    pub(crate) async fn halt(self, how: Halt) -> Result<ExitStatus> {
        match how {
            Halt::Term => self.stop().await,
            Halt::Kill => self.kill(),
        }
    }

    /// Asks it to leave (SIGTERM), waits, and tells how it ended.
    pub(crate) async fn stop(mut self) -> Result<ExitStatus> {
        // A paused process would not see the request.
        self.signal(Signal::CONT)?;
        self.signal(Signal::TERM)?;
        let mut status = None;
        let what = format!("{} leaves after SIGTERM", self.name);
        let child = &mut self.child;
        wait_for(&what, STOP_LIMIT, async || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        })
        .await
        .with_context(|| self.log_tail())?;
        status.context("the process has ended without a status")
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub(crate) fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// Stops its threads (SIGSTOP): connections stay open and nothing answers.
    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        // Until the last of them has stopped, any may answer still.
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(&self.child)), stopped)?;
        Ok(())
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub(crate) fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        // The child is reaped only through `&mut self`, so the id cannot have gone to another process.
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("{} (pid {}) could not be signalled", self.name, self.id()))
    }

    /// The end of its log, introduced by the file's name, for errors.
    pub(crate) fn log_tail(&self) -> String {
        let tail = read_tail(&self.log).unwrap_or_else(|error| format!("(unreadable: {error})"));
        format!("the end of {}:\n{tail}", self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn read_tail(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Gives a server with a `process: Option<Process>` and a `start_again()` the ways in which it is ended, stopped and let go
/// on; errors call it by this name.
macro_rules! restartable {
    ($server:ty, |$this:ident| $name:expr) => {
        impl $server {
            /// Ends it orderly.
            pub(crate) async fn stop(&mut self) -> Result<()> {
                self.take()?.halt(Halt::Term).await?;
                Ok(())
            }

            /// Ends it as a crash would.
            pub(crate) async fn kill9(&mut self) -> Result<()> {
                self.take()?.halt(Halt::Kill).await?;
                Ok(())
            }

            /// Ends it in the given way and starts it on the same data and port.
            pub(crate) async fn restart(&mut self, how: Halt) -> Result<()> {
                self.take()?.halt(how).await?;
                self.start_again().await
            }

            /// Stops its threads: connections stay open and nothing answers.
            pub(crate) fn pause(&self) -> Result<()> {
                self.process()?.pause()
            }

            /// Lets it go on after [`pause`](Self::pause).
            pub(crate) fn resume(&self) -> Result<()> {
                self.process()?.resume()
            }

            /// Its process id.
            pub(crate) fn id(&self) -> Result<u32> {
                Ok(self.process()?.id())
            }

            fn process(&self) -> Result<&Process> {
                let $this = self;
                self.process.as_ref().with_context(|| format!("this {} is stopped", $name))
            }

            fn take(&mut self) -> Result<Process> {
                self.process()?;
                self.process.take().context("it was just there")
            }
        }
    };
}

pub(crate) use restartable;
