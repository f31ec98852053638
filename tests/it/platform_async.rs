//! Asynchronous invocations, confirmations by callback, and the end of the process.

use super::support::{
    Call, Platform, Receiver, SECRET, command, eventually, lines, now, problem, record, rule,
};
use reqwest::Method;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use std::{collections::BTreeSet, fs};

const FUNCTIONS: &str = r#"
[functions.echo]
command = ["/bin/sh", "-c", "cat; echo $TRIGGER_DELIVERY_ID >> FOLDER/ran"]
[functions.bytes]
command = ["/usr/bin/printf", '\377\376']
[functions.fail]
command = ["/bin/sh", "-c", "echo something broke >&2; exit 3"]
[functions.slow]
command = ["/bin/sleep", "60"]
timeout = "200ms"
[functions.gate]
command = ["/bin/sh", "-c", "touch FOLDER/running; while [ ! -e FOLDER/go ]; do sleep 0.02; done; echo $TRIGGER_DELIVERY_ID >> FOLDER/ran"]
concurrency = 1
backlog = 5
"#;

/// How many jobs are kept; a file that is just being written is none yet.
fn jobs(platform: &Platform) -> usize {
    let files = fs::read_dir(platform.file("state/jobs")).unwrap();
    let names = files.map(|file| file.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|kind| kind == "json")).count()
}

async fn state_of(platform: &Platform, id: &str) -> Value {
    let shown: Value = platform.call(Method::GET, &format!("/rules/{id}"), None).await.json().await.unwrap();
    shown["state"].clone()
}

pub(crate) async fn result_comes_by_a_signed_callback_that_is_tried_again() {
    let triggerd = Receiver::start(vec![(503, json!({})), (429, json!({}))]).await;
    let platform = Platform::start(FUNCTIONS);
    for function in ["echo", "bytes", "fail", "slow"] {
        platform.put(function, &rule(function)).await;
    }
    let body = json!({ "Records": [record("s3:ObjectCreated:Put", "photos", "in%2Fa+b.jpg")] }).to_string();
    for (function, field, expected) in [
        ("echo", "result", body.as_str()),
        ("bytes", "result_base64", "//4="),
        ("fail", "error", "exit-3: "),
        ("slow", "error", "timeout: "),
    ] {
        let before = triggerd.received().len();
        let call =
            Call::new(function, function).delivery(&format!("d-{function}")).header("trigger-attempt", "4");
        let answer =
            call.asynchronous(&triggerd.url(&format!("/v1/callbacks/{function}"))).send(&platform).await;
        assert_eq!(answer.status(), 202);
        assert_eq!(answer.headers()["preference-applied"], "respond-async");
        let tries = if function == "echo" { 3 } else { 1 };
        let received = triggerd.received_at_least(before + tries).await;
        for (path, headers, body) in &received[before..] {
            assert_eq!(path, &format!("/v1/callbacks/{function}"));
            assert_eq!(headers["webhook-id"], format!("d-{function}"));
            Webhook::new(SECRET).unwrap().verify(body, headers).unwrap();
            let report: Value = serde_json::from_slice(body).unwrap();
            let status = if field == "error" { "failed" } else { "succeeded" };
            assert_eq!(report["status"], status);
            assert_eq!(report["attempt"], 4);
            assert_eq!((&report["rule"], &report["function"]), (&json!(function), &json!(function)));
            assert_eq!(report["delivery"], format!("d-{function}"));
            assert!(report["duration_ms"].is_u64());
            assert!(report[field].as_str().unwrap().starts_with(expected), "{report}");
        }
        eventually("the job is done", async || jobs(&platform) == 0).await;
        assert_eq!(triggerd.received().len(), before + tries, "a callback that was taken is not repeated");
    }
}

