//! What `triggerd check`, `/health/ready` and `/metrics` say of real parts.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use triggerd::telemetry::Metric;

use super::world::{OPERATOR_TOKEN, Plan, SOON, WEBHOOK_TOKEN, Way, World, noting};
use crate::harness::{
    minio::{ACCESS_KEY, SECRET_KEY},
    mosquitto::{Mosquitto, MosquittoOptions, Tls},
    ports::free_port,
    process::Process,
    suite::Ctx,
    wait::eventually,
};

/// The findings of `triggerd check` about one part, as `level what → remedy`; and its exit code.
fn check(ctx: &Ctx, config: &str, part: &str) -> Result<(Option<i32>, Vec<String>)> {
    let path = ctx.folder().join("checked.toml");
    fs::write(&path, config)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_triggerd"));
    let output = command.args(["check", "--json", "--config"]).arg(&path).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let findings = report["findings"].as_array().context("no findings")?;
    let text = |one: &Value, member: &str| one[member].as_str().unwrap_or_default().to_owned();
    let shown = findings.iter().filter(|one| one["part"] == part);
    let shown =
        shown.map(|one| format!("{} {} → {}", text(one, "level"), text(one, "what"), text(one, "remedy")));
    Ok((output.status.code(), shown.collect()))
}

pub(crate) async fn check_holds_the_targets_against_those_of_minio(ctx: Ctx) -> Result<()> {
    let plan = Plan { way: Way::Webhook { queue_dir: true }, ..Plan::webhook(&noting("thumb", "")) };
    let mut world = World::start(&ctx, &plan).await?;
    let config = world.daemon.config()?;
    let part = "storages.default.targets";
    let (code, found) = check(&ctx, &config, part)?;
    ensure!(code == Some(0) && found.len() == 1 && found[0].starts_with("ok "), "{code:?} {found:?}");

    let (yes, arn) = ("redelivers = \"yes\"", world.minio.webhook_arn("TRIGGERD"));
    ensure!(config.matches(yes).count() == 1, "{config}");
    let (code, found) = check(&ctx, &config.replace(yes, "redelivers = \"no\""), part)?;
    ensure!(code == Some(0) && found.len() == 1 && found[0].starts_with("warn "), "{code:?} {found:?}");
    ensure!(found[0].contains("is lost") && found[0].contains("queue_dir"), "{found:?}");

    let two =
        config.replace(&format!("[\"{arn}\"]"), &format!("[\"{arn}\", \"arn:minio:sqs::ABSENT:webhook\"]"));
    let (code, found) = check(&ctx, &two, part)?;
    ensure!(code == Some(1) && found.len() == 2 && found[0].starts_with("ok "), "{code:?} {found:?}");
    let absent = &found[1];
    ensure!(absent.starts_with("fail ") && absent.contains("ABSENT") && absent.contains(&arn), "{absent}");
    ensure!(absent.contains("restart MinIO"), "it is not said what to do: {absent}");

    let policy = |more: &str| {
        format!(
            "{{\"Version\":\"2012-10-17\",\"Statement\":[{{\"Effect\":\"Allow\",\"Action\":[\"s3:GetBucketNotification\",\
             \"s3:PutBucketNotification\"],\"Resource\":[\"arn:aws:s3:::*\"]}}{more}]}}"
        )
    };
    let info = ",{\"Effect\":\"Allow\",\"Action\":[\"admin:ServerInfo\"]}";
    for (name, more, wanted) in [("modest", "", "warn "), ("curious", info, "ok ")] {
        world.minio.create_user(name, "secret-of-the-user", &policy(more)).await?;
        let theirs = config
            .replace(&format!("access_key = \"{ACCESS_KEY}\""), &format!("access_key = \"{name}\""))
            .replace(SECRET_KEY, "secret-of-the-user");
        let (code, found) = check(&ctx, &theirs, part)?;
        ensure!(code == Some(0) && found.len() == 1 && found[0].starts_with(wanted), "{name}: {found:?}");
        ensure!(wanted != "warn " || found[0].contains("admin:ServerInfo"), "{found:?}");
        let (_, found) = check(&ctx, &theirs, "storages.default")?;
        ensure!(found.len() == 1 && found[0].starts_with("ok "), "{name}: {found:?}");
    }
    let wrong = config.replace(SECRET_KEY, "wrong-secret-of-minio");
    let (code, found) = check(&ctx, &wrong, "storages.default")?;
    ensure!(
        code == Some(1) && found[0].starts_with("fail ") && found[0].contains("secret_key_file"),
        "{found:?}"
    );
    world.minio.stop().await?;
    let (code, found) = check(&ctx, &config, "storages.default")?;
    ensure!(code == Some(1) && found[0].contains(&world.minio.endpoint()), "{found:?}");
    world.daemon.stop().await
}

