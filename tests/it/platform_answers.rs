//! Rules and synchronous invocations: every answer of the protocol.

use super::support::{Call, PROGRAM, Platform, now, problem, record, rule};
use reqwest::Method;
use serde_json::{Value, json};
use std::process::Command;

pub(crate) const FUNCTIONS: &str = r#"
max_body = 65536
body_timeout = "1s"
[functions.echo]
command = ["/bin/cat"]
[functions.fail]
command = ["/bin/sh", "-c", "echo something broke >&2; exit 3"]
[functions.slow]
command = ["/bin/sleep", "60"]
timeout = "200ms"
[functions.gate]
command = ["/bin/sh", "-c", "touch FOLDER/running; while [ ! -e FOLDER/go ]; do sleep 0.02; done"]
concurrency = 1
[functions.show]
command = ["/bin/sh", "-c", "env | grep -E '^(TRIGGER|CE)_' | sort; cat"]
"#;

pub(crate) async fn the_same_rule_again_is_success_and_other_contents_are_a_conflict() {
    let platform = Platform::start(FUNCTIONS);
    let mut wanted = rule("echo");
    wanted["events"] = json!(["s3:ObjectCreated:Put", "s3:ObjectRemoved:*"]);
    assert_eq!(platform.put("r1", &wanted).await.status(), 201);
    let mut same = wanted.clone();
    same["events"] = json!(["s3:ObjectRemoved:*", "s3:ObjectCreated:Put"]);
    same["confirm_url"] = json!("http://127.0.0.1:9/elsewhere");
    assert_eq!(platform.put("r1", &same).await.status(), 200, "order and confirm_url are no contents");

    for (field, value) in [
        ("storage", json!("other")),
        ("bucket", json!("other")),
        ("events", json!(["s3:ObjectCreated:Put"])),
        ("prefix", json!("out/")),
        ("suffix", Value::Null),
        ("function", json!("fail")),
        ("mode", json!("async")),
        ("secret", json!("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
    ] {
        let mut other = wanted.clone();
        other[field] = value;
        problem(platform.put("r1", &other).await, 409, "conflict").await;
    }
    assert_eq!(platform.put("r1", &wanted).await.status(), 200, "a conflict changes nothing");
}

pub(crate) async fn an_unknown_field_is_named() {
    let platform = Platform::start(FUNCTIONS);
    for (field, value) in [
        ("colour", json!("red")),
        ("events", json!([])),
        ("events", json!(["ObjectCreated"])),
        ("bucket", json!("")),
        ("glob", json!("in/*.jpg")),
        ("mode", json!("later")),
        ("secret", json!("whsec_c2hvcnQ=")),
        ("confirm_url", json!("file:///etc/passwd")),
    ] {
        let mut wanted = rule("echo");
        wanted[field] = value;
        let detail = problem(platform.put("r1", &wanted).await, 400, "bad-request").await;
        let named = detail.contains(&format!("`{field}`")) || (field == "mode" && detail.contains("later"));
        assert!(named, "{field}: {detail}");
    }
    let mut wanted = rule("echo");
    wanted["prefix"] = Value::Null;
    wanted["suffix"] = Value::Null;
    wanted["glob"] = json!("in/{a");
    let detail = problem(platform.put("r1", &wanted).await, 400, "bad-request").await;
    assert!(detail.contains("`glob`"), "{detail}");
}

pub(crate) async fn rule_and_digest_survive_kill_9() {
    let platform = Platform::start(FUNCTIONS);
    for number in 0..20 {
        assert_eq!(platform.put(&format!("r{number}"), &rule("echo")).await.status(), 201);
    }
    assert_eq!(platform.call(Method::DELETE, "/rules/r7", None).await.status(), 204);
    let before: Value = platform.call(Method::GET, "/rules", None).await.json().await.unwrap();
    let platform = platform.crash_and_restart();
    let after: Value = platform.call(Method::GET, "/rules", None).await.json().await.unwrap();
    assert_eq!(before, after);
    assert_eq!(after["rules"].as_array().unwrap().len(), 19);
    let shown = &after["rules"][0];
    assert!(shown.get("secret").is_none());
    let expected = "sha256:2dd745ff991276aed56826de4e41d9d81b006c671a1491c08e9fc74e9362d95a";
    assert_eq!(shown["secret_digest"], expected, "sha256 over the secret's text");
    assert_eq!(Call::new("r3", "echo").send(&platform).await.status(), 200, "the secret is the same too");

    let rules = Command::new(PROGRAM)
        .arg("rules")
        .arg("--config")
        .arg(platform.file("platform.toml"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(rules.stdout).unwrap().lines().count(), 19);
}

pub(crate) async fn signatures_agree_with_an_independent_library() {
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("echo")).await;
    let call = Call::new("r1", "echo");
    let right = call.signature();
    let wrong = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (signatures, status) in [
        (format!("{wrong} {right}"), 200),
        (format!("v1a,abc {right} {wrong}"), 200),
        (wrong.to_owned(), 401),
        (right.replace("v1,", "v2,"), 401),
        (right[..right.len() - 4].to_owned(), 401),
        ("v1,".to_owned(), 401),
        (String::new(), 401),
    ] {
        let answer = call.clone().header("webhook-signature", &signatures).send(&platform).await;
        assert_eq!(answer.status(), status, "{signatures}");
    }
    let moved = call.clone().header("webhook-timestamp", &(now() + 1).to_string());
    problem(moved.send(&platform).await, 401, "bad-signature").await;
    let renamed = call.clone().header("webhook-id", "other").header("trigger-delivery-id", "other");
    problem(renamed.send(&platform).await, 401, "bad-signature").await;
    let apart = call.clone().header("trigger-delivery-id", "other");
    problem(apart.send(&platform).await, 400, "bad-request").await;
    for odd in ["-1", "+5", "1e9", "99999999999999999999999", ""] {
        problem(call.clone().header("webhook-timestamp", odd).send(&platform).await, 400, "bad-request")
            .await;
    }
}

pub(crate) async fn each_part_of_the_rule_is_checked_against_the_signed_body() {
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("echo")).await;
    let mut with_glob = rule("echo");
    with_glob["prefix"] = Value::Null;
    with_glob["suffix"] = Value::Null;
    with_glob["glob"] = json!("in/**/*.jpg");
    assert_eq!(platform.put("r2", &with_glob).await.status(), 201);
    with_glob["glob"] = json!("第?章/[!x]*");
    assert_eq!(platform.put("r3", &with_glob).await.status(), 201);
    for (id, name, bucket, key, refused) in [
        ("r3", "s3:ObjectCreated:Put", "photos", "%E7%AC%AC%E4%B8%80%E7%AB%A0%2F%E5%9B%BE.jpg", None),
        ("r3", "s3:ObjectCreated:Put", "photos", "%E7%AC%AC%E4%B8%80%E7%AB%A0%2Fx.jpg", Some("glob")),
        ("r1", "s3:ObjectCreated:Put", "photos", "in%2Fa.jpg", None),
        ("r1", "ObjectCreated:Put", "photos", "in/a.jpg", None),
        ("r1", "s3:ObjectCreatedX:Put", "photos", "in%2Fa.jpg", Some("event name")),
        ("r1", "s3:ObjectRemoved:Delete", "photos", "in%2Fa.jpg", Some("event name")),
        ("r1", "s3:ObjectCreated:Put", "other", "in%2Fa.jpg", Some("bucket")),
        ("r1", "s3:ObjectCreated:Put", "photos", "out%2Fa.jpg", Some("prefix")),
        ("r1", "s3:ObjectCreated:Put", "photos", "in%2Fa.png", Some("suffix")),
        ("r2", "s3:ObjectCreated:Put", "photos", "in%2Fa.jpg", None),
        ("r2", "s3:ObjectCreated:Put", "photos", "in%2Fx%2Fy%2F%E5%9B%BE.jpg", None),
        ("r2", "s3:ObjectCreated:Put", "photos", "inx%2Fa.jpg", Some("glob")),
    ] {
        let answer = Call::new(id, "echo").records(&record(name, bucket, key)).send(&platform).await;
        match refused {
            None => assert_eq!(answer.status(), 200, "{key}"),
            Some(part) => {
                let detail = problem(answer, 403, "rule-mismatch").await;
                assert!(detail.contains(part), "{detail}");
            }
        }
    }
}

pub(crate) async fn a_function_sees_its_event_in_all_three_payloads() {
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("show")).await;
    let record = record("s3:ObjectCreated:Put", "photos", "in%2Fa+b%0A.jpg");
    let call = Call::new("r1", "show").header("trigger-attempt", "7");
    let structured =
        json!({ "specversion": "1.0", "id": "e1", "source": "minio:s3", "type": "put", "data": record });
    let binary = call
        .clone()
        .body(record.to_string())
        .header("ce-specversion", "1.0")
        .header("ce-id", "e1")
        .header("ce-subject", "in%2Fa%20b");
    let cases = [
        (call.clone().records(&record), ""),
        (binary, "CE_ID=e1\nCE_SPECVERSION=1.0\nCE_SUBJECT=in/a b\n"),
        (
            call.clone()
                .body(structured.to_string())
                .header("content-type", "application/cloudevents+json; charset=utf-8"),
            "CE_ID=e1\nCE_SOURCE=minio:s3\nCE_SPECVERSION=1.0\nCE_TYPE=put\n",
        ),
    ];
    for (call, attributes) in cases {
        let answer = call.send(&platform).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
        let shown = answer.text().await.unwrap();
        let (env, body) = shown.split_at(shown.find('{').unwrap());
        assert_eq!(body.as_bytes(), call.body, "standard input is the body as it came");
        let expected = format!(
            "{attributes}TRIGGER_ATTEMPT=7\nTRIGGER_BUCKET=photos\nTRIGGER_DELIVERY_ID=0b54a1cf\n\
             TRIGGER_EVENT_NAME=s3:ObjectCreated:Put\nTRIGGER_KEY=in/a b\nTRIGGER_RULE_ID=r1\n"
        );
        assert_eq!(env, expected);
    }
}

