//! An upload fires a bound function, whatever way the notification comes and wherever the bindings are kept.

use anyhow::{Result, ensure};
use serde_json::json;

use super::world::{Plan, World, noting};
use crate::harness::suite::Ctx;

/// The short story, on the embedded default.
pub(crate) async fn an_upload_fires_a_bound_function(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", "printf done"))).await?;
    let id = world.bind("photos", "thumb", &json!({"prefix": "in/", "suffix": ".jpg"})).await?;
    world.minio.put_object("photos", "in/a b.jpg", b"hello", &[]).await?;
    world.minio.put_object("photos", "in/a.txt", b"hello", &[]).await?;
    world.minio.put_object("photos", "out/a.jpg", b"hello", &[]).await?;
    let calls = world.platform.wait_for_calls("thumb", 1).await?;
    ensure!(calls[0].key == "in/a b.jpg", "{calls:?}");
    let (_, outcomes) = world.daemon.call(reqwest::Method::GET, &format!("/v1/outcomes?binding={id}"), None).await?;
    ensure!(outcomes.to_string().contains("done"), "the result came back: {outcomes}");
    world.daemon.call(reqwest::Method::DELETE, &format!("/v1/bindings/{id}"), None).await?;
    world.daemon.wait_until_gone(&id).await?;
    world.minio.put_object("photos", "in/late.jpg", b"hello", &[]).await?;
    world.daemon.stop().await?;
    ensure!(world.platform.calls("thumb")?.len() == 1, "fired after it was unbound");
    Ok(())
}
