//! `[storages.NAME]`: the MinIO deployments whose buckets are bound.

use secrecy::SecretString;
use serde::Deserialize;

/// One MinIO deployment.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// Its S3 endpoint, for example `http://127.0.0.1:9000`.
    pub endpoint: String,
    /// The region that its requests are signed with.
    #[serde(default = "default_region")]
    pub region: String,
    /// Access key of a user with `s3:GetBucketNotification` and `s3:PutBucketNotification`; `admin:ServerInfo` too if
    /// `triggerd check` is to hold `targets` against those that there are.
    pub access_key: String,
    /// Its secret key.
    #[serde(default)]
    pub secret_key: Option<SecretString>,
    /// A file that holds its secret key.
    #[serde(default)]
    pub secret_key_file: Option<std::path::PathBuf>,
    /// ARNs of the targets that its bucket rules name, for example `arn:minio:sqs::TRIGGERD:webhook`.
    pub targets: Vec<String>,
    /// ARNs of the fast legs of twin targets: without `queue_dir`, sending to a source with `redelivers = "twin"`. The
    /// rules of a bucket name them for bindings that ask for both legs (`twin`).
    #[serde(default)]
    pub fast_targets: Vec<String>,
    /// Events caused by these principals never fire.
    #[serde(default)]
    pub ignore_principals: Vec<String>,
}

fn default_region() -> String {
    "us-east-1".into()
}
