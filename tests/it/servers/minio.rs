//! MinIO really starts, stores, notifies each kind of target, and comes back with its data.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::LIMIT;
use super::mosquitto::{next_message, subscribe};
use crate::harness::minio::{Minio, MinioOptions, MqttTarget, WebhookTarget};
use crate::harness::mosquitto::{Mosquitto, MosquittoOptions, Tls};
use crate::harness::process::Halt;
use crate::harness::receiver::Receiver;
use crate::harness::suite::{Ctx, Test, tests};
use crate::harness::wait::wait_for;

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] object_in_minio_can_be_read_back_and_survives_a_crash;
        [Minio] upload_reaches_a_webhook_target_with_its_token;
        [Minio] webhook_target_with_a_queue_delivers_what_came_while_the_receiver_was_away;
        [Minio, Mosquitto] upload_reaches_an_mqtt_target;
        [Minio, Mosquitto] upload_reaches_an_mqtt_target_over_tls_with_a_password;
        [Minio] paused_minio_answers_only_after_it_was_resumed;
    }
}

async fn object_in_minio_can_be_read_back_and_survives_a_crash(_: Ctx) -> Result<()> {
    let mut minio = Minio::start(MinioOptions::default()).await?;
    minio.create_bucket("photos").await?;
    minio.put_object("photos", "in/a b.jpg", "picture", &[("owner", "tests")]).await?;
    let head = minio.s3().head_object().bucket("photos").key("in/a b.jpg").send().await?;
    ensure!(head.metadata().and_then(|metadata| metadata.get("owner")).is_some_and(|owner| owner == "tests"));
    for how in [Halt::Kill, Halt::Term] {
        let before = minio.id()?;
        minio.restart(how).await?;
        ensure!(minio.id()? != before, "the process is the same after {how:?}");
        ensure!(minio.get_object("photos", "in/a b.jpg").await? == b"picture", "other content after {how:?}");
    }
    minio.kill9().await?;
    ensure!(minio.get_object("photos", "in/a b.jpg").await.is_err(), "a killed MinIO answered");
    minio.start_again().await?;
    minio.delete_object("photos", "in/a b.jpg").await?;
    ensure!(minio.get_object("photos", "in/a b.jpg").await.is_err(), "the object is deleted and still there");
    Ok(())
}

fn webhook(receiver: &Receiver, queue_dir: bool) -> MinioOptions {
    let endpoint = receiver.url("/minio");
    let auth_token = Some("token-of-the-tests".to_owned());
    let target = WebhookTarget { id: "TRG".into(), endpoint, auth_token, queue_dir };
    MinioOptions { webhooks: vec![target], region: Some("eu-test-1".into()), ..MinioOptions::default() }
}

async fn upload_reaches_a_webhook_target_with_its_token(_: Ctx) -> Result<()> {
    let receiver = Receiver::start().await?;
    let minio = Minio::start(webhook(&receiver, false)).await?;
    minio.create_bucket("photos").await?;
    let arn = minio.webhook_arn("TRG");
    minio.notify("photos", &arn, &["s3:ObjectCreated:*"]).await?;
    let rules = minio.get_notification_configuration("photos").await?;
    ensure!(rules.queue_configurations().len() == 1, "one rule was written, MinIO has {rules:?}");
    ensure!(rules.queue_configurations()[0].queue_arn() == arn);
    minio.put_object("photos", "in/a.jpg", "picture", &[]).await?;
    let requests = receiver.wait_for_requests(1, LIMIT).await?;
    let event = requests.iter().find(|request| !request.body.is_empty()).context("no request has a body")?;
    ensure!(event.header("authorization") == "Bearer token-of-the-tests", "{:?}", event.headers);
    let event = event.json()?;
    ensure!(event["EventName"] == "s3:ObjectCreated:Put" && event["Key"] == "photos/in/a.jpg", "{event}");
    ensure!(event["Records"][0]["awsRegion"] == "eu-test-1", "{event}");
    Ok(())
}

async fn webhook_target_with_a_queue_delivers_what_came_while_the_receiver_was_away(_: Ctx) -> Result<()> {
    let mut receiver = Receiver::start().await?;
    let minio = Minio::start(webhook(&receiver, true)).await?;
    minio.create_bucket("photos").await?;
    minio.notify("photos", &minio.webhook_arn("TRG"), &["s3:ObjectCreated:*"]).await?;
    receiver.stop().await;
    minio.put_object("photos", "a.jpg", "picture", &[]).await?;
    let queue = minio.queue_dir("TRG");
    wait_for("MinIO puts the event into its queue", LIMIT, async || count_files(&queue) == 1).await?;
    ensure!(receiver.requests().is_empty(), "a stopped receiver got a request");
    receiver.start_again().await?;
    receiver.wait_for_requests(1, LIMIT).await?;
    wait_for("MinIO takes the event out of its queue", LIMIT, async || count_files(&queue) == 0).await
}

fn count_files(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries.flatten().map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

async fn upload_reaches_an_mqtt_target(_: Ctx) -> Result<()> {
    upload_over_mqtt(MosquittoOptions::default()).await
}

async fn upload_reaches_an_mqtt_target_over_tls_with_a_password(_: Ctx) -> Result<()> {
    let users = vec![("minio".to_owned(), "p4ss word".to_owned())];
    upload_over_mqtt(MosquittoOptions { tls: Tls::Server, users, ..MosquittoOptions::default() }).await
}

async fn upload_over_mqtt(options: MosquittoOptions) -> Result<()> {
    let user_password = options.users.first().cloned();
    let mosquitto = Mosquitto::start(options).await?;
    let mut events = subscribe(mosquitto.client_options("reader")?, "minio/events").await?;
    let broker = mosquitto.broker();
    let target = MqttTarget {
        id: "TRG".into(),
        broker,
        topic: "minio/events".into(),
        qos: 1,
        user_password,
        queue_dir: false,
    };
    let trusted_ca = mosquitto.certificates().map(|certificates| certificates.ca.clone());
    let minio =
        Minio::start(MinioOptions { mqtts: vec![target], trusted_ca, ..MinioOptions::default() }).await?;
    minio.create_bucket("photos").await?;
    minio.notify("photos", &minio.mqtt_arn("TRG"), &["s3:ObjectCreated:*"]).await?;
    minio.put_object("photos", "a.jpg", "picture", &[]).await?;
    let event: serde_json::Value = serde_json::from_slice(&next_message(&mut events).await?)?;
    ensure!(event["EventName"] == "s3:ObjectCreated:Put" && event["Key"] == "photos/a.jpg", "{event}");
    Ok(())
}

async fn paused_minio_answers_only_after_it_was_resumed(_: Ctx) -> Result<()> {
    let minio = Minio::start(MinioOptions::default()).await?;
    minio.pause()?;
    let put = minio.create_bucket("photos");
    tokio::pin!(put);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut put).await;
    ensure!(early.is_err(), "a paused MinIO answered: {early:?}");
    minio.resume()?;
    tokio::time::timeout(LIMIT, put).await??;
    Ok(())
}
