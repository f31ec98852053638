//! Asynchronous invocations: accepted when on the disk, run at least once.
//!
//! A job is the file `jobs/<hash of rule, delivery and attempt>-<function>.json`. It is written before
//! the 202, written again with its report when the function has ended, and removed when the report has
//! been taken (or there is nobody to tell). After a crash every file is taken up where it stands:
//! without a report it is run, perhaps for the second time; with one, only the callback is made. The
//! same attempt accepted again is the same file, and a job whose file is gone is done, so it is mostly
//! run once. A waiting job is a file and a few bytes; its event is read when it has a free place.

use crate::{
    callback::{Caller, Ended},
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
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
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

/// An accepted invocation as it is kept.
#[derive(Serialize, Deserialize)]
struct Job {
    invocation: Invocation,
    callback_url: Option<String>,
    report: Option<serde_json::Value>,
}

/// Everything that is accepted and not done.
pub(crate) struct Jobs {
    folder: PathBuf,
    functions: Arc<BTreeMap<String, Arc<Function>>>,
    rules: Arc<Rules>,
    caller: Caller,
    tasks: TaskTracker,
    stop: CancellationToken,
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
        Self { folder: state_dir.join("jobs"), functions, rules, caller, tasks: TaskTracker::new(), stop }
    }

    /// Takes up what an earlier run of this platform accepted and did not finish.
    pub(crate) fn resume(self: &Arc<Self>) -> io::Result<()> {
        for file in durable::names(&self.folder)? {
            self.start(file, None);
        }
        Ok(())
    }

    /// Keeps the invocation and sees to it; when this returns, it will be run whatever happens. `room` is
    /// its place in the function's backlog.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        invocation: Invocation,
        callback_url: Option<String>,
        room: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        let file = invocation.file();
        self.save(&file, &Job { invocation, callback_url, report: None }).await?;
        self.start(file, Some(room));
        Ok(())
    }

    /// No new job begins; returns when those that are running have ended.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start(self: &Arc<Self>, file: String, room: Option<OwnedSemaphorePermit>) {
        let jobs = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Err(error) = jobs.see_to(&file).await {
                tracing::error!(file, %error, "a job could not be finished; it is taken up again at the next start");
            }
            drop(room);
        });
    }

    async fn see_to(&self, file: &str) -> io::Result<()> {
        let function = file.get(65..).and_then(|rest| self.functions.get(rest.trim_end_matches(".json")));
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
            if job.callback_url.is_some() {
                self.save(file, &job).await?;
            }
        }
        if job.callback_url.is_some() {
            // Only now, when the file says so, may another acceptance of this attempt find its place.
            drop(place);
            if self.tell(&job).await == Ended::Stopped {
                return Ok(());
            }
        }
        let (folder, file) = (self.folder.clone(), file.to_owned());
        blocking(move || durable::remove(&folder, &file)).await
    }

    /// Sends the report. A rule that is withdrawn has taken its secret with it, and nobody waits for the
    /// result.
    async fn tell(&self, job: &Job) -> Ended {
        let (Some(url), Some(report)) = (&job.callback_url, &job.report) else {
            return Ended::GivenUp;
        };
        let Ok(stored) = self.rules.get(&job.invocation.rule) else {
            return Ended::GivenUp;
        };
        let (id, secret) = (&job.invocation.delivery, &stored.rule.secret);
        self.caller.post(url, id, secret, report).await
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
