//! A disk that misbehaves on demand, and an installation whose daemon keeps its queue on it.
//!
//! `disk_faults.c` is built by `cc` in the test's folder and preloaded into the daemon: what the daemon writes below
//! its state directory goes through it. `mount` would need root.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::world::{Plan, SOON, WEBHOOK_TOKEN, Way, World, noting};
use crate::harness::{suite::Ctx, wait::eventually};

pub(crate) const RECORDING: &str = include_str!("../../fixtures/minio/webhook-object-created-put.json");

/// How long anything may take that waits for a slow disk, or for MinIO to send again.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Builds a C file of this folder into `into`, unless that was done before: a library to be preloaded.
pub(crate) fn shim(name: &str, into: &Path) -> Result<String> {
    let library = into.join(format!("{name}.so"));
    if !library.exists() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/pipeline/{name}.c"));
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
        let output = command.output().context("cc was not started; remedy: install build-essential")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(library.display().to_string())
}

/// What happens to the writes of the daemon's state directory.
pub(crate) struct Disk {
    folder: PathBuf,
    control: PathBuf,
    state: PathBuf,
}

impl Disk {
    /// A disk that is well, below this folder.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize()?;
        Ok(Self { control: folder.join("disk.control"), state: folder.join("state"), folder })
    }

    /// What the daemon's environment needs.
    pub(crate) fn env(&self) -> Result<Vec<(&'static str, String)>> {
        Ok(vec![
            ("LD_PRELOAD", shim("disk_faults", &self.folder)?),
            ("DISK_FAULTS_DIR", self.state.display().to_string()),
            ("DISK_FAULTS_CONTROL", self.control.display().to_string()),
        ])
    }

    /// From now on: see the C file.
    pub(crate) fn set(&self, fault: &str) -> Result<()> {
        // By a rename, so that no half of it is read.
        let new = self.control.with_extension("new");
        fs::write(&new, fault)?;
        Ok(fs::rename(new, &self.control)?)
    }

    /// From now on the disk is well.
    pub(crate) fn heal(&self) -> Result<()> {
        self.set("")
    }

    /// The daemon's state directory.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }
}

/// An installation on such a disk: objects of `photos` call the healthy function `thumb`, those of `docs` call `etl`,
/// which fails until it is mended, so that its deliveries have to be parked. (And `once` always fails.)
pub(crate) struct Spool {
    pub(crate) world: World,
    pub(crate) disk: Disk,
    /// Bytes that each notification has more than it needs.
    pub(crate) padding: usize,
}

impl Spool {
    pub(crate) async fn start(ctx: &Ctx, way: Way, extra: &str) -> Result<Self> {
        let env = Disk::new(ctx.folder())?.env()?;
        Self::start_in(ctx, way, extra, env).await
    }

