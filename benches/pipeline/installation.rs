//! What is measured: the daemon as a process with a config, a real Mosquitto, and a real MinIO to bind a bucket of.
//!
//! MinIO is there for the handshake only. Events are sent in its form by the loads, because its own pace (one event at a
//! time from a `queue_dir`, looked at every three seconds) would be what is measured.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    function::Function,
    harness::{
        minio::{self, Minio, MinioOptions, MqttTarget, WebhookTarget},
        mosquitto::{Mosquitto, MosquittoOptions},
        ports::free_port,
        process::Process,
        wait::eventually,
    },
};

pub(crate) const BUCKET: &str = "bench";
pub(crate) const TOPIC: &str = "minio/events";
pub(crate) const WEBHOOK_TOKEN: &str = "token-of-the-webhook-target";
const OPERATOR_TOKEN: &str = "operator-token-of-the-bench";
const FUNCTION: &str = "instant";
const SOON: Duration = Duration::from_mins(1);

/// Everything that runs beside this process.
pub(crate) struct Installation {
    pub(crate) webhook_port: u16,
    pub(crate) mosquitto: Mosquitto,
    pub(crate) function_url: String,
    daemon: Process,
    admin: String,
    http: Client,
    _minio: Minio,
    _folder: TempDir,
}

impl Installation {
    /// Starts it all and binds the bucket to the function.
    pub(crate) async fn start(function: &Function) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("triggerd-bench-").tempdir()?;
        let (admin_port, webhook_port) = (free_port()?, free_port()?);
        let mosquitto = Mosquitto::start(MosquittoOptions {
            // The stock limits lose messages without a word; a broker that logs every message measures its log.
            lines: [
                "max_queued_messages 0",
                "max_inflight_messages 0",
                "set_tcp_nodelay true",
                "log_type none",
            ]
            .map(String::from)
            .to_vec(),
            ..MosquittoOptions::default()
        })
        .await?;
        let minio = start_minio(&mosquitto, webhook_port).await?;
        minio.create_bucket(BUCKET).await?;
        let platform = format!("http://{}", function.address);
        let path = folder.path().join("triggerd.toml");
        let config = config(folder.path(), &minio, (admin_port, webhook_port, mosquitto.port()), &platform);
        fs::write(&path, config)?;
        let daemon = std::env::var("TRIGGERD_BENCH_DAEMON");
        let mut command = Command::new(daemon.as_deref().unwrap_or(env!("CARGO_BIN_EXE_triggerd")));
        command.arg("run").arg("--config").arg(&path);
        let mut daemon = Process::start("triggerd", &command, &folder.path().join("triggerd.log"))?;
        let admin = format!("http://127.0.0.1:{admin_port}");
        let http = Client::builder().no_proxy().timeout(SOON).build()?;
        let ready = format!("{admin}/health/ready");
        daemon
            .gate(SOON, async || {
                http.get(&ready).send().await?.error_for_status()?;
                Ok(())
            })
            .await?;
        let function_url = format!("{platform}/functions/{FUNCTION}/invocations");
        let started = Self {
            webhook_port,
            mosquitto,
            function_url,
            daemon,
            admin,
            http,
            _minio: minio,
            _folder: folder,
        };
        started.bind(FUNCTION, "in/", 256).await?;
        Ok(started)
    }

    /// Binds another function, which never answers, to keys of its own.
    pub(crate) async fn bind_neighbour(&self) -> Result<()> {
        self.bind("hanging", "hang/", 16).await
    }

    async fn bind(&self, function: &str, prefix: &str, concurrency: u32) -> Result<()> {
        let wanted = json!({
            "bucket": BUCKET, "events": ["s3:ObjectCreated:*"], "prefix": prefix, "suffix": ".jpg",
            "platform": "local", "function": function, "concurrency": concurrency,
        });
        let url = format!("{}/v1/bindings", self.admin);
        let answer = self.http.post(&url).bearer_auth(OPERATOR_TOKEN).json(&wanted).send().await?;
        let binding: Value = answer.error_for_status()?.json().await?;
        let url = format!("{url}/{}", binding["id"].as_str().context("the binding has no id")?);
        eventually("the binding is active", SOON, async || {
            let answer = self.http.get(&url).bearer_auth(OPERATOR_TOKEN).send().await?;
            let binding: Value = answer.error_for_status()?.json().await?;
            ensure!(binding["state"] == "active", "{binding}");
            Ok(())
        })
        .await
    }

    /// Its counters, summed over their labels.
    pub(crate) async fn counters(&self) -> Result<BTreeMap<String, f64>> {
        let url = format!("{}/metrics", self.admin);
        let text = self.http.get(&url).bearer_auth(OPERATOR_TOKEN).send().await?.error_for_status()?;
        let mut counters = BTreeMap::new();
        for line in text.text().await?.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let name = series.split('{').next().unwrap_or(series);
            *counters.entry(name.to_owned()).or_insert(0.0) += value.parse::<f64>()?;
        }
        Ok(counters)
    }

    /// CPU time that the daemon has taken so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_in(&format!("/proc/{}/stat", self.daemon.id()))
    }

    /// The daemon's process id.
    pub(crate) fn daemon_id(&self) -> u32 {
        self.daemon.id()
    }
}

