//! A binding is damaged from outside: found, told, mended, and nothing lost. And how parked deliveries end when their
//! binding is taken back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Mutex,
};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::types::{Event, NotificationConfiguration, QueueConfiguration};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use triggerd::domain::secret::SigningSecret;

use super::world::{Plan, SECRETS, SOON, World, noting};
use crate::harness::{
    receiver::{Answer, Receiver, Recorded},
    suite::Ctx,
    wait::{eventually, wait_for},
};

const UPLOADS: usize = 20;

fn inspected_often(functions: &str) -> Plan {
    let mut plan = Plan::webhook(functions);
    plan.extra = "[bindings]\ninspect_every_s = 1\n".into();
    plan
}

/// One charged attempt would make a dead letter.
fn once() -> Value {
    json!({"retry": {"max_attempts": 1, "first_wait_ms": 50, "max_wait_ms": 500}})
}

/// Uploads, and waits until each was delivered by a call of its own.
async fn uploads_are_all_delivered(world: &World) -> Result<()> {
    for number in 0..UPLOADS {
        world.minio.put_object("photos", &format!("in/{number}.jpg"), "x", &[]).await?;
    }
    eventually("every upload is delivered", SOON, async || {
        let keys: BTreeSet<String> =
            world.platform.calls("thumb")?.into_iter().map(|call| call.key).collect();
        ensure!(keys.len() == UPLOADS, "{keys:?}");
        Ok(())
    })
    .await?;
    ensure!(world.daemon.dead_letters().await?.is_empty(), "an attempt was charged");
    Ok(())
}

fn fell(world: &World, reason: &str) -> Result<()> {
    let log = world.daemon.log()?;
    let fell = log.lines().any(|line| line.contains("degraded") && line.contains(reason));
    ensure!(fell, "it was never degraded for `{reason}`");
    Ok(())
}

pub(crate) async fn a_rule_deleted_on_the_platform_is_found_by_the_next_call_and_mended(
    ctx: Ctx,
) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    let id = world.bind("photos", "thumb", &once()).await?;
    let rule = reqwest::Client::new().delete(format!("{}/rules/{id}", world.platform.url()));
    let deleted = rule.bearer_auth(SECRETS[1]).send().await?;
    ensure!(deleted.status().is_success(), "{}", deleted.status());
    uploads_are_all_delivered(&world).await?;
    world.daemon.wait_for_state(&id, "active").await?;
    fell(&world, "the platform no longer has the rule")?;
    let broken = world.daemon.metric("triggerd_attempts_total", &["binding_broken"]).await?;
    ensure!(broken >= 1.0, "no call found it");
    // What the platform refused was refused before the function ran.
    ensure!(world.platform.calls("thumb")?.len() == UPLOADS);
    world.daemon.stop().await
}

pub(crate) async fn a_platform_that_forgot_everything_is_given_its_rules_again(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    let id = world.bind("photos", "thumb", &once()).await?;
    world.platform.kill9().await?;
    fs::remove_dir_all(world.platform.file("state"))?;
    world.platform.start_again().await?;
    uploads_are_all_delivered(&world).await?;
    world.daemon.wait_for_state(&id, "active").await?;
    fell(&world, "the platform no longer has the rule")?;
    world.daemon.stop().await
}

pub(crate) async fn bucket_rules_that_somebody_overwrote_are_put_back_beside_theirs(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &inspected_often(&noting("thumb", ""))).await?;
    let id = world.bind("photos", "thumb", &once()).await?;
    let theirs = QueueConfiguration::builder()
        .id("theirs")
        .queue_arn(world.minio.webhook_arn("TRIGGERD"))
        .events(Event::from("s3:ObjectRemoved:*"))
        .build()?;
    let ids = async || {
        let rules = world.minio.get_notification_configuration("photos").await?;
        let rules = rules.queue_configurations().iter();
        anyhow::Ok(rules.filter_map(|rule| rule.id().map(str::to_owned)).collect::<Vec<_>>())
    };
    let overwritten = NotificationConfiguration::builder().queue_configurations(theirs).build();
    world.minio.put_notification_configuration("photos", overwritten).await?;
    eventually("ours are back", SOON, async || {
        let ids = ids().await?;
        let ours = ids.iter().any(|id| id.starts_with("triggerd-"));
        ensure!(ours && ids.iter().any(|id| id == "theirs"), "{ids:?}");
        Ok(())
    })
    .await?;
    world.daemon.wait_for_state(&id, "active").await?;
    fell(&world, "no longer has the rules of this binding")?;

    let told = "a rule that is not ours has vanished";
    ensure!(!world.daemon.log()?.contains(told), "it is told before it happened");
    // So that the reconciler has seen theirs before it vanishes.
    let passes = world.daemon.metric("triggerd_reconciler_passes_total", &[]).await?;
    wait_for("two more passes", SOON, async || {
        let now = world.daemon.metric("triggerd_reconciler_passes_total", &[]).await;
        now.is_ok_and(|now| now >= passes + 2.0)
    })
    .await?;
    let empty = NotificationConfiguration::builder().build();
    world.minio.put_notification_configuration("photos", empty).await?;
    eventually("ours are back again", SOON, async || {
        let ids = ids().await?;
        ensure!(ids.len() == 1 && ids[0].starts_with("triggerd-"), "{ids:?}");
        Ok(())
    })
    .await?;
    ensure!(world.daemon.log()?.contains(told), "it is not told that theirs has vanished");
    world.daemon.wait_for_state(&id, "active").await?;
    uploads_are_all_delivered(&world).await?;
    world.daemon.stop().await
}