/// A key of the platform that makes each rule one that the platform refuses: nothing is lost, nothing is called, and
/// everything that an operator asks says so.
pub(crate) async fn a_rule_that_is_refused_after_a_restart_is_told_by_everything_that_is_asked(
    ctx: Ctx,
) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    let id = world.bind("photos", "thumb", &json!({})).await?;
    let path = ctx.folder().join("triggerd.toml");
    let (config, rules) = (fs::read_to_string(&path)?, "driver = \"rules\"\n");
    let ghost = config.replace(rules, &format!("{rules}dead_letter_function = \"ghost\"\n"));
    ensure!(ghost != config, "{config}");
    fs::write(&path, &ghost)?;
    world.daemon.stop().await?;
    world.daemon.start_again().await?;
    world.daemon.wait_for_state(&id, "degraded").await?;
    world.minio.put_object("photos", "in/a.jpg", "x", &[]).await?;
    let asked = |args: &[&str]| -> Result<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triggerd"));
        let output = command.args(args).arg("--config").arg(&path).output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    eventually("the upload is held, and outcomes tells it", SOON, async || {
        let told = asked(&["outcomes"])?;
        ensure!(told.contains("; 1 held ("), "{told}");
        Ok(())
    })
    .await?;
    let refused = eventually("the platform's words are recorded", SOON, async || {
        let (code, found) = check(&ctx, &ghost, &format!("bindings.{id}"))?;
        ensure!(code == Some(1) && found.len() == 1 && found[0].contains("refused"), "{code:?} {found:?}");
        Ok(found[0].clone())
    })
    .await?;
    ensure!(refused.starts_with("fail ") && refused.contains("dead_letter_function"), "{refused}");
    ensure!(refused.contains("ghost") && refused.contains("404"), "not the platform's words: {refused}");
    for told in [asked(&["bindings"])?, asked(&["match", "--bucket", "photos", "--key", "in/a.jpg"])?] {
        ensure!(told.contains("ghost") && told.contains("404"), "{told}");
    }
    let log = world.daemon.log()?;
    let lines = |level: &str| log.lines().filter(|line| line.contains(level) && line.contains(&id)).count();
    ensure!(lines("ERROR") == 1 && lines("WARN") >= 1, "{log}");
    fs::write(&path, &config)?;
    world.daemon.stop().await?;
    world.daemon.start_again().await?;
    world.daemon.wait_for_state(&id, "active").await?;
    world.platform.wait_for_calls("thumb", 1).await?;
    world.daemon.stop().await
}

pub(crate) async fn check_connects_to_the_broker_as_the_source_would(ctx: Ctx) -> Result<()> {
    let options = |tls| MosquittoOptions {
        users: vec![("reader".into(), "right-password".into())],
        tls,
        ..MosquittoOptions::default()
    };
    let (plain, tls) =
        (Mosquitto::start(options(Tls::Off)).await?, Mosquitto::start(options(Tls::Server)).await?);
    let ca = tls.certificates().context("no certificates")?.ca.clone();
    let source = |broker: String, more: &str| {
        format!(
            "[node]\nstate_dir = \"{}\"\n[sources.b]\ntype = \"mqtt\"\ntopic = \"minio\"\nbroker = \"{broker}\"\n{more}",
            ctx.folder().display()
        )
    };
    let user = |password: &str| format!("username = \"reader\"\npassword = \"{password}\"\n");
    let at = |scheme: &str, port: u16| format!("{scheme}://127.0.0.1:{port}");
    let (right, trusted) = (user("right-password"), format!("ca_file = \"{}\"\n", ca.display()));
    let asked = |broker: String, more: String| -> Result<String> {
        let (_, mut found) = check(&ctx, &source(broker, &more), "sources.b.broker")?;
        ensure!(found.len() == 1, "{found:?}");
        found.pop().context("nothing")
    };
    for version in ["version = \"3.1.1\"\n", "version = \"5\"\n"] {
        let found = asked(at("mqtt", plain.port()), format!("{right}{version}"))?;
        ensure!(found.starts_with("ok "), "{version}{found}");
        let found = asked(at("mqtts", tls.port()), format!("{right}{trusted}{version}"))?;
        ensure!(found.starts_with("ok "), "{version}{found}");
        for refused in [user("wrong-password"), String::new()] {
            let found = asked(at("mqtt", plain.port()), format!("{refused}{version}"))?;
            ensure!(found.starts_with("fail ") && found.contains("username"), "{version}{found}");
            ensure!(!found.contains("wrong-password"), "{found}");
        }
        // TLS spoken to a plain port, plainly to a TLS port, an authority that is not trusted, nobody there.
        for (broker, more) in [
            (at("mqtts", plain.port()), format!("{right}{trusted}{version}")),
            (at("mqtt", tls.port()), format!("{right}{version}")),
            (at("mqtts", tls.port()), format!("{right}{version}")),
            (at("mqtt", free_port()?), format!("{right}{version}")),
        ] {
            let found = asked(broker.clone(), more)?;
            ensure!(found.starts_with("fail ") && found.contains("TLS"), "{broker} {version}{found}");
            ensure!(found.contains(broker.split_once("//").map_or("", |(_, at)| at)), "{broker}: {found}");
        }
    }
    // Nothing stays behind: no session, and no subscription.
    let log = fs::read_to_string(plain.log())?;
    ensure!(log.contains("triggerd-check-") && !log.contains("SUBSCRIBE"), "{log}");
    Ok(())
}

