//! The queue's bounds on the real daemon, and a burst far above what a function takes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use triggerd::domain::secret::SigningSecret;

use super::{
    disk_faults::{PATIENCE, RECORDING, Spool, keys},
    world::{Plan, WEBHOOK_TOKEN, Way, World, noting},
};
use crate::harness::{
    receiver::{Answer, Receiver, Recorded},
    suite::{Ctx, Test, tests},
    wait::eventually,
};

/// Events of the burst, and how many one notification carries.
const BURST: usize = 20_000;
const RECORDS: usize = 100;

/// The least that the config allows.
const MAX_BYTES: f64 = 16_777_216.0;

fn bounds(share: f64, reserve: u32) -> String {
    format!(
        "[queue]\nmax_bytes = {MAX_BYTES}\nfunction_share = {share:?}\ndead_letter_reserve = {reserve}\n\
         quarantine_bytes = 1048576\n"
    )
}

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] one_function_fills_its_share_and_what_is_beyond_becomes_dead_letters within 240;
        [Minio] a_full_queue_holds_back_parks_and_has_room_for_dead_letters within 240;
        [Minio] a_burst_is_parked_in_groups_worked_off_in_order_and_its_space_is_given_back within 600;
    }
}

pub(crate) async fn one_function_fills_its_share_and_what_is_beyond_becomes_dead_letters(
    ctx: Ctx,
) -> Result<()> {
    let mut spool = Spool::start(&ctx, Way::Webhook { queue_dir: true }, &bounds(0.1, 8 << 20)).await?;
    spool.padding = 20_000;
    let daemon = &spool.world.daemon;
    let overflow = async || daemon.metric("triggerd_dead_letters_total", &["overflow"]).await;
    let mut sent = Vec::new();
    while overflow().await? < 20.0 {
        let key = format!("doc-{}", sent.len());
        let status = spool.notify("docs", &key).await?;
        ensure!(status == StatusCode::OK, "{key} is answered {status}");
        sent.push(key);
        ensure!(sent.len() < 2_000, "its share never became full");
    }
    ensure!(sent.len() > 50, "full after {}", sent.len());
    for key in keys("healthy", 6) {
        spool.insist("photos", &key).await?;
        spool.wait_until_thumb_ran(&key).await?;
    }
    eventually("the file is within its bounds, and says so", PATIENCE, async || {
        let used = spool.world.daemon.metric("triggerd_queue_bytes", &[]).await?;
        let bound = spool.world.daemon.metric("triggerd_queue_max_bytes", &[]).await?;
        ensure!(used > 0.0 && used <= bound && (bound - MAX_BYTES).abs() < 1.0, "{used} of {bound}");
        Ok(())
    })
    .await?;
    spool.mend()?;
    eventually("nothing is lost", PATIENCE, async || {
        // As an operator would, once the function is mended.
        spool.world.daemon.run_cli(&["dead-letters", "replay", "--all"])?;
        let done = spool.done()?;
        ensure!(done.len() == sent.len(), "{} of {}", done.len(), sent.len());
        Ok(())
    })
    .await?;
    spool.world.daemon.stop().await
}

pub(crate) async fn a_full_queue_holds_back_parks_and_has_room_for_dead_letters(ctx: Ctx) -> Result<()> {
    let mut spool = Spool::start(&ctx, Way::Webhook { queue_dir: true }, &bounds(1.0, 14 << 20)).await?;
    spool.padding = 20_000;
    let mut parked = Vec::new();
    loop {
        let key = format!("doc-{}", parked.len());
        match spool.notify("docs", &key).await? {
            StatusCode::OK => parked.push(key),
            StatusCode::SERVICE_UNAVAILABLE => break,
            other => anyhow::bail!("{key} is answered {other}"),
        }
        ensure!(parked.len() < 2_000, "the queue never became full");
    }
    ensure!(spool.world.daemon.log()?.contains("`queue.max_bytes`"), "the remedy is not told");
    let once = json!({"retry": {"max_attempts": 1, "first_wait_ms": 200, "max_wait_ms": 1_000}});
    spool.world.bind("once", "once", &once).await?;
    for key in keys("dead", 2) {
        spool.insist("once", &key).await?;
    }
    let letters = spool.world.daemon.dead_letters().await?;
    ensure!(letters.len() == 2 && letters.iter().all(|letter| letter["function"] == "once"), "{letters:?}");
    spool.mend()?;
    spool.insist("docs", "held-back").await?;
    parked.push("held-back".to_owned());
    spool.wait_until_done(&parked).await?;
    spool.world.daemon.stop().await
}

/// A platform that keeps rules as it should, and notes the events that its function is called for.
#[derive(Default)]
struct Paced {
    rules: BTreeMap<String, Value>,
    calls: Vec<usize>,
    wait: Duration,
}

