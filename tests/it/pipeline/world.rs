//! A whole installation: a real MinIO, the real daemon and the real reference platform, each a process of its own.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use http::Uri;
use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    minio::{self, Minio, MinioOptions, MqttTarget, WebhookTarget},
    ports::free_port,
    process::{Halt, Process},
    suite::Ctx,
    wait::{eventually, wait_for},
};

/// How long anything may take that should be quick, on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) const OPERATOR_TOKEN: &str = "operator-token-of-the-tests";
pub(crate) const PLATFORM_TOKEN: &str = "token-that-triggerd-shows-the-platform";
pub(crate) const API_TOKEN: &str = "token-that-the-platform-shows-triggerd";
pub(crate) const WEBHOOK_TOKEN: &str = "token-of-the-webhook-target";

/// What must appear in no log.
pub(crate) const SECRETS: [&str; 5] =
    [OPERATOR_TOKEN, PLATFORM_TOKEN, API_TOKEN, WEBHOOK_TOKEN, minio::SECRET_KEY];

/// How notifications come from MinIO to the daemon.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// By a webhook target, with or without a `queue_dir`.
    Webhook {
        /// Whether MinIO keeps what it could not hand over.
        queue_dir: bool,
    },
    /// By two webhook targets: a fast one, and a safe one with a `queue_dir`.
    Twin {
        /// Where the daemon listens for the fast one.
        fast_port: u16,
    },
    /// By a broker and this version of MQTT.
    Mqtt {
        /// `mqtt://host:port`
        broker: String,
        /// `3.1.1` or `5`
        version: &'static str,
    },
    /// As `docs/deployment.md` says it: by a broker from a target with a `queue_dir`, uploads answered when their event
    /// is in it; and by a fast target beside it.
    Deployed {
        /// `mqtt://host:port`
        broker: String,
        /// Where the daemon listens for the fast one.
        fast_port: u16,
    },
}

/// What a world is made of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// How notifications come in.
    pub(crate) way: Way,
    /// URL of a shared database; SQLite without.
    pub(crate) relations: Option<String>,
    /// More lines of the platform's config: its functions.
    pub(crate) functions: String,
    /// Whether the platform confirms by a call back.
    pub(crate) confirm_by_callback: bool,
    /// More lines of the storage in the daemon's config.
    pub(crate) storage: String,
    /// More lines at the end of the daemon's config.
    pub(crate) extra: String,
    /// More variables of the daemon's environment.
    pub(crate) env: Vec<(&'static str, String)>,
    /// Ports that MinIO's webhooks send to, where somebody stands before the sources.
    pub(crate) before: Before,
}

/// Who stands between MinIO's webhooks and the sources.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Before {
    /// Before the source `main`, of each daemon.
    pub(crate) main: Option<u16>,
    /// Before the source `fast`.
    pub(crate) fast: Option<u16>,
}

impl Plan {
    /// The embedded default.
    pub(crate) fn webhook(functions: &str) -> Self {
        Self {
            way: Way::Webhook { queue_dir: false },
            relations: None,
            functions: functions.to_owned(),
            confirm_by_callback: false,
            storage: String::new(),
            extra: String::new(),
            env: Vec::new(),
            before: Before::default(),
        }
    }
}

/// MinIO, daemon and platform.
pub(crate) struct World {
    /// Where the webhook source listens, whoever stands before it.
    pub(crate) source: String,
    pub(crate) minio: Minio,
    pub(crate) daemon: Daemon,
    pub(crate) platform: Platform,
}

impl World {
    /// Starts everything and returns when the daemon is ready.
    pub(crate) async fn start(ctx: &Ctx, plan: &Plan) -> Result<Self> {
        let nodes = [Node::new("one", ctx.folder())?];
        let (minio, platform) = surroundings(ctx, plan, &nodes).await?;
        let config = daemon_config(&nodes, 0, plan, &minio, platform.port)?;
        let daemon = Daemon::start(&nodes[0], config, &plan.env).await?;
        let source = nodes[0].endpoint();
        Ok(Self { source, minio, daemon, platform })
    }

    /// The same with a second daemon, `two`, beside the first: a state directory, an admin port and a source of its own
    /// (so both get every event). Both begin at once.
    pub(crate) async fn start_two(ctx: &Ctx, plan: &Plan) -> Result<(Self, Daemon)> {
        let nodes = [Node::new("one", ctx.folder())?, Node::new("two", &ctx.folder().join("second"))?];
        fs::create_dir_all(&nodes[1].folder)?;
        let (minio, platform) = surroundings(ctx, plan, &nodes).await?;
        let config = |at| daemon_config(&nodes, at, plan, &minio, platform.port);
        let (one, two) = (config(0)?, config(1)?);
        let (daemon, second) = tokio::try_join!(
            Daemon::start(&nodes[0], one, &plan.env),
            Daemon::start(&nodes[1], two, &plan.env)
        )?;
        Ok((Self { source: nodes[0].endpoint(), minio, daemon, platform }, second))
    }

