//! The driver of the Trigger Rules protocol against the real reference platform, and against a platform that
//! misbehaves.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use triggerd::domain::binding::{Binding, BindingSpec, Mode, Payload, State, Wanted};
use triggerd::domain::clock::{Clock as _, SystemClock, Timestamp};
use triggerd::domain::delivery::Delivery;
use triggerd::domain::entropy::SystemEntropy;
use triggerd::domain::event::Event;
use triggerd::domain::event_name::EventName;
use triggerd::domain::ids::{BindingId, EventId};
use triggerd::domain::outcome::{Class, Outcome};
use triggerd::domain::secret::SigningSecret;
use triggerd::platform::rules::RulesDriver;
use triggerd::platform::{Call, Driver as _, Established, Inspection, PlatformError};

use crate::harness::ports::free_port;
use crate::harness::process::Process;
use crate::harness::receiver::{Answer, Receiver};
use crate::harness::suite::{Ctx, Test, tests};

const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const TOKEN: &str = "token-of-the-platform";

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [] rule_is_established_inspected_and_withdrawn_on_the_reference_platform;
        [] every_payload_of_an_odd_key_reaches_the_function;
        [] answers_of_the_reference_platform_are_classified;
        [] asynchronous_call_is_accepted_and_its_result_comes_back;
        [] redirects_are_never_followed;
        [] timeout_is_the_functions_fault_only_after_the_request_has_left;
        [] lost_connections_are_the_platforms_fault;
        [] long_answers_are_cut;
        [] gateways_404_is_no_missing_rule;
        [] url_with_credentials_is_refused_at_the_start;
    }
}

/// The reference platform as a child process, with a few functions.
pub(crate) struct Platform {
    process: Option<Process>,
    folder: PathBuf,
    port: u16,
}

impl Platform {
    /// `confirm` is `answer` or `callback`.
    pub(crate) async fn start(folder: &Path, confirm: &str) -> Result<Self> {
        let folder = folder.join("platform");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("token"), TOKEN)?;
        let port = free_port()?;
        let config = format!(
            "listen = \"127.0.0.1:{port}\"\nstate_dir = \"state\"\ntoken_file = \"token\"\nconfirm = \"{confirm}\"\n\
             [functions.cat]\ncommand = [\"/bin/cat\"]\n\
             [functions.fail]\ncommand = [\"/bin/sh\", \"-c\", \"echo broken >&2; exit 3\"]\n\
             [functions.slow]\ncommand = [\"/bin/sleep\", \"30\"]\n\
             [functions.much]\ncommand = [\"/usr/bin/head\", \"-c\", \"500000\", \"/dev/zero\"]\n"
        );
        std::fs::write(folder.join("platform.toml"), config)?;
        let mut platform = Self { process: None, folder, port };
        platform.start_again().await?;
        Ok(platform)
    }

    pub(crate) async fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triggerd-platform"));
        command.arg("serve").arg("--config").arg(self.folder.join("platform.toml"));
        let log = self.folder.join("log");
        let mut process = Process::start("the reference platform", &command, &log)?;
        let health = format!("{}/health", self.url());
        let http = reqwest::Client::builder().no_proxy().build()?;
        let ready = async || {
            http.get(&health).send().await?.error_for_status()?;
            Ok(())
        };
        process.gate(LIMIT, ready).await?;
        self.process = Some(process);
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.take().context("it is stopped")?.kill()?;
        Ok(())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn driver(&self) -> Result<RulesDriver> {
        Ok(RulesDriver::new("faas", &self.url(), TOKEN.to_owned().into())?)
    }

    /// What the operator of the platform sees of a rule.
    pub(crate) async fn rule(&self, id: BindingId) -> Result<Option<serde_json::Value>> {
        let answer = self.request(reqwest::Method::GET, id).await?;
        if answer.status() == 404 {
            return Ok(None);
        }
        Ok(Some(answer.error_for_status()?.json().await?))
    }

    /// Removes a rule behind the binding's back.
    pub(crate) async fn lose_rule(&self, id: BindingId) -> Result<()> {
        self.request(reqwest::Method::DELETE, id).await?.error_for_status()?;
        Ok(())
    }

    async fn request(&self, method: reqwest::Method, id: BindingId) -> Result<reqwest::Response> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(http.request(method, format!("{}/rules/{id}", self.url())).bearer_auth(TOKEN).send().await?)
    }
}

pub(crate) fn spec(function: &str) -> Result<BindingSpec> {
    Ok(serde_json::from_value(json!({
        "storage": "default", "bucket": "photos", "events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:Delete"],
        "prefix": "in/", "suffix": ".jpg", "platform": "faas", "function": function,
    }))?)
}