fn paced(state: &Arc<Mutex<Paced>>) -> impl Fn(usize, &Recorded) -> Answer + Send + Sync + 'static {
    let state = Arc::clone(state);
    move |_, request| {
        let mut state = state.lock().unwrap();
        let path = request.uri.path().to_owned();
        match request.method.as_str() {
            "PUT" => {
                let mut rule = request.json().unwrap();
                let secret = SigningSecret::parse(rule["secret"].as_str().unwrap()).unwrap();
                rule["secret_digest"] = json!(secret.digest());
                rule["state"] = json!("confirmed");
                state.rules.insert(path, rule);
                Answer::json(201, &json!({"id": "it", "state": "confirmed"})).unwrap()
            }
            "GET" if state.rules.contains_key(&path) => Answer::json(200, &state.rules[&path]).unwrap(),
            "POST" => {
                let event = request.json().unwrap().to_string();
                let number = event.split("burst-").nth(1).unwrap().split(['"', '\\']).next().unwrap();
                state.calls.push(number.parse().unwrap());
                Answer::status(200).unwrap().after(state.wait)
            }
            _ => Answer::status(204).unwrap(),
        }
    }
}

/// A notification of so many objects, from this number on.
fn notification(first: usize) -> Result<String> {
    let mut body: Value = serde_json::from_str(RECORDING)?;
    let record = body["Records"][0].clone();
    let records = (first..first + RECORDS).map(|number| {
        let mut record = record.clone();
        record["s3"]["bucket"]["name"] = "bursts".into();
        record["s3"]["object"]["key"] = format!("burst-{number}").into();
        record
    });
    body["Records"] = records.collect();
    body["Key"] = format!("bursts/burst-{first}").into();
    Ok(body.to_string())
}

async fn post_burst(world: &World) -> Result<()> {
    let http = reqwest::Client::new();
    for first in (0..BURST).step_by(RECORDS) {
        let body = notification(first)?;
        eventually("a part of the burst is taken", PATIENCE, async || {
            let request = http.post(&world.source).bearer_auth(WEBHOOK_TOKEN).timeout(PATIENCE);
            let status = request.body(body.clone()).send().await?.status();
            ensure!(status == StatusCode::OK, "{status}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

pub(crate) async fn a_burst_is_parked_in_groups_worked_off_in_order_and_its_space_is_given_back(
    ctx: Ctx,
) -> Result<()> {
    let receiver = Receiver::start().await?;
    let state = Arc::new(Mutex::new(Paced { wait: Duration::from_millis(500), ..Paced::default() }));
    receiver.answer_by(paced(&state));
    let mut plan = Plan::webhook(&noting("thumb", ""));
    plan.extra = format!(
        "[platforms.paced]\ndriver = \"rules\"\nurl = \"{}\"\ntoken = \"token-for-the-paced-platform\"\n",
        receiver.url("")
    );
    plan.way = Way::Webhook { queue_dir: true };
    let mut world = World::start(&ctx, &plan).await?;
    world.bind("bursts", "slow", &json!({"platform": "paced", "concurrency": 16})).await?;
    world.bind("photos", "thumb", &json!({})).await?;

    let commits = world.daemon.metric("triggerd_queue_commits_total", &[]).await?;
    post_burst(&world).await?;
    let commits = world.daemon.metric("triggerd_queue_commits_total", &[]).await? - commits;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let most = BURST as f64 / 4.0;
    ensure!(commits < most, "{BURST} events took {commits} commits");
    for key in keys("healthy", 5) {
        world.minio.put_object("photos", &key, "x", &[]).await?;
        eventually("the neighbour's function runs", PATIENCE, async || {
            ensure!(world.platform.calls("thumb")?.iter().any(|call| call.key == key), "{key} is missing");
            Ok(())
        })
        .await?;
    }
    let behind = state.lock().unwrap().calls.len();
    ensure!(behind < BURST / 2, "{behind} were called already: this was no burst");
    let most_bytes = world.daemon.metric("triggerd_queue_bytes", &[]).await?;

    state.lock().unwrap().wait = Duration::ZERO;
    worked_off(&state).await?;
    in_order(&state.lock().unwrap().calls)?;
    let file = ctx.folder().join("state/queue.db");
    eventually("the space is given back", PATIENCE, async || {
        let length = file.metadata()?.len();
        ensure!(length < 4 << 20, "{length} bytes of the file are left ({most_bytes} were in use)");
        Ok(())
    })
    .await?;
    let (_, letters) = world.daemon.call(Method::GET, "/v1/dead-letters", None).await?;
    ensure!(letters["dead_letters"].as_array().context("no list")?.is_empty(), "{letters}");
    world.daemon.stop().await
}

/// Waits until everything was called, for as long as there is progress.
async fn worked_off(state: &Mutex<Paced>) -> Result<()> {
    let mut before = 0;
    loop {
        let called = state.lock().unwrap().calls.len();
        if called >= BURST {
            return Ok(());
        }
        ensure!(called >= before, "calls were forgotten");
        before = called;
        eventually("more calls", PATIENCE, async || {
            let now = state.lock().unwrap().calls.len();
            ensure!(now > before, "{now} of {BURST}");
            Ok(())
        })
        .await?;
    }
}

/// Oldest first: nothing was called long before what had come earlier. Calls run side by side, and those of one
/// notification come at once, so a few notifications may overlap.
fn in_order(calls: &[usize]) -> Result<()> {
    let mut counts: HashMap<usize, usize> = HashMap::new();
    let mut latest = 0;
    for &number in calls {
        *counts.entry(number).or_default() += 1;
        let part = number / RECORDS;
        latest = latest.max(part);
        ensure!(part + 5 >= latest, "event {number} was called after one of part {latest}");
    }
    let missing = (0..BURST).find(|number| counts.get(number) != Some(&1));
    ensure!(missing.is_none(), "event {missing:?} was not called just once");
    Ok(())
}
