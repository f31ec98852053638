//! Functions that write into the bucket that fires them.

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{
    twin::count,
    world::{Plan, SOON, World, noting},
};
use crate::harness::{
    minio::{ACCESS_KEY, SECRET_KEY},
    suite::Ctx,
    wait::eventually,
};

pub(crate) async fn what_a_binding_ignores_does_not_fire_it(ctx: Ctx) -> Result<()> {
    let functions = format!("{}{}", noting("thumb", ""), noting("strict", ""));
    let mut world = World::start(&ctx, &Plan::webhook(&functions)).await?;
    world.bind("photos", "thumb", &json!({})).await?;
    world.bind("photos", "strict", &json!({"ignore_principals": [ACCESS_KEY]})).await?;
    let_everybody_write(&world, "photos").await?;
    put_as_nobody(&world, "photos", "in/before.jpg").await?;
    world.minio.put_object("photos", "in/ignored.jpg", "x", &[]).await?;
    put_as_nobody(&world, "photos", "in/after.jpg").await?;
    world.platform.wait_for_calls("thumb", 3).await?;
    world.platform.wait_for_calls("strict", 2).await?;
    world.daemon.stop().await?;
    let strict = world.platform.calls("strict")?;
    ensure!(strict.iter().all(|call| call.key != "in/ignored.jpg"), "{strict:?}");
    Ok(())
}

pub(crate) async fn what_a_storage_ignores_fires_nothing(ctx: Ctx) -> Result<()> {
    let storage = format!("ignore_principals = [\"{ACCESS_KEY}\"]\n");
    let mut world = World::start(&ctx, &Plan { storage, ..Plan::webhook(&noting("thumb", "")) }).await?;
    world.bind("photos", "thumb", &json!({})).await?;
    let_everybody_write(&world, "photos").await?;
    world.minio.put_object("photos", "in/ignored.jpg", "x", &[]).await?;
    put_as_nobody(&world, "photos", "in/after.jpg").await?;
    world.platform.wait_for_calls("thumb", 1).await?;
    world.daemon.stop().await?;
    let calls = world.platform.calls("thumb")?;
    ensure!(calls.len() == 1 && calls[0].key == "in/after.jpg", "{calls:?}");
    Ok(())
}

pub(crate) async fn a_function_that_feeds_itself_is_told_of_and_every_event_fires(ctx: Ctx) -> Result<()> {
    // It copies what it is called for, under a longer name, and stops after the sixth by itself.
    let script = format!(
        "case \"$TRIGGER_KEY\" in *.copy.copy.copy.copy.copy.copy) exit 0;; esac; \
         curl --silent --show-error --fail --noproxy \"*\" --aws-sigv4 aws:amz:us-east-1:s3 \
         --user {ACCESS_KEY}:{SECRET_KEY} --header x-amz-content-sha256:UNSIGNED-PAYLOAD --request PUT --data-binary x \
         \"$(cat \"$FOLDER/minio\")/photos/$TRIGGER_KEY.copy\""
    );
    let mut world = World::start(&ctx, &Plan::webhook(&noting("copier", &script))).await?;
    std::fs::write(world.platform.file("minio"), world.minio.endpoint())?;
    let binding = world.bind("photos", "copier", &json!({})).await?;
    world.minio.put_object("photos", "in/a.jpg", "x", &[]).await?;
    let calls = world.platform.wait_for_calls("copier", 7).await?;
    ensure!(calls.iter().all(|call| call.attempt == 1), "{calls:?}");
    let told = eventually("it is told of", SOON, async || {
        let path = format!("/v1/outcomes?binding={binding}");
        let (_, outcomes) = world.daemon.call(Method::GET, &path, None).await?;
        let outcomes = outcomes["outcomes"].as_array().cloned().unwrap_or_default();
        let told = outcomes.iter().find(|one| one["outcome"] == "loop_suspected").cloned();
        told.with_context(|| format!("not among {outcomes:?}"))
    })
    .await?;
    ensure!(told["key"] == "in/a.jpg.copy.copy.copy", "{told}");
    ensure!(told["detail"].as_str().is_some_and(|text| text.contains("ignore_principals")), "{told}");
    let (_, text) = world.daemon.call(Method::GET, "/metrics", None).await?;
    let suspected = count(text.as_str().context("no text")?, "triggerd_loops_suspected_total");
    ensure!(suspected == 4, "counted {suspected} times");
    world.daemon.stop().await?;
    let log = world.daemon.log()?;
    let lines = log.lines().filter(|line| line.contains("fires it again")).count();
    ensure!(lines == 1, "told {lines} times within a minute");
    Ok(())
}

/// Lets requests without credentials upload; their principal is empty.
async fn let_everybody_write(world: &World, bucket: &str) -> Result<()> {
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["s3:PutObject"],
            "Resource": [format!("arn:aws:s3:::{bucket}/*")],
        }],
    });
    world.minio.s3().put_bucket_policy().bucket(bucket).policy(policy.to_string()).send().await?;
    Ok(())
}

async fn put_as_nobody(world: &World, bucket: &str, key: &str) -> Result<()> {
    let url = format!("{}/{bucket}/{key}", world.minio.endpoint());
    let http = reqwest::Client::builder().no_proxy().build()?;
    let answer = http.put(url).body("x").send().await?;
    ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
    Ok(())
}