    /// The port of 127.0.0.1 that the webhook source listens on.
    pub(crate) fn source_port(&self) -> Result<u16> {
        self.source.parse::<Uri>()?.port_u16().context("no port")
    }

    /// Makes a bucket and a binding of it to a function, and waits until it is active.
    pub(crate) async fn bind(&self, bucket: &str, function: &str, more: &Value) -> Result<String> {
        let exists = self.minio.s3().head_bucket().bucket(bucket).send().await.is_ok();
        if !exists {
            self.minio.create_bucket(bucket).await?;
        }
        let mut wanted = json!({
            "bucket": bucket, "events": ["s3:ObjectCreated:*"], "platform": "local", "function": function,
        });
        let (Some(wanted_map), Some(more)) = (wanted.as_object_mut(), more.as_object()) else {
            bail!("not an object")
        };
        wanted_map.extend(more.clone());
        let (status, answer) = self.daemon.call(Method::POST, "/v1/bindings", Some(&wanted)).await?;
        ensure!(status.is_success(), "{status}: {answer}");
        let id = answer["id"].as_str().context("no id")?.to_owned();
        self.daemon.wait_for_state(&id, "active").await?;
        Ok(id)
    }
}

/// Where one daemon lives.
struct Node {
    name: &'static str,
    folder: PathBuf,
    admin_port: u16,
    source_port: u16,
}

impl Node {
    fn new(name: &'static str, folder: &Path) -> Result<Self> {
        Ok(Self { name, folder: folder.to_owned(), admin_port: free_port()?, source_port: free_port()? })
    }

    /// Where its webhook source listens.
    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/minio", self.source_port)
    }

    /// The id of the target that sends to its webhook.
    fn target(&self) -> String {
        if self.name == "one" { "TRIGGERD".into() } else { self.name.to_uppercase() }
    }
}

async fn surroundings(ctx: &Ctx, plan: &Plan, nodes: &[Node]) -> Result<(Minio, Platform)> {
    let minio = Minio::start(minio_options(plan, nodes)).await?;
    let platform = Platform::start(ctx.folder(), plan, nodes[0].admin_port).await?;
    Ok((minio, platform))
}

fn minio_options(plan: &Plan, nodes: &[Node]) -> MinioOptions {
    let env = vec![("MINIO_PROMETHEUS_AUTH_TYPE".into(), "public".into())];
    let main = |node: &Node| plan.before.main.unwrap_or(node.source_port);
    let fast = |port: u16| plan.before.fast.unwrap_or(port);
    match &plan.way {
        Way::Webhook { queue_dir } => MinioOptions {
            webhooks: nodes
                .iter()
                .map(|node| webhook_target(&node.target(), main(node), *queue_dir))
                .collect(),
            env,
            ..MinioOptions::default()
        },
        Way::Twin { fast_port } => MinioOptions {
            webhooks: vec![
                webhook_target("FAST", fast(*fast_port), false),
                webhook_target("TRIGGERD", main(&nodes[0]), true),
            ],
            env,
            ..MinioOptions::default()
        },
        Way::Mqtt { broker, .. } => {
            MinioOptions { mqtts: vec![mqtt_target(broker, false)], env, ..MinioOptions::default() }
        }
        Way::Deployed { broker, fast_port } => MinioOptions {
            mqtts: vec![mqtt_target(broker, true)],
            webhooks: vec![webhook_target("FAST", fast(*fast_port), false)],
            env: [env, vec![("MINIO_API_SYNC_EVENTS".into(), "on".into())]].concat(),
            ..MinioOptions::default()
        },
    }
}

fn mqtt_target(broker: &str, queue_dir: bool) -> MqttTarget {
    MqttTarget {
        id: "TRIGGERD".into(),
        broker: broker.replace("mqtt://", "tcp://"),
        topic: "minio/events".into(),
        qos: 1,
        user_password: None,
        queue_dir,
    }
}

fn webhook_target(id: &str, port: u16, queue_dir: bool) -> WebhookTarget {
    WebhookTarget {
        id: id.into(),
        endpoint: format!("http://127.0.0.1:{port}/minio"),
        auth_token: Some(WEBHOOK_TOKEN.into()),
        queue_dir,
    }
}

