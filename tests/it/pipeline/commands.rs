//! The command line against the running daemon, and against configs that cannot be used.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::world::{Plan, World, noting};
use crate::harness::{ports::free_port, suite::Ctx, wait::eventually};

/// What a command answers with `--json`.
fn parsed(world: &World, arguments: &[&str]) -> Result<Value> {
    let said = world.daemon.cli(&[arguments, &["--json"]].concat())?;
    serde_json::from_str(&said).with_context(|| format!("{arguments:?} said {said}"))
}

pub(crate) async fn commands_tell_people_and_programs_the_same(ctx: Ctx) -> Result<()> {
    let mut world =
        World::start(&ctx, &Plan::webhook(&noting("thumb", "test \"$TRIGGER_KEY\" != in/bad.jpg"))).await?;
    world.minio.create_bucket("photos").await?;
    let bind = ["bind", "--bucket", "photos", "--event", "s3:ObjectCreated:*", "--prefix", "in/"];
    let more = ["--function", "local/thumb", "--max-attempts", "1"];
    let bound = parsed(&world, &[&bind[..], &more].concat())?;
    let id = bound["id"].as_str().context("no id")?.to_owned();
    ensure!(bound["state"] == "active", "{bound}");
    let again = world.daemon.cli(&[&bind[..], &more].concat())?;
    ensure!(again.contains(&format!("binding {id} is active")), "{again}");
    ensure!(parsed(&world, &["bindings"])?["bindings"][0]["id"] == id.as_str());
    ensure!(parsed(&world, &["bindings", &id])?["state"] == "active");
    let shown = world.daemon.cli(&["bindings", &id])?;
    ensure!(shown.contains("active") && shown.contains("local/thumb") && shown.contains("in/"), "{shown}");

    let fires = parsed(&world, &["match", "--bucket", "photos", "--key", "in/a.jpg"])?;
    ensure!(fires["fires"] == 1 && fires["bindings"][0]["fires"] == true, "{fires}");
    let removed = ["match", "--bucket", "photos", "--key", "out/a.jpg", "--event", "s3:ObjectRemoved:Delete"];
    let fires = parsed(&world, &removed)?;
    let reasons = fires["bindings"][0]["reasons"].as_array().context("no reasons")?;
    ensure!(fires["fires"] == 0 && reasons.len() == 2, "both the event and the key are why: {fires}");
    let said = world.daemon.cli(&removed)?;
    ensure!(
        reasons.iter().all(|reason| reason.as_str().is_some_and(|reason| said.contains(reason))),
        "{said}"
    );

    for key in ["in/good.jpg", "in/bad.jpg"] {
        world.minio.put_object("photos", key, "x", &[]).await?;
    }
    let letters = eventually("a dead letter", super::world::SOON, async || {
        let letters = parsed(&world, &["dead-letters", "list"])?;
        ensure!(letters["dead_letters"][0]["key"] == "in/bad.jpg", "{letters}");
        Ok(letters)
    })
    .await?;
    let letter = letters["dead_letters"][0]["id"].as_str().context("no id")?.to_owned();
    ensure!(parsed(&world, &["dead-letters", "show", &letter])?["attempts"][0]["class"] == "function_fault");
    let outcomes = parsed(&world, &["outcomes", "--binding", &id])?;
    let outcomes = outcomes["outcomes"].as_array().context("no outcomes")?;
    ensure!(outcomes.iter().any(|one| one["outcome"] == "ok" && one["key"] == "in/good.jpg"), "{outcomes:?}");
    for (filter, keys) in [
        (&["--key", "in/good.jpg"][..], &["in/good.jpg"][..]),
        (&["--function", "local/thumb", "--key", "in/bad.jpg"], &["in/bad.jpg"]),
        (&["--function", "thumb"], &["in/bad.jpg", "in/good.jpg"]),
        (&["--function", "local/other"], &[]),
    ] {
        let shown = parsed(&world, &[&["outcomes"], filter].concat())?;
        let shown = shown["outcomes"].as_array().context("no outcomes")?;
        let shown: BTreeSet<_> = shown.iter().filter_map(|one| one["key"].as_str()).collect();
        ensure!(shown.iter().eq(keys), "{filter:?}: {shown:?}");
    }
    let discarded = parsed(&world, &["dead-letters", "discard", &letter])?;
    ensure!(discarded == json!({"discarded": [letter], "failed": []}), "{discarded}");
    let gone = world.daemon.run_cli(&["dead-letters", "show", &letter])?;
    let said = String::from_utf8_lossy(&gone.stderr).into_owned();
    ensure!(gone.status.code() == Some(1) && said.contains(&letter), "{said}");
    let nodes = parsed(&world, &["nodes"])?;
    ensure!(nodes["nodes"][0]["name"] == "one" && nodes["nodes"][0]["this"] == true, "{nodes}");
    let check = parsed(&world, &["check"])?;
    ensure!(check["ok"] == true, "{check}");
    for (part, what) in [("daemon", "running"), ("queue", "queue.db can be read: 0 parked")] {
        let findings = check["findings"].as_array().context("no findings")?;
        let found = findings.iter().find(|one| one["part"] == part).context(part)?;
        ensure!(found["what"].as_str().is_some_and(|said| said.starts_with(what)), "{found}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = world.daemon.cli(&["completions", shell])?;
        ensure!(script.contains("dead-letters") && script.contains("triggerd"), "{shell}: {script}");
    }

    let gone = parsed(&world, &["unbind", &id, "--wait"])?;
    ensure!(gone == json!({"id": id, "state": "gone"}), "{gone}");
    let unknown = world.daemon.run_cli(&["unbind", &id])?;
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    ensure!(unknown.status.code() == Some(1) && said.contains(&id), "{said}");
    wrong_arguments_are_told(&world)?;
    world.daemon.stop().await
}

fn wrong_arguments_are_told(world: &World) -> Result<()> {
    let bind = ["bind", "--bucket", "photos", "--event", "s3:ObjectCreated:*", "--function"];
    let cases: [(&[&str], &str); 5] = [
        (&["bindings", "nonsense"], "nonsense"),
        (&[&bind[..], &["thumb"]].concat(), "PLATFORM/FUNCTION"),
        (&[&bind[..], &["local/thumb", "--timeout", "soon"]].concat(), "30s"),
        (&[&bind[..], &["local/thumb", "--glob", "*", "--prefix", "in/"]].concat(), "--prefix"),
        (&["dead-letters", "replay"], "--all"),
    ];
    for (arguments, word) in cases {
        let output = world.daemon.run_cli(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && said.contains(word), "{arguments:?}: {said}");
    }
    Ok(())
}

fn state_dir(world: &World) -> Result<String> {
    let config = world.daemon.config()?;
    let line = config.lines().find_map(|line| line.strip_prefix("state_dir = "));
    Ok(line.context("no state_dir")?.trim_matches('"').to_owned())
}

pub(crate) async fn what_needs_the_daemon_stopped_or_running_says_so(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    let migrate = world.daemon.run_cli(&["migrate"])?;
    let said = String::from_utf8_lossy(&migrate.stderr).into_owned();
    ensure!(migrate.status.code() == Some(1) && said.contains("needs the daemon stopped"), "{said}");
    let second = world.daemon.run_cli(&["run"])?;
    let said = String::from_utf8_lossy(&[second.stdout, second.stderr].concat()).into_owned();
    ensure!(second.status.code() == Some(1) && said.contains("state"), "a second daemon: {said}");
    world.daemon.stop().await?;

    let checked = world.daemon.cli(&["check"])?;
    ensure!(checked.contains("ok   daemon: not running"), "{checked}");
    let queue = Path::new(&state_dir(&world)?).join("queue.db");
    let whole = fs::read(&queue)?;
    fs::write(&queue, [&b"SQLite formal"[..], &whole[13..]].concat())?;
    let checked = world.daemon.run_cli(&["check"])?;
    fs::write(&queue, whole)?;
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    ensure!(checked.status.code() == Some(1) && said.contains("FAIL queue: "), "{said}");
    ensure!(said.contains("it is damaged"), "{said}");

    world.daemon.cli(&["migrate"])?;
    let listed = world.daemon.run_cli(&["bindings"])?;
    let said = String::from_utf8_lossy(&listed.stderr).into_owned();
    ensure!(listed.status.code() == Some(1) && said.contains(world.daemon.admin()), "{said}");
    ensure!(said.contains("run"), "it is not said that the daemon does not run: {said}");
    Ok(())
}

/// A config with one mistake of each kind; with words that the report of each must contain.
fn broken(folder: &Path, port: u16) -> (String, [&'static str; 12]) {
    let config = format!(
        "[node]\nname = \"a b\"\nstate_dir = \"{}\"\n[queue]\nmax_bytes = 1\nsurprise = 2\n\
         [relations]\nurl = \"mysql://a@b:99999/c\"\n[admin]\nlisten = \"127.0.0.1:{port}\"\n\
         token = \"short\"\n[storages.one]\nendpoint = \"nonsense\"\naccess_key = \"a\"\nsecret_key = \"b\"\ntargets = [\"x\"]\n\
         [platforms.p]\ndriver = \"rules\"\nurl = \"ftp://p\"\ntoken = \"abcdefghijklmnopqrst\"\n\
         [sources.a]\ntype = \"webhook\"\nlisten = \"127.0.0.1:{port}\"\nredelivers = \"maybe\"\n\
         [sources.b]\ntype = \"mqtt\"\nbroker = \"tcp://b\"\ntopic = \"t\"\npassword = \"p\"\n\
         [sources.c]\ntype = \"pigeon\"\n[dispatch]\nmax_concurrency = \"many\"\n[surprise]\n",
        folder.join("nowhere").display()
    );
    let places = [
        "node.name",
        "queue",
        "surprise",
        "relations.url",
        "admin",
        "storages.one.endpoint",
        "storages.one.targets",
        "platforms.p",
        "sources.a",
        "sources.b",
        "sources.c",
        "dispatch",
    ];
    (config, places)
}

pub(crate) async fn a_broken_config_is_refused_with_everything_that_is_wrong(ctx: Ctx) -> Result<()> {
    let (text, places) = broken(ctx.folder(), free_port()?);
    let path = ctx.folder().join("broken.toml");
    fs::write(&path, text)?;
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triggerd"));
        command.args(arguments).arg("--config").arg(&path).output()
    };
    for arguments in [&["run"][..], &["check"], &["migrate"]] {
        let output = run(arguments)?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.code() == Some(1), "{arguments:?}: {}: {said}", output.status);
        let missing: Vec<_> = places.iter().filter(|place| !said.contains(**place)).collect();
        ensure!(missing.is_empty(), "{arguments:?} does not tell of {missing:?}: {said}");
        ensure!(!said.contains("abcdefghijklmnopqrst"), "a secret is told: {said}");
    }
    let output = run(&["check", "--json"])?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let fails = report["findings"].as_array().context("no findings")?;
    let remedies = fails.iter().filter(|one| one["level"] == "fail").all(|one| one["remedy"].is_string());
    ensure!(report["ok"] == false && remedies && fails.len() >= places.len(), "{report}");
    ensure!(fails.iter().all(|one| one["part"] != "relations"), "what is no URL is told of twice: {report}");
    for (text, word) in [("[node", "TOML"), ("", "storages")] {
        fs::write(&path, text)?;
        let output = run(&["check"])?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(said.contains(word), "{text:?}: {said}");
    }
    fs::remove_file(&path)?;
    let output = run(&["run"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("broken.toml"), "no file: {said}");
    Ok(())
}
