//! Results of asynchronous calls that a binding asks for, on the real daemon and the real platform: taken, failed, missing,
//! late, forged; across `kill -9` of either.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use triggerd::domain::clock::{Clock as _, SystemClock};

use super::world::{Plan, SOON, World, noting};
use crate::harness::{
    database::{self, Engine},
    ports::free_port,
    suite::{Ctx, Test, tests},
    wait::eventually,
};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] an_awaited_result_settles_its_delivery_and_is_shown within 150;
        [Minio] a_function_that_fails_behind_an_accepted_call_is_tried_again_and_dies within 150;
        [Minio] a_result_that_does_not_come_in_time_is_a_failed_attempt_and_a_late_one_is_shown within 150;
        [Minio] kill_9_of_either_side_loses_no_awaited_result within 150;
        [Minio] forged_garbled_repeated_and_outdated_reports_have_their_answers within 150;
        [Minio] unbinding_makes_a_dead_letter_of_what_awaits_its_result within 150;
        [Minio] strangers_that_take_their_time_keep_no_report_out within 150;
        [Minio, MySql] a_result_sent_to_another_daemon_is_told_where_it_belongs within 180;
    }
}

/// Waits while there is a file HOLD, and then fails until there is a file MENDED.
const HELD: &str = "while test -e \"$FOLDER/hold\"; do sleep 0.05; done; printf made-it; \
     test ! -e \"$FOLDER/broken\" || { echo no such pixel >&2; exit 3; }";

/// A world with the function `slow`, which waits from the beginning.
async fn held(ctx: &Ctx) -> Result<World> {
    let world = World::start(ctx, &Plan::webhook(&noting("slow", HELD))).await?;
    fs::write(world.platform.file("hold"), "")?;
    Ok(world)
}

fn awaiting(wait_s: u64, attempts: u32) -> Value {
    let retry = json!({"max_attempts": attempts, "first_wait_ms": 10, "max_wait_ms": 100});
    json!({"mode": "async", "await_result_s": wait_s, "retry": retry})
}

/// Parked, awaiting and running, as the function is shown.
async fn flow(world: &World) -> Result<(u64, u64, u64)> {
    let (_, shown) = world.daemon.call(Method::GET, "/v1/functions", None).await?;
    let Some(slow) = shown["functions"].as_array().and_then(|all| all.first()) else { return Ok((0, 0, 0)) };
    let count = |name: &str| slow[name].as_u64().context(name.to_owned());
    Ok((count("parked")?, count("awaiting")?, count("running")?))
}

async fn until_flow(world: &World, expected: (u64, u64, u64)) -> Result<()> {
    eventually(&format!("parked, awaiting, running: {expected:?}"), SOON, async || {
        let there = flow(world).await?;
        ensure!(there == expected, "{there:?}");
        Ok(())
    })
    .await
}

async fn until_outcome(world: &World, binding: &str, outcome: &str) -> Result<Value> {
    eventually(&format!("the outcome {outcome}"), SOON, async || {
        let path = format!("/v1/outcomes?binding={binding}");
        let (_, shown) = world.daemon.call(Method::GET, &path, None).await?;
        let all = shown["outcomes"].as_array().cloned().unwrap_or_default();
        all.iter().find(|one| one["outcome"] == outcome).cloned().with_context(|| format!("{all:?}"))
    })
    .await
}

async fn dead_letter(world: &World) -> Result<Value> {
    eventually("a dead letter", SOON, async || world.daemon.dead_letters().await?.pop().context("none yet"))
        .await
}

async fn no_dead_letter(world: &World) -> Result<()> {
    let letters = world.daemon.dead_letters().await?;
    ensure!(letters.is_empty(), "{letters:?}");
    Ok(())
}

/// What the platform keeps of the calls that it has accepted, and not reported yet.
fn jobs(world: &World) -> Result<Vec<Value>> {
    let mut jobs = Vec::new();
    for file in fs::read_dir(world.platform.file("state/jobs"))? {
        let path = file?.path();
        if path.extension().is_some_and(|kind| kind == "json") {
            jobs.push(serde_json::from_slice(&fs::read(path)?)?);
        }
    }
    Ok(jobs)
}