fn webhook_source(port: u16, redelivers: &str) -> String {
    format!(
        "type = \"webhook\"\nlisten = \"127.0.0.1:{port}\"\ntoken = \"{WEBHOOK_TOKEN}\"\n\
         redelivers = \"{redelivers}\"\n"
    )
}

/// The config of one of these daemons; all name the same targets.
fn daemon_config(
    nodes: &[Node],
    at: usize,
    plan: &Plan,
    minio: &Minio,
    platform_port: u16,
) -> Result<PathBuf> {
    let node = &nodes[at];
    let mut fast = Vec::new();
    let (source, arns) = match &plan.way {
        Way::Webhook { queue_dir } => (
            webhook_source(node.source_port, if *queue_dir { "yes" } else { "no" }),
            nodes.iter().map(|node| minio.webhook_arn(&node.target())).collect(),
        ),
        Way::Twin { fast_port } => {
            fast.push(minio.webhook_arn("FAST"));
            let source = format!(
                "{}[sources.fast]\n{}",
                webhook_source(node.source_port, "yes"),
                webhook_source(*fast_port, "twin")
            );
            (source, vec![minio.webhook_arn("TRIGGERD")])
        }
        Way::Mqtt { broker, version } => (
            format!(
                "type = \"mqtt\"\nbroker = \"{broker}\"\ntopic = \"minio/events\"\nversion = \"{version}\"\n"
            ),
            vec![minio.mqtt_arn("TRIGGERD")],
        ),
        Way::Deployed { broker, fast_port } => {
            let source = format!(
                "type = \"mqtt\"\nbroker = \"{broker}\"\ntopic = \"minio/events\"\n[sources.fast]\n{}",
                webhook_source(*fast_port, "twin")
            );
            fast.push(minio.webhook_arn("FAST"));
            (source, vec![minio.mqtt_arn("TRIGGERD")])
        }
    };
    let relations = plan.relations.as_ref().map_or(String::new(), |url| format!("url = \"{url}\"\n"));
    let state = node.folder.join("state");
    let config = format!(
        "[node]\nname = \"{name}\"\nstate_dir = \"{state}\"\n[relations]\n{relations}\
         [admin]\nlisten = \"127.0.0.1:{admin_port}\"\ntoken = \"{OPERATOR_TOKEN}\"\n\
         [storages.default]\nendpoint = \"{endpoint}\"\naccess_key = \"{access}\"\nsecret_key = \"{secret}\"\n\
         targets = {arns:?}\nfast_targets = {fast:?}\n{storage}\
         [platforms.local]\ndriver = \"rules\"\nurl = \"http://127.0.0.1:{platform_port}\"\n\
         token = \"{PLATFORM_TOKEN}\"\napi_token = \"{API_TOKEN}\"\n\
         [log]\nlevel = \"triggerd=debug,info\"\n[sources.main]\n{source}{extra}",
        name = node.name,
        state = state.display(),
        storage = plan.storage,
        admin_port = node.admin_port,
        endpoint = minio.endpoint(),
        access = minio::ACCESS_KEY,
        secret = minio::SECRET_KEY,
        extra = plan.extra,
    );
    let path = node.folder.join("triggerd.toml");
    fs::write(&path, config)?;
    Ok(path)
}

