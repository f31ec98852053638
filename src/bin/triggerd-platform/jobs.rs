//! Asynchronous invocations: accepted when on the disk, run at least once.
//!
//! A job is the file `jobs/<hash of rule, delivery and attempt>-<function>.json`. It is written before
//! the 202, written again with its report when the function has ended, and removed when the report has
//! been taken (or there is nobody to tell). After a crash every file is taken up where it stands:
//! without a report it is run, perhaps for the second time; with one, only the callback is made. The
//! same attempt accepted again is the same file: while that is there, it is run and reported once.
//!
//! A report is tried for seven days after the function's end, over restarts, and at least once after each; then,
//! or when it is refused for good, it is given up, and the log says which and why. It takes its place in the
//! function's backlog until then, so a triggerd that is away for long ends in 429 here, not in a full disk. A
//! waiting job is a file and a few bytes: its event is read when it has a free place, its report for each try.

use crate::{
    callback::{Caller, Pauses, Said},
    clock, durable,
    event::Event,
    functions::{Failure, Function},
    rules::{Rules, blocking},
    signature::hex,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// One attempt at one delivery, as it came; also what a synchronous call runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Invocation {
    pub(crate) rule: String,
    pub(crate) function: String,
    pub(crate) delivery: String,
    pub(crate) attempt: u32,
    /// The event's metadata for the function.
    pub(crate) env: BTreeMap<String, String>,
    /// The body as it came.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub(crate) body: Vec<u8>,
}

/// Largest report that is sent: triggerd takes 1 MiB.
const MAX_REPORT: usize = 1 << 20;

/// How long a report is tried, in seconds after the function's end: as long as triggerd waits for one at most.
const REPORTED_FOR: u64 = 7 * 24 * 60 * 60;

/// How often, and how long apart, it is looked whether the disk is done with a file that another request
/// has it write or remove.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// An accepted invocation as it is kept.
#[derive(Serialize, Deserialize)]
struct Job {
    invocation: Invocation,
    callback_url: Option<String>,
    report: Option<serde_json::Value>,
    /// When the report was made, in seconds since 1970.
    #[serde(default = "clock::unix_seconds")]
    ended_at: u64,
}

/// What is done with a job after its report was dealt with.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// The report was taken, refused, or is no longer worth a try: the job is done.
    Done,
    /// This platform is stopping; the next one goes on with it.
    Stopped,
}

/// Everything that is accepted and not done.
pub(crate) struct Jobs {
    folder: PathBuf,
    functions: Arc<BTreeMap<String, Arc<Function>>>,
    rules: Arc<Rules>,
    caller: Caller,
    /// The files that a task or a request sees to; no more than the functions' backlogs hold.
    claimed: Mutex<HashSet<String>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The right to see to a file, given back when it is dropped.
struct Claim {
    jobs: Arc<Jobs>,
    file: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.jobs.claimed.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.file);
    }
}

impl Invocation {
    /// Adds what is known of the event to the function's environment.
    pub(crate) fn describe(&mut self, event: Event) {
        self.env = event.attributes;
        for (name, value) in [
            ("TRIGGER_EVENT_NAME", event.name),
            ("TRIGGER_BUCKET", event.bucket),
            ("TRIGGER_KEY", event.key),
            ("TRIGGER_DELIVERY_ID", self.delivery.clone()),
            ("TRIGGER_RULE_ID", self.rule.clone()),
            ("TRIGGER_ATTEMPT", self.attempt.to_string()),
        ] {
            self.env.insert(name.to_owned(), value);
        }
    }

    fn file(&self) -> String {
        let identity = format!("{}\0{}\0{}", self.rule, self.delivery, self.attempt);
        format!("{}-{}.json", hex(&Sha256::digest(identity)), self.function)
    }

    /// What the callback says; without the result where that would make it too large.
    fn report(&self, outcome: Result<Vec<u8>, Failure>, milliseconds: u128) -> serde_json::Value {
        let (field, text, status) = match outcome.map(String::from_utf8) {
            Ok(Ok(text)) => ("result", text, "succeeded"),
            Ok(Err(bytes)) => ("result_base64", STANDARD.encode(bytes.as_bytes()), "succeeded"),
            Err(Failure::Failed { code, detail }) => ("error", format!("{code}: {detail}"), "failed"),
            Err(Failure::TimedOut { detail }) => ("error", format!("timeout: {detail}"), "failed"),
            Err(Failure::NotRun(error)) => ("error", format!("not run: {error}"), "failed"),
        };
        let mut report = serde_json::json!({
            "delivery": self.delivery, "rule": self.rule, "function": self.function, "status": status,
            "attempt": self.attempt, "duration_ms": u64::try_from(milliseconds).unwrap_or(u64::MAX), field: text,
        });
        if report.to_string().len() > MAX_REPORT
            && let Some(fields) = report.as_object_mut()
        {
            fields.remove(field);
            fields.insert("result_omitted".to_owned(), true.into());
        }
        report
    }
}

