//! Two daemons, two processes, one database: what is bound at one is in force at both.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use super::world::{Daemon, Plan, SECRETS, SOON, World, noting};
use crate::harness::{
    database::{self, Database, Engine},
    installed::Server,
    suite::{Ctx, Test},
    wait::{eventually, wait_for},
};

/// Written once by whichever daemon was first.
const WRITTEN: &str = "a bucket's rules were written";

/// One of the stories, told on either engine.
#[derive(Debug, Clone, Copy)]
enum Story {
    InForce,
    Away,
    ReturnsTooLate,
}

pub(crate) fn tests() -> Vec<Test> {
    let stories = [
        ("bound_at_one_daemon_is_in_force_at_the_other", Story::InForce),
        ("a_daemon_that_is_away_keeps_bindings_armed", Story::Away),
        ("what_a_daemon_held_of_a_binding_that_is_gone_dies", Story::ReturnsTooLate),
    ];
    let engines = [("mysql", Engine::MySql, Server::MySql), ("mariadb", Engine::MariaDb, Server::MariaDb)];
    let mut tests = Vec::new();
    for (title, story) in stories {
        for (name, engine, server) in engines {
            let name = format!("pipeline::several::{title}_on_{name}");
            let test = Test::new(name, &[Server::Minio, server], async move |ctx| match story {
                Story::InForce => in_force(ctx, engine).await,
                Story::Away => away(ctx, engine).await,
                Story::ReturnsTooLate => returns_too_late(ctx, engine).await,
            });
            tests.push(test.within(Duration::from_mins(3)));
        }
    }
    tests
}

async fn two(ctx: &Ctx, engine: Engine, functions: &str) -> Result<(World, Daemon, Database)> {
    let database = database::shared(engine).await?;
    let mut plan = Plan::webhook(functions);
    plan.relations = Some(database.url.clone());
    plan.extra = "[bindings]\ninspect_every_s = 1\n".into();
    let (world, second) = World::start_two(ctx, &plan).await?;
    Ok((world, second, database))
}

fn photos(function: &str, prefix: &str) -> Value {
    json!({
        "bucket": "photos", "events": ["s3:ObjectCreated:*"], "prefix": prefix, "platform": "local",
        "function": function,
    })
}

/// The daemons as this one knows them: name and revision.
async fn nodes(daemon: &Daemon) -> Result<Vec<(String, u64)>> {
    let (status, answer) = daemon.call(Method::GET, "/v1/nodes", None).await?;
    ensure!(status == StatusCode::OK, "{status} {answer}");
    let nodes = answer["nodes"].as_array().context("no nodes")?.iter();
    nodes
        .map(|node| {
            let name = node["name"].as_str().context("no name")?.to_owned();
            Ok((name, node["revision"].as_u64().context("no revision")?))
        })
        .collect()
}

async fn matched(daemon: &Daemon) -> Result<f64> {
    daemon.metric("triggerd_events_total", &["matched=\"yes\""]).await
}

#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures, and says what it found")]
async fn in_force(ctx: Ctx, engine: Engine) -> Result<()> {
    let (mut world, mut second, database) = two(&ctx, engine, &noting("thumb", "")).await?;
    let mut connection = database.connect().await?;
    let migrations: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version")
        .fetch_all(&mut connection)
        .await?;
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/mysql"))?.count();
    ensure!(migrations.len() == files, "{files} migrations, and applied are {migrations:?}");

    world.minio.create_bucket("photos").await?;
    let id = world.daemon.ask_for(&photos("thumb", "in/")).await?;
    let answered = Instant::now();
    let active = world.daemon.wait_for_state(&id, "active").await?;
    let became_active = answered.elapsed();
    // The revision before the last is that of `armed`, which both had to see.
    let armed = active["revision"].as_u64().context("no revision")? - 1;
    let seen = nodes(&world.daemon).await?;
    ensure!(seen.len() == 2 && seen.iter().all(|(_, revision)| *revision >= armed), "{armed}: {seen:?}");
    world.minio.put_object("photos", "in/1.jpg", "x", &[]).await?;
    wait_for("the other daemon matches", SOON, async || {
        matched(&second).await.is_ok_and(|count| count >= 1.0)
    })
    .await?;
    println!(
        "{engine}: active {became_active:?} after the answer, matched at the other by {:?}",
        answered.elapsed()
    );
    ensure!(answered.elapsed().as_secs() < 5, "in force after {:?}", answered.elapsed());
    // Each daemon has a target of its own here, so both call, under the same id.
    let calls = world.platform.wait_for_calls("thumb", 2).await?;
    ensure!(calls[0].delivery == calls[1].delivery, "{calls:?}");

    // Both inspect all the time, and neither finds anything to write.
    let before = world.minio.get_notification_configuration("photos").await?;
    for daemon in [&world.daemon, &second] {
        let passes = daemon.metric("triggerd_reconciler_passes_total", &[]).await?;
        wait_for("more passes", SOON, async || {
            daemon.metric("triggerd_reconciler_passes_total", &[]).await.is_ok_and(|now| now >= passes + 4.0)
        })
        .await?;
    }
    ensure!(world.minio.get_notification_configuration("photos").await? == before, "it was written again");
    let written: usize =
        [world.daemon.log()?, second.log()?].iter().map(|log| log.matches(WRITTEN).count()).sum();
    ensure!(written == 1, "the bucket's configuration was written {written} times");
    let now = world.daemon.binding(&id).await?;
    ensure!(now["revision"] == active["revision"], "an idle binding changes: {now}");

    let (status, _) = second.call(Method::DELETE, &format!("/v1/bindings/{id}"), None).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status}");
    world.daemon.wait_until_gone(&id).await?;
    let left = world.minio.get_notification_configuration("photos").await?;
    ensure!(left.queue_configurations().is_empty(), "{left:?}");
    let rule = reqwest::Client::new().get(format!("{}/rules/{id}", world.platform.url()));
    let rule = rule.bearer_auth(SECRETS[1]).send().await?;
    ensure!(rule.status() == StatusCode::NOT_FOUND, "the rule is still there");
    world.daemon.stop().await?;
    second.stop().await
}

