//! A tour of every route and every status, held against the OpenAPI document in both directions.

use super::{
    answers::FUNCTIONS,
    support::{Call, Platform, Receiver, TOKEN, eventually, now, problem, rule},
};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sees that an answer is right, and notes which route gave which status.
struct Tour {
    seen: BTreeSet<(String, String, u16)>,
}

impl Tour {
    fn note(&mut self, operation: (&str, &str), status: u16) {
        self.seen.insert((operation.0.to_owned(), operation.1.to_owned(), status));
    }

    fn good(&mut self, operation: (&str, &str), answer: &Response, status: u16) {
        assert_eq!(answer.status(), status, "{operation:?}");
        self.note(operation, status);
    }

    async fn bad(&mut self, operation: (&str, &str), answer: Response, status: u16, slug: &str) {
        problem(answer, status, slug).await;
        self.note(operation, status);
    }
}

pub(crate) async fn document_names_every_route_and_status_that_is_answered() {
    let mut tour = Tour { seen: BTreeSet::new() };
    let platform = Platform::start(FUNCTIONS);
    tour_management_without_token(&mut tour, &platform).await;
    tour_kept_rules(&mut tour, &platform).await;
    tour_removed_rules(&mut tour, &platform).await;
    for function in ["echo", "fail", "slow", "gate"] {
        assert_eq!(platform.put(function, &rule(function)).await.status(), 201);
    }
    tour_refused_invocations(&mut tour, &platform).await;
    tour_invocations(&mut tour, &platform).await;
    tour_callback_mode(&mut tour).await;
    let document = fs::read_to_string("docs/trigger-rules.openapi.yaml").unwrap();
    assert_eq!(documented(&document), tour.seen);

    let first_text = |rest: &'static str| rest.split('"').nth(1).unwrap();
    let api = include_str!("../../src/bin/triggerd-platform/api.rs");
    let api = api.split("#[cfg(test)]").next().unwrap();
    let routes: BTreeSet<_> = api.split(".route(").skip(1).map(first_text).collect();
    let paths: BTreeSet<_> = tour.seen.iter().map(|(_, path, _)| path.as_str()).collect();
    assert_eq!(routes, paths, "the router's paths and those that were toured");

    let problems = include_str!("../../src/bin/triggerd-platform/problem.rs");
    let slugs = problems.split("Self::").filter(|rest| rest.contains("=> ")).map(first_text);
    let slugs: BTreeSet<_> = slugs.take_while(|slug| !slug.contains(' ')).collect();
    let listed = document.lines().filter_map(|line| line.trim().strip_prefix("- /problems/"));
    assert_eq!(listed.collect::<BTreeSet<_>>(), slugs, "the document's slugs and the platform's");
}

/// (method, path, status) of each answer in the document; its indentation is part of its form.
fn documented(document: &str) -> BTreeSet<(String, String, u16)> {
    let (mut path, mut method, mut found) = (String::new(), String::new(), BTreeSet::new());
    let paths = document.split_once("\npaths:\n").unwrap().1.split("\ncomponents:\n").next().unwrap();
    for line in paths.lines() {
        let (indent, text) = (line.len() - line.trim_start().len(), line.trim().trim_end_matches(':'));
        match indent {
            2 => text.clone_into(&mut path),
            4 => text.clone_into(&mut method),
            8 if text.starts_with('"') => {
                let status = text.trim_matches('"').parse().unwrap();
                found.insert((method.clone(), path.clone(), status));
            }
            _ => (),
        }
    }
    found
}

const LIST: (&str, &str) = ("get", "/rules");
const SHOW: (&str, &str) = ("get", "/rules/{id}");
const PUT: (&str, &str) = ("put", "/rules/{id}");
const DELETE: (&str, &str) = ("delete", "/rules/{id}");
const INVOKE: (&str, &str) = ("post", "/functions/{name}/invocations");