impl Jobs {
    pub(crate) fn new(
        state_dir: &Path,
        functions: Arc<BTreeMap<String, Arc<Function>>>,
        rules: Arc<Rules>,
        caller: Caller,
        stop: CancellationToken,
    ) -> Self {
        let (folder, tasks) = (state_dir.join("jobs"), TaskTracker::new());
        Self { folder, functions, rules, caller, claimed: Mutex::default(), tasks, stop }
    }

    /// Takes up what an earlier run of this platform accepted and did not finish; each has its place in the
    /// backlog again, as far as that has become no smaller.
    pub(crate) fn resume(self: &Arc<Self>) -> io::Result<()> {
        for file in durable::names(&self.folder)? {
            let room = self.function(&file).and_then(|one| Arc::clone(&one.backlog).try_acquire_owned().ok());
            if let Some(claim) = self.claim(&file) {
                self.start(claim, room);
            }
        }
        Ok(())
    }

    /// Keeps the invocation and sees to it; when this returns, it will be run whatever happens. `room` is
    /// its place in the function's backlog. One that is kept already is left as it is, report included. False
    /// when it is only just being kept, or removed, by a disk that takes its time: nothing is promised then.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        invocation: Invocation,
        callback_url: Option<String>,
        room: OwnedSemaphorePermit,
    ) -> io::Result<bool> {
        let file = invocation.file();
        let mut looks = 0..LOOKS;
        let claim = loop {
            if let Some(claim) = self.claim(&file) {
                break claim;
            }
            if self.is_kept(file.clone()).await? {
                return Ok(true);
            }
            if looks.next().is_none() {
                return Ok(false);
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        };
        // A task of its own: a caller that goes away meanwhile does not leave a file that nobody sees to.
        let jobs = Arc::clone(self);
        let kept = self.tasks.spawn(async move {
            // What lies there unclaimed is of a disk that failed; perhaps with its report.
            if !jobs.is_kept(file.clone()).await? {
                jobs.save(&file, &Job { invocation, callback_url, report: None, ended_at: 0 }).await?;
            }
            jobs.start(claim, Some(room));
            Ok(true)
        });
        kept.await.map_err(io::Error::other)?
    }

    /// Whether the file is there, on the disk for good.
    async fn is_kept(&self, file: String) -> io::Result<bool> {
        let folder = self.folder.clone();
        blocking(move || {
            let there = folder.join(file).try_exists()?;
            if there {
                File::open(folder)?.sync_all()?;
            }
            Ok(there)
        })
        .await
    }

    /// The right to see to this file; none while another has it.
    fn claim(self: &Arc<Self>, file: &str) -> Option<Claim> {
        let first = self.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_owned());
        first.then(|| Claim { jobs: Arc::clone(self), file: file.to_owned() })
    }

    /// No new job begins; returns when those that are running have ended.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start(self: &Arc<Self>, claim: Claim, room: Option<OwnedSemaphorePermit>) {
        let jobs = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Err(error) = jobs.see_to(&claim.file).await {
                let file = &claim.file;
                tracing::error!(file, %error, "a job could not be finished; it is taken up again at the next start");
            }
            drop((claim, room));
        });
    }

    async fn see_to(&self, file: &str) -> io::Result<()> {
        let function = self.function(file);
        let place = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(()),
            place = place(function) => place,
        };
        let Some(mut job) = self.load(file).await? else {
            return Ok(());
        };
        if job.report.is_none() {
            let report = self.run(function, &mut job.invocation).await;
            tracing::info!(file, status = %report["status"], "an asynchronous invocation has ended");
            job.report = Some(report);
            job.ended_at = clock::unix_seconds();
            if job.callback_url.is_some() {
                self.save(file, &job).await?;
            }
        }
        let reports = job.callback_url.is_some();
        drop((job, place));
        if reports && self.tell(file).await? == Told::Stopped {
            return Ok(());
        }
        let (folder, file) = (self.folder.clone(), file.to_owned());
        blocking(move || durable::remove(&folder, &file)).await
    }

    /// The function whose job this file is.
    fn function(&self, file: &str) -> Option<&Arc<Function>> {
        file.get(65..).and_then(|rest| self.functions.get(rest.trim_end_matches(".json")))
    }

    /// Sends the report until it is taken or its time is over.
    async fn tell(&self, file: &str) -> io::Result<Told> {
        let (mut pauses, mut repeated) = (Pauses::default(), false);
        loop {
            let place = self.caller.place().await;
            let Some(job) = self.load(file).await? else {
                return Ok(Told::Done);
            };
            let over = clock::unix_seconds().saturating_sub(job.ended_at) >= REPORTED_FOR;
            let (job, said) = self.tell_once(job).await;
            drop(place);
            let Invocation { rule, function, delivery, attempt, .. } = &job.invocation;
            let (why, after) = match said {
                Said::Taken => return Ok(Told::Done),
                Said::Stopped => return Ok(Told::Stopped),
                Said::Refused { status, why } => {
                    let status = status.as_u16();
                    tracing::warn!(
                        delivery,
                        attempt,
                        rule,
                        function,
                        status,
                        ?why,
                        "a report was refused; it is lost"
                    );
                    return Ok(Told::Done);
                }
                Said::Later { why, .. } if over => {
                    let result = &job.report.unwrap_or_default()["status"];
                    tracing::error!(
                        delivery, attempt, rule, function, %result, ?why,
                        "a report was not taken for seven days and is given up; triggerd will not know this result"
                    );
                    return Ok(Told::Done);
                }
                Said::Later { why, after } => (why, after),
            };
            let pause = pauses.next(after);
            if repeated {
                tracing::debug!(delivery, attempt, ?pause, ?why, "a report is repeated");
            } else {
                tracing::info!(
                    delivery,
                    attempt,
                    rule,
                    function,
                    ?why,
                    "a report is repeated until it is taken"
                );
            }
            repeated = true;
            drop(job);
            if !self.caller.pause(pause).await {
                return Ok(Told::Stopped);
            }
        }
    }

    /// One try, signed with the secret that the rule has now. A rule that is withdrawn has taken its secret with
    /// it, and nobody waits for the result.
    async fn tell_once(&self, job: Job) -> (Job, Said) {
        let (id, rule) = (&job.invocation.delivery, &job.invocation.rule);
        let (Some(url), Some(report)) = (&job.callback_url, &job.report) else {
            return (job, Said::Taken);
        };
        let Ok(stored) = self.rules.get(rule) else {
            tracing::info!(delivery = id, rule, "a report is not sent: its rule was withdrawn");
            return (job, Said::Taken);
        };
        let said = self.caller.send(url, id, &stored.rule.secret, report.to_string()).await;
        (job, said)
    }

    /// Runs the function; the body is needed no longer then, and is let go.
    async fn run(&self, function: Option<&Arc<Function>>, invocation: &mut Invocation) -> serde_json::Value {
        let began = clock::steady();
        let body = std::mem::take(&mut invocation.body);
        let outcome = match function {
            Some(function) => function.run(&invocation.env, body.into()).await,
            None => Err(Failure::NotRun(io::Error::other("the function is no longer configured"))),
        };
        invocation.report(outcome, began.elapsed().as_millis())
    }

    async fn load(&self, file: &str) -> io::Result<Option<Job>> {
        let path = self.folder.join(file);
        let read = blocking(move || match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        });
        read.await?.map(|content| serde_json::from_slice(&content).map_err(io::Error::other)).transpose()
    }

    async fn save(&self, file: &str, job: &Job) -> io::Result<()> {
        let content = serde_json::to_vec(job)?;
        let (folder, file) = (self.folder.clone(), file.to_owned());
        blocking(move || durable::write(&folder, &file, &content)).await
    }
}

/// A free place of the function; a function that is no longer configured needs none.
async fn place(function: Option<&Arc<Function>>) -> Option<SemaphorePermit<'_>> {
    function?.places.acquire().await.ok()
}

fn to_base64<S: serde::Serializer>(bytes: &[u8], file: S) -> Result<S::Ok, S::Error> {
    file.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: serde::Deserializer<'de>>(file: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(file)?).map_err(serde::de::Error::custom)
}