/// The daemon.
pub(crate) struct Daemon {
    config: PathBuf,
    env: Vec<(&'static str, String)>,
    log: PathBuf,
    admin: String,
    http: reqwest::Client,
    process: Option<Process>,
}

impl Daemon {
    async fn start(node: &Node, config: PathBuf, env: &[(&'static str, String)]) -> Result<Self> {
        let mut daemon = Self {
            config,
            env: env.to_vec(),
            log: node.folder.join("triggerd.log"),
            admin: format!("http://127.0.0.1:{}", node.admin_port),
            http: reqwest::Client::builder().no_proxy().timeout(SOON).build()?,
            process: None,
        };
        daemon.start_again().await?;
        Ok(daemon)
    }

    /// Starts it, and does not wait for anything.
    pub(crate) fn launch(&mut self) -> Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triggerd"));
        command.arg("run").arg("--config").arg(&self.config).envs(self.env.iter().cloned());
        self.process = Some(Process::start("triggerd", &command, &self.log)?);
        Ok(())
    }

    /// Starts it, and waits until it is ready.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        self.launch()?;
        let mut process = self.process.take().context("it was just started")?;
        let ready = format!("{}/health/ready", self.admin);
        process
            .gate(SOON, async || {
                self.http.get(&ready).send().await?.error_for_status()?;
                Ok(())
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// Has it started in another environment from now on; the one before.
    pub(crate) fn set_env(&mut self, env: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
        std::mem::replace(&mut self.env, env)
    }

    /// `kill -9`, and nothing else.
    pub(crate) async fn kill9(&mut self) -> Result<()> {
        self.process.take().context("the daemon does not run")?.halt(Halt::Kill).await?;
        Ok(())
    }

    /// Stops its threads (SIGSTOP): connections stay open and nothing answers.
    pub(crate) fn pause(&self) -> Result<()> {
        self.process.as_ref().context("the daemon does not run")?.pause()
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub(crate) fn resume(&self) -> Result<()> {
        self.process.as_ref().context("the daemon does not run")?.resume()
    }

    /// Fails, with the end of the log, if it has ended by itself.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        self.process.as_mut().context("the daemon does not run")?.must_run()
    }

    /// SIGTERM; fails unless it ends well, with no worker that had to be cut off.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let status = self.process.take().context("the daemon does not run")?.stop().await?;
        ensure!(status.success(), "the daemon ended with {status}");
        ensure!(!self.log()?.contains("did not end in time"), "a worker had to be cut off at the stop");
        Ok(())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("the daemon does not run")?.signal(signal)
    }

    /// Waits until it ends by itself, or by a signal that it was sent; how it ended.
    pub(crate) async fn ends(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the daemon does not run")?;
        let mut status = None;
        wait_for("the daemon ends", SOON, async || {
            status = process.ended().ok().flatten();
            status.is_some()
        })
        .await
        .with_context(|| process.log_tail())?;
        status.context("it has ended")
    }

    /// A call of the admin API as the operator.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value)> {
        let mut request =
            self.http.request(method, format!("{}{path}", self.admin)).bearer_auth(OPERATOR_TOKEN);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Where its admin API is.
    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// The text of its config.
    pub(crate) fn config(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.config)?)
    }

    /// The metrics as they are now.
    pub(crate) async fn metrics(&self) -> Result<String> {
        Ok(self.http.get(format!("{}/metrics", self.admin)).send().await?.error_for_status()?.text().await?)
    }

    /// How a command of the command line ended, and what it said.
    pub(crate) fn run_cli(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triggerd"));
        command.args(arguments).arg("--config").arg(&self.config).envs(self.env.iter().cloned());
        Ok(command.output()?)
    }

    /// What the command line says on standard output; fails when it fails.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run_cli(arguments)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "triggerd {arguments:?}: {}\n{said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    /// Waits until a binding is in this state.
    pub(crate) async fn wait_for_state(&self, id: &str, state: &str) -> Result<Value> {
        eventually(&format!("binding {id} is {state}"), SOON, async || {
            let (status, binding) = self.call(Method::GET, &format!("/v1/bindings/{id}"), None).await?;
            ensure!(status == StatusCode::OK && binding["state"] == state, "{status} {binding}");
            Ok(binding)
        })
        .await
    }

    /// Waits until a binding is gone.
    pub(crate) async fn wait_until_gone(&self, id: &str) -> Result<()> {
        wait_for(&format!("binding {id} is gone"), SOON, async || {
            let answer = self.call(Method::GET, &format!("/v1/bindings/{id}"), None).await;
            answer.is_ok_and(|(status, _)| status == StatusCode::NOT_FOUND)
        })
        .await
    }

    /// The sum of a metric's series whose labels contain all of these texts.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let (_, text) = self.call(Method::GET, "/metrics", None).await?;
        let text = text.as_str().context("no text")?.to_owned();
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or("-");
            rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label))
        });
        series.map(|line| Ok(line.rsplit(' ').next().context("no value")?.parse::<f64>()?)).sum()
    }

    /// Asks for a binding, and returns its id without waiting for anything.
    pub(crate) async fn ask_for(&self, wanted: &Value) -> Result<String> {
        let (status, answer) = self.call(Method::POST, "/v1/bindings", Some(wanted)).await?;
        ensure!(status.is_success(), "{status}: {answer}");
        Ok(answer["id"].as_str().context("no id")?.to_owned())
    }

    /// A binding as the API shows it.
    pub(crate) async fn binding(&self, id: &str) -> Result<Value> {
        let (status, binding) = self.call(Method::GET, &format!("/v1/bindings/{id}"), None).await?;
        ensure!(status == StatusCode::OK, "{status} {binding}");
        Ok(binding)
    }

    /// Its process's id.
    pub(crate) fn id(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the daemon does not run")?.id())
    }

    /// The dead letters, newest first.
    pub(crate) async fn dead_letters(&self) -> Result<Vec<Value>> {
        let (status, page) = self.call(Method::GET, "/v1/dead-letters", None).await?;
        ensure!(status == StatusCode::OK, "{status} {page}");
        let list = page.as_array().or_else(|| page["dead_letters"].as_array()).context("no list")?;
        Ok(list.clone())
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

/// The reference platform, whose functions write what they were called with into files of the test's folder.
pub(crate) struct Platform {
    folder: PathBuf,
    config: PathBuf,
    port: u16,
    process: Option<Process>,
}

/// A function that notes each call in the file NAME.calls (delivery id, attempt, key) and then runs `script`.
pub(crate) fn noting(name: &str, script: &str) -> String {
    format!(
        "[functions.{name}]\ncommand = [\"/bin/sh\", \"-c\", '''printf '%s %s %s\\n' \
         \"$TRIGGER_DELIVERY_ID\" \"$TRIGGER_ATTEMPT\" \"$TRIGGER_KEY\" >> \"$FOLDER/{name}.calls\"; {script}''']\n\
         env = {{ FOLDER = \"@FOLDER@\" }}\nconcurrency = 16\n"
    )
}

/// One call of a function, as it was noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) delivery: String,
    pub(crate) attempt: u32,
    pub(crate) key: String,
}