/// A call that was accepted, as the platform knows it.
struct Accepted {
    url: String,
    delivery: String,
    secret: String,
}

impl Accepted {
    /// The one of this attempt.
    fn of(world: &World, binding: &str, attempt: u64) -> Result<Self> {
        let jobs = jobs(world)?;
        let job = jobs.iter().find(|job| job["invocation"]["attempt"] == attempt);
        let job = job.with_context(|| format!("no attempt {attempt} among {jobs:?}"))?;
        let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("{value}"));
        let rule = fs::read(world.platform.file(&format!("state/rules/{binding}.json")))?;
        let rule: Value = serde_json::from_slice(&rule)?;
        Ok(Self {
            url: text(&job["callback_url"])?,
            delivery: text(&job["invocation"]["delivery"])?,
            secret: text(&rule["rule"]["secret"])?,
        })
    }

    /// Reports as the platform does; the status of the answer.
    async fn report(&self, body: &Value) -> Result<u16> {
        self.send(&self.url, &body.to_string(), &self.secret).await
    }

    async fn send(&self, url: &str, body: &str, secret: &str) -> Result<u16> {
        self.send_at(SystemClock::new().now().as_seconds(), url, body, secret).await
    }

    async fn send_at(&self, seconds: i64, url: &str, body: &str, secret: &str) -> Result<u16> {
        let signature = Webhook::new(secret)?.sign(&self.delivery, seconds, body.as_bytes())?;
        let request = reqwest::Client::builder().no_proxy().build()?.post(url);
        let request = request
            .header("webhook-id", &self.delivery)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signature);
        Ok(request.body(body.to_owned()).send().await?.status().as_u16())
    }
}

fn succeeded() -> Value {
    json!({"status": "succeeded", "result": "made-it", "duration_ms": 5})
}

fn failed() -> Value {
    json!({"status": "failed", "error": "exit-3: no such pixel", "duration_ms": 5})
}

