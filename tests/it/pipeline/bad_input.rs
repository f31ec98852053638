//! Whatever comes in at a source is answered clearly, and nothing is lost of it.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Row, sqlite::SqliteConnectOptions};
use triggerd::{
    dialect::decode,
    domain::event::{KeyEncoding, StorageName},
};

use super::world::{Daemon, Plan, SOON, WEBHOOK_TOKEN, Way, World, noting};
use crate::{
    harness::{
        mosquitto::{Mosquitto, MosquittoOptions},
        suite::Ctx,
        wait::eventually,
    },
    sources_subscriber::publish,
};

const RECORDING: &str = include_str!("../../fixtures/minio/webhook-object-created-put.json");

/// Posts a body as MinIO's target does.
async fn post(world: &World, body: impl Into<reqwest::Body>) -> Result<StatusCode> {
    let request = reqwest::Client::new().post(&world.source).bearer_auth(WEBHOOK_TOKEN).timeout(SOON);
    Ok(request.body(body).send().await?.status())
}

/// The value of a metric whose line begins like this; 0 when there is none.
async fn metric(daemon: &Daemon, begins: &str) -> Result<usize> {
    let text = daemon.metrics().await?;
    let line = text.lines().find(|line| line.starts_with(begins));
    Ok(line.and_then(|line| line.rsplit(' ').next()).map_or(Ok(0), str::parse)?)
}

/// A notification like MinIO's, of bucket `photos`, with another name and key.
fn notification(name: &str, key: &str) -> Result<Value> {
    let mut body: Value = serde_json::from_str(RECORDING)?;
    body["EventName"] = name.into();
    body["Key"] = format!("photos/{key}").into();
    let record = &mut body["Records"][0];
    record["eventName"] = name.trim_start_matches("s3:").into();
    record["s3"]["bucket"]["name"] = "photos".into();
    record["s3"]["object"]["key"] = key.into();
    Ok(body)
}

/// What can never be processed, with a word of the reason that is noted.
fn hopeless() -> Result<Vec<(Vec<u8>, &'static str)>> {
    let mut deep = b"[".repeat(100_000);
    deep.extend(b"]".repeat(100_000));
    let mut no_key = notification("s3:ObjectCreated:Put", "a.jpg")?;
    no_key["Records"][0]["s3"]["object"]["key"] = Value::Null;
    let mut no_text = notification("s3:ObjectCreated:Put", "%FF.jpg")?;
    no_text["Key"] = Value::Null;
    let other_key = notification("s3:ObjectCreated:Put", "a%20b")?;
    let text = |value: &Value| value.to_string().into_bytes();
    Ok(vec![
        (b"{\"EventName\":".to_vec(), "JSON"),
        (RECORDING.as_bytes()[..RECORDING.len() / 2].to_vec(), "JSON"),
        (b"\xff\xfe\x00".to_vec(), "UTF-8"),
        (b"null".to_vec(), "the whole body"),
        (b"[]".to_vec(), "body"),
        (b"{}".to_vec(), "Records"),
        (b"{\"Records\":7}".to_vec(), "Records"),
        (b"{\"Records\":[7]}".to_vec(), "Records[0]"),
        ([b"{\"Records\":[", &deep[..], b"]}"].concat(), "Records[0]"),
        (deep, "expected a string"),
        (text(&no_key), "key"),
        (text(&no_text), "key"),
        (text(&other_key), "Key"),
    ])
}

