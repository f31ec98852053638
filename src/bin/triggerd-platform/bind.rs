//! `bind` and `unbind`: a binding begun or ended on the platform's side.
//!
//! The user binds a trigger to a function here; this command asks triggerd's API for the binding, with
//! the token that triggerd gave this platform, and gets its state at once. triggerd then puts the rule
//! to the *serving* platform in its own time, so nothing here waits for a call back: the command polls
//! the binding and prints each change, until it is `active` or `rejected` or the wait is over.

use crate::config::{TriggerdConfig, parse_duration, read_token};
use anyhow::{Context, bail};
use clap::Args;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};
use tokio::time::{sleep, timeout};

const BETWEEN_POLLS: Duration = Duration::from_millis(250);
/// The exit code when the wait is over and the binding is still on its way.
const STILL_PENDING: u8 = 3;

#[derive(Args)]
pub(crate) struct Wanted {
    /// The bucket.
    #[arg(long)]
    bucket: String,
    /// An event name or group, such as 's3:ObjectCreated:*'; may be given several times.
    #[arg(long = "event", required = true)]
    events: Vec<String>,
    /// Only keys that begin with this.
    #[arg(long)]
    prefix: Option<String>,
    /// Only keys that end with this.
    #[arg(long)]
    suffix: Option<String>,
    /// Only keys like this, in the place of prefix and suffix: `*` and `?` within a path segment, `**` across them.
    #[arg(long, conflicts_with_all = ["prefix", "suffix"])]
    glob: Option<String>,
    /// The function, by its name in this platform's config.
    #[arg(long)]
    function: String,
    /// Whether triggerd waits for the function's result (sync), or hands the event over and is told later (async).
    #[arg(long, default_value = "sync", value_parser = ["sync", "async"])]
    mode: String,
    /// With --mode async: wait for the result for this long, in whole seconds, and try again when the function has failed or
    /// nothing has come. Without it, what this platform has accepted is delivered.
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    await_result: Option<u64>,
    /// The form in which the event is sent; triggerd's default when not given.
    #[arg(long, value_parser = ["cloudevents-binary", "cloudevents-structured", "s3-records"])]
    payload: Option<String>,
    /// The storage's name in triggerd's config, when it has several.
    #[arg(long)]
    storage: Option<String>,
}

#[derive(Args)]
pub(crate) struct Ask {
    /// triggerd's address, in the place of the config's.
    #[arg(long = "triggerd")]
    url: Option<String>,
    /// How long to follow the binding, such as 30s; 0s does not.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    wait: Duration,
    /// Print the binding as one line of JSON at each change.
    #[arg(long)]
    json: bool,
}

/// A time that is told in whole seconds.
fn parse_seconds(text: &str) -> Result<u64, String> {
    let time = parse_duration(text)?;
    if time.subsec_nanos() != 0 {
        return Err("it is counted in whole seconds: write for example 1s, 90s or 10m".to_owned());
    }
    Ok(time.as_secs())
}

/// triggerd's API, as this platform may use it.
pub(crate) struct Triggerd {
    client: reqwest::Client,
    url: String,
    token: SecretString,
}

impl Triggerd {
    pub(crate) fn new(config: &TriggerdConfig, url: Option<String>) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        let url = url.unwrap_or_else(|| config.url.clone()).trim_end_matches('/').to_owned();
        Ok(Self { client, url, token: read_token(&config.token_file)? })
    }

    /// One call; an answer that is not of the expected kind is an error that quotes it.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let url = format!("{}{path}", self.url);
        let mut request = self.client.request(method, &url).bearer_auth(self.token.expose_secret());
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.with_context(|| format!("triggerd cannot be reached at {url}"))?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        if status.is_success() || (status == StatusCode::NOT_FOUND && path.starts_with("/v1/bindings/")) {
            return Ok((status, body));
        }
        let said = body["detail"].as_str().or(body["title"].as_str()).unwrap_or("no reason given");
        bail!("triggerd answered {status} to {url}: {said}")
    }
}

pub(crate) async fn bind(config: &TriggerdConfig, bind: Wanted, ask: Ask) -> anyhow::Result<ExitCode> {
    let mut wanted = json!({
        "bucket": bind.bucket, "events": bind.events, "platform": config.platform,
        "function": bind.function, "mode": bind.mode,
    });
    let optional = [
        ("storage", bind.storage),
        ("prefix", bind.prefix),
        ("suffix", bind.suffix),
        ("glob", bind.glob),
        ("payload", bind.payload),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            wanted[field] = value.into();
        }
    }
    if let Some(wait) = bind.await_result {
        if bind.mode != "async" {
            bail!(
                "--await-result is for --mode async; the result of a synchronous call comes on the call itself"
            );
        }
        wanted["await_result_s"] = wait.into();
    }
    let triggerd = Triggerd::new(config, ask.url)?;
    let (_, binding) = triggerd.call(Method::POST, "/v1/bindings", Some(&wanted)).await?;
    let id = binding["id"].as_str().context("triggerd's answer names no binding")?.to_owned();
    let mut shown = Shown::new(ask.json);
    shown.show(&id, &binding)?;
    follow(&triggerd, &id, ask.wait, &mut shown, &["active", "rejected"]).await
}

pub(crate) async fn unbind(config: &TriggerdConfig, id: &str, ask: Ask) -> anyhow::Result<ExitCode> {
    let triggerd = Triggerd::new(config, ask.url)?;
    let (status, binding) = triggerd.call(Method::DELETE, &format!("/v1/bindings/{id}"), None).await?;
    if status == StatusCode::NOT_FOUND {
        bail!("triggerd knows no binding {id} of this platform");
    }
    let mut shown = Shown::new(ask.json);
    if binding["state"].is_string() {
        shown.show(id, &binding)?;
    }
    follow(&triggerd, id, ask.wait, &mut shown, &["gone"]).await
}

/// Polls the binding until it is in one of the states that `end` the wait.
async fn follow(
    triggerd: &Triggerd,
    id: &str,
    wait: Duration,
    shown: &mut Shown,
    end: &[&str],
) -> anyhow::Result<ExitCode> {
    if wait.is_zero() && !end.contains(&shown.state.as_str()) {
        return Ok(ExitCode::from(STILL_PENDING));
    }
    let polled = async {
        while !end.contains(&shown.state.as_str()) {
            let (status, mut binding) =
                triggerd.call(Method::GET, &format!("/v1/bindings/{id}"), None).await?;
            if status == StatusCode::NOT_FOUND {
                binding = json!({ "id": id, "state": "gone" });
            }
            shown.show(id, &binding)?;
            if shown.state == "gone" {
                break;
            }
            sleep(BETWEEN_POLLS).await;
        }
        anyhow::Ok(())
    };
    match timeout(wait, polled).await {
        Ok(polled) => polled?,
        Err(_) => return Ok(ExitCode::from(STILL_PENDING)),
    }
    let good = shown.state != "rejected" && end.contains(&shown.state.as_str());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was printed last, so that only changes are.
struct Shown {
    json: bool,
    state: String,
    line: String,
}

impl Shown {
    fn new(json: bool) -> Self {
        Self { json, state: String::new(), line: String::new() }
    }

    fn show(&mut self, id: &str, binding: &Value) -> io::Result<()> {
        binding["state"].as_str().unwrap_or("unknown").clone_into(&mut self.state);
        let reason = binding["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let line =
            if self.json { binding.to_string() } else { format!("binding {id}: {}{reason}", self.state) };
        if line != self.line {
            writeln!(io::stdout(), "{line}")?;
            self.line = line;
        }
        Ok(())
    }
}