fn binding(function: &str, change: impl FnOnce(&mut BindingSpec)) -> Result<Binding> {
    let mut spec = spec(function)?;
    change(&mut spec);
    let now = SystemClock::new().now();
    let mut random = [0; 10];
    triggerd::domain::entropy::Entropy::fill(&SystemEntropy, &mut random);
    Ok(Binding {
        id: BindingId::new(now, random),
        spec,
        wanted: Wanted::Present,
        state: State::Active,
        reason: None,
        steps: Vec::new(),
        secret: SigningSecret::generate(&SystemEntropy),
        revision: 1,
        created_at: now,
        updated_at: now,
    })
}

fn delivery(binding: &Binding, key: &str) -> Result<Delivery> {
    // As MinIO sends keys by webhook: form-urlencoded.
    let coded = key.bytes().fold(String::new(), |coded, byte| coded + &format!("%{byte:02X}"));
    let record = json!({
        "eventVersion": "2.0", "eventSource": "minio:s3", "awsRegion": "", "eventName": "s3:ObjectCreated:Put",
        "s3": { "bucket": { "name": "photos" }, "object": { "key": coded } },
    });
    let record = serde_json::value::to_raw_value(&record)?;
    let event = Event {
        id: EventId::of_record("default", record.get().as_bytes()),
        storage: binding.spec.storage.clone(),
        bucket: "photos".into(),
        key: key.into(),
        name: EventName::new("s3:ObjectCreated:Put"),
        time: Timestamp::from_micros(1_763_740_000_000_000),
        size: None,
        etag: None,
        content_type: None,
        version_id: None,
        sequencer: None,
        principal: String::new(),
        user_metadata: std::collections::BTreeMap::new(),
        record,
    };
    let function = binding.spec.function.to_ref();
    Ok(Delivery::new(event.into(), binding.id, function, SystemClock::new().now()))
}

async fn invoke(driver: &RulesDriver, binding: &Binding, callback_url: Option<&str>) -> Result<Outcome> {
    let delivery = delivery(binding, "in/ü %\"b\"\n+.jpg")?;
    let now = SystemClock::new().now();
    Ok(driver.invoke(Call { binding, delivery: &delivery, now, callback_url, letter: None }).await)
}

async fn rule_is_established_inspected_and_withdrawn_on_the_reference_platform(ctx: Ctx) -> Result<()> {
    let platform = Platform::start(ctx.folder(), "answer").await?;
    let driver = platform.driver()?;
    driver.check().await?;
    let binding = binding("cat", |_| {})?;
    ensure!(driver.inspect(&binding).await? == Inspection::Missing);
    for _ in 0..2 {
        ensure!(driver.establish(&binding, "").await? == Established::Confirmed);
        ensure!(driver.inspect(&binding).await? == Inspection::InStep { confirmed: true });
    }
    let mut other = binding.clone();
    other.secret = SigningSecret::generate(&SystemEntropy);
    other.spec.mode = Mode::Async;
    let inspection = driver.inspect(&other).await?;
    ensure!(
        inspection == Inspection::Changed("the platform's rule differs in: mode, secret_digest".into()),
        "{inspection:?}"
    );
    let refused = driver.establish(&other, "").await?;
    ensure!(
        matches!(&refused, Established::Rejected(why) if why.contains("409") && why.contains("other contents")),
        "{refused:?}"
    );

    let refused = driver.establish(&self::binding("nobody", |_| {})?, "").await?;
    ensure!(matches!(&refused, Established::Rejected(why) if why.contains("nobody")), "{refused:?}");

    driver.withdraw(binding.id).await?;
    driver.withdraw(binding.id).await?;
    ensure!(driver.inspect(&binding).await? == Inspection::Missing);

    let stranger = RulesDriver::new("faas", &platform.url(), "not-the-token-of-it".to_owned().into())?;
    for error in [stranger.check().await.err(), stranger.establish(&binding, "").await.err()] {
        ensure!(matches!(error, Some(PlatformError::Unauthorized { status: 401, .. })), "{error:?}");
    }
    let glob = self::binding("cat", |spec| {
        let events = spec.filter.events.clone();
        spec.filter = triggerd::domain::filter::Filter::new(events, None, None, Some("in/**/*.jpg")).unwrap();
    })?;
    ensure!(driver.establish(&glob, "").await? == Established::Confirmed);
    ensure!(driver.inspect(&glob).await? == Inspection::InStep { confirmed: true });
    Ok(())
}