pub(crate) async fn what_cannot_be_processed_is_acknowledged_and_kept(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    world.bind("photos", "thumb", &json!({})).await?;
    let mut sent = hopeless()?;
    for (body, _) in &sent {
        let status = post(&world, body.clone()).await?;
        ensure!(
            status == StatusCode::OK,
            "{status} for {}",
            String::from_utf8_lossy(&body[..body.len().min(80)])
        );
    }
    let mut large = notification("s3:ObjectCreated:Put", "large.jpg")?;
    large["padding"] = "x".repeat(10 << 20).into();
    let large = large.to_string().into_bytes();
    ensure!(post(&world, large.clone()).await? == StatusCode::OK, "a body of 10 MiB");
    sent.push((large, "max_body"));

    // Probes are answered, and are nothing to be kept.
    for empty in ["", "{\"Records\":null}", "{\"Records\":[]}"] {
        ensure!(post(&world, empty).await? == StatusCode::OK, "a probe: {empty:?}");
    }
    refused_is_not_taken_in(&world).await?;
    let counted = metric(&world.daemon, "triggerd_quarantined_total{source=\"main\"}").await?;
    ensure!(counted == sent.len(), "{counted} counted of {}", sent.len());

    world.minio.put_object("photos", "in/good.jpg", "x", &[]).await?;
    let calls = world.platform.wait_for_calls("thumb", 1).await?;
    world.daemon.stop().await?;
    ensure!(calls.len() == 1 && calls[0].key == "in/good.jpg", "{calls:?}");
    kept(&ctx.folder().join("state/queue.db"), &sent).await
}

