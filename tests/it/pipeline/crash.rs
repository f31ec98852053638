//! `kill -9` of the daemon in the middle of 2,000 uploads: every object's function runs at least once, and a repeat
//! carries the same delivery id.
//!
//! Without a `queue_dir` MinIO forgets what it could not hand over, and that only. Which keys these are MinIO does not say,
//! so a [`Witness`] stands between it and the daemon, and notes each key whose notification the daemon has answered 200.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use axum::{Router, extract::Request};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::world::{Before, Plan, SOON, Way, World, ids_by_key, noting};
use crate::harness::{
    mosquitto::{Mosquitto, MosquittoOptions},
    suite::Ctx,
    wait::wait_for,
};

const UPLOADS: usize = 2_000;
const UPLOADERS: usize = 8;
/// Uploads that are made before the daemon is killed.
const KILLED_AT: usize = 700;

pub(crate) async fn kill_9_loses_nothing_that_comes_by_mqtt(ctx: Ctx) -> Result<()> {
    let mosquitto = Mosquitto::start(MosquittoOptions {
        max_queued_messages: Some(1_000_000),
        ..MosquittoOptions::default()
    })
    .await?;
    let broker = mosquitto.broker().replace("tcp://", "mqtt://");
    let missing = uploads_with_a_crash(&ctx, Way::Mqtt { broker, version: "5" }).await?;
    ensure!(missing.lost.is_empty(), "never called for: {:?}", missing.lost);
    Ok(())
}

pub(crate) async fn kill_9_loses_nothing_that_a_queue_dir_holds(ctx: Ctx) -> Result<()> {
    let missing = uploads_with_a_crash(&ctx, Way::Webhook { queue_dir: true }).await?;
    ensure!(missing.lost.is_empty(), "never called for: {:?}", missing.lost);
    Ok(())
}

pub(crate) async fn kill_9_loses_nothing_that_was_answered_without_a_queue_dir(ctx: Ctx) -> Result<()> {
    let missing = uploads_with_a_crash(&ctx, Way::Webhook { queue_dir: false }).await?;
    ensure!(missing.answered > KILLED_AT / 2, "only {} were answered", missing.answered);
    ensure!(missing.broken.is_empty(), "answered 200 and never called for: {:?}", missing.broken);
    ensure!(
        missing.lost.len() <= missing.dropped_by_minio,
        "{} objects were never called for, but MinIO dropped only {} notifications",
        missing.lost.len(),
        missing.dropped_by_minio
    );
    Ok(())
}

struct Missing {
    lost: BTreeSet<String>,
    /// Notifications that MinIO itself could not hand over, by its own count.
    dropped_by_minio: usize,
    /// How many keys the daemon has answered 200 for, as far as it was witnessed.
    answered: usize,
    /// Those of them that are lost.
    broken: BTreeSet<String>,
}

/// Passes on each request to the daemon, and its answer to MinIO; and notes what was answered 200. A daemon that is away
/// is a 502, which is to MinIO what a refused connection is: not handed over.
struct Witness {
    port: u16,
    answered: Arc<Mutex<BTreeSet<String>>>,
    daemon: Arc<OnceLock<String>>,
    serving: JoinHandle<()>,
}