async fn tour_management_without_token(tour: &mut Tour, platform: &Platform) {
    let plain = |method: Method, path: &str| {
        platform.client.request(method, format!("http://{}{path}", platform.address))
    };

    let health = plain(Method::GET, "/health").send().await.unwrap();
    tour.good(("get", "/health"), &health, 200);
    for (operation, method, path) in [
        (LIST, Method::GET, "/rules"),
        (SHOW, Method::GET, "/rules/r1"),
        (PUT, Method::PUT, "/rules/r1"),
        (DELETE, Method::DELETE, "/rules/r1"),
    ] {
        let answer = plain(method.clone(), path).send().await.unwrap();
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        tour.bad(operation, answer, 401, "unauthorized").await;
        let answer = plain(method, path).bearer_auth(format!("{TOKEN}x")).send().await.unwrap();
        problem(answer, 401, "unauthorized").await;
    }
}

async fn tour_kept_rules(tour: &mut Tour, platform: &Platform) {
    tour.bad(SHOW, platform.call(Method::GET, "/rules/r1", None).await, 404, "unknown-rule").await;
    tour.bad(DELETE, platform.call(Method::DELETE, "/rules/r1", None).await, 404, "unknown-rule").await;
    for (operation, method) in [(SHOW, Method::GET), (DELETE, Method::DELETE)] {
        tour.bad(operation, platform.call(method, "/rules/a%20b", None).await, 400, "bad-request").await;
    }

    let created = platform.put("r1", &rule("echo")).await;
    tour.good(PUT, &created, 201);
    assert_eq!(created.json::<Value>().await.unwrap(), json!({ "id": "r1", "state": "confirmed" }));
    tour.good(PUT, &platform.put("r1", &rule("echo")).await, 200);
    tour.bad(PUT, platform.put("r1", &rule("fail")).await, 409, "conflict").await;
    tour.bad(PUT, platform.put("r2", &rule("nothing")).await, 404, "unknown-function").await;
    tour.bad(PUT, platform.put("r2", &json!({})).await, 400, "bad-request").await;
    let huge = json!({ "bucket": "x".repeat(100_000) });
    tour.bad(PUT, platform.put("r2", &huge).await, 413, "body-too-large").await;
    let late = unfinished(platform, "PUT /rules/r2", &format!("Authorization: Bearer {TOKEN}\r\n")).await;
    assert!(late.starts_with("HTTP/1.1 408 ") && late.contains("/problems/request-timeout"), "{late}");
    tour.note(PUT, 408);
}

async fn tour_removed_rules(tour: &mut Tour, platform: &Platform) {
    let shown = platform.call(Method::GET, "/rules/r1", None).await;
    tour.good(SHOW, &shown, 200);
    let listed = platform.call(Method::GET, "/rules", None).await;
    tour.good(LIST, &listed, 200);
    assert_eq!(listed.json::<Value>().await.unwrap()["rules"][0], shown.json::<Value>().await.unwrap());

    // A disk that refuses: the folder of the rules is a file now.
    let rules = platform.file("state/rules");
    fs::rename(&rules, platform.file("away")).unwrap();
    fs::write(&rules, "").unwrap();
    tour.bad(PUT, platform.put("r3", &rule("echo")).await, 500, "internal").await;
    tour.bad(DELETE, platform.call(Method::DELETE, "/rules/r1", None).await, 500, "internal").await;
    fs::remove_file(&rules).unwrap();
    fs::rename(platform.file("away"), &rules).unwrap();
    problem(platform.call(Method::GET, "/rules/r3", None).await, 404, "unknown-rule").await;
    tour.good(DELETE, &platform.call(Method::DELETE, "/rules/r1", None).await, 204);

    problem(platform.call(Method::POST, "/rules/r1", None).await, 405, "method-not-allowed").await;
    problem(platform.call(Method::GET, "/elsewhere", None).await, 404, "not-found").await;
}

