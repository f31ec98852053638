//! The shared database is away: events go on, bindings wait.

use anyhow::{Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::world::{Plan, SOON, World, noting};
use crate::harness::{
    database::{Engine, SqlServer},
    suite::Ctx,
    wait::eventually,
};

pub(crate) async fn without_mysql_events_fire_and_retry_and_bindings_wait(ctx: Ctx) -> Result<()> {
    let mut mysql = SqlServer::start(Engine::MySql).await?;
    let functions = format!("{}{}", noting("good", ""), noting("bad", "exit 3"));
    let mut plan = Plan::webhook(&functions);
    plan.relations = Some(mysql.create_database().await?.url);
    let mut world = World::start(&ctx, &plan).await?;
    let good = world.bind("photos", "good", &json!({})).await?;
    let retry = json!({"max_attempts": 2, "first_wait_ms": 10, "max_wait_ms": 50});
    world.bind("photos", "bad", &json!({"retry": retry})).await?;

    mysql.stop().await?;
    world.minio.put_object("photos", "in/1.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("good", 1).await?;
    world.daemon.stop().await?;
    world.daemon.start_again().await?;
    world.minio.put_object("photos", "in/2.jpg", "x", &[]).await?;
    let calls = world.platform.wait_for_calls("good", 2).await?;
    ensure!(calls[1].key == "in/2.jpg", "{calls:?}");
    eventually("the failing function's deliveries are dead letters", SOON, async || {
        let letters = world.daemon.dead_letters().await?;
        ensure!(letters.len() == 2, "{letters:?}");
        Ok(())
    })
    .await?;

    let wanted = json!({"bucket": "photos", "events": ["s3:ObjectRemoved:*"], "platform": "local", "function": "good"});
    let (status, problem) = world.daemon.call(Method::POST, "/v1/bindings", Some(&wanted)).await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status} {problem}");
    ensure!(problem["detail"].as_str().is_some_and(|text| text.contains("database")), "{problem}");
    let (status, _) = world.daemon.call(Method::DELETE, &format!("/v1/bindings/{good}"), None).await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "unbind without a database: {status}");

    mysql.start_again().await?;
    let bound = eventually("bindings can be made again", SOON, async || {
        let (status, answer) = world.daemon.call(Method::POST, "/v1/bindings", Some(&wanted)).await?;
        ensure!(status.is_success(), "{status} {answer}");
        Ok(answer)
    })
    .await?;
    let id = bound["id"].as_str().unwrap_or_default();
    world.daemon.wait_for_state(id, "active").await?;
    world.minio.delete_object("photos", "in/1.jpg").await?;
    world.platform.wait_for_calls("good", 3).await?;
    world.daemon.stop().await
}
