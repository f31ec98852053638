//! A real MinIO, single node and single drive, started per test since its notification targets are read at its start.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Event, NotificationConfiguration, QueueConfiguration};
use tempfile::TempDir;

use super::installed::{self, Server};
use super::ports::{free_port, on_free_ports};
use super::process::{Halt, Process, restartable};

/// The root user.
pub(crate) const ACCESS_KEY: &str = "minioadmin";
/// The root user's password.
pub(crate) const SECRET_KEY: &str = "minio-secret-of-the-tests";
const READY_LIMIT: Duration = Duration::from_mins(1);

/// A webhook target.
#[derive(Debug, Clone, Default)]
pub(crate) struct WebhookTarget {
    /// Its name in the target's ARN; letters, digits and `_`.
    pub(crate) id: String,
    pub(crate) endpoint: String,
    pub(crate) auth_token: Option<String>,
    /// Whether MinIO keeps undelivered events on disk.
    pub(crate) queue_dir: bool,
}

/// An MQTT target.
#[derive(Debug, Clone, Default)]
pub(crate) struct MqttTarget {
    /// Its name in the target's ARN; letters, digits and `_`.
    pub(crate) id: String,
    /// `tcp://host:port` or `ssl://host:port`.
    pub(crate) broker: String,
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) user_password: Option<(String, String)>,
    /// Whether MinIO keeps undelivered events on disk.
    pub(crate) queue_dir: bool,
}

/// What a MinIO is started with.
#[derive(Debug, Clone, Default)]
pub(crate) struct MinioOptions {
    pub(crate) webhooks: Vec<WebhookTarget>,
    pub(crate) mqtts: Vec<MqttTarget>,
    /// Appears in ARNs and events; empty when not given.
    pub(crate) region: Option<String>,
    /// A certificate authority (PEM file) that MinIO trusts when it connects to a target.
    pub(crate) trusted_ca: Option<PathBuf>,
    /// More `MINIO_…` variables.
    pub(crate) env: Vec<(String, String)>,
}

/// A MinIO, which keeps its data, its port and its options over [`stop`](Self::stop) and [`start_again`](Self::start_again).
#[derive(Debug)]
pub(crate) struct Minio {
    // Before its folder, which could not be removed while it writes there: fields are dropped in this order.
    process: Option<Process>,
    folder: TempDir,
    program: PathBuf,
    options: MinioOptions,
    port: u16,
    s3: aws_sdk_s3::Client,
}

restartable!(Minio, |_server| "MinIO");

impl Minio {
    /// Starts one and returns when it serves requests, its buckets' metadata loaded.
    pub(crate) async fn start(options: MinioOptions) -> Result<Self> {
        let program = installed::path(Server::Minio, "minio")?;
        on_free_ports(async || {
            let folder = tempfile::Builder::new().prefix("triggerd-minio-").tempdir()?;
            std::fs::create_dir_all(folder.path().join("data"))?;
            let authorities = folder.path().join("certs/CAs");
            std::fs::create_dir_all(&authorities)?;
            if let Some(ca) = &options.trusted_ca {
                std::fs::copy(ca, authorities.join("tests.crt"))?;
            }
            let port = free_port()?;
            let s3 = client(port, options.region.as_deref());
            let program = program.clone();
            let mut minio = Self { folder, program, options: options.clone(), port, process: None, s3 };
            minio.start_again().await?;
            Ok(minio)
        })
        .await
    }

