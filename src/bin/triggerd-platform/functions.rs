//! Functions: commands of this host, one process group per invocation.
//!
//! The event goes to standard input; standard output is the result, bounded; the end of standard error
//! goes into the error. A function gets its own environment and nothing of ours but PATH. When its time
//! is over, the whole group gets SIGTERM and, a second later, SIGKILL; when the command itself ends,
//! whatever it left running in its group is killed, so that nothing outlives an invocation. Not caught:
//! a process that leaves the group (setsid), and what runs on when this platform itself is killed with
//! SIGKILL; run the platform as a systemd service to have both cleared away by its cgroup.

use crate::config::FunctionConfig;
use axum::body::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    collections::BTreeMap,
    env, io,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    sync::Semaphore,
    time::timeout,
};

const MAX_RESULT: usize = 1 << 20;
/// How much of the end of standard error is kept.
const EXCERPT: usize = 2048;
const GRACE: Duration = Duration::from_secs(1);

/// A configured function with its free places.
#[derive(Debug)]
pub(crate) struct Function {
    config: FunctionConfig,
    /// Invocations that may run now.
    pub(crate) places: Arc<Semaphore>,
    /// Asynchronous invocations that may still be accepted.
    pub(crate) backlog: Arc<Semaphore>,
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The function's own fault; the code is `exit-<n>`, `signal-<n>` or `output-too-large`.
    Failed { code: String, detail: String },
    /// It ran over its time limit and was killed.
    TimedOut { detail: String },
    /// The platform could not run it.
    NotRun(io::Error),
}

impl Function {
    pub(crate) fn new(config: FunctionConfig) -> Self {
        let places = Arc::new(Semaphore::new(config.concurrency));
        let backlog = Arc::new(Semaphore::new(config.backlog));
        Self { config, places, backlog }
    }

    /// Runs the command once, to its end or its time limit. The caller holds one of the `places`.
    pub(crate) async fn run(&self, env: &BTreeMap<String, String>, body: Bytes) -> Result<Vec<u8>, Failure> {
        let mut child = self.start(env).map_err(Failure::NotRun)?;
        let group = Group::of(&child);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(Failure::NotRun(io::Error::other("the command has no pipes")));
        };
        // A function need not read its input, so a pipe that breaks is no error.
        let feed = async move { stdin.write_all(&body).await.ok() };
        let mut excerpt = Vec::new();
        let end = async {
            let status = child.wait().await;
            group.end();
            status
        };
        let all =
            async { tokio::join!(feed, read_result(stdout, &group), read_end(stderr, &mut excerpt), end) };
        if let Ok((_, result, (), status)) = timeout(self.config.timeout, all).await {
            return judge(status, result, &excerpt);
        }
        group.signal(Signal::TERM);
        timeout(GRACE, child.wait()).await.ok();
        group.end();
        child.wait().await.map_err(Failure::NotRun)?;
        let limit = self.config.timeout;
        Err(Failure::TimedOut {
            detail: format!("killed after {limit:?}; standard error: {}", tail(&excerpt)),
        })
    }

    fn start(&self, env: &BTreeMap<String, String>) -> io::Result<Child> {
        let (program, arguments) = self.config.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&self.config.env).envs(env);
        if let Some(path) = env::var_os("PATH").filter(|_| !self.config.env.contains_key("PATH")) {
            command.env("PATH", path);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true).spawn()
    }
}

fn judge(
    status: io::Result<ExitStatus>,
    result: Option<Vec<u8>>,
    excerpt: &[u8],
) -> Result<Vec<u8>, Failure> {
    let status = status.map_err(Failure::NotRun)?;
    let Some(result) = result else {
        let detail = format!("the result is larger than {MAX_RESULT} bytes");
        return Err(Failure::Failed { code: "output-too-large".to_owned(), detail });
    };
    if status.success() {
        return Ok(result);
    }
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit-{code}"),
        (None, signal) => format!("signal-{}", signal.unwrap_or_default()),
    };
    let detail = format!("the command ended with {status}; standard error: {}", tail(excerpt));
    Err(Failure::Failed { code, detail })
}

/// All of standard output, or `None` when it is too much; then the flood is ended with its source.
async fn read_result(stdout: impl AsyncRead + Unpin, group: &Group) -> Option<Vec<u8>> {
    let mut result = Vec::new();
    let limit = u64::try_from(MAX_RESULT + 1).unwrap_or(u64::MAX);
    stdout.take(limit).read_to_end(&mut result).await.ok();
    if result.len() > MAX_RESULT {
        group.signal(Signal::KILL);
        return None;
    }
    Some(result)
}

/// Reads standard error to its end and keeps the last of it.
async fn read_end(mut stderr: impl AsyncRead + Unpin, kept: &mut Vec<u8>) {
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..count]);
        kept.drain(..kept.len().saturating_sub(EXCERPT));
    }
}

fn tail(excerpt: &[u8]) -> String {
    String::from_utf8_lossy(excerpt).trim().to_owned()
}

/// The process group of one invocation, killed with everything in it at the end, also when dropped
/// before. After that it is 0: the number may soon be another group's.
struct Group(AtomicI32);

impl Group {
    fn of(child: &Child) -> Self {
        let leader = child.id().and_then(|id| i32::try_from(id).ok());
        Self(AtomicI32::new(leader.unwrap_or_default()))
    }

    /// A group that is already empty is as good as signalled.
    fn signal(&self, signal: Signal) {
        if let Some(leader) = Pid::from_raw(self.0.load(Ordering::SeqCst)) {
            kill_process_group(leader, signal).ok();
        }
    }

    /// To be called once the leader has ended: nothing else can be in its place yet.
    fn end(&self) {
        self.signal(Signal::KILL);
        self.0.store(0, Ordering::SeqCst);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}