    /// The same with this environment of the daemon's.
    pub(crate) async fn start_in(
        ctx: &Ctx,
        way: Way,
        extra: &str,
        env: Vec<(&'static str, String)>,
    ) -> Result<Self> {
        let disk = Disk::new(ctx.folder())?;
        let until_mended = "test -e \"$FOLDER/mended\" && echo \"$TRIGGER_KEY\" >> \"$FOLDER/etl.done\"";
        let functions = noting("thumb", "") + &noting("etl", until_mended) + &noting("once", "exit 3");
        let plan = Plan { way, env, extra: extra.to_owned(), ..Plan::webhook(&functions) };
        let world = World::start(ctx, &plan).await?;
        world.bind("photos", "thumb", &json!({})).await?;
        let patient = json!({"max_attempts": 1_000, "first_wait_ms": 200, "max_wait_ms": 1_000});
        world.bind("docs", "etl", &json!({ "retry": patient })).await?;
        Ok(Self { world, disk, padding: 0 })
    }

    /// Webhooks of a MinIO that sends again what was refused.
    pub(crate) async fn by_webhook(ctx: &Ctx) -> Result<Self> {
        Self::start(ctx, Way::Webhook { queue_dir: true }, "").await
    }

    /// Sends one notification as MinIO does; what it is answered.
    pub(crate) async fn notify(&self, bucket: &str, key: &str) -> Result<StatusCode> {
        self.notify_within(bucket, key, PATIENCE).await
    }

    /// The same, waiting for the answer at most so long.
    pub(crate) async fn notify_within(&self, bucket: &str, key: &str, limit: Duration) -> Result<StatusCode> {
        let mut body: Value = serde_json::from_str(RECORDING)?;
        body["Key"] = format!("{bucket}/{key}").into();
        body["Records"][0]["padding"] = "x".repeat(self.padding).into();
        let record = &mut body["Records"][0]["s3"];
        record["bucket"]["name"] = bucket.into();
        record["object"]["key"] = key.into();
        let request = reqwest::Client::new().post(&self.world.source).bearer_auth(WEBHOOK_TOKEN);
        Ok(request.timeout(limit).body(body.to_string()).send().await?.status())
    }

    /// Sends one notification again and again until it is taken, as MinIO does.
    pub(crate) async fn insist(&self, bucket: &str, key: &str) -> Result<()> {
        eventually(&format!("{bucket}/{key} is taken"), PATIENCE, async || {
            let status = self.notify(bucket, key).await?;
            ensure!(status == StatusCode::OK, "{status}");
            Ok(())
        })
        .await
    }

    /// Uploads an object, of which MinIO tells.
    pub(crate) async fn upload(&self, bucket: &str, key: &str) -> Result<()> {
        self.world.minio.put_object(bucket, key, "x", &[]).await
    }

    /// Mends `etl`.
    pub(crate) fn mend(&self) -> Result<()> {
        Ok(fs::write(self.world.platform.file("mended"), "")?)
    }

    /// The keys that `etl` has done.
    pub(crate) fn done(&self) -> Result<BTreeSet<String>> {
        match fs::read_to_string(self.world.platform.file("etl.done")) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until `etl` has done all of these.
    pub(crate) async fn wait_until_done(&self, keys: &[String]) -> Result<()> {
        eventually("every delivery is made", PATIENCE, async || {
            let done = self.done()?;
            let missing: Vec<_> = keys.iter().filter(|key| !done.contains(*key)).collect();
            ensure!(missing.is_empty(), "{missing:?} are missing");
            Ok(())
        })
        .await
    }

    /// Waits until `thumb` was called for this key.
    pub(crate) async fn wait_until_thumb_ran(&self, key: &str) -> Result<()> {
        eventually(&format!("thumb runs for {key}"), PATIENCE, async || {
            let calls = self.world.platform.calls("thumb")?;
            ensure!(calls.iter().any(|call| call.key == key), "{} calls so far", calls.len());
            Ok(())
        })
        .await
    }

    /// What readiness says of the queue.
    pub(crate) async fn queue_health(&self) -> Result<(StatusCode, bool, String)> {
        let (status, health) = self.world.daemon.call(Method::GET, "/health/ready", None).await?;
        let parts = health["parts"].as_array().context("no parts")?;
        let queue = parts.iter().find(|part| part["name"] == "queue").context("no part `queue`")?;
        let detail = queue["detail"].as_str().unwrap_or_default().to_owned();
        Ok((status, queue["ok"] == true, detail))
    }

    /// Waits until readiness and metrics say that the queue cannot be written, with these words.
    pub(crate) async fn wait_until_told(&self, words: &str) -> Result<()> {
        eventually(&format!("readiness says `{words}`"), SOON, async || {
            let (status, ok, detail) = self.queue_health().await?;
            ensure!(status == StatusCode::SERVICE_UNAVAILABLE && !ok, "{status} {ok} {detail}");
            ensure!(detail.contains(words), "{detail}");
            let writable = self.world.daemon.metric("triggerd_queue_writable", &[]).await?;
            ensure!(writable < 0.5, "the gauge says {writable}");
            Ok(())
        })
        .await
    }

    /// Waits until readiness and metrics say that all is well.
    pub(crate) async fn wait_until_well(&self) -> Result<()> {
        eventually("readiness says that all is well", SOON, async || {
            let (status, ok, detail) = self.queue_health().await?;
            ensure!(status == StatusCode::OK && ok, "{status} {ok} {detail}");
            let writable = self.world.daemon.metric("triggerd_queue_writable", &[]).await?;
            ensure!(writable > 0.5, "the gauge says {writable}");
            Ok(())
        })
        .await
    }
}

/// `prefix-0`, `prefix-1`…
pub(crate) fn keys(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}
