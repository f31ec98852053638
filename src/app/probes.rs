//! What `triggerd check` asks of the parts that are spoken to by drivers of ours.

use std::{path::Path, sync::Arc};

use super::foundation;
use crate::{
    bucket::{BucketError, BucketNotifications, S3Buckets, ServerInfo, ServerInfoError},
    check::{
        Probe,
        local::{QueueAnswer, QueueProbe},
        remote::{BrokerAnswer, BrokerProbe, PlatformProbe, RelationsProbe},
        storage::{StorageAnswer, StorageProbe, Targets},
    },
    config::{
        Config,
        sources::{MqttConfig, SourceConfig},
    },
    domain::{
        clock::{Clock, SystemClock},
        entropy::{Entropy, SystemEntropy},
    },
    queue::{self, Glance, QueueError, QueueOptions},
    relations::{MySqlOptions, MySqlRelations, Relations},
    source::mqtt::{TrialError, try_connect},
    telemetry::Chain,
};

/// A bucket that nobody has: asking for it shows whether we are let in.
const NO_BUCKET: &str = "triggerd-check-no-such-bucket";

/// The probes of the queue's file, the shared relations, the brokers, the platforms and the storages.
pub fn probes(config: &Config) -> Vec<Box<dyn Probe>> {
    let mut probes: Vec<Box<dyn Probe>> = Vec::new();
    let (state_dir, options) = (config.node.state_dir.clone(), foundation::queue_options(config, false));
    probes.push(Box::new(QueueProbe::new(move || {
        let (state_dir, options) = (state_dir.clone(), options.clone());
        Box::pin(async move { ask_queue(&state_dir, &options).await })
    })));
    if let Some(url) = config.relations.url.clone() {
        probes.push(Box::new(RelationsProbe::new(move || {
            let options = MySqlOptions { migrate: false, ..MySqlOptions::new(url.clone()) };
            Box::pin(async move {
                let relations: Arc<dyn Relations> = Arc::new(MySqlRelations::new(options)?);
                Ok(relations)
            })
        })));
    }
    for (name, source) in &config.sources {
        if let SourceConfig::Mqtt(mqtt) = source {
            let (node, name, mqtt) = (config.node.name.clone(), name.clone(), mqtt.clone());
            probes.push(Box::new(BrokerProbe::new(name.clone(), move || {
                let (node, name, mqtt) = (node.clone(), name.clone(), mqtt.clone());
                Box::pin(async move { ask_broker(&mqtt, &node, &name).await })
            })));
        }
    }
    // What keeps a driver from being made is wrong in the config, and told there.
    for (name, driver) in foundation::drivers(config).unwrap_or_default() {
        probes.push(Box::new(PlatformProbe::new(name, driver)));
    }
    for (name, storage) in &config.storages {
        let Some(secret_key) = &storage.secret_key else { continue };
        let buckets = Arc::new(S3Buckets::new(name, storage, secret_key));
        let info = Arc::new(ServerInfo::new(name, storage, secret_key));
        let of_storage = |source: &&SourceConfig| {
            config.storage_of(source).is_some_and(|storage| storage.as_str() == name.as_str())
        };
        let sources = config.sources.values().filter(of_storage).map(|source| match source {
            SourceConfig::Webhook(source) => ("webhook", source.redelivers),
            SourceConfig::Mqtt(source) => ("mqtt", source.redelivers),
        });
        let probe = StorageProbe::new(name, storage, move || {
            let (buckets, info) = (Arc::clone(&buckets), Arc::clone(&info));
            Box::pin(async move { ask_storage(&buckets, &info).await })
        });
        probes.push(Box::new(probe.with_sources(sources.collect())));
    }
    probes
}

async fn ask_queue(state_dir: &Path, options: &QueueOptions) -> QueueAnswer {
    match queue::glance(state_dir, options).await {
        Ok(None) => QueueAnswer::Missing,
        Ok(Some(Glance { parked, bytes })) => QueueAnswer::There { parked, bytes },
        Err(QueueError::Older { .. }) => QueueAnswer::Older,
        Err(error) => QueueAnswer::Unreadable(Chain(&error).to_string()),
    }
}

async fn ask_broker(config: &MqttConfig, node: &str, name: &str) -> BrokerAnswer {
    let Err(error) = try_connect(config, node, name, SystemEntropy.next()).await else {
        return BrokerAnswer::In;
    };
    let said = Chain(&error).to_string();
    match error {
        TrialError::Refused { .. } => BrokerAnswer::Refused(said),
        TrialError::Failed { .. } | TrialError::Silent { .. } => BrokerAnswer::Unreachable(said),
        TrialError::Settings(_) => BrokerAnswer::Misconfigured(said),
    }
}

async fn ask_storage(buckets: &S3Buckets, info: &ServerInfo) -> StorageAnswer {
    match buckets.read(NO_BUCKET).await {
        Ok(_) | Err(BucketError::NoSuchBucket { .. }) => StorageAnswer::In(ask_targets(info).await),
        Err(error) => {
            let said = Chain(&error).to_string();
            match error {
                BucketError::Unreachable { .. } => StorageAnswer::Unreachable(said),
                BucketError::Credentials { .. } => StorageAnswer::Credentials(said),
                BucketError::Denied { action, .. } => StorageAnswer::Forbidden(action.to_owned()),
                _ => StorageAnswer::Odd(said),
            }
        }
    }
}

async fn ask_targets(info: &ServerInfo) -> Targets {
    match info.targets(SystemClock::new().now()).await {
        Ok(targets) => Targets::There(targets),
        Err(ServerInfoError::Denied { .. }) => Targets::Hidden,
        Err(error) => Targets::Unknown(Chain(&error).to_string()),
    }
}