pub(crate) async fn another_media_type_or_two_records_are_refused() {
    let platform = Platform::start(FUNCTIONS);
    platform.put("r1", &rule("echo")).await;
    let good = record("s3:ObjectCreated:Put", "photos", "in%2Fa.jpg");
    let call = Call::new("r1", "echo");
    for call in [
        call.clone().header("content-type", "text/plain"),
        call.clone().without("content-type"),
        call.clone().body("not json"),
        call.clone().body(""),
        call.clone().body("[]"),
        call.clone().body(json!({ "Records": [good, good] }).to_string()),
        call.clone().body(json!({ "Records": [] }).to_string()),
        call.clone().body("[".repeat(60_000)),
        call.clone().header("content-type", "application/cloudevents+json").body("{\"data\":5}"),
        call.clone().header("content-type", "application/cloudevents-batch+json"),
        call.clone().records(&record("s3:ObjectCreated:Put", "photos", "in%2F%ff.jpg")),
        call.clone().records(&record("s3:ObjectCreated:Put", "photos", "in%2F%00.jpg")),
        call.clone().records(&record("s3:ObjectCreated:Put", "photos", &"x".repeat(1025))),
        call.clone().header("trigger-attempt", "0"),
        call.clone().delivery("a.b"),
        call.clone().header("trigger-callback-url", "file:///etc/passwd"),
    ] {
        problem(call.send(&platform).await, 400, "bad-request").await;
    }
}