async fn an_awaited_result_settles_its_delivery_and_is_shown(ctx: Ctx) -> Result<()> {
    let mut world = held(&ctx).await?;
    let sync = json!({"bucket": "photos", "events": ["s3:ObjectCreated:*"], "platform": "local", "function": "slow",
        "await_result_s": 60});
    let (status, refused) = world.daemon.call(Method::POST, "/v1/bindings", Some(&sync)).await?;
    ensure!(status == StatusCode::UNPROCESSABLE_ENTITY, "{status} {refused}");
    world.minio.create_bucket("photos").await?;
    let asked = ["bind", "--bucket", "photos", "--event", "s3:ObjectCreated:*", "--function", "local/slow"];
    world.daemon.cli(&[&asked[..], &["--async", "--await-result", "10m"]].concat())?;
    let (_, bindings) = world.daemon.call(Method::GET, "/v1/bindings", None).await?;
    let binding = bindings["bindings"][0]["id"].as_str().context("no binding")?.to_owned();
    let shown = world.daemon.cli(&["bindings", &binding])?;
    ensure!(shown.contains("async") && shown.contains("the result awaited for 600 s"), "{shown}");

    world.minio.put_object("photos", "in/a.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("slow", 1).await?;
    until_flow(&world, (0, 1, 0)).await?;
    ensure!(world.daemon.cli(&["functions"])?.contains("AWAITING"));
    fs::remove_file(world.platform.file("hold"))?;
    let outcome = until_outcome(&world, &binding, "callback_succeeded").await?;
    ensure!(outcome["detail"] == "made-it" && outcome["key"] == "in/a.jpg", "{outcome}");
    until_flow(&world, (0, 0, 0)).await?;
    let taken = world.daemon.metric("triggerd_results_total", &["result=\"succeeded\""]).await?;
    ensure!((taken - 1.0).abs() < 0.1, "{taken}");
    no_dead_letter(&world).await?;
    world.daemon.stop().await?;
    ensure!(world.platform.calls("slow")?.len() == 1);
    Ok(())
}

async fn a_function_that_fails_behind_an_accepted_call_is_tried_again_and_dies(ctx: Ctx) -> Result<()> {
    // Its result is longer than a report may be: it is left out, and the report is taken all the same.
    let script = "head -c 1000000 /dev/zero; echo no such pixel >&2; test -e \"$FOLDER/mended\"";
    let mut world = World::start(&ctx, &Plan::webhook(&noting("slow", script))).await?;
    let binding = world.bind("photos", "slow", &awaiting(60, 3)).await?;
    world.minio.put_object("photos", "in/a.jpg", "x", &[]).await?;
    let letter = dead_letter(&world).await?;
    let detail = letter["detail"].as_str().context("no detail")?;
    ensure!(
        letter["reason"] == "attempts_exhausted"
            && detail.starts_with("exit-1: ")
            && detail.ends_with("no such pixel"),
        "{letter}"
    );
    let calls = world.platform.calls("slow")?;
    ensure!(calls.iter().map(|call| call.attempt).eq([1, 2, 3]), "{calls:?}");
    let id = letter["id"].as_str().context("no id")?;
    let shown = world.daemon.cli(&["dead-letters", "show", id])?;
    ensure!(shown.matches("no such pixel").count() >= 3, "each attempt says why: {shown}");

    fs::write(world.platform.file("mended"), "")?;
    world.daemon.cli(&["dead-letters", "replay", id])?;
    until_outcome(&world, &binding, "callback_succeeded").await?;
    until_flow(&world, (0, 0, 0)).await?;
    no_dead_letter(&world).await?;
    world.daemon.stop().await
}

async fn a_result_that_does_not_come_in_time_is_a_failed_attempt_and_a_late_one_is_shown(
    ctx: Ctx,
) -> Result<()> {
    let mut world = held(&ctx).await?;
    let binding = world.bind("photos", "slow", &awaiting(1, 2)).await?;
    world.minio.put_object("photos", "in/a.jpg", "x", &[]).await?;
    let letter = dead_letter(&world).await?;
    ensure!(letter["detail"] == "no result came within 1 s", "{letter}");
    until_outcome(&world, &binding, "no_result").await?;
    let calls = world.platform.calls("slow")?;
    ensure!(calls.iter().map(|call| call.attempt).eq([1, 2]), "{calls:?}");

    fs::remove_file(world.platform.file("hold"))?;
    let late = until_outcome(&world, &binding, "callback_late").await?;
    ensure!(late["key"] == "in/a.jpg", "{late}");
    let id = letter["id"].as_str().context("no id")?;
    let shown = world.daemon.cli(&["dead-letters", "show", id])?;
    ensure!(
        shown.contains("succeeded late: made-it") && shown.contains("no result came within 1 s"),
        "{shown}"
    );
    eventually("the platform is done with both", SOON, async || {
        ensure!(jobs(&world)?.is_empty());
        Ok(())
    })
    .await?;
    ensure!(world.daemon.dead_letters().await?.len() == 1, "it stays for the operator to judge");
    world.daemon.stop().await
}

async fn kill_9_of_either_side_loses_no_awaited_result(ctx: Ctx) -> Result<()> {
    let mut world = held(&ctx).await?;
    let binding = world.bind("photos", "slow", &awaiting(600, 3)).await?;
    world.minio.put_object("photos", "in/a.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("slow", 1).await?;
    until_flow(&world, (0, 1, 0)).await?;
    world.daemon.kill9().await?;
    fs::remove_file(world.platform.file("hold"))?;
    eventually("the function has ended", SOON, async || {
        let jobs = jobs(&world)?;
        ensure!(jobs.len() == 1 && !jobs[0]["report"].is_null(), "{jobs:?}");
        Ok(())
    })
    .await?;
    world.daemon.start_again().await?;
    until_outcome(&world, &binding, "callback_succeeded").await?;
    until_flow(&world, (0, 0, 0)).await?;
    let calls = world.platform.calls("slow")?;
    ensure!(calls.len() == 1, "nothing was called again: {calls:?}");

    fs::write(world.platform.file("hold"), "")?;
    world.minio.put_object("photos", "in/b.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("slow", 2).await?;
    until_flow(&world, (0, 1, 0)).await?;
    world.platform.kill9().await?;
    fs::remove_file(world.platform.file("hold"))?;
    world.platform.start_again().await?;
    until_flow(&world, (0, 0, 0)).await?;
    no_dead_letter(&world).await?;
    let calls = world.platform.calls("slow")?;
    ensure!(calls.iter().all(|call| call.attempt == 1), "the platform itself has run it again: {calls:?}");
    world.daemon.stop().await
}

async fn forged_garbled_repeated_and_outdated_reports_have_their_answers(ctx: Ctx) -> Result<()> {
    let mut world = held(&ctx).await?;
    let binding = world.bind("photos", "slow", &awaiting(600, 3)).await?;
    world.minio.put_object("photos", "in/a.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("slow", 1).await?;
    until_flow(&world, (0, 1, 0)).await?;
    let first = Accepted::of(&world, &binding, 1)?;
    let (good, body, secret) = (&first.url, succeeded().to_string(), &first.secret);

    let (base, token) = good.rsplit_once('/').context("no token")?;
    let parts: Vec<&str> = token.split('.').collect();
    ensure!(parts.len() == 5 && parts[0] == first.delivery && parts[2..4] == ["1", "one"], "{token}");
    let spoiled = |at: usize, with: &str| {
        let mut parts = parts.clone();
        parts[at] = with;
        format!("{base}/{}", parts.join("."))
    };
    let (other, forged) = ("0".repeat(32), "0".repeat(64));
    for url in [
        spoiled(4, &forged),
        spoiled(0, &other),
        spoiled(1, &other),
        spoiled(2, "2"),
        spoiled(3, "two"),
        format!("{base}/{}.{}.{}", parts[0], parts[1], parts[4]),
        format!("{base}/nonsense"),
    ] {
        let status = first.send(&url, &body, secret).await?;
        ensure!(status == 404, "{url}: {status}");
    }
    let unsigned =
        reqwest::Client::builder().no_proxy().build()?.post(good).body(body.clone()).send().await?;
    ensure!(unsigned.status() == 401, "{}", unsigned.status());
    let another = format!("whsec_{}=", "A".repeat(43));
    ensure!(first.send(good, &body, &another).await? == 401);
    // Ahead of us by more than a slow machine makes up for before the report is looked at.
    for off in [-301, 600, 86_400] {
        let seconds = SystemClock::new().now().as_seconds() + off;
        let status = first.send_at(seconds, good, &body, secret).await?;
        ensure!(status == 503, "either clock may be wrong: {status} for {off} s");
        ensure!(first.send_at(seconds, good, &body, &another).await? == 401);
    }
    for (field, value) in [("delivery", json!(other)), ("rule", json!(other)), ("attempt", json!(2))] {
        let status = first.report(&json!({"status": "succeeded", field: value})).await?;
        ensure!(status == 400, "a report of another call by its {field}: {status}");
    }
    let refused = world.daemon.metric("triggerd_results_total", &["result=\"clocks_apart\""]).await?;
    ensure!(refused >= 3.0, "{refused} are counted");
    for garbled in ["", "no report", "{}", r#"{"status":"perhaps"}"#] {
        let status = first.send(good, garbled, secret).await?;
        ensure!(status == 400, "{garbled}: {status}");
    }
    ensure!(flow(&world).await? == (0, 1, 0), "none of them changed anything");

    ensure!(first.report(&failed()).await? == 204);
    world.platform.wait_for_calls("slow", 2).await?;
    until_flow(&world, (0, 1, 0)).await?;
    ensure!(first.report(&failed()).await? == 204, "a failure that was charged before");
    ensure!(flow(&world).await? == (0, 1, 0));
    let second = Accepted::of(&world, &binding, 2)?;
    ensure!(second.report(&succeeded()).await? == 204);
    until_flow(&world, (0, 0, 0)).await?;
    ensure!(second.report(&succeeded()).await? == 204, "a repeat is answered as it was");
    world.daemon.stop().await?;
    world.daemon.start_again().await?;
    ensure!(second.report(&succeeded()).await? == 404, "nobody remembers it after a restart");
    fs::remove_file(world.platform.file("hold"))?;
    eventually("the platform hears that nothing waits for its own reports", SOON, async || {
        ensure!(jobs(&world)?.is_empty());
        Ok(())
    })
    .await?;
    no_dead_letter(&world).await?;
    world.daemon.stop().await
}

async fn strangers_that_take_their_time_keep_no_report_out(ctx: Ctx) -> Result<()> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut plan = Plan::webhook(&noting("slow", HELD));
    plan.extra = format!("[callbacks]\nlisten = \"{address}\"\npublic_url = \"http://{address}\"\n");
    let mut world = World::start(&ctx, &plan).await?;
    fs::write(world.platform.file("hold"), "")?;
    let binding = world.bind("photos", "slow", &awaiting(600, 3)).await?;
    world.minio.put_object("photos", "in/a.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("slow", 1).await?;
    until_flow(&world, (0, 1, 0)).await?;
    let accepted = Accepted::of(&world, &binding, 1)?;
    ensure!(accepted.url.starts_with(&format!("http://{address}/")), "{}", accepted.url);
    let (_, token) = accepted.url.rsplit_once('/').context("no token")?;
    let (guessed, _) = token.rsplit_once('.').context("no MAC")?;
    let guessed = format!("/v1/callbacks/{guessed}.{}", "0".repeat(64));
    let unsigned = format!("/v1/callbacks/{token}");
    let confirmed = format!("/v1/bindings/{binding}/confirm");
    // More than the listener has places.
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(&address).await?);
    }
    let mut strangers = Vec::new();
    for (path, count, status) in [(guessed, 150, 404), (unsigned, 40, 401), (confirmed, 40, 401)] {
        for _ in 0..count {
            let mut stream = TcpStream::connect(&address).await?;
            let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{");
            stream.write_all(head.as_bytes()).await?;
            strangers.push((stream, status));
        }
    }
    fs::remove_file(world.platform.file("hold"))?;
    until_outcome(&world, &binding, "callback_succeeded").await?;
    until_flow(&world, (0, 0, 0)).await?;
    for (mut stream, status) in strangers {
        let mut said = Vec::new();
        // Closed with bytes of ours unread, it may be reset behind the answer.
        let _ended = timeout(SOON, stream.read_to_end(&mut said)).await.context("left open")?;
        let said = String::from_utf8_lossy(&said);
        ensure!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
    }
    drop(silent);
    no_dead_letter(&world).await?;
    world.daemon.stop().await
}

async fn unbinding_makes_a_dead_letter_of_what_awaits_its_result(ctx: Ctx) -> Result<()> {
    let mut world = held(&ctx).await?;
    let binding = world.bind("photos", "slow", &awaiting(600, 3)).await?;
    world.minio.put_object("photos", "in/a.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("slow", 1).await?;
    until_flow(&world, (0, 1, 0)).await?;
    let accepted = Accepted::of(&world, &binding, 1)?;
    world.daemon.call(Method::DELETE, &format!("/v1/bindings/{binding}"), None).await?;
    world.daemon.wait_until_gone(&binding).await?;
    let letter = dead_letter(&world).await?;
    let detail = letter["detail"].as_str().context("no detail")?;
    ensure!(letter["reason"] == "unbound" && detail.contains("its result was awaited"), "{letter}");
    let status = accepted.report(&succeeded()).await?;
    ensure!(status == 404, "nobody can tell any more whose it is: {status}");
    fs::remove_file(world.platform.file("hold"))?;
    world.daemon.stop().await
}

async fn a_result_sent_to_another_daemon_is_told_where_it_belongs(ctx: Ctx) -> Result<()> {
    let mut plan = Plan::webhook(&noting("slow", HELD));
    plan.relations = Some(database::shared(Engine::MySql).await?.url);
    let (mut world, mut second) = World::start_two(&ctx, &plan).await?;
    fs::write(world.platform.file("hold"), "")?;
    let binding = world.bind("photos", "slow", &awaiting(600, 3)).await?;
    world.minio.put_object("photos", "in/a.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("slow", 1).await?;
    let accepted = eventually("an accepted call", SOON, async || Accepted::of(&world, &binding, 1)).await?;
    let (_, token) = accepted.url.rsplit_once('/').context("no token")?;
    let wrong = if accepted.url.starts_with(second.admin()) { world.daemon.admin() } else { second.admin() };
    let url = format!("{wrong}/v1/callbacks/{token}");
    let status = accepted.send(&url, &succeeded().to_string(), &accepted.secret).await?;
    ensure!(status == 421, "{status}");
    fs::remove_file(world.platform.file("hold"))?;
    second.stop().await?;
    world.daemon.stop().await
}
