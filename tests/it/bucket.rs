//! Buckets' notification configuration against a real MinIO: what we write comes back as we expect, and lets
//! through what bindings want.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use triggerd::binding::bucket_rules::{self, Leg, is_ours};
use triggerd::bucket::{BucketError, BucketNotifications as _, BucketRule, Configuration, S3Buckets};
use triggerd::config::storages::StorageConfig;
use triggerd::domain::{event_name::EventSet, filter::Filter};
use triggerd::telemetry::Chain;

use crate::harness::minio::{ACCESS_KEY, Minio, MinioOptions, SECRET_KEY, WebhookTarget};
use crate::harness::ports::free_port;
use crate::harness::receiver::{Answer, Receiver};
use crate::harness::suite::{Ctx, Test, tests};

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] others_rules_come_back_as_they_were_and_ours_are_in_step_after_one_write;
        [Minio] every_key_that_a_binding_wants_reaches_the_target_of_a_real_minio;
        [Minio] refusals_say_which_bucket_or_target_and_what_to_do;
        [] missing_permission_is_named;
    }
}

/// The plan for one leg.
fn plan<'a>(
    current: &Configuration,
    filters: impl IntoIterator<Item = &'a Filter>,
    targets: &[String],
) -> Option<Configuration> {
    bucket_rules::plan(current, &[Leg { targets, filters: filters.into_iter().collect() }])
}

/// A MinIO with the targets OURS and THEIRS, both delivering to `receiver`, and the bucket `photos`.
pub(crate) async fn minio(receiver: &Receiver, region: Option<&str>) -> Result<Minio> {
    let target = |id: &str| WebhookTarget {
        id: id.into(),
        endpoint: receiver.url(&format!("/{id}")),
        ..WebhookTarget::default()
    };
    let options = MinioOptions {
        webhooks: vec![target("OURS"), target("THEIRS")],
        region: region.map(str::to_owned),
        ..MinioOptions::default()
    };
    let minio = Minio::start(options).await?;
    minio.create_bucket("photos").await?;
    Ok(minio)
}

