//! The S3 API: buckets' notification configuration. Beside it, for `triggerd check`, which targets a MinIO has
//! ([`ServerInfo`]).
//!
//! Knows how a configuration is read and written, not what should be in it: that is a pure function of the bindings
//! in `binding::bucket_rules`. A configuration is read whole and written whole; MinIO has no condition on the
//! write, so whoever writes last wins.
//!
//! **Never deleted.** MinIO does not route the query of `DELETE /bucket?notification`, and deletes the bucket. A
//! configuration is emptied by writing an empty one, and this module has no verb that deletes anything.
//!
//! What MinIO (RELEASE.2025-09-07) does to a configuration, so that readers of it are not surprised: the order and
//! the ids of the rules are kept; a target's region is filled in with the server's; a rule whose target is no
//! longer configured is left out of the answer, so that reading and writing loses it for good; one unknown target
//! refuses the whole write.

mod s3;
mod server_info;

use std::{error::Error, fmt};

use async_trait::async_trait;
use aws_sdk_s3::types::NotificationConfiguration;

pub use s3::S3Buckets;
pub use server_info::{ServerInfo, ServerInfoError};

/// One rule of a bucket's notification configuration: these events of these keys go to this target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketRule {
    /// Its id; MinIO generates none, so a foreign rule may have an empty one, or none.
    pub id: Option<String>,
    /// The target's ARN.
    pub target: String,
    /// Event names and groups, as written.
    pub events: Vec<String>,
    /// `prefix` and `suffix` with their values, as written. MinIO takes `*` and `?` in them for wildcards.
    pub filters: Vec<(String, String)>,
}

/// A bucket's whole notification configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Configuration {
    /// The rules, in their order.
    pub rules: Vec<BucketRule>,
    /// What other S3 servers keep beside them (topics, functions, an event bridge); carried along untouched.
    pub(crate) others: Option<NotificationConfiguration>,
}

impl Configuration {
    /// A configuration of these rules and nothing else.
    pub fn of(rules: Vec<BucketRule>) -> Self {
        Self { rules, others: None }
    }
}

/// Why a bucket's configuration cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// There is no such bucket.
    #[error("bucket `{bucket}` does not exist on storage `{storage}`; create it, or unbind")]
    NoSuchBucket {
        /// The storage's name in the config.
        storage: String,
        /// Which bucket.
        bucket: String,
    },
    /// The server does not know a target.
    #[error(
        "storage `{storage}` knows no target for at least one of {targets:?} and refused the rules of bucket `{bucket}`; \
         configure the target (`mc admin config set ALIAS notify_webhook:ID endpoint=…`), restart MinIO, and compare its \
         ARN with `targets` in [storages.{storage}]"
    )]
    UnknownTarget {
        /// The storage's name in the config.
        storage: String,
        /// Which bucket.
        bucket: String,
        /// The targets that were written, other people's among them.
        targets: Vec<String>,
        /// What the server said.
        #[source]
        source: BoxedError,
    },
    /// Our user may not.
    #[error(
        "storage `{storage}` does not let our access key {action} on bucket `{bucket}`; give its user a policy that allows it"
    )]
    Denied {
        /// The storage's name in the config.
        storage: String,
        /// Which bucket.
        bucket: String,
        /// The action that is missing.
        action: &'static str,
        /// What the server said.
        #[source]
        source: BoxedError,
    },
    /// The server does not know our user or its secret.
    #[error(
        "storage `{storage}` does not accept our credentials; compare `access_key` and `secret_key_file` in [storages.{storage}]"
    )]
    Credentials {
        /// The storage's name in the config.
        storage: String,
        /// What the server said.
        #[source]
        source: BoxedError,
    },
    /// No answer.
    #[error("storage `{storage}` cannot be reached at {endpoint}")]
    Unreachable {
        /// The storage's name in the config.
        storage: String,
        /// Where it was looked for.
        endpoint: String,
        /// Why.
        #[source]
        source: BoxedError,
    },
    /// Any other answer.
    #[error("storage `{storage}` refused to {verb} the notification configuration of bucket `{bucket}`")]
    Refused {
        /// The storage's name in the config.
        storage: String,
        /// Which bucket.
        bucket: String,
        /// `read` or `write`.
        verb: &'static str,
        /// What the server said.
        #[source]
        source: BoxedError,
    },
}

/// A cause of any type.
pub type BoxedError = Box<dyn Error + Send + Sync>;

/// Reads and writes the notification configuration of one storage's buckets.
#[async_trait]
pub trait BucketNotifications: Send + Sync + fmt::Debug {
    /// The configuration as it is now; an empty one where there is none.
    async fn read(&self, bucket: &str) -> Result<Configuration, BucketError>;

    /// Replaces the whole configuration.
    async fn write(&self, bucket: &str, configuration: &Configuration) -> Result<(), BucketError>;
}