/// The same by a broker, which would send again whatever is not acknowledged.
pub(crate) async fn what_cannot_be_processed_by_mqtt_is_acknowledged_and_kept(ctx: Ctx) -> Result<()> {
    let mosquitto = Mosquitto::start(MosquittoOptions::default()).await?;
    let way = Way::Mqtt { broker: mosquitto.broker().replace("tcp://", "mqtt://"), version: "5" };
    let mut world = World::start(&ctx, &Plan { way, ..Plan::webhook(&noting("thumb", "")) }).await?;
    world.bind("photos", "thumb", &json!({})).await?;
    let mut sent = hopeless()?;
    let mut large = notification("s3:ObjectCreated:Put", "large.jpg")?;
    large["padding"] = "x".repeat(1 << 20).into();
    sent.push((large.to_string().into_bytes(), "max_body"));
    let odd = ["s3:Quantum:Leap", "something else ☃"].map(|name| notification(name, "odd.jpg"));
    let odd = odd.into_iter().map(|body| Ok(body?.to_string().into_bytes())).collect::<Result<Vec<_>>>()?;
    // A target probes its webhook with an empty body; by MQTT nobody has a reason to send one.
    sent.push((Vec::new(), "JSON"));
    let probes = ["{\"Records\":null}", "{\"Records\":[]}"].map(|probe| probe.as_bytes().to_vec());
    let bodies = sent.iter().map(|(body, _)| body.clone());
    publish(&mosquitto, "minio/events", bodies.chain(probes).chain(odd).collect()).await?;

    world.minio.put_object("photos", "in/good.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("thumb", 1).await?;
    eventually("all is in quarantine", SOON, async || {
        let counted = metric(&world.daemon, "triggerd_quarantined_total{source=\"main\"}").await?;
        ensure!(counted == sent.len(), "{counted} counted of {}", sent.len());
        Ok(())
    })
    .await?;
    // What the broker still holds unacknowledged would come again now.
    world.daemon.stop().await?;
    world.daemon.start_again().await?;
    world.minio.put_object("photos", "in/second.jpg", "x", &[]).await?;
    let calls = world.platform.wait_for_calls("thumb", 2).await?;
    world.daemon.stop().await?;
    ensure!(calls.iter().map(|call| call.key.as_str()).eq(["in/good.jpg", "in/second.jpg"]), "{calls:?}");
    kept(&ctx.folder().join("state/queue.db"), &sent).await
}

/// The quarantine holds exactly this, in whatever order.
async fn kept(queue: &Path, sent: &[(Vec<u8>, &str)]) -> Result<()> {
    let options = SqliteConnectOptions::new().filename(queue).read_only(true);
    let pool = sqlx::SqlitePool::connect_with(options).await?;
    let query = sqlx::query("SELECT source, reason, bytes, length FROM quarantine ORDER BY bytes");
    let rows = query.fetch_all(&pool).await?;
    ensure!(rows.len() == sent.len(), "{} are kept of {}", rows.len(), sent.len());
    let mut sent = sent.to_vec();
    sent.sort();
    for (row, (body, word)) in rows.iter().zip(&sent) {
        let (source, reason): (String, String) = (row.get("source"), row.get("reason"));
        let (bytes, length): (Vec<u8>, i64) = (row.get("bytes"), row.get("length"));
        ensure!(source == "main" && reason.contains(*word), "{source}: {reason:?} without {word:?}");
        ensure!(usize::try_from(length)? == body.len(), "{reason}: a length of {length} for {}", body.len());
        ensure!(bytes == body[..body.len().min(64 << 10)], "{reason}: other bytes are kept than were sent");
    }
    pool.close().await;
    Ok(())
}

/// A sender without the token, and one with another path or method, is told so and nothing else.
async fn refused_is_not_taken_in(world: &World) -> Result<()> {
    let http = reqwest::Client::new();
    let body = notification("s3:ObjectCreated:Put", "stranger.jpg")?.to_string();
    for authorization in
        [None, Some("Bearer wrong"), Some("Basic eDp5"), Some(WEBHOOK_TOKEN), Some("Bearer ")]
    {
        let mut request = http.post(&world.source).body(body.clone());
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let said = answer.bytes().await?;
        ensure!(status == StatusCode::UNAUTHORIZED && said.is_empty(), "{status} for {authorization:?}");
    }
    let elsewhere = http.post(format!("{}/other", world.source)).bearer_auth(WEBHOOK_TOKEN).body(body);
    ensure!(elsewhere.send().await?.status() == StatusCode::NOT_FOUND, "another path");
    let got = http.get(&world.source).bearer_auth(WEBHOOK_TOKEN).send().await?.status();
    ensure!(got == StatusCode::NOT_FOUND, "a GET: {got}");
    let refused =
        metric(&world.daemon, "triggerd_source_refused_total{source=\"main\",reason=\"unauthorized\"}")
            .await?;
    ensure!(refused == 5, "{refused} refusals are counted");
    Ok(())
}

pub(crate) async fn unknown_event_names_are_answered_shown_and_fire_nothing(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    world.bind("photos", "thumb", &json!({})).await?;
    let names = ["s3:ObjectCreated:Teleported", "s3:Quantum:Leap", "something else ☃", ""];
    for (number, name) in names.iter().enumerate() {
        let body = notification(name, &format!("odd-{number}.jpg"))?.to_string();
        let status = post(&world, body).await?;
        ensure!(status == StatusCode::OK, "{name:?}: {status}");
    }
    let known = notification("s3:ObjectCreated:Put", "known.jpg")?.to_string();
    ensure!(post(&world, known).await? == StatusCode::OK);
    let calls = world.platform.wait_for_calls("thumb", 1).await?;
    ensure!(calls.len() == 1 && calls[0].key == "known.jpg", "{calls:?}");
    let (_, outcomes) = world.daemon.call(Method::GET, "/v1/outcomes", None).await?;
    let quarantined = metric(&world.daemon, "triggerd_quarantined_total").await?;
    let shown = |name: &str| {
        let all = outcomes["outcomes"].as_array();
        all.is_some_and(|all| all.iter().any(|one| one["name"] == name && one["outcome"] == "unmatched"))
    };
    for name in &names[..3] {
        ensure!(shown(name) || shown(&format!("s3:{name}")), "{name:?} is not shown: {outcomes}");
    }
    ensure!(quarantined <= 1, "only the event without a name may be kept apart: {quarantined}");
    world.daemon.stop().await
}

pub(crate) async fn a_duplicate_event_fires_once_and_after_a_restart_under_the_same_id(
    ctx: Ctx,
) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", "sleep 0.3"))).await?;
    world.bind("photos", "thumb", &json!({})).await?;
    let body = notification("s3:ObjectCreated:Put", "twice.jpg")?.to_string();
    let (first, second) = tokio::join!(post(&world, body.clone()), post(&world, body.clone()));
    ensure!(first? == StatusCode::OK && second? == StatusCode::OK);
    world.platform.wait_for_calls("thumb", 1).await?;
    ensure!(post(&world, body.clone()).await? == StatusCode::OK);
    // One more event tells that the copies have been through.
    let other = notification("s3:ObjectCreated:Put", "once.jpg")?.to_string();
    ensure!(post(&world, other).await? == StatusCode::OK);
    let calls = world.platform.wait_for_calls("thumb", 2).await?;
    let keys: BTreeSet<&str> = calls.iter().map(|call| call.key.as_str()).collect();
    ensure!(calls.len() == 2 && keys.len() == 2, "a copy fired: {calls:?}");
    let text = world.daemon.metrics().await?;
    let repeats = text.lines().filter(|line| line.starts_with("triggerd_event_repeats_total{"));
    let counted: usize = repeats.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
    ensure!(counted == 2, "{counted} repeats are counted");

    world.daemon.stop().await?;
    world.daemon.start_again().await?;
    ensure!(post(&world, body).await? == StatusCode::OK);
    let calls = world.platform.wait_for_calls("thumb", 3).await?;
    let ids: BTreeSet<&str> =
        calls.iter().filter(|call| call.key == "twice.jpg").map(|call| call.delivery.as_str()).collect();
    ensure!(ids.len() == 1, "one event under several ids: {calls:?}");
    world.daemon.stop().await
}