/// The storage `default` with the target OURS, written without its region.
pub(crate) fn storage(endpoint: &str, region: &str) -> StorageConfig {
    StorageConfig {
        endpoint: endpoint.to_owned(),
        region: region.to_owned(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: None,
        secret_key_file: None,
        targets: vec!["arn:minio:sqs::OURS:webhook".to_owned()],
        fast_targets: Vec::new(),
        ignore_principals: Vec::new(),
    }
}

pub(crate) fn buckets(config: &StorageConfig) -> S3Buckets {
    S3Buckets::new("default", config, &SECRET_KEY.to_owned().into())
}

/// Rules as other people's tools leave them: `mc` gives none an id.
pub(crate) fn others() -> Vec<BucketRule> {
    let rule = |id: Option<&str>, events: &[&str], filters: &[(&str, &str)]| BucketRule {
        id: id.map(str::to_owned),
        target: "arn:minio:sqs::THEIRS:webhook".into(),
        events: events.iter().map(|name| (*name).to_owned()).collect(),
        filters: filters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    vec![
        rule(Some("theirs ü <&>"), &["s3:ObjectRemoved:Delete", "s3:ObjectCreated:*"], &[("suffix", ".t?p")]),
        rule(None, &["s3:Scanner:ManyVersions"], &[]),
        rule(Some("last"), &["s3:ObjectAccessed:Get"], &[("suffix", "*"), ("prefix", "a b/")]),
    ]
}

fn filter(prefix: &str, suffix: &str) -> Result<Filter> {
    Ok(Filter::new(EventSet::parse(["s3:ObjectCreated:Put"])?, Some(prefix), Some(suffix), None)?)
}

async fn others_rules_come_back_as_they_were_and_ours_are_in_step_after_one_write(_: Ctx) -> Result<()> {
    for region in [None, Some("eu-test-1")] {
        let receiver = Receiver::start().await?;
        let minio = minio(&receiver, region).await?;
        let config = storage(&minio.endpoint(), region.unwrap_or("us-east-1"));
        let buckets = buckets(&config);
        ensure!(buckets.read("photos").await? == Configuration::default());
        buckets.write("photos", &Configuration::of(others())).await?;
        let before = buckets.read("photos").await?;
        ensure!(before.rules.len() == 3, "{before:?}");

        let filters = [
            filter("in/", ".jpg")?,
            filter(" spaces at both ends ", "")?,
            filter("<a href=\"x\">&amp;'", "")?,
            filter("図/é/", "")?,
        ];
        let desired = plan(&before, &filters, &config.targets).context("rules are missing")?;
        buckets.write("photos", &desired).await?;
        let after = buckets.read("photos").await?;
        ensure!(plan(&after, &filters, &config.targets).is_none(), "not in step after a write: {after:?}");
        ensure!(after.rules[..3] == before.rules, "others' rules changed: {:?}", after.rules);
        ensure!(after.rules[3..].iter().all(is_ours) && after.rules.len() == 7, "{after:?}");

        let without = plan(&after, [], &config.targets).context("our rules are not taken out")?;
        buckets.write("photos", &without).await?;
        ensure!(buckets.read("photos").await? == before);
        buckets.write("photos", &Configuration::default()).await?;
        ensure!(buckets.read("photos").await? == Configuration::default(), "an empty configuration stays");
        minio.put_object("photos", "still-there", "x", &[]).await?;
    }
    Ok(())
}

async fn every_key_that_a_binding_wants_reaches_the_target_of_a_real_minio(_: Ctx) -> Result<()> {
    let receiver = Receiver::start().await?;
    let minio = minio(&receiver, None).await?;
    let config = storage(&minio.endpoint(), "us-east-1");
    let buckets = buckets(&config);
    let cases = [
        ("abc", "bcd", "abcd"),
        ("in/*x", "x.jpg", "in/*x.jpg"),
        ("q?", "", "q?"),
        (" s ", " e ", " s  e "),
        ("é", "é.é", "é.é"),
        ("<&>\"'", "'\">&<", "<&>\"'\">&<"),
    ];
    let filters =
        cases.iter().map(|(prefix, suffix, _)| filter(prefix, suffix)).collect::<Result<Vec<_>>>()?;
    for ((_, _, key), filter) in cases.iter().zip(&filters) {
        ensure!(filter.keys.matches(key), "{key:?} is no case of its filter");
        let current = buckets.read("photos").await?;
        let desired = plan(&current, [filter], &config.targets).context("nothing to write")?;
        buckets.write("photos", &desired).await?;
        minio.put_object("photos", key, "x", &[]).await?;
    }
    let mut missing: BTreeSet<String> = cases.iter().map(|(_, _, key)| format!("photos/{key}")).collect();
    for request in receiver.wait_for_requests(cases.len(), LIMIT).await? {
        if let Some(key) = request.json()?["Key"].as_str() {
            missing.remove(key);
        }
    }
    ensure!(missing.is_empty(), "no event came for {missing:?}");
    Ok(())
}

async fn refusals_say_which_bucket_or_target_and_what_to_do(_: Ctx) -> Result<()> {
    let receiver = Receiver::start().await?;
    let minio = minio(&receiver, Some("eu-test-1")).await?;
    let config = storage(&minio.endpoint(), "eu-test-1");
    let ours = buckets(&config);

    let error = ours.read("nowhere").await.err().context("a missing bucket was read")?;
    ensure!(matches!(error, BucketError::NoSuchBucket { .. }), "{}", Chain(&error));
    ensure!(error.to_string().contains("bucket `nowhere` does not exist on storage `default`"), "{error}");
    let error = ours.write("nowhere", &Configuration::of(others())).await.err().context("it was written")?;
    ensure!(matches!(error, BucketError::NoSuchBucket { .. }), "{}", Chain(&error));

    let filters = [filter("in/", "")?];
    for target in ["arn:minio:sqs::ABSENT:webhook", "arn:minio:sqs:other-1:OURS:webhook", "nonsense"] {
        let desired = plan(&Configuration::default(), &filters, &[target.to_owned()]).context("no plan")?;
        let error = ours.write("photos", &desired).await.err().context("an unknown target was taken")?;
        ensure!(matches!(error, BucketError::UnknownTarget { .. }), "{target}: {}", Chain(&error));
        let words = error.to_string();
        ensure!(words.contains(target) && words.contains("mc admin config set"), "{words}");
    }

    let stranger = S3Buckets::new("default", &config, &"wrong-secret".to_owned().into());
    let error = stranger.read("photos").await.err().context("a wrong secret was taken")?;
    ensure!(matches!(error, BucketError::Credentials { .. }), "{}", Chain(&error));
    ensure!(!Chain(&error).to_string().contains("wrong-secret"));

    let nobody = storage(&format!("http://127.0.0.1:{}", free_port()?), "us-east-1");
    let error = buckets(&nobody).read("photos").await.err().context("nobody answered")?;
    ensure!(matches!(error, BucketError::Unreachable { .. }), "{}", Chain(&error));
    ensure!(error.to_string().contains(&nobody.endpoint), "{error}");
    let whole = Chain(&error).to_string();
    ensure!(whole.contains("refused") && !whole.contains('{'), "a person reads this: {whole}");
    Ok(())
}

/// MinIO makes users by its admin API only, so a double answers as MinIO does.
async fn missing_permission_is_named(_: Ctx) -> Result<()> {
    let receiver = Receiver::start().await?;
    let denied = "<Error><Code>AccessDenied</Code><Message>Access Denied.</Message><BucketName>photos</BucketName></Error>";
    receiver.answer(Answer::Respond {
        status: http::StatusCode::FORBIDDEN,
        headers: [(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/xml"))]
            .into_iter()
            .collect(),
        body: denied.into(),
        delay: Duration::ZERO,
    });
    let buckets = buckets(&storage(&receiver.url(""), "us-east-1"));
    let read = buckets.read("photos").await.err().context("a denial was taken for an answer")?;
    let write = buckets.write("photos", &Configuration::default()).await.err().context("a denial")?;
    for (error, action) in [(read, "s3:GetBucketNotification"), (write, "s3:PutBucketNotification")] {
        ensure!(matches!(error, BucketError::Denied { .. }), "{}", Chain(&error));
        ensure!(error.to_string().contains(action), "{error}");
    }
    ensure!(receiver.requests().len() == 2, "a denial was retried");
    Ok(())
}
