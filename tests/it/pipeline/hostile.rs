//! Platforms that hang, babble, drip, flood, redirect and break off: each is shown for what it is, heals when it does, and
//! delays nobody else's bindings and functions.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use triggerd::domain::secret::SigningSecret;

use super::world::{Daemon, Plan, SOON, World, noting};
use crate::harness::{
    receiver::{Answer, Receiver, Recorded},
    suite::Ctx,
    wait::eventually,
};

/// How a platform misbehaves, what its binding's step says of that, and of which class its answers to calls are.
const CASES: [(&str, &str, &str); 11] = [
    ("hang", "cannot be reached", "function_fault"),
    ("garbage", "is the platform's `url` right?", "ok"),
    ("broken", "500", "platform_fault"),
    ("busy", "429", "throttled"),
    ("huge", "is the platform's `url` right?", "ok"),
    ("drip", "cannot be reached", "function_fault"),
    ("cut", "cannot be reached", "platform_fault"),
    ("close", "cannot be reached", "platform_fault"),
    ("redirect", "is the platform's `url` right?", "permanent"),
    ("continue", "(1xx)", "platform_fault"),
    ("hints", "(1xx)", "platform_fault"),
];

/// The daemon in a debug build takes some 60 MiB; eleven endless answers must not show.
const MOST_KIB: u64 = 400 * 1024;

fn misbehave(case: &str) -> Answer {
    let drip = |piece: Bytes, pause, pieces| Answer::Drip { status: StatusCode::OK, piece, pause, pieces };
    match case {
        "hang" => Answer::Hang,
        "garbage" => Answer::respond(200, Bytes::from_static(b"<html>\xff welcome </html>")).unwrap(),
        "broken" => Answer::status(500).unwrap(),
        "busy" => Answer::status(429).unwrap().with_header("retry-after", "1").unwrap(),
        "huge" => drip(vec![b'x'; 1 << 20].into(), Duration::ZERO, None),
        "drip" => drip(Bytes::from_static(b"x"), Duration::from_millis(100), None),
        "cut" => drip(Bytes::from_static(b"{"), Duration::from_millis(1), Some(3)),
        "close" => Answer::Close,
        "continue" => Answer::Flood(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000).into()),
        "hints" => {
            let head = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nx-more: of it\r\n\r\n";
            Answer::Flood(head.repeat(1000).into())
        }
        _ => Answer::status(302).unwrap().with_header("location", "http://127.0.0.1:1/").unwrap(),
    }
}

/// Every misbehaving platform behind one port, each with a path of its own.
struct Zoo {
    receiver: Receiver,
    /// Whether rules are kept as they should be.
    tame: Arc<AtomicBool>,
}

impl Zoo {
    async fn open() -> Result<Self> {
        let (receiver, tame) = (Receiver::start().await?, Arc::new(AtomicBool::new(false)));
        let (rules, is_tame) = (Mutex::new(BTreeMap::new()), Arc::clone(&tame));
        receiver.answer_by(move |_, request| {
            let path = request.uri.path();
            let managed = path.contains("/rules/");
            if managed && is_tame.load(Ordering::SeqCst) {
                return keep_rule(&mut rules.lock().unwrap(), request);
            }
            misbehave(path.trim_start_matches('/').split('/').next().unwrap_or_default())
        });
        Ok(Self { receiver, tame })
    }

    fn plan(&self) -> Plan {
        let platforms = CASES.map(|(case, ..)| {
            format!(
                "[platforms.{case}]\ndriver = \"rules\"\nurl = \"{}\"\ntoken = \"token-for-{case}-platform\"\n",
                self.receiver.url(&format!("/{case}"))
            )
        });
        Plan { extra: platforms.concat(), ..Plan::webhook(&noting("good", "")) }
    }
}

pub(super) fn keep_rule(rules: &mut BTreeMap<String, Value>, request: &Recorded) -> Answer {
    let path = request.uri.path().to_owned();
    match request.method.as_str() {
        "PUT" => {
            let mut rule = request.json().unwrap();
            let secret = SigningSecret::parse(rule["secret"].as_str().unwrap()).unwrap();
            rule["secret_digest"] = json!(secret.digest());
            rule["state"] = json!("confirmed");
            rules.insert(path, rule);
            Answer::json(201, &json!({"id": "it", "state": "confirmed"})).unwrap()
        }
        "GET" if rules.contains_key(&path) => Answer::json(200, &rules[&path]).unwrap(),
        _ => Answer::status(204).unwrap(),
    }
}