pub(crate) async fn accepted_invocations_survive_kill_9() {
    let triggerd = Receiver::start(Vec::new()).await;
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("gate")).await;
    let deliveries: BTreeSet<String> = (0..5).map(|number| format!("d{number}")).collect();
    for delivery in &deliveries {
        let call = Call::new("r1", "gate").delivery(delivery).asynchronous(&triggerd.url("/v1/callbacks/t"));
        assert_eq!(call.send(&platform).await.status(), 202);
    }
    let full = Call::new("r1", "gate").delivery("d5").asynchronous(&triggerd.url("/v1/callbacks/t"));
    problem(full.send(&platform).await, 429, "concurrency-limit").await;
    eventually("one runs", async || platform.file("running").exists()).await;

    let platform = platform.crash_and_restart();
    assert_eq!(jobs(&platform), 5);
    fs::write(platform.file("go"), "").unwrap();
    eventually("all are done", async || jobs(&platform) == 0).await;
    let ran: BTreeSet<String> = lines(&platform.file("ran")).into_iter().collect();
    assert_eq!(ran, deliveries);
    let told: BTreeSet<String> = triggerd
        .received()
        .iter()
        .map(|(_, headers, _)| headers["webhook-id"].to_str().unwrap().to_owned())
        .collect();
    assert_eq!(told, deliveries);
}

pub(crate) async fn a_report_that_was_not_taken_is_sent_after_a_restart() {
    let triggerd = Receiver::start(vec![(503, json!({})); 100]).await;
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("echo")).await;
    let call = Call::new("r1", "echo").asynchronous(&triggerd.url("/v1/callbacks/t"));
    assert_eq!(call.send(&platform).await.status(), 202);
    triggerd.received_at_least(1).await;
    let platform = platform.crash_and_restart();
    assert_eq!(jobs(&platform), 1);
    triggerd.relent();
    eventually("the report is taken", async || jobs(&platform) == 0).await;
    assert_eq!(lines(&platform.file("ran")).len(), 1, "the function is not run again for its report");
    let received = triggerd.received();
    assert!(received.iter().all(|(_, _, body)| body == &received[0].2), "every try says the same");
}

pub(crate) async fn the_same_attempt_accepted_again_is_run_and_reported_once() {
    let triggerd = Receiver::start(vec![(503, json!({})); 100]).await;
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("echo")).await;
    let call = Call::new("r1", "echo").asynchronous(&triggerd.url("/v1/callbacks/t"));
    assert_eq!(call.send(&platform).await.status(), 202);
    triggerd.received_at_least(1).await;
    // As a triggerd does that has crashed and does not know of the answer.
    assert_eq!(call.send(&platform).await.status(), 202);
    let platform = platform.crash_and_restart();
    assert_eq!(call.send(&platform).await.status(), 202);
    triggerd.relent();
    eventually("the report is taken", async || jobs(&platform) == 0).await;
    assert_eq!(lines(&platform.file("ran")).len(), 1, "it ran once");
    assert_eq!(call.send(&platform).await.status(), 202);
    eventually("done with, it is a new invocation", async || lines(&platform.file("ran")).len() == 2).await;
}

pub(crate) async fn a_report_that_is_refused_is_told_of_with_the_reason() {
    let refused = json!({"type": "/problems/not-found", "status": 404, "detail": "nothing waits for it"});
    let triggerd = Receiver::start(vec![(404, refused)]).await;
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("echo")).await;
    let call = Call::new("r1", "echo").delivery("lost").asynchronous(&triggerd.url("/v1/callbacks/t"));
    assert_eq!(call.send(&platform).await.status(), 202);
    eventually("the job is done", async || !triggerd.received().is_empty() && jobs(&platform) == 0).await;
    let log = platform.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("a report was refused")).collect();
    assert_eq!(told.len(), 1, "{log}");
    for part in ["WARN", "lost", "404", "nothing waits for it", "r1"] {
        assert!(told[0].contains(part), "{part}: {}", told[0]);
    }
}

