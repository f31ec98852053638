//! Dead letters and quarantine, as an operator meets them: by the command line and the API of the real daemon.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use triggerd::domain::clock::{Clock as _, SystemClock};

use super::world::{Plan, SOON, WEBHOOK_TOKEN, World, noting};
use crate::harness::{
    suite::{Ctx, Test, tests},
    wait::eventually,
};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] dead_letters_are_found_by_filter_and_shown_with_their_attempts;
        [Minio] many_are_replayed_at_a_pace_once_each_and_discarded_with_a_reason;
        [Minio] a_replay_of_many_keeps_its_pace;
        [Minio] a_replay_of_many_is_stopped_by_ctrl_c_and_taken_up_again;
        [Minio] what_is_in_quarantine_is_shown_tried_again_and_discarded;
        [Minio] dead_letters_of_age_are_announced_and_dropped;
        [Minio] a_handler_function_is_given_each_dead_letter_across_kill_9_and_never_loops;
        [Minio] a_handler_function_of_the_platform_serves_bindings_that_name_none;
    }
}

/// Fails until it is mended; while there is a file HOLD it takes as long as that is there.
const UNTIL_MENDED: &str =
    "while test -e \"$FOLDER/hold\"; do sleep 0.05; done; echo no such pixel >&2; test -e \"$FOLDER/mended\"";

/// What the command answers with `--json`.
fn parsed(world: &World, arguments: &[&str]) -> Result<Value> {
    let said = world.daemon.cli(&[arguments, &["--json"]].concat())?;
    serde_json::from_str(&said).with_context(|| format!("{arguments:?} said {said}"))
}

/// The sum of a metric's series, as it is shown.
async fn shown(world: &World, name: &str, labels: &[&str]) -> Result<String> {
    // The sum of no series at all is a negative zero.
    Ok(world.daemon.metric(name, labels).await?.abs().to_string())
}

/// How many dead letters fit these arguments.
fn count(world: &World, arguments: &[&str]) -> Result<usize> {
    let found = parsed(world, &[&["dead-letters", "list", "--all"], arguments].concat())?;
    Ok(found["dead_letters"].as_array().context("no list")?.len())
}

/// Two functions that fail, and the dead letters of so many events of each.
async fn with_letters(ctx: &Ctx, thumbs: usize, logs: usize) -> Result<World> {
    let functions = format!("{}{}", noting("thumb", UNTIL_MENDED), noting("index", UNTIL_MENDED));
    let world = World::start(ctx, &Plan::webhook(&functions)).await?;
    let once = json!({"retry": {"max_attempts": 1, "first_wait_ms": 10, "max_wait_ms": 10}});
    world.bind("photos", "thumb", &once).await?;
    world.bind("logs", "index", &once).await?;
    for number in 0..thumbs {
        world.minio.put_object("photos", &format!("in/{number}.jpg"), "x", &[]).await?;
    }
    for number in 0..logs {
        world.minio.put_object("logs", &format!("out/{number}.log"), "x", &[]).await?;
    }
    eventually("all are dead letters", SOON, async || {
        let there = count(&world, &[])?;
        ensure!(there == thumbs + logs, "{there} so far");
        Ok(())
    })
    .await?;
    Ok(world)
}

