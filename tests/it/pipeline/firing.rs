//! An upload fires a bound function, whatever way the notification comes and wherever the bindings are kept.

use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::json;

use super::world::{Noted, Plan, SOON, Way, World, noting};
use crate::harness::{
    database::{self, Engine},
    installed::Server,
    mosquitto::{Mosquitto, MosquittoOptions},
    suite::{Ctx, Test},
    wait::eventually,
};

/// How notifications come in.
#[derive(Debug, Clone, Copy)]
enum Transport {
    Webhook,
    Mqtt(&'static str),
}

/// Every way in, with every place where bindings are kept.
pub(crate) fn matrix() -> Vec<Test> {
    let transports = [
        ("webhook", Transport::Webhook),
        ("mqtt_3_1_1", Transport::Mqtt("3.1.1")),
        ("mqtt_5", Transport::Mqtt("5")),
    ];
    let engines = [("sqlite", None), ("mariadb", Some(Engine::MariaDb)), ("mysql", Some(Engine::MySql))];
    let mut tests = Vec::new();
    for (way, transport) in transports {
        for (place, engine) in engines {
            let mut needs = vec![Server::Minio];
            needs.extend(matches!(transport, Transport::Mqtt(_)).then_some(Server::Mosquitto));
            needs.extend(engine.map(|engine| match engine {
                Engine::MySql => Server::MySql,
                Engine::MariaDb => Server::MariaDb,
            }));
            let name = format!("pipeline::an_upload_fires_sync_and_async_by_{way}_with_{place}");
            tests.push(Test::new(name, &needs, async move |ctx: Ctx| fires(ctx, transport, engine).await));
        }
    }
    tests
}

async fn fires(ctx: Ctx, transport: Transport, engine: Option<Engine>) -> Result<()> {
    let functions =
        format!("{}{}", noting("thumb", "printf made-it"), noting("slow", "sleep 0.2; printf made-it"));
    let mut plan = Plan::webhook(&functions);
    let mosquitto = match transport {
        Transport::Webhook => None,
        Transport::Mqtt(version) => {
            let mosquitto = Mosquitto::start(MosquittoOptions::default()).await?;
            plan.way = Way::Mqtt { broker: mosquitto.broker().replace("tcp://", "mqtt://"), version };
            Some(mosquitto)
        }
    };
    if let Some(engine) = engine {
        plan.relations = Some(database::shared(engine).await?.url);
    }
    let mut world = World::start(&ctx, &plan).await?;
    let sync = world.bind("photos", "thumb", &json!({"prefix": "in/", "suffix": ".jpg"})).await?;
    let asynchronous = json!({"glob": "in/**/*.jpg", "mode": "async", "payload": "s3-records"});
    let asynchronous = world.bind("photos", "slow", &asynchronous).await?;

    for (key, body) in [("in/a b+ü.jpg", "hello"), ("in/a.txt", "no"), ("out/a.jpg", "no")] {
        world.minio.put_object("photos", key, body, &[]).await?;
    }
    for function in ["thumb", "slow"] {
        let calls = world.platform.wait_for_calls(function, 1).await?;
        ensure!(calls[0].key == "in/a b+ü.jpg" && calls[0].attempt == 1, "{calls:?}");
    }
    // The results came back: one on the call, one by the platform's signed call.
    for (binding, outcome) in [(&sync, "ok"), (&asynchronous, "callback_succeeded")] {
        eventually(&format!("the outcome {outcome}"), SOON, async || {
            let path = format!("/v1/outcomes?binding={binding}");
            let (_, outcomes) = world.daemon.call(Method::GET, &path, None).await?;
            let outcomes = outcomes["outcomes"].as_array().cloned().unwrap_or_default();
            let found = outcomes.iter().any(|one| one["outcome"] == outcome && one["detail"] == "made-it");
            ensure!(found, "{outcomes:?}");
            Ok(())
        })
        .await?;
    }
    for binding in [&sync, &asynchronous] {
        world.daemon.call(Method::DELETE, &format!("/v1/bindings/{binding}"), None).await?;
        world.daemon.wait_until_gone(binding).await?;
    }
    world.minio.put_object("photos", "in/late.jpg", "hello", &[]).await?;
    world.daemon.stop().await?;
    drop(mosquitto);
    let all: Vec<Noted> = [world.platform.calls("thumb")?, world.platform.calls("slow")?].concat();
    ensure!(all.len() == 2, "fired where it should not: {all:?}");
    Ok(())
}