/// Sends headers that announce a body, and not the body; gives the answer.
async fn unfinished(platform: &Platform, request: &str, headers: &str) -> String {
    let mut connection = TcpStream::connect(&platform.address).await.unwrap();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n{headers}\r\n{{"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = connection.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap();
    answer
}

async fn tour_refused_invocations(tour: &mut Tour, platform: &Platform) {
    let call = Call::new("echo", "echo");

    for header in [
        "trigger-rule-id",
        "trigger-delivery-id",
        "trigger-attempt",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    ] {
        let detail = problem(call.clone().without(header).send(platform).await, 400, "bad-request").await;
        assert!(detail.to_lowercase().contains(header), "{detail}");
    }
    tour.note(INVOKE, 400);
    tour.bad(INVOKE, Call::new("nothing", "echo").send(platform).await, 404, "unknown-rule").await;
    let forged = call.clone().secret("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    tour.bad(INVOKE, forged.send(platform).await, 401, "bad-signature").await;
    for seconds in [-310, 310] {
        let late = call.clone().at(now() + seconds);
        tour.bad(INVOKE, late.send(platform).await, 401, "stale-timestamp").await;
        let timely = call.clone().at(now() + seconds * 9 / 10);
        assert_eq!(timely.send(platform).await.status(), 200);
    }
    tour.bad(INVOKE, Call::new("echo", "fail").send(platform).await, 403, "rule-mismatch").await;
    let too_large = call.clone().body(vec![b' '; 100_000]);
    tour.bad(INVOKE, too_large.send(platform).await, 413, "body-too-large").await;
    let headers = "Trigger-Rule-Id: echo\r\nTrigger-Delivery-Id: d1\r\nTrigger-Attempt: 1\r\n\
        webhook-id: d1\r\nwebhook-timestamp: 1\r\nwebhook-signature: v1,\r\n";
    let late = unfinished(platform, "POST /functions/echo/invocations", headers).await;
    assert!(late.starts_with("HTTP/1.1 408 "), "{late}");
    tour.note(INVOKE, 408);
}

async fn tour_invocations(tour: &mut Tour, platform: &Platform) {
    let call = Call::new("echo", "echo");
    let answer = call.send(platform).await;
    tour.good(INVOKE, &answer, 200);
    assert_eq!(answer.bytes().await.unwrap(), call.body);
    let answer = call.clone().header("prefer", "respond-async").send(platform).await;
    tour.good(INVOKE, &answer, 202);
    assert_eq!(answer.headers()["preference-applied"], "respond-async");

    let failed = Call::new("fail", "fail").send(platform).await;
    assert_eq!(failed.headers()["trigger-function-error"], "exit-3");
    let detail = problem(failed, 500, "function-failed").await;
    assert!(detail.contains("something broke"), "{detail}");
    tour.note(INVOKE, 500);
    let slow = Call::new("slow", "slow").send(platform).await;
    assert_eq!(slow.headers()["trigger-function-error"], "timeout");
    tour.bad(INVOKE, slow, 504, "function-timeout").await;

    let (gate, again) = (Call::new("gate", "gate"), Call::new("gate", "gate").delivery("second"));
    let (first, ()) = tokio::join!(gate.send(platform), async {
        eventually("the function runs", async || platform.file("running").exists()).await;
        let busy = again.send(platform).await;
        assert_eq!(busy.headers()["retry-after"], "1");
        tour.bad(INVOKE, busy, 429, "concurrency-limit").await;
        fs::write(platform.file("go"), "").unwrap();
    });
    assert_eq!(first.status(), 200);
    assert_eq!(Call::new("gate", "gate").send(platform).await.status(), 200, "the place is free again");
}

async fn tour_callback_mode(tour: &mut Tour) {
    let triggerd = Receiver::start(Vec::new()).await;
    let platform = Platform::start(&format!("confirm = \"callback\"\n{FUNCTIONS}"));
    let mut wanted = rule("echo");
    wanted["confirm_url"] = triggerd.url("/v1/bindings/b1/confirm").into();
    let answer = platform.put("r1", &wanted).await;
    tour.good(PUT, &answer, 202);
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "id": "r1", "state": "pending" }));
    wanted.as_object_mut().unwrap().remove("confirm_url");
    tour.bad(PUT, platform.put("r2", &wanted).await, 422, "refused").await;
}