impl Witness {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (answered, daemon) = (Arc::default(), Arc::default());
        let http = reqwest::Client::builder().no_proxy().timeout(SOON).build()?;
        let carry = {
            let (answered, daemon) = (Arc::clone(&answered), Arc::clone(&daemon));
            move |request: Request| carry(http.clone(), Arc::clone(&daemon), Arc::clone(&answered), request)
        };
        let router = Router::new().fallback(carry);
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.ok();
        });
        Ok(Self { port, answered, daemon, serving })
    }

    /// The keys that were answered 200.
    fn answered(&self) -> BTreeSet<String> {
        self.answered.lock().unwrap().clone()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn carry(
    http: reqwest::Client,
    daemon: Arc<OnceLock<String>>,
    answered: Arc<Mutex<BTreeSet<String>>>,
    request: Request,
) -> StatusCode {
    let (head, body) = request.into_parts();
    let (Some(daemon), Ok(body)) = (daemon.get(), axum::body::to_bytes(body, 1 << 20).await) else {
        return StatusCode::BAD_GATEWAY;
    };
    let key = serde_json::from_slice::<Value>(&body).ok().and_then(|event| {
        let (_, key) = event["Key"].as_str()?.split_once('/')?;
        Some(key.to_owned())
    });
    let mut passed = http.request(head.method, daemon).body(body);
    if let Some(token) = head.headers.get("authorization") {
        passed = passed.header("authorization", token);
    }
    let Ok(answer) = passed.send().await else { return StatusCode::BAD_GATEWAY };
    if let Some(key) = key.filter(|_| answer.status() == StatusCode::OK) {
        answered.lock().unwrap().insert(key);
    }
    answer.status()
}

async fn uploads_with_a_crash(ctx: &Ctx, way: Way) -> Result<Missing> {
    let witness = Witness::start().await?;
    let forgets = matches!(way, Way::Webhook { queue_dir: false });
    let before = Before { main: forgets.then_some(witness.port), fast: None };
    let plan = Plan { way, before, ..Plan::webhook(&noting("thumb", "")) };
    let mut world = World::start(ctx, &plan).await?;
    witness.daemon.set(world.source.clone()).ok();
    // No concurrency limit is in the way: what fails would only wait.
    world.bind("photos", "thumb", &json!({"concurrency": 8})).await?;

    let (next, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let uploaders: Vec<_> = (0..UPLOADERS)
        .map(|_| {
            let (s3, next, done) = (world.minio.s3().clone(), Arc::clone(&next), Arc::clone(&done));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= UPLOADS {
                        return anyhow::Ok(());
                    }
                    let request = s3.put_object().bucket("photos").key(format!("in/{number:04}.jpg"));
                    let upload =
                        request.body(aws_sdk_s3::primitives::ByteStream::from_static(b"x")).send().await;
                    upload.with_context(|| format!("upload {number}"))?;
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    wait_for("enough uploads", SOON, async || done.load(Ordering::SeqCst) >= KILLED_AT).await?;
    world.daemon.kill9().await?;
    let at_kill = done.load(Ordering::SeqCst);
    world.daemon.start_again().await?;
    ensure!(at_kill < UPLOADS, "the uploads were over before the daemon was killed");
    for uploader in uploaders {
        uploader.await??;
    }

    let expected: BTreeSet<String> = (0..UPLOADS).map(|number| format!("in/{number:04}.jpg")).collect();
    let dropped = until_all_ran(&world, &expected, forgets).await?;
    // What MinIO counts as dropped may have come all the same, so that there may be some left that was answered.
    let answered = witness.answered();
    let _in_vain: Result<()> = wait_for("what was answered ran", SOON, async || {
        let calls = world.platform.calls("thumb").unwrap_or_default();
        let called: BTreeSet<String> = calls.into_iter().map(|call| call.key).collect();
        answered.is_subset(&called)
    })
    .await;
    let calls = world.platform.calls("thumb")?;
    ids_by_key(&calls)?;
    let called: BTreeSet<String> = calls.iter().map(|call| call.key.clone()).collect();
    world.daemon.stop().await?;
    let lost: BTreeSet<String> = expected.difference(&called).cloned().collect();
    let broken = answered.intersection(&lost).cloned().collect();
    Ok(Missing { lost, dropped_by_minio: dropped, answered: answered.len(), broken })
}

/// Waits until every object's function ran, or MinIO dropped its notification, which only one that forgets may do: for as
/// long as there is progress. How many MinIO dropped.
async fn until_all_ran(world: &World, expected: &BTreeSet<String>, forgets: bool) -> Result<usize> {
    let mut best = 0;
    loop {
        let mut dropped = 0;
        let progress = wait_for("another object's function runs", SOON, async || {
            let calls = world.platform.calls("thumb").unwrap_or_default();
            let called = calls.into_iter().map(|call| call.key).collect::<BTreeSet<_>>().len();
            let more = called > best;
            best = best.max(called);
            // Asked only when nothing runs: to tell it, MinIO gathers all that it counts.
            if forgets && !more {
                dropped = dropped_by_minio(world).await.unwrap_or_default();
            }
            more || best + dropped >= expected.len()
        });
        if let Err(stalled) = progress.await {
            return Err(stalled.context(standstill(world, expected).await));
        }
        if best + dropped >= expected.len() {
            return Ok(dropped);
        }
    }
}

/// What there is to see when nothing goes on.
async fn standstill(world: &World, expected: &BTreeSet<String>) -> String {
    let calls = world.platform.calls("thumb").unwrap_or_default();
    let called: BTreeSet<String> = calls.into_iter().map(|call| call.key).collect();
    let missing: Vec<_> = expected.difference(&called).collect();
    let held = fs::read_dir(world.minio.queue_dir("TRIGGERD").join("minio-webhook-TRIGGERD"));
    format!(
        "{} are missing, {:?} first; MinIO holds {}; dead letters: {:?}; functions: {:?}; the end of the daemon's log:\n{}",
        missing.len(),
        missing.first(),
        held.map_or(0, Iterator::count),
        world.daemon.dead_letters().await,
        world.daemon.call(Method::GET, "/v1/functions", None).await,
        world.daemon.log_tail(),
    )
}

/// What MinIO says it could not hand over to a target without `queue_dir`.
async fn dropped_by_minio(world: &World) -> Result<usize> {
    let text =
        reqwest::get(format!("{}/minio/v2/metrics/cluster", world.minio.endpoint())).await?.text().await?;
    let line = text.lines().find(|line| line.starts_with("minio_notify_target_failed_events"));
    match line {
        Some(line) => {
            let count: f64 = line.rsplit(' ').next().context("no value")?.parse()?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
            Ok(count as usize)
        }
        None => Ok(0),
    }
}
