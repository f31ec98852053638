//! The real reference platform as a child process, a caller that signs with the independent
//! `standardwebhooks` crate, and a receiver of its calls back whose answers can be set.

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::any,
};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;

pub(crate) const TOKEN: &str = "token-of-the-platform";
pub(crate) const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_triggerd-platform");

/// Waits, at most 15 seconds, until the condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..750 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited 15 seconds in vain until {what}");
}

#[expect(clippy::disallowed_methods, reason = "signatures carry the real time")]
pub(crate) fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// A running platform; killed when dropped.
pub(crate) struct Platform {
    pub(crate) folder: Arc<TempDir>,
    pub(crate) address: String,
    pub(crate) client: Client,
    child: Child,
}

impl Platform {
    /// `config` is added to the part that every test needs.
    pub(crate) fn start(config: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        fs::write(folder.path().join("token"), TOKEN).unwrap();
        let common = "listen = \"127.0.0.1:0\"\nstate_dir = \"state\"\ntoken_file = \"token\"\n";
        let config = format!("{common}{config}").replace("FOLDER", folder.path().to_str().unwrap());
        fs::write(folder.path().join("platform.toml"), config).unwrap();
        Self::start_in(folder)
    }

    pub(crate) fn start_in(folder: Arc<TempDir>) -> Self {
        let log = File::options().create(true).append(true).open(folder.path().join("log")).unwrap();
        let mut child = Command::new(PROGRAM)
            .arg("serve")
            .arg("--config")
            .arg(folder.path().join("platform.toml"))
            .env("RUST_LOG", "debug")
            .env("SECRET_OF_THE_PLATFORM", "not for functions")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let address = address.trim().to_owned();
        assert!(
            !address.is_empty(),
            "no address; log: {}",
            fs::read_to_string(folder.path().join("log")).unwrap()
        );
        Self { folder, address, client: Client::new(), child }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap()
    }