async fn away(ctx: Ctx, engine: Engine) -> Result<()> {
    let (mut world, mut second, _database) = two(&ctx, engine, &noting("thumb", "")).await?;
    world.minio.create_bucket("photos").await?;
    second.kill9().await?;
    let id = world.daemon.ask_for(&photos("thumb", "in/")).await?;
    let waits = async |state: &str| {
        eventually(&format!("{state}, for `two` is silent"), SOON, async || {
            let binding = world.daemon.binding(&id).await?;
            let reason = binding["reason"].as_str().unwrap_or_default();
            let named = reason.contains("`two` (more than ten seconds)");
            ensure!(binding["state"] == state && named, "{binding}");
            Ok(())
        })
        .await
    };
    waits("armed").await?;
    world.minio.put_object("photos", "in/1.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("thumb", 1).await?;
    world.daemon.cli(&["nodes", "--forget", "two"])?;
    world.daemon.wait_for_state(&id, "active").await?;

    // It comes back by itself, and has what was bound without it.
    second.start_again().await?;
    wait_for("two is registered again", SOON, async || {
        nodes(&world.daemon).await.is_ok_and(|nodes| nodes.len() == 2)
    })
    .await?;
    world.minio.put_object("photos", "in/2.jpg", "x", &[]).await?;
    wait_for("the second matches", SOON, async || matched(&second).await.is_ok_and(|count| count >= 1.0))
        .await?;

    second.kill9().await?;
    let (status, _) = world.daemon.call(Method::DELETE, &format!("/v1/bindings/{id}"), None).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status}");
    waits("unbinding").await?;
    second.start_again().await?;
    world.daemon.wait_until_gone(&id).await?;
    world.daemon.stop().await?;
    second.stop().await
}

/// One daemon holds deliveries of a degraded binding, dies, is forgotten, and returns when the binding is gone.
async fn returns_too_late(ctx: Ctx, engine: Engine) -> Result<()> {
    let (mut world, mut second, _database) = two(&ctx, engine, &noting("bad", "exit 3")).await?;
    let retry = json!({"max_attempts": 9, "first_wait_ms": 60_000, "max_wait_ms": 60_000});
    let id = world.bind("photos", "bad", &json!({"retry": retry})).await?;
    world.minio.put_object("photos", "in/1.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("bad", 2).await?;
    // A bucket that is gone degrades its bindings, and what is parked is held.
    world.minio.delete_object("photos", "in/1.jpg").await?;
    world.minio.s3().delete_bucket().bucket("photos").send().await?;
    world.daemon.wait_for_state(&id, "degraded").await?;
    let file =
        SqliteConnectOptions::new().filename(ctx.folder().join("second/state/queue.db")).read_only(true);
    let mut queue = file.connect().await?;
    eventually("the second holds it", SOON, async || {
        let held: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM delivery WHERE held = 1").fetch_one(&mut queue).await?;
        ensure!(held == 1, "{held}");
        Ok(())
    })
    .await?;
    queue.close().await?;
    second.kill9().await?;
    world.daemon.call(Method::DELETE, &format!("/v1/bindings/{id}"), None).await?;
    world.daemon.cli(&["nodes", "--forget", "two"])?;
    world.daemon.wait_until_gone(&id).await?;
    let reason =
        |letters: Vec<Value>| letters.iter().map(|letter| letter["reason"].clone()).collect::<Vec<_>>();
    ensure!(reason(world.daemon.dead_letters().await?) == ["unbound"], "at the first");
    second.start_again().await?;
    eventually("a dead letter at the second", SOON, async || {
        let reasons = reason(second.dead_letters().await?);
        ensure!(reasons == ["unbound"], "{reasons:?}");
        Ok(())
    })
    .await?;
    world.daemon.stop().await?;
    second.stop().await
}