pub(crate) async fn every_metric_that_is_used_has_its_help_and_type(ctx: Ctx) -> Result<()> {
    let plan = Plan::webhook(&format!("{}{}", noting("good", ""), noting("bad", "exit 1")));
    let mut world = World::start(&ctx, &plan).await?;
    world.bind("photos", "good", &json!({})).await?;
    let once = json!({"retry": {"max_attempts": 1, "first_wait_ms": 1, "max_wait_ms": 1}});
    world.bind("photos", "bad", &once).await?;
    let http = reqwest::Client::new();
    for token in [WEBHOOK_TOKEN, "wrong"] {
        http.post(&world.source).bearer_auth(token).body("no JSON").send().await?;
    }
    world.minio.put_object("photos", "a.jpg", "x", &[]).await?;
    let certainly = [
        Metric::SourceMessages,
        Metric::SourceRefused,
        Metric::Attempts,
        Metric::AttemptSeconds,
        Metric::DeliverySeconds,
        Metric::DeadLetters,
        Metric::Parked,
        Metric::Events,
        Metric::Quarantined,
        Metric::QueueCommits,
        Metric::Bindings,
        Metric::BindingTransitions,
    ];
    let text = eventually("every metric that must be there is", SOON, async || {
        let text = world.daemon.metrics().await?;
        let missing: Vec<_> = certainly.iter().filter(|metric| !is_used(&text, metric.name())).collect();
        ensure!(missing.is_empty(), "missing: {missing:?} in {text}");
        Ok(text)
    })
    .await?;
    for metric in Metric::ALL.iter().filter(|metric| is_used(&text, metric.name())) {
        let (name, _, help) = metric.describe();
        ensure!(text.contains(&format!("# HELP {name} {help}\n")), "{name} has no help");
        let kind = text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")));
        ensure!(matches!(kind, Some("counter" | "gauge" | "histogram")), "{name} is of the type {kind:?}");
    }
    let known = |line: &str| Metric::ALL.iter().any(|metric| line.starts_with(metric.name()));
    let stranger = text.lines().find(|line| !line.is_empty() && !line.starts_with('#') && !known(line));
    ensure!(stranger.is_none(), "not in the list of metrics: {stranger:?}");
    world.daemon.stop().await
}

fn is_used(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ', '_'])))
}

pub(crate) async fn a_daemon_whose_sources_are_closed_says_why(ctx: Ctx) -> Result<()> {
    let (admin, source, nobody) = (free_port()?, free_port()?, free_port()?);
    let state: PathBuf = ctx.folder().join("state");
    let config = format!(
        "[node]\nname = \"one\"\nstate_dir = \"{}\"\n[relations]\nurl = \"mysql://u:p@127.0.0.1:{nobody}/triggerd\"\n\
         [admin]\nlisten = \"127.0.0.1:{admin}\"\ntoken = \"{OPERATOR_TOKEN}\"\n\
         [storages.default]\nendpoint = \"http://127.0.0.1:{nobody}\"\naccess_key = \"a\"\nsecret_key = \"abcdefgh\"\n\
         targets = [\"arn:minio:sqs::TRIGGERD:webhook\"]\n\
         [sources.main]\ntype = \"webhook\"\nlisten = \"127.0.0.1:{source}\"\ntoken = \"{WEBHOOK_TOKEN}\"\nredelivers = \"yes\"\n",
        state.display()
    );
    let path = ctx.folder().join("closed.toml");
    fs::write(&path, config)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_triggerd"));
    command.arg("run").arg("--config").arg(&path);
    let mut process = Process::start("triggerd", &command, &ctx.folder().join("closed.log"))?;
    let live = format!("http://127.0.0.1:{admin}/health/live");
    process
        .gate(SOON, async || {
            reqwest::get(&live).await?.error_for_status()?;
            Ok(())
        })
        .await?;
    let answer = reqwest::get(format!("http://127.0.0.1:{admin}/health/ready")).await?;
    let (status, health): (_, Value) = (answer.status(), answer.json().await?);
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE && health["ok"] == false, "{status} {health}");
    let parts = health["parts"].as_array().context("no parts")?;
    let sources = parts.iter().find(|part| part["name"] == "sources").context("no sources")?;
    let detail = sources["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains("database") && detail.contains("bindings"), "{sources}");
    let ended = process.stop().await?;
    ensure!(ended.success(), "stopped while it waited: {ended}");
    Ok(())
}
