//! `[sources.NAME]`: where notifications come in.

use std::{net::SocketAddr, path::PathBuf};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// Whether the other side sends a message again that was not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Redelivers {
    /// Yes: its own copy is the durable one until the delivery is settled or parked.
    Yes,
    /// No: what we answer for must be on our disk before it is tried.
    No,
    /// Another target of the bucket brings every event too, and redelivers: acknowledged on receipt.
    Twin,
}

/// One source.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SourceConfig {
    /// MinIO's webhook target posts here.
    Webhook(WebhookConfig),
    /// MinIO's MQTT target publishes to a broker that we subscribe at.
    Mqtt(MqttConfig),
}

impl SourceConfig {
    /// The storage whose events come here, as it is named in the config; see [`super::Config::storage_of`].
    pub fn storage(&self) -> Option<&str> {
        match self {
            Self::Webhook(source) => source.storage.as_deref(),
            Self::Mqtt(source) => source.storage.as_deref(),
        }
    }

    /// What the other side does with a message that is not acknowledged.
    pub fn redelivers(&self) -> Redelivers {
        match self {
            Self::Webhook(source) => source.redelivers,
            Self::Mqtt(source) => source.redelivers,
        }
    }
}

/// The bound on messages that are not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BoundConfig {
    /// In number.
    pub messages: usize,
    /// In bytes.
    pub bytes: u64,
}

impl Default for BoundConfig {
    fn default() -> Self {
        Self { messages: 10_000, bytes: 64 << 20 }
    }
}

/// `type = "webhook"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// The storage whose events come here; `default` when there is only one.
    #[serde(default)]
    pub storage: Option<String>,
    /// The address to listen at.
    pub listen: SocketAddr,
    /// The path of the target's endpoint.
    #[serde(default = "default_path")]
    pub path: String,
    /// The target's `auth_token`: one word (sent as `Bearer`), or two (sent as they are, such as `Basic …`).
    #[serde(default)]
    pub token: Option<SecretString>,
    /// A file that holds it.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// `yes` for a target with `queue_dir`, `no` for one without, `twin` for one without beside one with.
    pub redelivers: Redelivers,
    /// How long an answer may wait for a first attempt, in milliseconds.
    #[serde(default = "default_webhook_ack_within_ms")]
    pub ack_within_ms: u64,
    /// Largest body that is processed, in bytes.
    #[serde(default = "default_max_body")]
    pub max_body: usize,
    /// The bound on messages that are not settled.
    #[serde(default)]
    pub bound: BoundConfig,
}

/// The MQTT protocol's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum MqttVersion {
    /// 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
    /// 5.
    #[default]
    #[serde(rename = "5")]
    V5,
}

/// `type = "mqtt"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// The storage whose events come here; `default` when there is only one.
    #[serde(default)]
    pub storage: Option<String>,
    /// `mqtt://host:1883` or `mqtts://host:8883`.
    pub broker: String,
    /// The topic (or filter) that MinIO's target publishes to.
    pub topic: String,
    /// The protocol's version, as text.
    #[serde(default)]
    pub version: MqttVersion,
    /// Its client id; one for each node. `triggerd-NODE-SOURCE` when not set.
    #[serde(default)]
    pub client_id: Option<String>,
    /// User name at the broker.
    #[serde(default)]
    pub username: Option<String>,
    /// Password at the broker.
    #[serde(default)]
    pub password: Option<SecretString>,
    /// A file that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Certificate of the authority that signed the broker's (PEM); the system's authorities when not set.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Our certificate (PEM), with `key_file`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// Our certificate's private key (PEM, PKCS #8).
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// `yes` at QoS 1 with a kept session.
    #[serde(default = "default_mqtt_redelivers")]
    pub redelivers: Redelivers,
    /// How long an acknowledgement may wait for a first attempt, in milliseconds.
    #[serde(default = "default_mqtt_ack_within_ms")]
    pub ack_within_ms: u64,
    /// Messages the broker may send ahead of our acknowledgements (MQTT 5 receive-maximum).
    #[serde(default = "default_receive_maximum")]
    pub receive_maximum: u16,
    /// Keep-alive, in seconds; at least 5.
    #[serde(default = "default_keep_alive_s")]
    pub keep_alive_s: u16,
    /// Largest body that is processed, in bytes.
    #[serde(default = "default_max_body")]
    pub max_body: usize,
    /// The bound on messages that are not settled.
    #[serde(default)]
    pub bound: BoundConfig,
}

fn default_path() -> String {
    "/minio".into()
}

fn default_webhook_ack_within_ms() -> u64 {
    2
}

fn default_mqtt_ack_within_ms() -> u64 {
    25
}

fn default_mqtt_redelivers() -> Redelivers {
    Redelivers::Yes
}

/// What the broker may send ahead when nothing is said.
pub(super) const DEFAULT_RECEIVE_MAXIMUM: u16 = 1_000;

fn default_receive_maximum() -> u16 {
    DEFAULT_RECEIVE_MAXIMUM
}

fn default_keep_alive_s() -> u16 {
    30
}

fn default_max_body() -> usize {
    1 << 20
}
