//! The commands, against a receiver that answers as triggerd's API would.

use super::support::{Receiver, command};
use serde_json::{Value, json};
use std::{fs, path::PathBuf};
use tempfile::TempDir;

const BIND: [&str; 9] = [
    "bind",
    "--bucket",
    "photos",
    "--event",
    "s3:ObjectCreated:*",
    "--glob",
    "in/**/*.jpg",
    "--function",
    "thumb",
];

fn config(triggerd: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("triggerd.token"), "token-for-the-platform\n").unwrap();
    let path = folder.path().join("platform.toml");
    let text = format!(
        "state_dir = \"state\"\ntoken_file = \"none\"\n[functions.thumb]\ncommand = [\"/nowhere/at-all\"]\n\
         [triggerd]\nurl = \"{triggerd}\"\ntoken_file = \"triggerd.token\"\nplatform = \"local\"\n"
    );
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn binding(state: &str) -> Value {
    json!({ "id": "b1", "state": state, "steps": [] })
}

pub(crate) async fn bind_follows_the_binding_until_it_is_active() {
    let answers = [(202, "pending"), (200, "pending"), (200, "armed"), (200, "active")];
    let triggerd = Receiver::start(answers.map(|(status, state)| (status, binding(state))).to_vec()).await;
    let (_folder, config) = config("http://127.0.0.1:9");
    let address = triggerd.url("");
    let settings = ["--mode", "async", "--await-result", "10m", "--storage", "nas", "--triggerd", &address];
    let arguments = [&BIND[..], &settings].concat();
    let (code, out, err) = command(&config, &arguments).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "binding b1: pending\nbinding b1: armed\nbinding b1: active\n"),
        "{err}"
    );
    let received = triggerd.received();
    let paths: Vec<_> = received.iter().map(|(path, _, _)| path.as_str()).collect();
    assert_eq!(paths, ["/v1/bindings", "/v1/bindings/b1", "/v1/bindings/b1", "/v1/bindings/b1"]);
    assert!(
        received.iter().all(|(_, headers, _)| headers["authorization"] == "Bearer token-for-the-platform")
    );
    let wanted = json!({
        "storage": "nas", "bucket": "photos", "events": ["s3:ObjectCreated:*"], "glob": "in/**/*.jpg",
        "platform": "local", "function": "thumb", "mode": "async", "await_result_s": 600,
    });
    assert_eq!(serde_json::from_slice::<Value>(&received[0].2).unwrap(), wanted);
    for (settings, why) in [
        (["--await-result", "10m", "--mode", "sync"], "is for --mode async"),
        (["--await-result", "1500ms", "--mode", "async"], "whole seconds"),
    ] {
        let (code, _, err) = command(&config, &[&BIND[..], &settings].concat()).await;
        assert!(code != 0 && err.contains("--await-result") && err.contains(why), "{err}");
    }
}

pub(crate) async fn bind_fails_when_the_binding_is_rejected_and_says_why() {
    let rejected = json!({ "id": "b1", "state": "rejected", "reason": "no bucket photos" });
    let conflict =
        json!({ "type": "/problems/conflict", "status": 409, "detail": "binding b0 has other settings" });
    let answers =
        vec![(202, binding("pending")), (200, rejected.clone()), (409, conflict), (202, binding("pending"))];
    let triggerd = Receiver::start(answers).await;
    let (_folder, config) = config(&triggerd.url("/"));
    let (code, out, _) = command(&config, &[&BIND[..], &["--json"]].concat()).await;
    assert_eq!(code, 1);
    let shown: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(shown, [binding("pending"), rejected]);

    let (code, _, err) = command(&config, &BIND).await;
    assert_eq!(code, 1);
    assert!(err.contains("409") && err.contains("binding b0 has other settings"), "{err}");

    let (code, out, _) = command(&config, &[&BIND[..], &["--wait", "0s"]].concat()).await;
    assert_eq!((code, out.as_str()), (3, "binding b1: pending\n"), "the wait is over");
}

pub(crate) async fn unbind_waits_until_the_binding_is_gone() {
    let gone = (404, json!({ "type": "/problems/unknown-binding", "status": 404 }));
    let answers = vec![(202, binding("unbinding")), (200, binding("unbinding")), gone.clone(), gone];
    let triggerd = Receiver::start(answers).await;
    let (_folder, config) = config(&triggerd.url(""));
    let (code, out, err) = command(&config, &["unbind", "b1"]).await;
    assert_eq!((code, out.as_str()), (0, "binding b1: unbinding\nbinding b1: gone\n"), "{err}");
    let (code, _, err) = command(&config, &["unbind", "b1"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("knows no binding b1"), "{err}");
}

pub(crate) async fn the_example_config_is_whole_and_valid() {
    let example = fs::read_to_string("src/bin/triggerd-platform/platform.example.toml").unwrap();
    let code = fs::read_to_string("src/bin/triggerd-platform/config.rs").unwrap();
    let keys =
        code.split("impl Config").next().unwrap().lines().filter_map(|line| {
            line.strip_prefix("    pub(crate) ").and_then(|field| field.split(':').next())
        });
    let keys: Vec<_> = keys.collect();
    assert!(keys.len() >= 15, "{keys:?}");
    for key in keys {
        assert!(
            example.contains(&format!("\n{key} = ")) || example.contains(&format!("\n[{key}")),
            "{key} is not in the example"
        );
    }
    let triggerd = Receiver::start(Vec::new()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("platform.toml");
    fs::write(&path, example.replace("http://127.0.0.1:8360", &triggerd.url(""))).unwrap();
    for name in ["platform.token", "triggerd.token"] {
        fs::write(folder.path().join(name), "a-token-long-enough").unwrap();
    }
    let (code, out, err) = command(&path, &["check"]).await;
    assert_eq!(code, 0, "{out}{err}");
    fs::write(&path, format!("colour = 1\n{example}")).unwrap();
    let (code, _, err) = command(&path, &["check"]).await;
    assert!(code == 1 && err.contains("`colour`"), "{err}");
}

pub(crate) async fn check_names_everything_that_is_wrong_at_once() {
    let denied = json!({ "type": "/problems/unauthorized", "status": 401, "detail": "no such token" });
    let triggerd = Receiver::start(vec![(401, denied)]).await;
    let (_folder, config) = config(&triggerd.url(""));
    let (code, out, _) = command(&config, &["check"]).await;
    assert_eq!(code, 1);
    for part in [
        "token_file: ",
        "functions.thumb: /nowhere/at-all",
        "triggerd: triggerd answered 401",
        "no such token",
    ] {
        assert!(out.contains(part), "{part} in {out}");
    }
    assert_eq!(out.lines().count(), 3);
}