pub(crate) async fn a_report_is_given_up_by_name_seven_days_after_its_function_ended() {
    let triggerd = Receiver::start(vec![(503, json!({"detail": "the disk fails"})); 1_000]).await;
    let mut platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("echo")).await;
    let call = Call::new("r1", "echo").delivery("lost").asynchronous(&triggerd.url("/v1/callbacks/t"));
    assert_eq!(call.send(&platform).await.status(), 202);
    triggerd.received_at_least(1).await;
    platform.sigterm();
    assert!(platform.ended().await);
    let file = fs::read_dir(platform.file("state/jobs")).unwrap().next().unwrap().unwrap().path();
    let ended_so_long_ago = |hours: i64| {
        let mut job: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert!(job["ended_at"].as_i64().unwrap() > now() - hours * 3_600);
        job["ended_at"] = (now() - hours * 3_600).into();
        fs::write(&file, job.to_string()).unwrap();
        triggerd.received().len()
    };
    let before = ended_so_long_ago(7 * 24 - 1);
    platform = Platform::start_in(platform.folder.clone());
    triggerd.received_at_least(before + 2).await;
    assert_eq!(jobs(&platform), 1, "it is not seven days yet");
    platform.sigterm();
    assert!(platform.ended().await);
    let before = ended_so_long_ago(7 * 24);
    let platform = Platform::start_in(platform.folder.clone());
    eventually("it is given up", async || jobs(&platform) == 0).await;
    assert_eq!(triggerd.received().len(), before + 1, "it is tried once after a start, however late");
    let log = platform.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("is given up")).collect();
    assert_eq!(told.len(), 1, "{log}");
    for part in ["ERROR", "lost", "succeeded", "the disk fails"] {
        assert!(told[0].contains(part), "{part}: {}", told[0]);
    }
}

pub(crate) async fn callback_mode_confirms_a_rule_by_a_signed_call() {
    let triggerd = Receiver::start(vec![(503, json!({}))]).await;
    let platform = Platform::start(&format!("confirm = \"callback\"\n{FUNCTIONS}"));
    let mut wanted = rule("echo");
    wanted["confirm_url"] = triggerd.url("/v1/bindings/b1/confirm").into();
    assert_eq!(platform.put("r1", &wanted).await.status(), 202);
    assert_eq!(Call::new("r1", "echo").send(&platform).await.status(), 200, "a pending rule is a rule");
    eventually("the rule is confirmed", async || state_of(&platform, "r1").await == "confirmed").await;
    let received = triggerd.received();
    assert_eq!(received.len(), 2);
    for (path, headers, body) in &received {
        assert_eq!(path, "/v1/bindings/b1/confirm");
        assert_eq!(headers["webhook-id"], "confirm-r1");
        Webhook::new(SECRET).unwrap().verify(body, headers).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(body).unwrap(),
            json!({ "rule": "r1", "state": "confirmed" })
        );
    }
    let again = platform.put("r1", &wanted).await;
    assert_eq!(again.status(), 200);
    assert_eq!(again.json::<Value>().await.unwrap()["state"], "confirmed");
}

pub(crate) async fn a_pending_rule_is_confirmed_after_kill_9() {
    let triggerd = Receiver::start(vec![(503, json!({})); 100]).await;
    let platform = Platform::start(&format!("confirm = \"callback\"\n{FUNCTIONS}"));
    let mut wanted = rule("echo");
    wanted["confirm_url"] = triggerd.url("/confirm").into();
    platform.put("r1", &wanted).await;
    triggerd.received_at_least(1).await;
    let platform = platform.crash_and_restart();
    assert_eq!(state_of(&platform, "r1").await, "pending");
    triggerd.relent();
    eventually("the rule is confirmed", async || state_of(&platform, "r1").await == "confirmed").await;
}

pub(crate) async fn sigterm_lets_the_running_function_end() {
    let mut platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("gate")).await;
    let (call, waiting) =
        (Call::new("r1", "gate").delivery("running"), Call::new("r1", "gate").delivery("waiting"));
    let waiting = waiting.header("prefer", "respond-async");
    let (answer, ()) = tokio::join!(call.send(&platform), async {
        eventually("the function runs", async || platform.file("running").exists()).await;
        assert_eq!(waiting.send(&platform).await.status(), 202);
        platform.sigterm();
        eventually("no connection is taken", async || {
            tokio::net::TcpStream::connect(&platform.address).await.is_err()
        })
        .await;
        fs::write(platform.file("go"), "").unwrap();
    });
    assert_eq!(answer.status(), 200);
    assert!(platform.ended().await, "log: {}", platform.log());
    assert_eq!(lines(&platform.file("ran")), ["running"], "the waiting job was not begun");
    assert_eq!(jobs(&platform), 1);
    let platform = Platform::start_in(platform.folder.clone());
    eventually("the waiting job is done", async || jobs(&platform) == 0).await;
    assert_eq!(lines(&platform.file("ran")), ["running", "waiting"]);
}

