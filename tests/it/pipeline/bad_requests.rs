//! Whatever is asked of the admin API is answered clearly: what cannot be, what must wait, what is somebody else's.

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::world::{API_TOKEN, OPERATOR_TOKEN, Plan, SOON, World, noting};
use crate::harness::{ports::free_port, suite::Ctx, wait::eventually};

const OTHER_TOKEN: &str = "token-that-another-platform-shows-triggerd";

/// Another platform, which nobody answers for.
fn with_another_platform() -> Result<Plan> {
    let mut plan = Plan::webhook(&noting("thumb", ""));
    plan.extra = format!(
        "[platforms.other]\ndriver = \"rules\"\nurl = \"http://127.0.0.1:{}\"\ntoken = \"{}\"\napi_token = \"{OTHER_TOKEN}\"\n",
        free_port()?,
        "token-that-triggerd-shows-the-other"
    );
    Ok(plan)
}

fn wanted(bucket: &str, function: &str) -> Value {
    json!({"bucket": bucket, "events": ["s3:ObjectCreated:*"], "platform": "local", "function": function})
}

/// The error of a step of a binding that is not active yet.
async fn step_error(world: &World, id: &str, step: &str) -> Result<String> {
    eventually(&format!("the step {step} of {id} says what is wrong"), SOON, async || {
        let (_, binding) = world.daemon.call(Method::GET, &format!("/v1/bindings/{id}"), None).await?;
        ensure!(binding["state"] == "pending", "{binding}");
        let steps = binding["steps"].as_array().context("no steps")?;
        let found = steps.iter().find(|one| one["name"] == step && one["state"] == "failed");
        Ok(found.and_then(|step| step["error"].as_str()).with_context(|| binding.to_string())?.to_owned())
    })
    .await
}

pub(crate) async fn a_binding_waits_for_its_bucket_and_its_platform_and_says_so(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    let bind = ["bind", "--bucket", "later", "--event", "s3:ObjectCreated:*", "--function", "local/thumb"];
    let asked = world.daemon.run_cli(&[&bind[..], &["--wait", "1s"]].concat())?;
    let said = String::from_utf8_lossy(&[asked.stdout, asked.stderr].concat()).into_owned();
    ensure!(asked.status.code() == Some(3) && said.contains("still pending"), "{}: {said}", asked.status);
    ensure!(said.contains("bucket `later` does not exist"), "{said}");
    let (_, listed) = world.daemon.call(Method::GET, "/v1/bindings", None).await?;
    let id = listed["bindings"][0]["id"].as_str().context("no binding")?.to_owned();
    let error = step_error(&world, &id, "bucket").await?;
    ensure!(error.contains("`later`") && error.contains("create it"), "{error}");
    world.minio.create_bucket("later").await?;
    world.daemon.wait_for_state(&id, "active").await?;
    world.minio.put_object("later", "a.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("thumb", 1).await?;

    world.platform.kill9().await?;
    let mut second = wanted("later", "thumb");
    second["prefix"] = "second/".into();
    let (status, answer) = world.daemon.call(Method::POST, "/v1/bindings", Some(&second)).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status} {answer}");
    let id = answer["id"].as_str().context("no id")?.to_owned();
    let error = step_error(&world, &id, "rule").await?;
    ensure!(error.contains("`local`"), "the platform is not named: {error}");
    world.platform.start_again().await?;
    world.daemon.wait_for_state(&id, "active").await?;
    world.daemon.stop().await
}

pub(crate) async fn a_function_that_does_not_exist_is_rejected_with_the_reason(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    world.minio.create_bucket("photos").await?;
    let bind = ["bind", "--bucket", "photos", "--event", "s3:ObjectCreated:*", "--function", "local/missing"];
    let asked = world.daemon.run_cli(&bind)?;
    let said = String::from_utf8_lossy(&[asked.stdout, asked.stderr].concat()).into_owned();
    ensure!(asked.status.code() == Some(1), "{}: {said}", asked.status);
    ensure!(
        said.contains("rejected") && said.contains("missing") && said.contains("triggerd unbind"),
        "{said}"
    );
    let (_, listed) = world.daemon.call(Method::GET, "/v1/bindings", None).await?;
    let binding = &listed["bindings"][0];
    ensure!(binding["state"] == "rejected", "{binding}");
    ensure!(binding["reason"].as_str().is_some_and(|reason| reason.contains("missing")), "{binding}");
    // A rejected binding leaves nothing in the bucket, fires nothing, and can be taken back.
    let rules = world.minio.get_notification_configuration("photos").await?;
    ensure!(rules.queue_configurations().is_empty(), "{rules:?}");
    world.daemon.cli(&["unbind", binding["id"].as_str().context("no id")?, "--wait"])?;
    world.daemon.stop().await
}