async fn every_payload_of_an_odd_key_reaches_the_function(ctx: Ctx) -> Result<()> {
    let platform = Platform::start(ctx.folder(), "answer").await?;
    let driver = platform.driver()?;
    for (payload, begins) in [
        (Payload::CloudeventsStructured, r#"{"specversion":"1.0","#),
        (Payload::CloudeventsBinary, r#"{"awsRegion":"","#),
        (Payload::S3Records, r#"{"Records":[{"#),
    ] {
        let binding = binding("cat", |spec| spec.payload = payload)?;
        driver.establish(&binding, "").await?;
        let outcome = invoke(&driver, &binding, None).await?;
        ensure!(outcome.class == Class::Ok && outcome.status == Some(200), "{outcome:?}");
        ensure!(outcome.detail.starts_with(begins), "{payload:?}: {outcome:?}");
    }
    Ok(())
}

async fn answers_of_the_reference_platform_are_classified(ctx: Ctx) -> Result<()> {
    let platform = Platform::start(ctx.folder(), "answer").await?;
    let driver = platform.driver()?;
    let failing = binding("fail", |_| {})?;
    let unknown = invoke(&driver, &failing, None).await?;
    ensure!((unknown.class, unknown.status) == (Class::BindingBroken, Some(404)), "{unknown:?}");
    driver.establish(&failing, "").await?;
    let failed = invoke(&driver, &failing, None).await?;
    ensure!((failed.class, failed.status) == (Class::FunctionFault, Some(500)), "{failed:?}");
    ensure!(failed.detail.contains("exit-3"), "{failed:?}");

    let mut forged = failing.clone();
    forged.secret = SigningSecret::generate(&SystemEntropy);
    let refused = invoke(&driver, &forged, None).await?;
    ensure!((refused.class, refused.status) == (Class::BindingBroken, Some(401)), "{refused:?}");

    let narrow = binding("cat", |spec| {
        let events = spec.filter.events.clone();
        spec.filter = triggerd::domain::filter::Filter::new(events, Some("out/"), None, None).unwrap();
    })?;
    driver.establish(&narrow, "").await?;
    let refused = invoke(&driver, &narrow, None).await?;
    ensure!((refused.class, refused.status) == (Class::BindingBroken, Some(403)), "{refused:?}");

    // Signed an hour ago: the clocks are apart, the binding is whole.
    let delivery = delivery(&failing, "in/a.jpg")?;
    let now = Timestamp::from_micros(SystemClock::new().now().as_micros() - 3_600_000_000);
    let stale = driver
        .invoke(Call { binding: &failing, delivery: &delivery, now, callback_url: None, letter: None })
        .await;
    ensure!((stale.class, stale.status) == (Class::PlatformFault, Some(401)), "{stale:?}");
    Ok(())
}

async fn asynchronous_call_is_accepted_and_its_result_comes_back(ctx: Ctx) -> Result<()> {
    let platform = Platform::start(ctx.folder(), "answer").await?;
    let receiver = Receiver::start().await?;
    let driver = platform.driver()?;
    let binding = binding("cat", |spec| spec.mode = Mode::Async)?;
    driver.establish(&binding, "").await?;
    let outcome = invoke(&driver, &binding, Some(&receiver.url("/result"))).await?;
    ensure!((outcome.class, outcome.status) == (Class::Accepted, Some(202)), "{outcome:?}");
    let report = receiver.wait_for_requests(1, LIMIT).await?.remove(0);
    ensure!(report.uri.path() == "/result", "{report:?}");
    let delivery = delivery(&binding, "in/ü %\"b\"\n+.jpg")?;
    ensure!(report.header("webhook-id") == delivery.id.to_string(), "{report:?}");
    Ok(())
}

fn against(receiver: &Receiver) -> Result<RulesDriver> {
    Ok(RulesDriver::new("faas", &receiver.url("/base"), TOKEN.to_owned().into())?)
}

async fn redirects_are_never_followed(_: Ctx) -> Result<()> {
    let (receiver, elsewhere) = (Receiver::start().await?, Receiver::start().await?);
    receiver.answer(Answer::Respond {
        status: http::StatusCode::TEMPORARY_REDIRECT,
        headers: [(http::header::LOCATION, elsewhere.url("/").parse()?)].into_iter().collect(),
        body: bytes::Bytes::new(),
        delay: Duration::ZERO,
    });
    let driver = against(&receiver)?;
    let binding = binding("cat", |_| {})?;
    let outcome = invoke(&driver, &binding, None).await?;
    ensure!((outcome.class, outcome.status) == (Class::Permanent, Some(307)), "{outcome:?}");
    let error = driver.establish(&binding, "").await.err().context("a redirect was taken for an answer")?;
    ensure!(error.to_string().contains("url"), "{error}");
    ensure!(elsewhere.requests().is_empty(), "a redirect was followed");
    let request = receiver.requests().remove(0);
    ensure!(request.uri.path() == "/base/functions/cat/invocations", "{request:?}");
    ensure!(request.header("content-length") == request.body.len().to_string(), "{request:?}");
    ensure!(
        request.header("trigger-attempt") == "1" && request.header("authorization").is_empty(),
        "{request:?}"
    );
    Ok(())
}

async fn timeout_is_the_functions_fault_only_after_the_request_has_left(_: Ctx) -> Result<()> {
    let receiver = Receiver::start().await?;
    receiver.answer(Answer::Hang);
    let driver = against(&receiver)?;
    for (mode, class) in [(Mode::Sync, Class::FunctionFault), (Mode::Async, Class::PlatformFault)] {
        let binding = binding("cat", |spec| {
            spec.mode = mode;
            spec.timeout_ms = 300;
        })?;
        let outcome = invoke(&driver, &binding, None).await?;
        ensure!((outcome.class, outcome.status) == (class, None), "{outcome:?}");
        ensure!(outcome.detail.contains("300ms"), "{outcome:?}");
    }
    // A listener whose queue of connections is full lets nobody in.
    let (listener, _waiting) = socket_that_lets_nobody_in().await?;
    let url = format!("http://{}", listener.local_addr()?);
    let driver = RulesDriver::new("faas", &url, TOKEN.to_owned().into())?;
    let binding = binding("cat", |spec| spec.timeout_ms = 300)?;
    let outcome = invoke(&driver, &binding, None).await?;
    ensure!((outcome.class, outcome.status) == (Class::PlatformFault, None), "{outcome:?}");
    ensure!(outcome.detail.contains("no connection"), "{outcome:?}");
    Ok(())
}

/// A listener that accepts nothing, its backlog filled up.
async fn socket_that_lets_nobody_in() -> Result<(TcpListener, Vec<TcpStream>)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let listener = socket.listen(1)?;
    let address = listener.local_addr()?;
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        waiting.push(stream?);
        ensure!(waiting.len() < 64, "the backlog does not fill up");
    }
    Ok((listener, waiting))
}

async fn lost_connections_are_the_platforms_fault(_: Ctx) -> Result<()> {
    let mut receiver = Receiver::start().await?;
    let driver = against(&receiver)?;
    let binding = binding("cat", |_| {})?;
    receiver.answer(Answer::Close);
    let closed = invoke(&driver, &binding, None).await?;
    ensure!((closed.class, closed.status) == (Class::PlatformFault, None), "{closed:?}");
    receiver.stop().await;
    let refused = invoke(&driver, &binding, None).await?;
    ensure!((refused.class, refused.status) == (Class::PlatformFault, None), "{refused:?}");
    ensure!(refused.detail.contains("refused"), "{refused:?}");
    let error = driver.inspect(&binding).await.err().context("nobody answered")?;
    ensure!(matches!(error, PlatformError::Unreachable { .. }), "{error:?}");
    Ok(())
}

async fn long_answers_are_cut(ctx: Ctx) -> Result<()> {
    let receiver = Receiver::start().await?;
    receiver.answer(Answer::Respond {
        status: http::StatusCode::OK,
        headers: http::HeaderMap::new(),
        body: vec![b'x'; 32 << 20].into(),
        delay: Duration::ZERO,
    });
    let driver = against(&receiver)?;
    let outcome = invoke(&driver, &binding("cat", |_| {})?, None).await?;
    ensure!(outcome.class == Class::Ok && outcome.detail.len() <= Outcome::MAX_DETAIL, "{outcome:?}");

    let platform = Platform::start(ctx.folder(), "answer").await?;
    let driver = platform.driver()?;
    let much = binding("much", |_| {})?;
    driver.establish(&much, "").await?;
    for _ in 0..3 {
        let outcome = invoke(&driver, &much, None).await?;
        ensure!(outcome.class == Class::Ok && outcome.detail.len() <= Outcome::MAX_DETAIL, "{outcome:?}");
    }
    Ok(())
}

async fn gateways_404_is_no_missing_rule(_: Ctx) -> Result<()> {
    let receiver = Receiver::start().await?;
    receiver.answer(Answer::status(404)?);
    let driver = against(&receiver)?;
    let binding = binding("cat", |_| {})?;
    let answers = [
        driver.inspect(&binding).await.err(),
        driver.establish(&binding, "").await.err(),
        driver.withdraw(binding.id).await.err(),
        driver.check().await.err(),
    ];
    for error in answers {
        ensure!(matches!(error, Some(PlatformError::Unexpected { status: 404, .. })), "{error:?}");
    }
    ensure!(invoke(&driver, &binding, None).await?.class == Class::PlatformFault);
    Ok(())
}

async fn url_with_credentials_is_refused_at_the_start(_: Ctx) -> Result<()> {
    for url in ["http://user:hunter2@127.0.0.1/", "ftp://127.0.0.1/", "127.0.0.1:80", "http://h/?a=b"] {
        let error = RulesDriver::new("faas", url, TOKEN.to_owned().into()).err().context(url)?;
        ensure!(!error.to_string().contains("hunter2"), "{error}");
    }
    Ok(())
}