    /// Starts it after [`stop`](Self::stop) or [`kill9`](Self::kill9).
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("this MinIO runs already");
        }
        let mut process = Process::start("MinIO", &self.command(), &self.log())?;
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
        // Its `live` and `ready` answer 200 long before requests are served.
        let health = format!("{}/minio/health/cluster", self.endpoint());
        process
            .gate(READY_LIMIT, async || {
                http.get(&health).send().await?.error_for_status()?;
                Ok(())
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// `http://127.0.0.1:port`
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The ARN of the webhook target `id`, as bucket rules name it.
    pub(crate) fn webhook_arn(&self, id: &str) -> String {
        format!("arn:minio:sqs:{}:{id}:webhook", self.region())
    }

    /// The ARN of the MQTT target `id`, as bucket rules name it.
    pub(crate) fn mqtt_arn(&self, id: &str) -> String {
        format!("arn:minio:sqs:{}:{id}:mqtt", self.region())
    }

    /// Where it keeps undelivered events of the target `id`, if that has a `queue_dir`.
    pub(crate) fn queue_dir(&self, id: &str) -> PathBuf {
        self.folder.path().join(format!("queue-{id}"))
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("minio.log")
    }

    /// An S3 client with the root user's rights, for what has no method here.
    pub(crate) fn s3(&self) -> &aws_sdk_s3::Client {
        &self.s3
    }

    pub(crate) async fn create_bucket(&self, bucket: &str) -> Result<()> {
        let request = self.s3.create_bucket().bucket(bucket);
        request.send().await.with_context(|| format!("creating bucket {bucket}"))?;
        Ok(())
    }

    /// Uploads an object with user metadata (names without `x-amz-meta-`).
    pub(crate) async fn put_object(
        &self,
        bucket: &str,
        key: &str,
        body: impl Into<Vec<u8>>,
        metadata: &[(&str, &str)],
    ) -> Result<()> {
        let mut request = self.s3.put_object().bucket(bucket).key(key).body(ByteStream::from(body.into()));
        for (name, value) in metadata {
            request = request.metadata(*name, *value);
        }
        request.send().await.with_context(|| format!("uploading {bucket}/{key}"))?;
        Ok(())
    }

    /// The content of an object.
    pub(crate) async fn get_object(&self, bucket: &str, key: &str) -> Result<Vec<u8>> {
        let request = self.s3.get_object().bucket(bucket).key(key);
        let object = request.send().await.with_context(|| format!("reading {bucket}/{key}"))?;
        Ok(object.body.collect().await?.to_vec())
    }

    pub(crate) async fn delete_object(&self, bucket: &str, key: &str) -> Result<()> {
        let request = self.s3.delete_object().bucket(bucket).key(key);
        request.send().await.with_context(|| format!("deleting {bucket}/{key}"))?;
        Ok(())
    }

    /// The bucket's rules.
    pub(crate) async fn get_notification_configuration(
        &self,
        bucket: &str,
    ) -> Result<NotificationConfiguration> {
        let request = self.s3.get_bucket_notification_configuration().bucket(bucket);
        let answer = request.send().await.with_context(|| format!("reading the rules of {bucket}"))?;
        Ok(NotificationConfiguration::builder()
            .set_queue_configurations(answer.queue_configurations)
            .set_topic_configurations(answer.topic_configurations)
            .set_lambda_function_configurations(answer.lambda_function_configurations)
            .build())
    }

    /// Replaces all of the bucket's rules.
    pub(crate) async fn put_notification_configuration(
        &self,
        bucket: &str,
        rules: NotificationConfiguration,
    ) -> Result<()> {
        let request =
            self.s3.put_bucket_notification_configuration().bucket(bucket).notification_configuration(rules);
        request.send().await.with_context(|| format!("writing the rules of {bucket}"))?;
        Ok(())
    }

    /// Replaces all of the bucket's rules by one: `events` of any key go to the target with this ARN.
    pub(crate) async fn notify(&self, bucket: &str, arn: &str, events: &[&str]) -> Result<()> {
        let events = events.iter().map(|name| Event::from(*name)).collect();
        let rule = QueueConfiguration::builder().queue_arn(arn).set_events(Some(events)).build()?;
        let rules = NotificationConfiguration::builder().queue_configurations(rule).build();
        self.put_notification_configuration(bucket, rules).await
    }

    fn region(&self) -> &str {
        self.options.region.as_deref().unwrap_or_default()
    }

    fn command(&self) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(&self.program);
        command.arg("server").arg("--address").arg(format!("127.0.0.1:{}", self.port));
        command.arg("--certs-dir").arg(folder.join("certs")).arg(folder.join("data"));
        // Whoever runs the tests may have a MinIO of their own configured.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MINIO_"))
        {
            command.env_remove(name);
        }
        command.env("HOME", folder).env("MINIO_ROOT_USER", ACCESS_KEY).env("MINIO_ROOT_PASSWORD", SECRET_KEY);
        command.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off").env("MINIO_SYNC_BOOT", "on");
        if let Some(region) = &self.options.region {
            command.env("MINIO_SITE_REGION", region);
        }
        for target in &self.options.webhooks {
            set_webhook(&mut command, target, &self.queue_dir(&target.id));
        }
        for target in &self.options.mqtts {
            set_mqtt(&mut command, target, &self.queue_dir(&target.id));
        }
        command.envs(self.options.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

fn set_webhook(command: &mut Command, target: &WebhookTarget, queue_dir: &Path) {
    let name = |part: &str| format!("MINIO_NOTIFY_WEBHOOK_{part}_{}", target.id);
    command.env(name("ENABLE"), "on").env(name("ENDPOINT"), &target.endpoint);
    if let Some(token) = &target.auth_token {
        command.env(name("AUTH_TOKEN"), token);
    }
    if target.queue_dir {
        command.env(name("QUEUE_DIR"), queue_dir);
    }
}

fn set_mqtt(command: &mut Command, target: &MqttTarget, queue_dir: &Path) {
    let name = |part: &str| format!("MINIO_NOTIFY_MQTT_{part}_{}", target.id);
    command.env(name("ENABLE"), "on").env(name("BROKER"), &target.broker).env(name("TOPIC"), &target.topic);
    // Without an interval the pause before a reconnect grows to minutes.
    command.env(name("QOS"), target.qos.to_string()).env(name("RECONNECT_INTERVAL"), "2s");
    if let Some((user, password)) = &target.user_password {
        command.env(name("USERNAME"), user).env(name("PASSWORD"), password);
    }
    if target.queue_dir {
        command.env(name("QUEUE_DIR"), queue_dir);
    }
}

fn client(port: u16, region: Option<&str>) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .region(Region::new(region.unwrap_or("us-east-1").to_owned()))
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests"))
        .force_path_style(true)
        .build();
    aws_sdk_s3::Client::from_conf(config)
}