pub(crate) async fn dead_letters_are_found_by_filter_and_shown_with_their_attempts(ctx: Ctx) -> Result<()> {
    let mut world = with_letters(&ctx, 7, 3).await?;
    let cases: [(&[&str], usize); 9] = [
        (&["--function", "local/thumb"], 7),
        (&["--function", "index"], 3),
        (&["--bucket", "logs"], 3),
        (&["--key-prefix", "in/"], 7),
        (&["--key-prefix", "in/3"], 1),
        (&["--reason", "attempts_exhausted"], 10),
        (&["--reason", "overflow"], 0),
        (&["--since", "2h"], 10),
        (&["--until", "2h"], 0),
    ];
    for (arguments, expected) in cases {
        let found = count(&world, arguments)?;
        ensure!(found == expected, "{arguments:?}: {found}");
    }
    let (status, _) = world.daemon.call(Method::GET, "/v1/dead-letters?cursor=nonsense", None).await?;
    ensure!(status == StatusCode::BAD_REQUEST, "{status}");

    // Pages stay right while letters go, the one that was the mark among them.
    let (mut seen, mut path) = (BTreeSet::new(), "/v1/dead-letters?limit=3".to_owned());
    loop {
        let (status, page) = world.daemon.call(Method::GET, &path, None).await?;
        ensure!(status == StatusCode::OK, "{status} {page}");
        let letters = page["dead_letters"].as_array().context("no list")?;
        for letter in letters {
            ensure!(seen.insert(letter["id"].to_string()), "met twice: {letter}");
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/dead-letters?limit=3&cursor={next}");
        let mark = letters.last().and_then(|letter| letter["id"].as_str()).context("an empty page")?;
        world.daemon.cli(&["dead-letters", "discard", mark, "--why", "the mark of a page"])?;
    }
    ensure!(seen.len() == 10, "{} of 10 were met", seen.len());
    ensure!(world.daemon.log()?.contains("the mark of a page"), "the reason is not in the log");

    let left = parsed(&world, &["dead-letters", "list"])?;
    let id = left["dead_letters"][0]["id"].as_str().context("none left")?;
    let shown = parsed(&world, &["dead-letters", "show", id])?;
    let attempt = &shown["attempts"][0];
    ensure!(attempt["status"] == 500 && attempt["took_us"].as_u64() > Some(0), "{shown}");
    ensure!(attempt["at"].is_string() && attempt["detail"].to_string().contains("no such pixel"), "{shown}");
    world.daemon.stop().await
}

pub(crate) async fn many_are_replayed_at_a_pace_once_each_and_discarded_with_a_reason(
    ctx: Ctx,
) -> Result<()> {
    let mut world = with_letters(&ctx, 12, 3).await?;
    let before = world.platform.calls("thumb")?.len();
    let one = parsed(&world, &["dead-letters", "list", "--function", "local/thumb"])?;
    let one = one["dead_letters"][0]["id"].as_str().context("none")?.to_owned();

    // Asked for twice while it is on its way, it goes once.
    fs::write(world.platform.file("hold"), "")?;
    let path = format!("/v1/dead-letters/{one}/replay");
    let (status, first) = world.daemon.call(Method::POST, &path, None).await?;
    ensure!(status == StatusCode::ACCEPTED && first["already"].is_null(), "{status} {first}");
    world.platform.wait_for_calls("thumb", before + 1).await?;
    let (status, second) = world.daemon.call(Method::POST, &path, None).await?;
    ensure!(status == StatusCode::ACCEPTED && second["already"] == true, "{status} {second}");
    let all = json!({"function": "local/thumb", "limit": 500});
    fs::write(world.platform.file("mended"), "")?;

    // Two walks at once share what there is.
    let batch = async || {
        let (status, batch) = world.daemon.call(Method::POST, "/v1/dead-letters/replay", Some(&all)).await?;
        ensure!(status == StatusCode::OK, "{status} {batch}");
        Ok(batch["done"].as_array().context("no list")?.len())
    };
    let (mine, yours) = tokio::try_join!(batch(), batch())?;
    ensure!(mine + yours == 11, "{mine} and {yours}");
    fs::remove_file(world.platform.file("hold"))?;
    eventually("all are delivered", SOON, async || {
        let calls = world.platform.calls("thumb")?;
        ensure!(calls.len() >= before + 12, "{} so far", calls.len());
        let parked = world.daemon.metric("triggerd_delivery_seconds_count", &[]).await?;
        ensure!(parked >= 12.0, "{parked} are recorded");
        Ok(())
    })
    .await?;
    let calls = world.platform.calls("thumb")?;
    let again: BTreeSet<_> = calls[before..].iter().map(|call| call.delivery.as_str()).collect();
    ensure!(calls.len() == before + 12 && again.len() == 12, "some were called twice: {calls:?}");
    let repeated = parsed(&world, &["dead-letters", "replay", "--function", "local/thumb"])?;
    let nothing = json!({"replayed": [], "skipped": 0, "succeeded_late": 0, "stopped": false});
    ensure!(repeated == nothing, "{repeated}");
    ensure!(shown(&world, "triggerd_dead_letters_replayed_total", &[]).await? == "12");

    let discard = ["dead-letters", "discard", "--function", "local/index", "--why", "logs of a trial"];
    let discarded = parsed(&world, &discard)?;
    ensure!(discarded["discarded"].as_array().context("no list")?.len() == 3, "{discarded}");
    ensure!(world.daemon.log()?.matches("logs of a trial").count() == 3, "each is logged with the reason");
    ensure!(count(&world, &[])? == 0);
    world.daemon.stop().await
}

pub(crate) async fn a_replay_of_many_keeps_its_pace(ctx: Ctx) -> Result<()> {
    let mut world = with_letters(&ctx, 10, 0).await?;
    fs::write(world.platform.file("mended"), "")?;
    let clock = SystemClock::new();
    let replayed = parsed(&world, &["dead-letters", "replay", "--all", "--rate", "5"])?;
    let took = clock.monotonic();
    ensure!(replayed["replayed"].as_array().map(Vec::len) == Some(10), "{replayed}");
    // Nine pauses of a fifth of a second lie between ten.
    ensure!(took >= Duration::from_millis(1_600), "ten at five a second took only {took:?}");
    world.platform.wait_for_calls("thumb", 20).await?;
    world.daemon.stop().await
}

pub(crate) async fn a_replay_of_many_is_stopped_by_ctrl_c_and_taken_up_again(ctx: Ctx) -> Result<()> {
    let mut world = with_letters(&ctx, 6, 0).await?;
    fs::write(world.platform.file("mended"), "")?;
    let mut walk = Command::new(env!("CARGO_BIN_EXE_triggerd"))
        .args(["dead-letters", "replay", "--all", "--rate", "1", "--config"])
        .arg(world.platform.file("../triggerd.toml"))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(walk.stdout.take().context("no output")?);
    let mut first = String::new();
    lines.read_line(&mut first)?;
    ensure!(first.contains("replayed"), "{first}");
    let pid = rustix::process::Pid::from_child(&walk);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    let mut rest = String::new();
    lines.read_to_string(&mut rest)?;
    let status = walk.wait()?;
    ensure!(status.code() == Some(3), "{status}: {rest}");
    let done = 1 + rest.lines().count();
    ensure!(done < 6 && count(&world, &[])? == 6 - done, "{done} were replayed");
    let again = parsed(&world, &["dead-letters", "replay", "--all"])?;
    ensure!(again["replayed"].as_array().map(Vec::len) == Some(6 - done), "{again}");
    world.platform.wait_for_calls("thumb", 12).await?;
    world.daemon.stop().await
}

async fn post(world: &World, body: Vec<u8>) -> Result<()> {
    let request = reqwest::Client::new().post(&world.source).bearer_auth(WEBHOOK_TOKEN).timeout(SOON);
    request.body(body).send().await?.error_for_status()?;
    Ok(())
}

pub(crate) async fn what_is_in_quarantine_is_shown_tried_again_and_discarded(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    world.bind("photos", "thumb", &json!({})).await?;
    for body in [&b"{\"half\":"[..], b"\x00\xff\x1b[31m"] {
        post(&world, body.to_vec()).await?;
    }
    let listed = parsed(&world, &["quarantine", "list"])?;
    let items = listed["quarantine"].as_array().context("no list")?;
    ensure!(items.len() == 2 && items[1]["source"] == "main" && items[1]["id"] == 1, "{listed}");
    let log = world.daemon.log()?;
    for item in 1..=2 {
        ensure!(log.contains(&format!("`triggerd quarantine show {item}`")), "the log does not name {item}");
    }
    let raw = world.daemon.run_cli(&["quarantine", "show", "2", "--raw"])?;
    ensure!(raw.stdout == b"\x00\xff\x1b[31m", "{raw:?}");
    let shown = world.daemon.cli(&["quarantine", "show", "2"])?;
    ensure!(shown.contains("00 ff 1b 5b 33 31 6d") && !shown.contains('\x1b'), "{shown}");
    let retried = world.daemon.run_cli(&["quarantine", "retry", "1"])?;
    let said = String::from_utf8_lossy(&retried.stderr).into_owned();
    ensure!(retried.status.code() == Some(1) && said.contains("stays in quarantine"), "{said}");
    let stayed = parsed(&world, &["quarantine", "show", "1"])?;
    ensure!(stayed["tries"] == 1 && stayed["tried_at"].is_string(), "{stayed}");

    // What an upgrade would do to the decoder is done here to the bytes.
    world.daemon.stop().await?;
    let mut good: Value =
        serde_json::from_str(include_str!("../../fixtures/minio/webhook-object-created-put.json"))?;
    good["Key"] = "photos/mended.jpg".into();
    good["Records"][0]["s3"]["bucket"]["name"] = "photos".into();
    good["Records"][0]["s3"]["object"]["key"] = "mended.jpg".into();
    let good = serde_json::to_vec(&good)?;
    let file = SqliteConnectOptions::new().filename(ctx.folder().join("state/queue.db"));
    let mut queue = SqliteConnection::connect_with(&file).await?;
    sqlx::query("UPDATE quarantine SET bytes = ?1, length = length(?1) WHERE seq = 1")
        .bind(good)
        .execute(&mut queue)
        .await?;
    queue.close().await?;
    world.daemon.start_again().await?;
    let retried = world.daemon.cli(&["quarantine", "retry", "1"])?;
    ensure!(retried.contains("1 taken in: 1 events, 1 deliveries"), "{retried}");
    let calls = world.platform.wait_for_calls("thumb", 1).await?;
    ensure!(calls[0].key == "mended.jpg", "{calls:?}");
    world.daemon.cli(&["quarantine", "discard", "--all", "--why", "noise of a scanner"])?;
    ensure!(world.daemon.log()?.contains("noise of a scanner"));
    ensure!(parsed(&world, &["quarantine", "list"])?["quarantine"] == json!([]));
    world.daemon.stop().await
}

pub(crate) async fn dead_letters_of_age_are_announced_and_dropped(ctx: Ctx) -> Result<()> {
    let mut world = with_letters(&ctx, 4, 0).await?;
    ensure!(shown(&world, "triggerd_dead_letters_dropped_total", &[]).await? == "0");
    world.daemon.stop().await?;
    // They will be of age in an hour: announced, and kept.
    let path = ctx.folder().join("triggerd.toml");
    let config = fs::read_to_string(&path)?;
    fs::write(&path, format!("{config}[dead_letters]\nretention_s = 3600\nnotice_s = 1\n"))?;
    world.daemon.start_again().await?;
    eventually("they are announced", SOON, async || {
        let expiring = shown(&world, "triggerd_dead_letters_expiring", &["because=\"age\""]).await?;
        let kept = shown(&world, "triggerd_dead_letters_kept", &[]).await?;
        ensure!((&*expiring, &*kept) == ("4", "4"), "{expiring} of {kept}");
        Ok(())
    })
    .await?;
    ensure!(world.daemon.log()?.contains("will be dropped before long") && count(&world, &[])? == 4);
    world.daemon.stop().await?;
    fs::write(&path, format!("{config}[dead_letters]\nretention_s = 1\nnotice_s = 1\n"))?;
    world.daemon.start_again().await?;
    eventually("they are dropped", SOON, async || {
        let dropped = shown(&world, "triggerd_dead_letters_dropped_total", &["because=\"age\""]).await?;
        ensure!(dropped == "4" && count(&world, &[])? == 0, "{dropped} so far");
        Ok(())
    })
    .await?;
    world.daemon.stop().await
}

/// A handler that notes what it is told of each dead letter, and fails for one of them.
fn undertaker() -> String {
    noting(
        "undertaker",
        "while test -e \"$FOLDER/hold\"; do sleep 0.05; done; \
         printf '%s %s %s\\n' \"$CE_TYPE\" \"$CE_DEADREASON\" \"$CE_DEADDELIVERY\" >> \"$FOLDER/undertaker.told\"; \
         test \"$TRIGGER_KEY\" != in/cursed.jpg",
    )
}

/// What the handler was told: type, reason and delivery of each letter.
fn told(world: &World) -> BTreeSet<String> {
    let text = fs::read_to_string(world.platform.file("undertaker.told")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Every dead letter there is, as the handler should have been told of it.
async fn to_be_told(world: &World) -> Result<BTreeSet<String>> {
    let letters = world.daemon.dead_letters().await?;
    let line = |letter: &Value| {
        let field = |name: &str| letter[name].as_str().unwrap_or_default().to_owned();
        format!("triggerd.deadletter {} {}", field("reason"), field("id"))
    };
    Ok(letters.iter().map(line).collect())
}

pub(crate) async fn a_handler_function_is_given_each_dead_letter_across_kill_9_and_never_loops(
    ctx: Ctx,
) -> Result<()> {
    let functions = format!("{}{}", noting("thumb", "exit 1"), undertaker());
    let mut world = World::start(&ctx, &Plan::webhook(&functions)).await?;
    let settings = json!({
        "retry": {"max_attempts": 2, "first_wait_ms": 10, "max_wait_ms": 10}, "dead_letter_function": "undertaker",
    });
    world.bind("photos", "thumb", &settings).await?;
    fs::write(world.platform.file("hold"), "")?;
    for number in 0..6 {
        world.minio.put_object("photos", &format!("in/{number}.jpg"), "x", &[]).await?;
    }
    world.minio.put_object("photos", "in/cursed.jpg", "x", &[]).await?;
    eventually("all are dead, and a handler runs", SOON, async || {
        let calls = world.platform.calls("undertaker")?.len();
        ensure!(count(&world, &[])? == 7 && calls > 0, "{calls} calls");
        Ok(())
    })
    .await?;
    world.daemon.kill9().await?;
    world.daemon.start_again().await?;
    fs::remove_file(world.platform.file("hold"))?;
    let expected = to_be_told(&world).await?;
    eventually("the handler was told of each", SOON, async || {
        let told = told(&world);
        ensure!(told == expected, "{told:?}");
        let failed = shown(&world, "triggerd_dead_letter_handler_failures_total", &[]).await?;
        ensure!(failed == "1", "{failed} were given up");
        Ok(())
    })
    .await?;
    ensure!(count(&world, &[])? == 7, "a handler's failure has made a dead letter");
    let cursed =
        world.platform.calls("undertaker")?.iter().filter(|call| call.key == "in/cursed.jpg").count();
    ensure!((2..=3).contains(&cursed), "{cursed} calls for the one that fails");
    let ids: BTreeSet<_> =
        world.platform.calls("undertaker")?.into_iter().map(|call| call.delivery).collect();
    ensure!(ids.len() == 7, "each letter has one delivery to the handler: {ids:?}");
    world.daemon.stop().await?;
    let calls = world.platform.calls("undertaker")?.len();
    world.daemon.start_again().await?;
    world.minio.put_object("photos", "in/last.jpg", "x", &[]).await?;
    eventually("only the new letter is handed over", SOON, async || {
        let now = world.platform.calls("undertaker")?.len();
        ensure!(now == calls + 1, "{now} after {calls}");
        Ok(())
    })
    .await?;
    world.daemon.stop().await
}

pub(crate) async fn a_handler_function_of_the_platform_serves_bindings_that_name_none(
    ctx: Ctx,
) -> Result<()> {
    let functions = format!("{}{}", noting("thumb", "exit 1"), undertaker());
    let mut world = World::start(&ctx, &Plan::webhook(&functions)).await?;
    let once = json!({"retry": {"max_attempts": 1, "first_wait_ms": 10, "max_wait_ms": 10}});
    let id = world.bind("photos", "thumb", &once).await?;
    world.minio.put_object("photos", "in/before.jpg", "x", &[]).await?;
    let file = SqliteConnectOptions::new().filename(ctx.folder().join("state/queue.db")).read_only(true);
    eventually("a dead letter that was looked at, and that nobody is given", SOON, async || {
        let mut queue = SqliteConnection::connect_with(&file).await?;
        let passed: i64 = sqlx::query_scalar("SELECT seq FROM handed_over").fetch_one(&mut queue).await?;
        ensure!(count(&world, &[])? == 1 && passed == 1, "looked at {passed}");
        Ok(())
    })
    .await?;
    let path = ctx.folder().join("triggerd.toml");
    let config = fs::read_to_string(&path)?;
    let rules = "driver = \"rules\"\n";
    fs::write(&path, config.replace(rules, &format!("{rules}dead_letter_function = \"undertaker\"\n")))?;
    world.daemon.stop().await?;
    world.daemon.start_again().await?;
    // The rule on the platform lacks the handler, is found changed, and mended.
    let shown = format!("{}/rules/{id}", world.platform.url());
    eventually("the rule names the handler", SOON, async || {
        let rule =
            reqwest::Client::new().get(&shown).bearer_auth(super::world::PLATFORM_TOKEN).send().await?;
        let rule: Value = rule.json().await?;
        ensure!(rule["dead_letter_function"] == "undertaker", "{rule}");
        Ok(())
    })
    .await?;
    world.daemon.wait_for_state(&id, "active").await?;
    world.minio.put_object("photos", "in/after.jpg", "x", &[]).await?;
    let calls = world.platform.wait_for_calls("undertaker", 1).await?;
    ensure!(calls[0].key == "in/after.jpg", "a letter from before was handed over: {calls:?}");
    world.daemon.stop().await
}