/// Calls the admin API with any token; a problem must say what is wrong and what to do.
async fn call(
    world: &World,
    token: &str,
    what: (Method, &str),
    body: Vec<u8>,
) -> Result<(StatusCode, Value)> {
    let (method, path) = what;
    let request = reqwest::Client::new().request(method.clone(), format!("{}{path}", world.daemon.admin()));
    let request = if token.is_empty() { request } else { request.bearer_auth(token) };
    let answer = request.body(body).timeout(SOON).send().await.with_context(|| format!("{method} {path}"))?;
    let status = answer.status();
    let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).map(str::to_owned);
    let text = answer.text().await?;
    let value: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    if status.is_client_error() || status.is_server_error() {
        let says = |member: &str| value[member].as_str().is_some_and(|text| !text.is_empty());
        ensure!(
            kind.as_deref() == Some("application/problem+json") && says("detail") && says("remedy"),
            "{method} {path:.80}: {status} is no clear problem: {kind:?} {value}"
        );
        ensure!(value.to_string().len() < 4_096, "{method} {path:.80}: too much is said back");
    }
    Ok((status, value))
}

pub(crate) async fn callers_see_and_change_only_what_is_theirs(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &with_another_platform()?).await?;
    let id = world.bind("photos", "thumb", &json!({})).await?;
    let path = format!("/v1/bindings/{id}");
    for token in ["", "wrong", &OPERATOR_TOKEN[1..], "%00", &"x".repeat(4_000)] {
        for (method, path) in
            [(Method::GET, "/v1/bindings"), (Method::DELETE, &path), (Method::POST, "/v1/match")]
        {
            let (status, _) = call(&world, token, (method, path), Vec::new()).await?;
            ensure!(status == StatusCode::UNAUTHORIZED, "{token:.20}: {status}");
        }
    }
    for method in [Method::GET, Method::DELETE] {
        let (status, _) = call(&world, OTHER_TOKEN, (method.clone(), &path), Vec::new()).await?;
        ensure!(status == StatusCode::NOT_FOUND, "{method} of another's binding: {status}");
    }
    let body = wanted("photos", "thumb").to_string().into_bytes();
    let (status, _) = call(&world, OTHER_TOKEN, (Method::POST, "/v1/bindings"), body).await?;
    ensure!(status == StatusCode::FORBIDDEN, "binding another's function: {status}");
    let (_, listed) = call(&world, OTHER_TOKEN, (Method::GET, "/v1/bindings"), Vec::new()).await?;
    ensure!(listed["bindings"].as_array().is_some_and(Vec::is_empty), "{listed}");
    let (_, listed) = call(&world, API_TOKEN, (Method::GET, "/v1/bindings"), Vec::new()).await?;
    ensure!(listed["bindings"][0]["id"] == id.as_str(), "{listed}");
    let (status, _) = call(&world, API_TOKEN, (Method::GET, "/v1/nodes"), Vec::new()).await?;
    ensure!(status == StatusCode::FORBIDDEN, "nodes are the operator's: {status}");
    let (status, _) = call(&world, "", (Method::POST, &format!("{path}/confirm")), b"{}".to_vec()).await?;
    ensure!(status.is_client_error(), "a confirmation without a signature: {status}");
    let (status, _) = call(&world, "", (Method::POST, "/v1/callbacks/guessed"), b"{}".to_vec()).await?;
    ensure!(status == StatusCode::NOT_FOUND, "a callback with a guessed token: {status}");
    world.daemon.wait_for_state(&id, "active").await?;
    world.daemon.stop().await
}

pub(crate) async fn the_same_binding_is_one_and_other_settings_are_a_conflict(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    let id = world.bind("photos", "thumb", &json!({"prefix": "in/"})).await?;
    let mut again = wanted("photos", "thumb");
    again["prefix"] = "in/".into();
    // The same set of events, written otherwise.
    again["events"] = json!(["s3:ObjectCreated:Put", "s3:ObjectCreated:*"]);
    for token in [OPERATOR_TOKEN, API_TOKEN] {
        let body = again.to_string().into_bytes();
        let (status, answer) = call(&world, token, (Method::POST, "/v1/bindings"), body).await?;
        ensure!(status == StatusCode::OK && answer["id"] == id.as_str(), "{status} {answer}");
    }
    for (field, value) in [("concurrency", json!(3)), ("mode", json!("async")), ("timeout_ms", json!(1234))] {
        let mut other = again.clone();
        other[field] = value;
        let body = other.to_string().into_bytes();
        let (status, problem) = call(&world, OPERATOR_TOKEN, (Method::POST, "/v1/bindings"), body).await?;
        ensure!(status == StatusCode::CONFLICT && problem["binding"] == id.as_str(), "{status} {problem}");
        ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains(&id)), "{problem}");
    }
    let bind = ["bind", "--bucket", "photos", "--event", "s3:ObjectCreated:*", "--function", "local/thumb"];
    let asked = world.daemon.run_cli(&[&bind[..], &["--prefix", "in/", "--concurrency", "3"]].concat())?;
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    ensure!(asked.status.code() == Some(1) && said.contains(&id), "{}: {said}", asked.status);
    world.daemon.stop().await
}

