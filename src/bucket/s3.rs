//! A storage's S3 API by the AWS SDK: static credentials, nothing looked up in the environment, no retries of its own
//! (the reconciler retries), and short timeouts (a reconciler that waits mends nothing else meanwhile).

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::{
    Client, Config,
    config::{
        BehaviorVersion, Credentials, Region, RequestChecksumCalculation, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    types::{
        Event, FilterRule, FilterRuleName, NotificationConfiguration, NotificationConfigurationFilter,
        QueueConfiguration, S3KeyFilter,
    },
};
use secrecy::{ExposeSecret, SecretString};

use super::{BoxedError, BucketError, BucketNotifications, BucketRule, Configuration};
use crate::{
    config::storages::StorageConfig,
    telemetry::{Chain, excerpt},
};

const CONNECT: Duration = Duration::from_secs(3);
const WHOLE: Duration = Duration::from_secs(10);

/// Longest text of a server's error that is passed on, in bytes.
const EXCERPT: usize = 512;

/// Most targets that an error names.
const MAX_NAMED: usize = 16;

/// The buckets of one storage.
#[derive(Debug)]
pub struct S3Buckets {
    storage: String,
    endpoint: String,
    client: Client,
}

/// What the server said, cut and made harmless.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

impl S3Buckets {
    /// The storage of this name, as it is configured; `secret_key` as it was read from the config or its file.
    pub fn new(storage: &str, config: &StorageConfig, secret_key: &SecretString) -> Self {
        let credentials =
            Credentials::new(&config.access_key, secret_key.expose_secret(), None, None, "configuration");
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(WHOLE)
            .operation_timeout(WHOLE)
            .build();
        let sdk = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&config.endpoint)
            .region(Region::new(config.region.clone()))
            .credentials_provider(credentials)
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .build();
        let endpoint = config.endpoint.clone();
        Self { storage: storage.to_owned(), endpoint, client: Client::from_conf(sdk) }
    }

    fn refused<E>(&self, bucket: &str, act: &Act, error: SdkError<E>) -> BucketError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let (storage, bucket) = (self.storage.clone(), bucket.to_owned());
        let code = error.code().unwrap_or_default().to_owned();
        let message = error.message().unwrap_or_default().to_owned();
        let answered = error.raw_response().is_some();
        let said = match (answered, code.is_empty()) {
            (false, _) => Chain(&error).to_string(),
            // The driver's own view of an answer that is not S3's: its text alone would be "unhandled error".
            (true, true) => DisplayErrorContext(error).to_string(),
            (true, false) => format!("{code}: {message}"),
        };
        let source: BoxedError = Box::new(Said(excerpt(said.as_bytes(), EXCERPT)));
        match code.as_str() {
            _ if !answered => BucketError::Unreachable { storage, endpoint: self.endpoint.clone(), source },
            "NoSuchBucket" => BucketError::NoSuchBucket { storage, bucket },
            "AccessDenied" => BucketError::Denied { storage, bucket, action: act.action, source },
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" => BucketError::Credentials { storage, source },
            // MinIO tells its refusals of a configuration apart by their text only.
            "InvalidArgument" if message.contains("ARN") || message.contains("different region") => {
                BucketError::UnknownTarget { storage, bucket, targets: act.targets.clone(), source }
            }
            _ => BucketError::Refused { storage, bucket, verb: act.verb, source },
        }
    }
}

/// What was tried, for its error.
struct Act {
    verb: &'static str,
    action: &'static str,
    targets: Vec<String>,
}

#[async_trait]
impl BucketNotifications for S3Buckets {
    async fn read(&self, bucket: &str) -> Result<Configuration, BucketError> {
        let act = Act { verb: "read", action: "s3:GetBucketNotification", targets: Vec::new() };
        let answer = self.client.get_bucket_notification_configuration().bucket(bucket).send().await;
        let answer = answer.map_err(|error| self.refused(bucket, &act, error))?;
        let rules = answer.queue_configurations().iter().map(read_rule).collect();
        let others = NotificationConfiguration::builder()
            .set_topic_configurations(answer.topic_configurations)
            .set_lambda_function_configurations(answer.lambda_function_configurations)
            .set_event_bridge_configuration(answer.event_bridge_configuration)
            .build();
        let others = (others != NotificationConfiguration::builder().build()).then_some(others);
        Ok(Configuration { rules, others })
    }

    async fn write(&self, bucket: &str, configuration: &Configuration) -> Result<(), BucketError> {
        let mut targets: Vec<_> = configuration.rules.iter().map(|rule| rule.target.clone()).collect();
        targets.sort();
        targets.dedup();
        targets.truncate(MAX_NAMED);
        let act = Act { verb: "write", action: "s3:PutBucketNotification", targets };
        let rules = configuration.rules.iter().map(write_rule).collect::<Result<Vec<_>, _>>();
        let rules = rules.map_err(|error| BucketError::Refused {
            storage: self.storage.clone(),
            bucket: bucket.to_owned(),
            verb: act.verb,
            source: Box::new(error),
        })?;
        let mut whole = configuration.others.clone().unwrap_or(NotificationConfiguration::builder().build());
        whole.queue_configurations = Some(rules);
        let request = self.client.put_bucket_notification_configuration().bucket(bucket);
        let answer = request.notification_configuration(whole).send().await;
        answer.map(|_| ()).map_err(|error| self.refused(bucket, &act, error))
    }
}

fn read_rule(rule: &QueueConfiguration) -> BucketRule {
    let filters = rule.filter().and_then(NotificationConfigurationFilter::key);
    let filters = filters.map(S3KeyFilter::filter_rules).unwrap_or_default();
    let filter = |filter: &FilterRule| {
        let name = filter.name().map(FilterRuleName::as_str).unwrap_or_default();
        (name.to_owned(), filter.value().unwrap_or_default().to_owned())
    };
    BucketRule {
        id: rule.id().map(str::to_owned),
        target: rule.queue_arn().to_owned(),
        events: rule.events().iter().map(|event| event.as_str().to_owned()).collect(),
        filters: filters.iter().map(filter).collect(),
    }
}

fn write_rule(rule: &BucketRule) -> Result<QueueConfiguration, aws_sdk_s3::error::BuildError> {
    let filters = rule.filters.iter().map(|(name, value)| {
        FilterRule::builder().name(FilterRuleName::from(name.as_str())).value(value).build()
    });
    let filters: Vec<_> = filters.collect();
    let filter = (!filters.is_empty()).then(|| {
        let key = S3KeyFilter::builder().set_filter_rules(Some(filters)).build();
        NotificationConfigurationFilter::builder().key(key).build()
    });
    QueueConfiguration::builder()
        .set_id(rule.id.clone())
        .queue_arn(&rule.target)
        .set_events(Some(rule.events.iter().map(|name| Event::from(name.as_str())).collect()))
        .set_filter(filter)
        .build()
}