    /// `kill -9`, then a new process on the same folder (and another port).
    pub(crate) fn crash_and_restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Self::start_in(Arc::clone(&self.folder))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn sigterm(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    /// Waits for the process to end by itself; true when it ended with success.
    pub(crate) async fn ended(&mut self) -> bool {
        let mut ended = None;
        eventually("the platform ended", async || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        ended.is_some_and(|status| status.success())
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Response {
        let request =
            self.client.request(method, format!("http://{}{path}", self.address)).bearer_auth(TOKEN);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        request.send().await.unwrap()
    }

    pub(crate) async fn put(&self, id: &str, rule: &Value) -> Response {
        self.call(Method::PUT, &format!("/rules/{id}"), Some(rule)).await
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A rule for one function that takes `in/*.jpg` created in `photos`.
pub(crate) fn rule(function: &str) -> Value {
    json!({
        "storage": "default", "bucket": "photos", "events": ["s3:ObjectCreated:*"], "prefix": "in/", "suffix": ".jpg",
        "function": function, "mode": "sync", "secret": SECRET,
        "confirm_url": "http://127.0.0.1:9/v1/bindings/b1/confirm",
    })
}

/// The S3 record of an event; `key` as it is sent, encoded.
pub(crate) fn record(name: &str, bucket: &str, key: &str) -> Value {
    json!({ "eventName": name, "s3": { "bucket": { "name": bucket }, "object": { "key": key, "size": 5 } } })
}

/// One invocation, right in everything unless changed.
#[derive(Clone)]
pub(crate) struct Call {
    rule: String,
    function: String,
    delivery: String,
    pub(crate) body: Vec<u8>,
    secret: String,
    timestamp: i64,
    headers: Vec<(String, String)>,
    without: Option<&'static str>,
}

impl Call {
    pub(crate) fn new(rule: &str, function: &str) -> Self {
        let record = record("s3:ObjectCreated:Put", "photos", "in%2Fa+b.jpg");
        Self {
            rule: rule.to_owned(),
            function: function.to_owned(),
            delivery: "0b54a1cf".to_owned(),
            body: json!({ "Records": [record] }).to_string().into_bytes(),
            secret: SECRET.to_owned(),
            timestamp: now(),
            headers: Vec::new(),
            without: None,
        }
    }

    pub(crate) fn delivery(mut self, delivery: &str) -> Self {
        delivery.clone_into(&mut self.delivery);
        self
    }

    pub(crate) fn at(mut self, timestamp: i64) -> Self {
        self.timestamp = timestamp;
        self
    }

    pub(crate) fn secret(mut self, secret: &str) -> Self {
        secret.clone_into(&mut self.secret);
        self
    }

    pub(crate) fn records(self, record: &Value) -> Self {
        self.body(json!({ "Records": [record] }).to_string())
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a header in the place of the usual one, or adds it.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &'static str) -> Self {
        self.without = Some(name);
        self
    }

    pub(crate) fn asynchronous(self, callback_url: &str) -> Self {
        self.header("prefer", "respond-async").header("trigger-callback-url", callback_url)
    }

    pub(crate) fn signature(&self) -> String {
        Webhook::new(&self.secret).unwrap().sign(&self.delivery, self.timestamp, &self.body).unwrap()
    }

    pub(crate) async fn send(&self, platform: &Platform) -> Response {
        let mut headers = HeaderMap::new();
        let usual = [
            ("content-type", "application/json".to_owned()),
            ("trigger-rule-id", self.rule.clone()),
            ("trigger-delivery-id", self.delivery.clone()),
            ("trigger-attempt", "1".to_owned()),
            ("webhook-id", self.delivery.clone()),
            ("webhook-timestamp", self.timestamp.to_string()),
            ("webhook-signature", self.signature()),
        ];
        let usual = usual.map(|(name, value)| (name.to_owned(), value));
        for (name, value) in usual.into_iter().chain(self.headers.clone()) {
            if self.without != Some(name.as_str()) {
                headers.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
            }
        }
        let url = format!("http://{}/functions/{}/invocations", platform.address, self.function);
        platform.client.post(url).headers(headers).body(self.body.clone()).send().await.unwrap()
    }
}

/// Checks an error answer's status, media type and slug, and gives its detail.
pub(crate) async fn problem(answer: Response, status: u16, slug: &str) -> String {
    let kind = answer.headers().get("content-type").cloned();
    let (got, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(got, status, "{text}");
    assert_eq!(kind.unwrap(), "application/problem+json");
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["type"], format!("/problems/{slug}"), "{text}");
    assert_eq!(told["status"], status);
    assert!(told["title"].is_string());
    told["detail"].as_str().unwrap().to_owned()
}

/// What a receiver got: path, headers, body.
pub(crate) type Received = (String, HeaderMap, Bytes);

/// An HTTP server in the place of triggerd.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    pub(crate) address: String,
    received: Arc<Mutex<Vec<Received>>>,
    answers: Arc<Mutex<VecDeque<(u16, Value)>>>,
}

impl Receiver {
    /// Answers in this order, and 200 with an empty object after that.
    pub(crate) async fn start(answers: Vec<(u16, Value)>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let receiver = Self { address, answers: Arc::new(Mutex::new(answers.into())), ..Self::default() };
        let router = Router::new().fallback(any(take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on, 200 to everything.
    pub(crate) fn relent(&self) {
        self.answers.lock().unwrap().clear();
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    pub(crate) async fn received_at_least(&self, count: usize) -> Vec<Received> {
        eventually("the receiver was called", async || self.received().len() >= count).await;
        self.received()
    }
}

async fn take(
    State(receiver): State<Receiver>,
    uri: http::Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, axum::Json<Value>) {
    receiver.received.lock().unwrap().push((uri.path().to_owned(), headers, body));
    let (status, body) = receiver.answers.lock().unwrap().pop_front().unwrap_or((200, json!({})));
    (StatusCode::from_u16(status).unwrap(), axum::Json(body))
}

/// The lines of a file that functions write to; none when it is not there.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Runs one command of the program on a config file and gives (exit code, standard output, standard error).
pub(crate) async fn command(config: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = tokio::process::Command::new(PROGRAM);
    let output = command.arg("--config").arg(config).args(arguments).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}