/// A function that notes the key it got byte for byte, in hexadecimal.
const NOTING_BYTES: &str = "[functions.bytes]\ncommand = [\"/bin/sh\", \"-c\", '''printf '%s' \"$TRIGGER_KEY\" \
     | od -An -v -tx1 | tr -d ' \\n' >> \"$FOLDER/$TRIGGER_DELIVERY_ID.key\"''']\n\
     env = { FOLDER = \"@FOLDER@\" }\nconcurrency = 4\n";

pub(crate) async fn every_odd_key_reaches_the_function_byte_for_byte(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(NOTING_BYTES)).await?;
    world.bind("photos", "bytes", &json!({})).await?;
    let mut keys = recorded_keys()?;
    ensure!(keys.len() >= 20, "only {} recorded keys", keys.len());
    for key in &keys {
        world.minio.put_object("photos", key, "x", &[]).await.with_context(|| format!("{key:?}"))?;
    }
    // MinIO takes the slash at the beginning away.
    world.minio.put_object("photos", "/slashed.txt", "x", &[]).await?;
    keys.insert("slashed.txt".into());
    let folder = world.platform.file("");
    eventually("the function got every key", Duration::from_mins(1), async || {
        let got = noted(&folder)?;
        let missing: Vec<_> = keys.difference(&got).collect();
        ensure!(missing.is_empty(), "missing: {missing:?}; got otherwise: {:?}", got.difference(&keys));
        Ok(())
    })
    .await?;
    world.daemon.stop().await?;
    ensure!(noted(&folder)? == keys, "more keys came than were uploaded");
    let log = world.daemon.log()?;
    let forged = log.lines().find(|line| !line.starts_with("20") && !line.starts_with("warning: "));
    ensure!(forged.is_none(), "a key has made a line of the log: {forged:?}");
    ensure!(!log.contains("quarantine"), "something is in quarantine");
    Ok(())
}

/// The keys of the recordings that are about keys.
fn recorded_keys() -> Result<BTreeSet<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/minio");
    let mut keys = BTreeSet::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        if name.starts_with("webhook-") && name.contains("-key-") {
            let events = decode(&fs::read(file.path())?, &StorageName::new("default"), KeyEncoding::Form)?;
            keys.extend(events.into_iter().map(|event| event.key));
        }
    }
    Ok(keys)
}

/// The keys that the noting function has seen.
fn noted(folder: &Path) -> Result<BTreeSet<String>> {
    let mut keys = BTreeSet::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|ending| ending == "key") {
            let text = fs::read_to_string(&path)?;
            let pairs =
                text.as_bytes().chunks(2).map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
            keys.insert(String::from_utf8(pairs.collect::<Result<Vec<u8>>>()?)?);
        }
    }
    Ok(keys)
}