impl Platform {
    async fn start(folder: &Path, plan: &Plan, admin_port: u16) -> Result<Self> {
        let folder = folder.join("platform");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("platform.token"), PLATFORM_TOKEN)?;
        fs::write(folder.join("triggerd.token"), API_TOKEN)?;
        let port = free_port()?;
        let confirm = if plan.confirm_by_callback { "callback" } else { "answer" };
        let config = format!(
            "listen = \"127.0.0.1:{port}\"\nstate_dir = \"state\"\ntoken_file = \"platform.token\"\n\
             confirm = \"{confirm}\"\n{}\n[triggerd]\nurl = \"http://127.0.0.1:{admin_port}\"\n\
             token_file = \"triggerd.token\"\nplatform = \"local\"\n",
            plan.functions
        );
        let config = config.replace("@FOLDER@", &folder.display().to_string());
        let path = folder.join("platform.toml");
        fs::write(&path, config)?;
        let mut platform = Self { folder, config: path, port, process: None };
        platform.start_again().await?;
        Ok(platform)
    }

    /// Starts it, and waits until it answers.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triggerd-platform"));
        command.arg("serve").arg("--config").arg(&self.config);
        let mut process = Process::start("the platform", &command, &self.folder.join("platform.log"))?;
        let health = format!("http://127.0.0.1:{}/health", self.port);
        process
            .gate(SOON, async || {
                reqwest::get(&health).await?.error_for_status()?;
                Ok(())
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill9(&mut self) -> Result<()> {
        self.process.take().context("the platform does not run")?.halt(Halt::Kill).await?;
        Ok(())
    }

    /// Stops its threads (SIGSTOP); the functions that run go on.
    pub(crate) fn pause(&self) -> Result<()> {
        self.process.as_ref().context("the platform does not run")?.pause()
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub(crate) fn resume(&self) -> Result<()> {
        self.process.as_ref().context("the platform does not run")?.resume()
    }

    /// The port of 127.0.0.1 that it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What its command line says on standard output; fails when it fails.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_triggerd-platform"))
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    }

    /// The platform's base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A file of the platform's folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The calls that a noting function has seen.
    pub(crate) fn calls(&self, function: &str) -> Result<Vec<Noted>> {
        let text = match fs::read_to_string(self.file(&format!("{function}.calls"))) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let lines = text.lines().map(|line| {
            let mut parts = line.splitn(3, ' ');
            let mut next = || parts.next().map(str::to_owned).context("a line that is no call");
            Ok(Noted { delivery: next()?, attempt: next()?.parse()?, key: next()? })
        });
        lines.collect()
    }

    /// Waits until a noting function has seen this many calls.
    pub(crate) async fn wait_for_calls(&self, function: &str, count: usize) -> Result<Vec<Noted>> {
        eventually(&format!("{count} calls of {function}"), SOON, async || {
            let calls = self.calls(function)?;
            ensure!(calls.len() >= count, "{} so far: {calls:?}", calls.len());
            Ok(calls)
        })
        .await
    }
}

/// Delivery ids by key; fails when one key was called under two ids.
pub(crate) fn ids_by_key(calls: &[Noted]) -> Result<BTreeMap<&str, &str>> {
    let mut ids = BTreeMap::new();
    for call in calls {
        let id = ids.entry(call.key.as_str()).or_insert(call.delivery.as_str());
        ensure!(*id == call.delivery, "{} was called under {id} and {}", call.key, call.delivery);
    }
    Ok(ids)
}
