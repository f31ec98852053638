//! What becomes of deliveries whose function fails, whose platform is away, and of bindings begun on the platform.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::world::{Plan, SECRETS, SOON, World, noting};
use crate::harness::{suite::Ctx, wait::eventually};

pub(crate) async fn a_failing_function_retries_dies_is_mended_and_replayed(ctx: Ctx) -> Result<()> {
    let mut world =
        World::start(&ctx, &Plan::webhook(&noting("thumb", "test -e \"$FOLDER/mended\""))).await?;
    let retry = json!({"max_attempts": 3, "first_wait_ms": 10, "max_wait_ms": 100});
    world.bind("photos", "thumb", &json!({"retry": retry})).await?;
    world.minio.put_object("photos", "in/a.jpg", "x", &[]).await?;
    let letter = eventually("a dead letter", SOON, async || {
        world.daemon.dead_letters().await?.pop().context("none yet")
    })
    .await?;
    let calls = world.platform.calls("thumb")?;
    ensure!(calls.iter().map(|call| call.attempt).eq([1, 2, 3]), "{calls:?}");
    let id = letter["id"].as_str().context("no id")?;
    ensure!(calls.iter().all(|call| call.delivery == id), "another id on a retry: {calls:?}");

    let shown = world.daemon.cli(&["dead-letters", "show", id])?;
    ensure!(shown.contains("attempts_exhausted") && shown.contains("in/a.jpg"), "{shown}");
    fs::write(world.platform.file("mended"), "")?;
    world.daemon.cli(&["dead-letters", "replay", id])?;
    let calls = world.platform.wait_for_calls("thumb", 4).await?;
    ensure!(calls[3].delivery == id, "replayed under another id: {calls:?}");
    eventually("no dead letter is left", SOON, async || {
        ensure!(world.daemon.dead_letters().await?.is_empty());
        Ok(())
    })
    .await?;
    world.daemon.stop().await
}

pub(crate) async fn a_platform_that_is_away_costs_no_attempt(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    let retry = json!({"max_attempts": 1, "first_wait_ms": 50, "max_wait_ms": 200});
    world.bind("photos", "thumb", &json!({"retry": retry})).await?;
    world.platform.kill9().await?;
    for number in 0..5 {
        world.minio.put_object("photos", &format!("in/{number}.jpg"), "x", &[]).await?;
    }
    eventually("each was tried several times", SOON, async || {
        let (_, text) = world.daemon.call(Method::GET, "/metrics", None).await?;
        let text = text.as_str().context("no text")?;
        let line = text.lines().find(|line| line.contains("class=\"platform_fault\"")).context("none")?;
        let faults: f64 = line.rsplit(' ').next().context("no value")?.parse()?;
        ensure!(line.starts_with("triggerd_attempts_total") && faults >= 15.0, "{line}");
        Ok(())
    })
    .await?;
    ensure!(world.daemon.dead_letters().await?.is_empty());
    world.platform.start_again().await?;
    world.platform.wait_for_calls("thumb", 5).await?;
    world.daemon.stop().await
}

pub(crate) async fn a_binding_begun_on_the_platform_becomes_active_and_is_taken_back(ctx: Ctx) -> Result<()> {
    let plan = Plan { confirm_by_callback: true, ..Plan::webhook(&noting("thumb", "")) };
    let mut world = World::start(&ctx, &plan).await?;
    world.minio.create_bucket("photos").await?;
    let bound = world.platform.cli(&[
        "bind",
        "--bucket",
        "photos",
        "--event",
        "s3:ObjectCreated:*",
        "--glob",
        "in/**/*.jpg",
        "--function",
        "thumb",
        "--json",
    ])?;
    ensure!(bound.contains("active"), "{bound}");
    world.minio.put_object("photos", "in/x/y/a.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("thumb", 1).await?;
    let listed = world.daemon.cli(&["bindings", "--json"])?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    let id = listed["bindings"][0]["id"].as_str().context("no binding")?.to_owned();
    world.platform.cli(&["unbind", &id])?;
    world.daemon.wait_until_gone(&id).await?;
    let rule = reqwest::Client::new().get(format!("{}/rules/{id}", world.platform.url()));
    let rule = rule.bearer_auth(SECRETS[1]).send().await?;
    ensure!(rule.status() == StatusCode::NOT_FOUND, "the rule is still there");
    world.daemon.stop().await
}

pub(crate) async fn secrets_are_in_no_log(ctx: Ctx) -> Result<()> {
    let mut plan = Plan::webhook(&noting("thumb", "exit 1"));
    plan.extra = String::new();
    let mut world = World::start(&ctx, &plan).await?;
    world
        .bind("photos", "thumb", &json!({"retry": {"max_attempts": 1, "first_wait_ms": 1, "max_wait_ms": 1}}))
        .await?;
    world.minio.put_object("photos", "in/a.jpg", "x", &[]).await?;
    eventually("a dead letter", SOON, async || world.daemon.dead_letters().await?.pop().context("none"))
        .await?;
    world.daemon.stop().await?;
    let log = world.daemon.log()?;
    ensure!(log.contains("given up"), "the log is not the daemon's: {log}");
    let rules = fs::read_dir(world.platform.file("state/rules"))?;
    let rule: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(rules.flatten().next().context("no rule")?.path())?)?;
    let signing = rule["secret"].as_str().or(rule["rule"]["secret"].as_str()).context("no secret")?;
    for secret in SECRETS.iter().chain([&signing]) {
        ensure!(!log.contains(*secret), "a secret is in the log: {secret}");
    }
    Ok(())
}
