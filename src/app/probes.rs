//! What `triggerd check` asks of the parts that are spoken to by drivers of ours.

use std::sync::Arc;

use super::foundation;
use crate::{
    bucket::{BucketError, BucketNotifications, S3Buckets},
    check::{
        Probe,
        remote::{PlatformProbe, RelationsProbe, StorageAnswer, StorageProbe},
    },
    config::Config,
    relations::{MySqlOptions, MySqlRelations, Relations},
    telemetry::Chain,
};

/// A bucket that nobody has: asking for it shows whether we are let in.
const NO_BUCKET: &str = "triggerd-check-no-such-bucket";

/// The probes of the shared relations, the platforms and the storages.
pub fn probes(config: &Config) -> Vec<Box<dyn Probe>> {
    let mut probes: Vec<Box<dyn Probe>> = Vec::new();
    if let Some(url) = config.relations.url.clone() {
        probes.push(Box::new(RelationsProbe::new(move || {
            let options = MySqlOptions { migrate: false, ..MySqlOptions::new(url.clone()) };
            Box::pin(async move {
                let relations: Arc<dyn Relations> = Arc::new(MySqlRelations::new(options)?);
                Ok(relations)
            })
        })));
    }
    // What keeps a driver from being made is wrong in the config, and told there.
    for (name, driver) in foundation::drivers(config).unwrap_or_default() {
        probes.push(Box::new(PlatformProbe::new(name, driver)));
    }
    for (name, storage) in &config.storages {
        let Some(secret_key) = &storage.secret_key else { continue };
        let buckets = Arc::new(S3Buckets::new(name, storage, secret_key));
        probes.push(Box::new(StorageProbe::new(name, storage, move || {
            let buckets = Arc::clone(&buckets);
            Box::pin(async move { ask(buckets.as_ref()).await })
        })));
    }
    probes
}

async fn ask(buckets: &S3Buckets) -> StorageAnswer {
    match buckets.read(NO_BUCKET).await {
        Ok(_) | Err(BucketError::NoSuchBucket { .. }) => StorageAnswer::In { targets: None },
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