pub(crate) async fn hostile_requests_get_a_clear_no_and_harm_nobody(ctx: Ctx) -> Result<()> {
    let mut world = World::start(&ctx, &Plan::webhook(&noting("thumb", ""))).await?;
    let id = world.bind("photos", "thumb", &json!({})).await?;
    let with = |field: &str, value: Value| {
        let mut body = wanted("photos", "thumb");
        body[field] = value;
        body.to_string().into_bytes()
    };
    let bodies: Vec<(u16, Vec<u8>)> = vec![
        (413, vec![b' '; 300 << 10]),
        (400, b"[".repeat(100_000)),
        (400, Vec::new()),
        (400, b"\xff\xfe".to_vec()),
        (400, b"[]".to_vec()),
        (400, with("surprise", json!(1))),
        (400, with("events", json!("s3:ObjectCreated:*"))),
        (422, with("events", json!([]))),
        (422, with("events", json!(["s3:Everything"]))),
        (422, with("bucket", json!("../../etc"))),
        (422, with("bucket", json!("Photos\u{1b}[31m\n"))),
        (422, with("function", json!("../thumb"))),
        (422, with("function", json!("x".repeat(100_000)))),
        (422, with("prefix", json!("x".repeat(2_000)))),
        (422, with("glob", json!("[in/"))),
        (422, with("storage", json!("elsewhere"))),
        (422, with("platform", json!("elsewhere\u{0}"))),
        (422, with("concurrency", json!(0))),
        (422, with("timeout_ms", json!(u64::MAX))),
        (422, with("retry", json!({"max_attempts": 0, "first_wait_ms": 1, "max_wait_ms": 1}))),
        (400, with("concurrency", json!(-1))),
    ];
    for (wanted, body) in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let (status, problem) = call(&world, OPERATOR_TOKEN, (Method::POST, "/v1/bindings"), body).await?;
        ensure!(status.as_u16() == wanted, "{status} in the place of {wanted} for {shown}: {problem}");
        ensure!(!problem.to_string().contains('\u{1b}'), "control characters are said back: {problem}");
    }
    let long = format!("/v1/bindings/{}", "x".repeat(2_000));
    let paths = [
        (Method::GET, "/v1/bindings/not-an-id", 400),
        (Method::GET, "/v1/bindings/%00%ff", 400),
        (Method::GET, long.as_str(), 400),
        (Method::GET, "/v1/bindings?limit=many", 400),
        (Method::GET, "/v1/bindings?surprise=1", 400),
        (Method::DELETE, "/v1/bindings/00000000-0000-7000-8000-000000000000", 404),
        (Method::POST, "/v1/dead-letters/00000000000000000000000000000000/replay", 404),
        (Method::PATCH, "/v1/bindings", 405),
        (Method::GET, "/v1/nothing", 404),
        (Method::GET, "/../../etc/passwd", 404),
    ];
    for (method, path, wanted) in paths {
        let (status, problem) = call(&world, OPERATOR_TOKEN, (method.clone(), path), Vec::new()).await?;
        ensure!(
            status.as_u16() == wanted,
            "{method} {path:.80}: {status} in the place of {wanted}: {problem}"
        );
    }
    for url in [world.daemon.admin(), &world.source] {
        let address = url.trim_start_matches("http://").trim_end_matches("/minio");
        for garbage in
            [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET / HTTP/9.9\r\n\r\n", &b"A".repeat(200_000)]
        {
            garbled(address, garbage).await?;
        }
    }
    let (status, health) = call(&world, "", (Method::GET, "/health/ready"), Vec::new()).await?;
    ensure!(status == StatusCode::OK, "{health}");
    world.minio.put_object("photos", "still.jpg", "x", &[]).await?;
    world.platform.wait_for_calls("thumb", 1).await?;
    world.daemon.wait_for_state(&id, "active").await?;
    world.daemon.stop().await
}

/// Sends what is no HTTP; the connection must end, and not be served.
async fn garbled(address: &str, garbage: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    // The other side may close before all is sent.
    let _cut_off = stream.write_all(garbage).await;
    let _closed = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut answer)).await.context("the connection stays open")?;
    let served = read.is_ok() && answer.starts_with(b"HTTP/1.1 2");
    ensure!(!served, "served: {}", String::from_utf8_lossy(&answer));
    Ok(())
}