/// CPU time that this thread has taken so far.
pub(crate) fn cpu_of_this_thread() -> Result<Duration> {
    cpu_in("/proc/thread-self/stat")
}

/// User and system time: fields 14 and 15, in hundredths of a second. The name before them is in parentheses.
fn cpu_in(path: &str) -> Result<Duration> {
    let text = fs::read_to_string(path)?;
    let fields = text.rsplit_once(')').context("no process name")?.1;
    let ticks: Vec<u64> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(Duration::from_millis(10 * ticks.iter().sum::<u64>()))
}

async fn start_minio(mosquitto: &Mosquitto, webhook_port: u16) -> Result<Minio> {
    let webhook = WebhookTarget {
        id: "TRIGGERD".into(),
        endpoint: format!("http://127.0.0.1:{webhook_port}/minio"),
        auth_token: Some(WEBHOOK_TOKEN.into()),
        queue_dir: true,
    };
    let mqtt = MqttTarget {
        id: "TRIGGERD".into(),
        broker: mosquitto.broker(),
        topic: TOPIC.into(),
        qos: 1,
        user_password: None,
        queue_dir: true,
    };
    Minio::start(MinioOptions { webhooks: vec![webhook], mqtts: vec![mqtt], ..MinioOptions::default() }).await
}

/// Both sources as they are by default; a healthy function never makes them wait.
fn config(
    folder: &Path,
    minio: &Minio,
    (admin_port, webhook_port, broker_port): (u16, u16, u16),
    platform: &str,
) -> String {
    format!(
        "[node]\nname = \"bench\"\nstate_dir = \"{state}\"\n\
         [admin]\nlisten = \"127.0.0.1:{admin_port}\"\ntoken = \"{OPERATOR_TOKEN}\"\n\
         [storages.default]\nendpoint = \"{endpoint}\"\naccess_key = \"{access}\"\nsecret_key = \"{secret}\"\n\
         targets = [\"{webhook_arn}\", \"{mqtt_arn}\"]\n\
         [platforms.local]\ndriver = \"rules\"\nurl = \"{platform}\"\ntoken = \"shown-to-the-platform\"\n\
         [sources.web]\ntype = \"webhook\"\nlisten = \"127.0.0.1:{webhook_port}\"\ntoken = \"{WEBHOOK_TOKEN}\"\n\
         redelivers = \"yes\"\n\
         [sources.broker]\ntype = \"mqtt\"\nbroker = \"mqtt://127.0.0.1:{broker_port}\"\ntopic = \"{TOPIC}\"\n",
        state = folder.join("state").display(),
        endpoint = minio.endpoint(),
        access = minio::ACCESS_KEY,
        secret = minio::SECRET_KEY,
        webhook_arn = minio.webhook_arn("TRIGGERD"),
        mqtt_arn = minio.mqtt_arn("TRIGGERD"),
    )
}
