//! Callers and functions that mean no good.

use super::support::{Call, Platform, SECRET, TOKEN, eventually, problem, rule};
use reqwest::Method;
use std::{collections::BTreeSet, fs, path::Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const FUNCTIONS: &str = r#"
[functions.echo]
command = ["/bin/cat"]
[functions.flood]
command = ["/usr/bin/yes"]
[functions.chatter]
command = ["/bin/sh", "-c", "yes 'a long complaint' | head -c 5000000 >&2; echo the last word >&2; exit 1"]
[functions.stubborn]
command = ["/bin/sh", "-c", "trap '' TERM; sleep 1000 & echo $! > FOLDER/child; echo $$ > FOLDER/parent; while :; do sleep 1; done"]
timeout = "300ms"
concurrency = 1
[functions.litter]
command = ["/bin/sh", "-c", "sleep 1000 & echo $! > FOLDER/child; echo done"]
[functions.env]
command = ["/usr/bin/env"]
env = { COLOUR = "red" }
[functions.missing]
command = ["/nowhere/at-all"]
"#;

fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.insert(path.display().to_string());
        if path.is_dir() {
            found.extend(files(&path));
        }
    }
    found
}

fn runs(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

pub(crate) async fn path_traversal_reaches_no_file() {
    let platform = Platform::start(FUNCTIONS);
    let before = files(platform.folder.path());
    for request in [
        "PUT /rules/..%2F..%2Fevil",
        "PUT /rules/../../evil",
        "PUT /rules/%2e%2e",
        "PUT /rules/.",
        "PUT /rules/a%00b",
        "PUT /rules/%2Fetc%2Fevil",
        "DELETE /rules/..%2Flock",
        "DELETE /rules/..%2f..%2ftoken",
        "GET /rules/..%2F..%2Ftoken",
        "GET /rules/%ff",
        "POST /functions/..%2F..%2Fbin%2Fsh/invocations",
        "POST /functions/../health",
    ] {
        let mut connection = TcpStream::connect(&platform.address).await.unwrap();
        let body = rule("echo").to_string();
        let text = format!(
            "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().to_owned();
        assert!(["400", "404", "405"].contains(&status.as_str()), "{request}: {answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{answer}");
        assert!(!answer.contains(TOKEN));
    }
    assert_eq!(files(platform.folder.path()), before);
    assert_eq!(platform.put(&"x".repeat(65), &rule("echo")).await.status(), 400);
    assert_eq!(platform.put(&"x".repeat(64), &rule("echo")).await.status(), 201);
    problem(Call::new("..%2F..%2Ftoken", "echo").send(&platform).await, 400, "bad-request").await;
}

pub(crate) async fn a_flood_of_output_is_cut_off() {
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("flood")).await;
    let answer = Call::new("r1", "flood").send(&platform).await;
    assert_eq!(answer.headers()["trigger-function-error"], "output-too-large");
    problem(answer, 500, "function-failed").await;

    platform.put("r2", &rule("chatter")).await;
    let detail = problem(Call::new("r2", "chatter").send(&platform).await, 500, "function-failed").await;
    assert!(detail.len() < 4096 && detail.ends_with("the last word"), "{detail}");
}

pub(crate) async fn a_function_that_ignores_sigterm_dies_with_its_children() {
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("stubborn")).await;
    for _ in 0..2 {
        let answer = Call::new("r1", "stubborn").send(&platform).await;
        assert_eq!(answer.headers()["trigger-function-error"], "timeout");
        problem(answer, 504, "function-timeout").await;
        for name in ["parent", "child"] {
            eventually("the process is gone", async || !runs(&platform.file(name))).await;
        }
    }
}

pub(crate) async fn what_a_function_leaves_running_is_killed() {
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("litter")).await;
    let answer = Call::new("r1", "litter").send(&platform).await;
    assert_eq!(answer.text().await.unwrap(), "done\n");
    eventually("the child is gone", async || !runs(&platform.file("child"))).await;
}

pub(crate) async fn a_function_gets_no_environment_of_the_platform() {
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("env")).await;
    let env = Call::new("r1", "env").send(&platform).await.text().await.unwrap();
    let names: BTreeSet<_> = env.lines().filter_map(|line| line.split('=').next()).collect();
    let event = ["ATTEMPT", "BUCKET", "DELIVERY_ID", "EVENT_NAME", "KEY", "RULE_ID"]
        .map(|name| format!("TRIGGER_{name}"));
    let expected: BTreeSet<_> = event.iter().map(String::as_str).chain(["COLOUR", "PATH"]).collect();
    assert_eq!(names, expected);
}

pub(crate) async fn a_function_that_cannot_be_started_is_not_the_functions_fault() {
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("missing")).await;
    let answer = Call::new("r1", "missing").send(&platform).await;
    assert!(!answer.headers().contains_key("trigger-function-error"));
    problem(answer, 500, "internal").await;
}

pub(crate) async fn secrets_are_in_no_answer_and_no_log() {
    let platform = Platform::start(FUNCTIONS);
    let mut answers = String::new();
    let mut other = rule("env");
    other["suffix"] = ".png".into();
    for (id, rule) in [("r1", rule("env")), ("r1", rule("env")), ("r1", other)] {
        answers += &platform.put(id, &rule).await.text().await.unwrap();
    }
    for path in ["/rules", "/rules/r1"] {
        answers += &platform.call(Method::GET, path, None).await.text().await.unwrap();
    }
    answers += &Call::new("r1", "env").send(&platform).await.text().await.unwrap();
    let log = platform.log();
    assert!(log.contains("rule kept") && answers.contains("secret_digest"));
    for text in [answers, log] {
        assert!(!text.contains(SECRET.trim_start_matches("whsec_")) && !text.contains(TOKEN), "{text}");
    }
    let mode = |path: &str| {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(platform.file(path)).unwrap().permissions())
            & 0o777
    };
    assert_eq!((mode("state"), mode("state/rules/r1.json")), (0o700, 0o600));
}

pub(crate) async fn one_busy_function_does_not_hold_up_another() {
    let platform = Platform::start(FUNCTIONS);
    for function in ["stubborn", "echo"] {
        platform.put(function, &rule(function)).await;
    }
    let (stubborn, echo) = (Call::new("stubborn", "stubborn"), Call::new("echo", "echo"));
    let (answer, ()) = tokio::join!(stubborn.send(&platform), async {
        eventually("the function runs", async || platform.file("parent").exists()).await;
        for _ in 0..20 {
            assert_eq!(echo.send(&platform).await.status(), 200);
        }
    });
    problem(answer, 504, "function-timeout").await;
}
