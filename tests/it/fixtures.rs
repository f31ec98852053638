//! The recordings under `tests/fixtures/minio` against what the MinIO of today sends: the same operations,
//! notified to a webhook source and an MQTT source of ours, compared in shape (the set of JSON paths with their
//! types).

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, CompletedMultipartUpload, CompletedPart, Delete, Event, MetadataDirective,
    NotificationConfiguration, ObjectIdentifier, QueueConfiguration, Tag, Tagging, VersioningConfiguration,
};
use serde_json::Value;
use triggerd::dialect::decode;
use triggerd::domain::event::{KeyEncoding, StorageName};
use triggerd::source::Redelivers;
use triggerd::source::webhook::Limits;

use crate::harness::minio::{Minio, MinioOptions, MqttTarget, WebhookTarget};
use crate::harness::mosquitto::{Mosquitto, MosquittoOptions};
use crate::harness::suite::{Ctx, Test, tests};
use crate::sources_sender::{Webhook, open};
use crate::sources_subscriber::Subscriber;

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio, Mosquitto] minio_of_today_sends_what_was_recorded;
    }
}

const EVENTS: [&str; 3] = ["s3:ObjectCreated:*", "s3:ObjectAccessed:*", "s3:ObjectRemoved:*"];
const BUCKET: &str = "fixtures";

/// A MinIO that notifies two sources of ours.
struct Bench {
    minio: Minio,
    webhook: Webhook,
    mqtt: Subscriber,
    compared: usize,
}

impl Bench {
    async fn start(mosquitto: &Mosquitto) -> Result<Self> {
        let webhook = open("token = \"secret\"", Redelivers::No, Limits::default()).await?;
        let mqtt = Subscriber::subscribed(mosquitto, "5", "topic = \"minio/mn\"").await?;
        let webhooks = vec![WebhookTarget {
            id: "WN".into(),
            endpoint: format!("http://{}/minio", webhook.address),
            auth_token: Some("secret".into()),
            queue_dir: false,
        }];
        let mqtts = vec![MqttTarget {
            id: "MN".into(),
            broker: mosquitto.broker(),
            topic: "minio/mn".into(),
            qos: 1,
            ..MqttTarget::default()
        }];
        let minio = Minio::start(MinioOptions { webhooks, mqtts, ..MinioOptions::default() }).await?;
        Ok(Self { minio, webhook, mqtt, compared: 0 })
    }

    /// A bucket, all of whose events go to both targets.
    async fn bucket(&self, bucket: &str) -> Result<()> {
        self.minio.create_bucket(bucket).await?;
        let rules = [self.minio.webhook_arn("WN"), self.minio.mqtt_arn("MN")].map(|arn| {
            let events = EVENTS.iter().map(|name| Event::from(*name)).collect();
            QueueConfiguration::builder().queue_arn(arn).set_events(Some(events)).build()
        });
        let rules = rules.into_iter().collect::<Result<Vec<_>, _>>()?;
        let rules = NotificationConfiguration::builder().set_queue_configurations(Some(rules)).build();
        self.minio.put_notification_configuration(bucket, rules).await
    }

    /// Takes the event that has just been caused from both sources and compares it with a recording.
    async fn compare(&mut self, recording: &str, key: &str) -> Result<()> {
        let webhook = self.webhook.running.next().await.with_context(|| recording.to_owned())?;
        let mqtt = self.mqtt.running.next().await.with_context(|| recording.to_owned())?;
        ensure!(webhook.bytes == mqtt.bytes, "{recording}: webhook and MQTT differ");
        let events = decode(&webhook.bytes, &StorageName::new("default"), KeyEncoding::Form)?;
        ensure!(events.len() == 1 && events[0].key == key, "{recording}: {events:?}");
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/fixtures/minio/webhook-{recording}.json"));
        let recorded: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let fresh: Value = serde_json::from_slice(&webhook.bytes)?;
        let (recorded, fresh) = (shape(&recorded), shape(&fresh));
        let gone: Vec<_> = recorded.difference(&fresh).collect();
        let new: Vec<_> = fresh.difference(&recorded).collect();
        ensure!(gone.is_empty() && new.is_empty(), "{recording}: gone {gone:?}, new {new:?}");
        webhook.ack.acknowledge();
        mqtt.ack.acknowledge();
        self.compared += 1;
        Ok(())
    }

    async fn put(&mut self, recording: &str, key: &str, body: &str) -> Result<()> {
        self.minio.put_object(BUCKET, key, body, &[]).await?;
        self.compare(recording, key).await
    }
}

/// Each path of a value with the type found there, such as `/Records/0/s3/object/size number`.
fn shape(value: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, path: &str, shape: &mut BTreeSet<String>) {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "text",
            Value::Array(_) => "list",
            Value::Object(_) => "object",
        };
        shape.insert(format!("{path} {kind}"));
        match value {
            Value::Array(list) => list.iter().for_each(|item| walk(item, &format!("{path}/0"), shape)),
            Value::Object(map) => {
                map.iter().for_each(|(name, item)| walk(item, &format!("{path}/{name}"), shape));
            }
            _ => {}
        }
    }
    let mut paths = BTreeSet::new();
    walk(value, "", &mut paths);
    paths
}

async fn minio_of_today_sends_what_was_recorded(_: Ctx) -> Result<()> {
    let mosquitto = Mosquitto::start(MosquittoOptions::default()).await?;
    let mut bench = Bench::start(&mosquitto).await?;
    bench.bucket(BUCKET).await?;
    writes(&mut bench).await?;
    reads(&mut bench).await?;
    removals(&mut bench).await?;
    versions(&mut bench).await?;
    ensure!(bench.compared == 32, "{} compared", bench.compared);
    bench.webhook.running.end().await?;
    bench.mqtt.running.end().await
}

