//! A whole installation: a real MinIO, the real daemon and the real reference platform, each a process of its own.

mod daemon;
mod platform;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use http::Uri;
use reqwest::Method;
use serde_json::{Value, json};

pub(crate) use self::{
    daemon::Daemon,
    platform::{Noted, Platform, ids_by_key, noting},
};
use crate::harness::{
    minio::{self, Minio, MinioOptions, MqttTarget, WebhookTarget},
    ports::free_port,
    suite::Ctx,
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
        let config = daemon_config(&nodes, 0, plan, &minio, platform.port())?;
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
        let config = |at| daemon_config(&nodes, at, plan, &minio, platform.port());
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