/// A platform that keeps rules as it should and answers every call with 401.
fn rules_right_calls_refused() -> impl Fn(usize, &Recorded) -> Answer + Send + Sync + 'static {
    let rules: Mutex<BTreeMap<String, Value>> = Mutex::default();
    move |_, request| {
        let answer = |status, body: Value| Answer::json(status, &body).unwrap();
        let path = request.uri.path().to_owned();
        let mut rules = rules.lock().unwrap();
        match request.method.as_str() {
            "PUT" => {
                let mut rule = request.json().unwrap();
                let secret = SigningSecret::parse(rule["secret"].as_str().unwrap()).unwrap();
                rule["secret_digest"] = json!(secret.digest());
                rule["state"] = json!("confirmed");
                rules.insert(path, rule);
                answer(201, json!({"id": "it", "state": "confirmed"}))
            }
            "GET" if rules.contains_key(&path) => answer(200, rules[&path].clone()),
            "DELETE" => Answer::status(204).unwrap(),
            "POST" => {
                answer(401, json!({"type": "/problems/bad-signature", "detail": "I do not believe you"}))
            }
            _ => answer(404, json!({})),
        }
    }
}

pub(crate) async fn a_call_refused_though_the_rule_is_in_step_is_permanent_after_an_inspection(
    ctx: Ctx,
) -> Result<()> {
    let receiver = Receiver::start().await?;
    receiver.answer_by(rules_right_calls_refused());
    let mut plan = Plan::webhook(&noting("thumb", ""));
    plan.extra = format!(
        "[platforms.odd]\ndriver = \"rules\"\nurl = \"{}\"\ntoken = \"token-for-the-odd-platform\"\n",
        receiver.url("")
    );
    let mut world = World::start(&ctx, &plan).await?;
    let mut wanted = once();
    wanted["platform"] = json!("odd");
    wanted["retry"]["max_attempts"] = json!(50);
    let id = world.bind("photos", "thumb", &wanted).await?;
    world.minio.put_object("photos", "in/1.jpg", "x", &[]).await?;
    let letter = eventually("a dead letter", SOON, async || {
        world.daemon.dead_letters().await?.pop().context("none yet")
    })
    .await?;
    ensure!(letter["reason"] == "permanent", "{letter}");
    let requests = receiver.requests();
    let calls: Vec<usize> =
        requests.iter().enumerate().filter(|(_, it)| it.method == Method::POST).map(|(at, _)| at).collect();
    let (first, last) = (calls[0], *calls.last().context("no call")?);
    let inspected = requests[first..last].iter().any(|request| request.method == Method::GET);
    ensure!(calls.len() >= 2 && inspected, "given up without an inspection");
    ensure!(world.daemon.binding(&id).await?["state"] == "active", "a whole binding was degraded");
    world.daemon.stop().await
}

pub(crate) async fn unbinding_makes_dead_letters_of_what_is_parked_or_forgets_it_when_asked(
    ctx: Ctx,
) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("bad", "exit 3"))).await?;
    let retry = json!({"retry": {"max_attempts": 9, "first_wait_ms": 60_000, "max_wait_ms": 60_000}});
    for (round, query, letters) in [(0, "", 3), (1, "?pending=discard", 3), (2, "?pending=dead-letter", 6)] {
        let id = world.bind("photos", "bad", &retry).await?;
        for number in 0..3 {
            world.minio.put_object("photos", &format!("in/{round}-{number}.jpg"), "x", &[]).await?;
        }
        world.platform.wait_for_calls("bad", 3 * (round + 1)).await?;
        // An attempt is counted before it is recorded, and runs until then.
        wait_for("the attempts are recorded", SOON, async || {
            let answer = world.daemon.call(Method::GET, "/v1/functions", None).await;
            answer.is_ok_and(|(_, shown)| {
                let bad = &shown["functions"][0];
                bad["parked"] == 3 && bad["running"] == 0
            })
        })
        .await?;
        let (status, answer) =
            world.daemon.call(Method::DELETE, &format!("/v1/bindings/{id}{query}"), None).await?;
        ensure!(status == StatusCode::ACCEPTED && answer["state"] == "unbinding", "{status} {answer}");
        world.daemon.wait_until_gone(&id).await?;
        let dead = world.daemon.dead_letters().await?;
        ensure!(dead.len() == letters, "after {query:?}: {dead:?}");
        ensure!(dead.iter().all(|letter| letter["reason"] == "unbound"), "{dead:?}");
    }
    let (status, _) = world.daemon.call(Method::DELETE, "/v1/bindings/nonsense?pending=burn", None).await?;
    ensure!(status.is_client_error(), "{status}");
    ensure!(world.platform.calls("bad")?.len() == 9, "called after it was unbound");

    // Bound again, with other settings perhaps, the function can be given what it did not get.
    let all = json!({"reason": "unbound"});
    let replay = async || world.daemon.call(Method::POST, "/v1/dead-letters/replay", Some(&all)).await;
    let (status, batch) = replay().await?;
    ensure!(status == StatusCode::OK && batch["skipped"] == 6 && batch["done"] == json!([]), "{batch}");
    world.bind("photos", "bad", &json!({"retry": {"max_attempts": 1}})).await?;
    let (status, batch) = replay().await?;
    ensure!(status == StatusCode::OK && batch["skipped"] == 0, "{batch}");
    ensure!(batch["done"].as_array().is_some_and(|done| done.len() == 6), "{batch}");
    world.platform.wait_for_calls("bad", 9 + 6).await?;
    world.daemon.stop().await
}