async fn writes(bench: &mut Bench) -> Result<()> {
    bench.put("object-created-put", "in/photo.jpg", "hello").await?;
    bench.put("object-created-put-overwrite", "in/photo.jpg", "hello").await?;
    bench.put("object-created-put-empty", "in/empty", "").await?;
    bench.put("object-created-put-directory", "dir/", "").await?;
    let odd = [
        ("space", "in/a b  c.txt"),
        ("plus", "in/a+b c.txt"),
        ("percent", "in/100%.txt"),
        ("percent-encoded-name", "in/%2F%20%41.txt"),
        ("chinese", "图片/照片 一.jpg"),
        ("emoji", "in/😀.txt"),
        ("nfd", "in/e\u{301}.txt"),
        ("hash-question", "in/a#b?c=d&e.txt"),
        ("html", "in/<a>&'\"b.txt"),
        ("special", "in/!*'();:@&=$,[]~-_.txt"),
        ("glob", "in/*?.txt"),
        ("backslash", "in\\b.txt"),
        ("trailing-space", "in/end "),
    ];
    for (name, key) in odd {
        bench.put(&format!("object-created-put-key-{name}"), key, "hello").await?;
    }
    let s3 = bench.minio.s3().clone();
    let put = s3.put_object().bucket(BUCKET).key("in/meta.jpg").body(ByteStream::from_static(b"hello"));
    let put = put.content_type("image/jpeg").cache_control("max-age=60").content_encoding("identity");
    let put = put.content_disposition("attachment; filename=\"a.jpg\"");
    put.metadata("camera", "X100").metadata("note", "a<b>&c").metadata("owner-id", "7").send().await?;
    bench.compare("object-created-put-metadata", "in/meta.jpg").await?;
    let copy = s3.copy_object().bucket(BUCKET).key("out/a b.jpg").copy_source("fixtures/in/photo.jpg");
    copy.send().await?;
    bench.compare("object-created-copy", "out/a b.jpg").await?;
    let copy = s3.copy_object().bucket(BUCKET).key("in/photo.jpg").copy_source("fixtures/in/photo.jpg");
    copy.metadata_directive(MetadataDirective::Replace).metadata("v", "2").send().await?;
    bench.compare("object-created-copy-self", "in/photo.jpg").await?;
    multipart(bench).await?;
    let tags = Tagging::builder().tag_set(Tag::builder().key("k").value("v").build()?).build()?;
    s3.put_object_tagging().bucket(BUCKET).key("in/meta.jpg").tagging(tags).send().await?;
    bench.compare("object-created-put-tagging", "in/meta.jpg").await?;
    s3.delete_object_tagging().bucket(BUCKET).key("in/meta.jpg").send().await?;
    bench.compare("object-created-delete-tagging", "in/meta.jpg").await
}

async fn multipart(bench: &mut Bench) -> Result<()> {
    let (s3, key) = (bench.minio.s3().clone(), "in/large.bin");
    let upload = s3.create_multipart_upload().bucket(BUCKET).key(key).metadata("parts", "1").send().await?;
    let id = upload.upload_id().context("no upload id")?;
    let body = ByteStream::from(vec![b'x'; 1_000]);
    let part =
        s3.upload_part().bucket(BUCKET).key(key).upload_id(id).part_number(1).body(body).send().await?;
    let part = CompletedPart::builder()
        .part_number(1)
        .set_e_tag(part.e_tag)
        .set_checksum_crc32(part.checksum_crc32)
        .build();
    let parts = CompletedMultipartUpload::builder().parts(part).build();
    let complete = s3.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(id);
    complete.multipart_upload(parts).send().await?;
    bench.compare("object-created-complete-multipart-upload", key).await
}

async fn reads(bench: &mut Bench) -> Result<()> {
    let s3 = bench.minio.s3().clone();
    bench.minio.get_object(BUCKET, "in/meta.jpg").await?;
    bench.compare("object-accessed-get", "in/meta.jpg").await?;
    s3.get_object().bucket(BUCKET).key("in/meta.jpg").range("bytes=1-3").send().await?.body.collect().await?;
    bench.compare("object-accessed-get-range", "in/meta.jpg").await?;
    s3.head_object().bucket(BUCKET).key("in/meta.jpg").send().await?;
    bench.compare("object-accessed-head", "in/meta.jpg").await
}

async fn removals(bench: &mut Bench) -> Result<()> {
    bench.minio.delete_object(BUCKET, "in/photo.jpg").await?;
    bench.compare("object-removed-delete", "in/photo.jpg").await?;
    bench.minio.delete_object(BUCKET, "in/missing key.jpg").await?;
    bench.compare("object-removed-noop", "in/missing key.jpg").await?;
    bench.minio.delete_object(BUCKET, "dir/").await?;
    bench.compare("object-removed-delete-directory", "dir/").await?;
    let which = ObjectIdentifier::builder().key("in/empty").build()?;
    let delete = Delete::builder().objects(which).build()?;
    bench.minio.s3().delete_objects().bucket(BUCKET).delete(delete).send().await?;
    bench.compare("object-removed-multi-delete-1", "in/empty").await
}

async fn versions(bench: &mut Bench) -> Result<()> {
    const VERSIONED: &str = "fixtures-v";
    bench.bucket(VERSIONED).await?;
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let s3 = bench.minio.s3().clone();
    s3.put_bucket_versioning().bucket(VERSIONED).versioning_configuration(enabled).send().await?;
    bench.minio.put_object(VERSIONED, "v.txt", "hello", &[]).await?;
    bench.compare("versioned-object-created-put", "v.txt").await?;
    bench.minio.delete_object(VERSIONED, "v.txt").await?;
    bench.compare("versioned-object-removed-delete-marker-created", "v.txt").await
}