pub(crate) async fn a_second_platform_on_the_same_state_is_refused() {
    let platform = Platform::start(FUNCTIONS);
    let (code, _, said) = command(&platform.file("platform.toml"), &["serve"]).await;
    assert_eq!(code, 1);
    assert!(said.contains("another platform runs in"), "{said}");
}

pub(crate) async fn a_second_signal_cuts_off_what_runs() {
    let mut platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("slow")).await;
    let platform_config = platform.file("platform.toml");
    let longer = fs::read_to_string(&platform_config).unwrap().replace("200ms", "10m");
    fs::write(&platform_config, longer).unwrap();
    platform = platform.crash_and_restart();
    let call = Call::new("r1", "slow").header("prefer", "respond-async");
    assert_eq!(call.send(&platform).await.status(), 202);
    let running = format!("{}", platform.id());
    let child = async || children(&running).first().cloned();
    eventually("the function runs", async || child().await.is_some()).await;
    let function = child().await.unwrap();
    platform.sigterm();
    eventually("no connection is taken", async || {
        tokio::net::TcpStream::connect(&platform.address).await.is_err()
    })
    .await;
    platform.sigterm();
    assert!(platform.ended().await);
    eventually("the function is gone", async || !fs::exists(format!("/proc/{function}")).unwrap()).await;
    assert_eq!(jobs(&platform), 1, "it is run again at the next start");
}

/// The processes that this one started.
fn children(pid: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    lists.iter().flat_map(|list| list.split_whitespace()).map(str::to_owned).collect()
}

pub(crate) async fn the_same_attempt_accepted_again_is_one_job() {
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("gate")).await;
    for delivery in ["first", "second", "second", "second"] {
        let call = Call::new("r1", "gate")
            .delivery(delivery)
            .header("prefer", "handling=lenient, Respond-Async; x=1");
        assert_eq!(call.send(&platform).await.status(), 202);
        eventually("one runs", async || platform.file("running").exists()).await;
    }
    assert_eq!(jobs(&platform), 2);
    fs::write(platform.file("go"), "").unwrap();
    eventually("all are done", async || jobs(&platform) == 0).await;
    assert_eq!(lines(&platform.file("ran")), ["first", "second"]);
}

pub(crate) async fn a_callback_that_nobody_waits_for_is_not_repeated() {
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("echo")).await;
    for status in [404, 410, 400, 302] {
        let triggerd = Receiver::start(vec![(status, json!({}))]).await;
        let call = Call::new("r1", "echo").asynchronous(&triggerd.url("/v1/callbacks/t"));
        assert_eq!(call.send(&platform).await.status(), 202);
        triggerd.received_at_least(1).await;
        eventually("the job is done", async || jobs(&platform) == 0).await;
        assert_eq!(triggerd.received().len(), 1);
    }
}

pub(crate) async fn a_rule_put_again_is_confirmed_at_its_new_address() {
    let deaf = Receiver::start(vec![(503, json!({})); 100]).await;
    let triggerd = Receiver::start(Vec::new()).await;
    let platform = Platform::start(&format!("confirm = \"callback\"\n{FUNCTIONS}"));
    let mut wanted = rule("echo");
    wanted["confirm_url"] = deaf.url("/confirm").into();
    assert_eq!(platform.put("r1", &wanted).await.status(), 202);
    deaf.received_at_least(1).await;
    wanted["confirm_url"] = triggerd.url("/confirm").into();
    assert_eq!(platform.put("r1", &wanted).await.status(), 202, "still pending");
    eventually("the rule is confirmed", async || state_of(&platform, "r1").await == "confirmed").await;
    assert_eq!(triggerd.received().len(), 1);
}