fn wanted(case: &str) -> Value {
    // Short only where it is what ends the call: on a busy machine others could run into it.
    let timeout_ms = if matches!(case, "hang" | "drip") { 500 } else { 10_000 };
    json!({
        "bucket": "photos", "events": ["s3:ObjectCreated:*"], "platform": case, "function": "it",
        "timeout_ms": timeout_ms, "retry": {"max_attempts": 50, "first_wait_ms": 200, "max_wait_ms": 400},
    })
}

fn resident_kib(daemon: &Daemon) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id()?))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
}

#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures, and says what it found")]
pub(crate) async fn hostile_platforms_keep_their_own_bindings_pending_and_no_others(ctx: Ctx) -> Result<()> {
    let zoo = Zoo::open().await?;
    let mut world = World::start(&ctx, &zoo.plan()).await?;
    world.minio.create_bucket("photos").await?;
    let mut ids = Vec::new();
    for (case, words, _) in CASES {
        ids.push((case, words, world.daemon.ask_for(&wanted(case)).await?));
    }
    // While the others hang.
    let began = Instant::now();
    world.bind("photos", "good", &json!({})).await?;
    println!("bound in {:?} beside hostile platforms", began.elapsed());
    ensure!(
        began.elapsed() < Duration::from_secs(8),
        "a platform that hangs delayed it by {:?}",
        began.elapsed()
    );

    for (case, words, id) in &ids {
        eventually(&format!("{case} is shown"), SOON, async || {
            let binding = world.daemon.binding(id).await?;
            let steps = binding["steps"].as_array().context("no steps")?;
            let rule = steps.iter().find(|step| step["name"] == "rule").context("no step yet")?;
            let error = rule["error"].as_str().unwrap_or_default();
            let shown = rule["state"] == "failed" && error.contains(words) && error.contains(case);
            ensure!(binding["state"] == "pending" && shown && error.len() < 2_000, "{binding}");
            Ok(())
        })
        .await?;
    }
    let rules = world.minio.get_notification_configuration("photos").await?;
    ensure!(rules.queue_configurations().len() == 1, "{rules:?}");
    let peak = resident_kib(&world.daemon)?;
    println!("{peak} KiB at most");
    ensure!(peak < MOST_KIB, "{peak} KiB");

    zoo.tame.store(true, Ordering::SeqCst);
    for (_, _, id) in &ids {
        world.daemon.wait_for_state(id, "active").await?;
    }
    world.daemon.stop().await
}

#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures, and says what it found")]
pub(crate) async fn functions_of_hostile_platforms_are_classified_and_delay_no_others(
    ctx: Ctx,
) -> Result<()> {
    let zoo = Zoo::open().await?;
    zoo.tame.store(true, Ordering::SeqCst);
    let mut world = World::start(&ctx, &zoo.plan()).await?;
    world.bind("photos", "good", &json!({})).await?;
    for (case, ..) in CASES {
        let id = world.daemon.ask_for(&wanted(case)).await?;
        world.daemon.wait_for_state(&id, "active").await?;
    }
    let mut slowest = Duration::ZERO;
    for number in 0..20 {
        let began = Instant::now();
        world.minio.put_object("photos", &format!("in/{number}.jpg"), "x", &[]).await?;
        world.platform.wait_for_calls("good", number + 1).await?;
        slowest = slowest.max(began.elapsed());
    }
    println!("beside eleven hostile functions an upload's call came after {slowest:?} at most");
    ensure!(slowest < Duration::from_secs(3), "delayed by {slowest:?}");
    for (case, _, class) in CASES {
        let platform = format!("platform=\"{case}\"");
        eventually(&format!("{case} is {class}"), SOON, async || {
            let labels = [platform.as_str(), &format!("class=\"{class}\"")];
            let of_class = world.daemon.metric("triggerd_attempts_total", &labels).await?;
            let all = world.daemon.metric("triggerd_attempts_total", &labels[..1]).await?;
            // One that is away is not called again and again: its breaker opens, and the rest waits for a probe.
            let away = !matches!(class, "ok" | "permanent");
            let least = if away { 5.0 } else { 20.0 };
            ensure!(of_class >= least && (of_class - all).abs() < 0.5, "{of_class} of {all}");
            let shown: Value = serde_json::from_str(&world.daemon.cli(&["functions", "--json"])?)?;
            let functions = shown["functions"].as_array().context("no list")?;
            let flow = functions.iter().find(|one| one["platform"] == case).context("not shown")?;
            ensure!((flow["breaker"]["state"] != "closed") == away, "{flow}");
            ensure!(!away || flow["parked"] == 20, "{flow}");
            Ok(())
        })
        .await?;
    }
    let peak = resident_kib(&world.daemon)?;
    println!("{peak} KiB at most");
    ensure!(peak < MOST_KIB, "{peak} KiB");
    world.daemon.stop().await
}
