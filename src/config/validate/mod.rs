//! The configuration held against itself: limits, names, addresses, and sections that contradict one another.
//!
//! Pure, save that certificates are looked at. Whether what is named answers is for `triggerd check`.

mod sources;
mod url;

use std::{collections::BTreeMap, net::SocketAddr};

use secrecy::{ExposeSecret, SecretString};

use super::{Config, problem::Problem, storages::StorageConfig};
use url::{Url, is_local};

/// A file smaller than this cannot even hold its own tables and a few events.
const LEAST_QUEUE: u64 = 16 << 20;
const LEAST_TOKEN: usize = 16;

/// What is written in the config, whether it could be read or not; so that what could not be read is not missed twice.
#[derive(Debug, Clone, Default)]
pub(super) struct Written {
    /// The storages' names.
    pub(super) storages: Vec<String>,
    /// How many sources there are.
    pub(super) sources: usize,
    /// How many platforms there are.
    pub(super) platforms: usize,
}

impl Written {
    /// What is in a config that could be read whole.
    pub(super) fn of(config: &Config) -> Self {
        let storages = config.storages.keys().cloned().collect();
        Self { storages, sources: config.sources.len(), platforms: config.platforms.len() }
    }
}

/// Every problem of `config`.
pub(super) fn all(config: &Config, written: &Written) -> Vec<Problem> {
    let mut problems = Vec::new();
    let to = &mut problems;
    node(config, to);
    relations(config, to);
    queue(config, to);
    tokens(config, to);
    listeners(config, to);
    callbacks(config, to);
    for (name, storage) in &config.storages {
        self::storage(name, storage, to);
    }
    if written.storages.is_empty() {
        let remedy = "describe your MinIO under `[storages.main]`";
        to.push(Problem::warning("storages", "there is no storage, so nothing can be bound", remedy));
    }
    sources::all(config, written, to);
    platforms(config, written, to);
    bindings(config, to);
    dispatch(config, to);
    dead_letters(config, to);
    to.extend(log(config));
    problems
}

fn node(config: &Config, to: &mut Vec<Problem>) {
    if let Some(what) = bad_name(&config.node.name) {
        to.push(Problem::error("node.name", what, "set `name` in [node]"));
    }
    if !config.node.state_dir.is_absolute() {
        let what = format!("`{}` depends on where the daemon is started", config.node.state_dir.display());
        to.push(Problem::error("node.state_dir", what, "give the whole path, such as /var/lib/triggerd"));
    }
}

/// What is wrong with a name that becomes part of URLs, metrics and client ids.
fn bad_name(name: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fine = (1..=64).contains(&name.len()) && name.chars().all(good);
    (!fine).then(|| format!("`{name}` is no name: 1 to 64 of A-Z, a-z, 0-9, `-`, `_` and `.`"))
}

fn relations(config: &Config, to: &mut Vec<Problem>) {
    let Some(secret) = &config.relations.url else {
        return;
    };
    let place = "relations.url";
    let example =
        "write mysql://USER:PASSWORD@HOST/DATABASE (special characters of the password percent-encoded)";
    let Some(url) = Url::parse(secret.expose_secret()) else {
        to.push(Problem::error(place, "this is no URL", example));
        return;
    };
    if !matches!(url.scheme, "mysql" | "mariadb") {
        to.push(Problem::error(place, format!("`{}` is no database that is supported", url.scheme), example));
    }
    if url.path.trim_matches('/').is_empty() {
        to.push(Problem::error(place, "it names no database", example));
    }
    let encrypted = ["REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"];
    let mode = url.query.split('&').find_map(|pair| pair.strip_prefix("ssl-mode="));
    if !is_local(url.host)
        && !mode.is_some_and(|mode| encrypted.contains(&mode.to_ascii_uppercase().as_str()))
    {
        let remedy = "add `?ssl-mode=VERIFY_IDENTITY` (or REQUIRED) to it";
        let what = "TLS is not required, and the bindings' secrets go over this connection";
        to.push(Problem::warning(place, what, remedy));
    }
}

fn queue(config: &Config, to: &mut Vec<Problem>) {
    if config.queue.max_bytes < LEAST_QUEUE {
        let remedy = format!("give it at least {LEAST_QUEUE} bytes");
        to.push(Problem::error("queue.max_bytes", "this is too small to hold anything", remedy));
    }
    let (kept, max) =
        (config.queue.dead_letter_reserve.max(config.queue.quarantine_bytes), config.queue.max_bytes);
    if kept >= max {
        let what = format!("{kept} bytes for dead letters or quarantine leave nothing of max_bytes ({max})");
        let remedy = "lower `dead_letter_reserve` and `quarantine_bytes`, or raise `max_bytes`";
        to.push(Problem::error("queue.dead_letter_reserve", what, remedy));
    }
    if config.queue.max_attempts_kept == 0 {
        let what = "0 attempts say nothing of why a delivery died";
        to.push(Problem::error("queue.max_attempts_kept", what, "use at least 1"));
    }
    let share = config.queue.function_share;
    if !(share > 0.0 && share <= 1.0) {
        let what = format!("{share} is no share");
        to.push(Problem::error(
            "queue.function_share",
            what,
            "use a number above 0 and at most 1, such as 0.25",
        ));
    }
}

/// Every token that opens the API must say who is calling, and be hard to guess.
fn tokens(config: &Config, to: &mut Vec<Problem>) {
    let mut seen: Vec<(String, &SecretString)> = Vec::new();
    if config.admin.token.is_none() && config.admin.token_file.is_none() {
        let remedy = "`openssl rand -hex 32 > /etc/triggerd/operator.token` and set `token_file` in [admin]";
        to.push(Problem::error("admin.token_file", "the admin API has no operator's token", remedy));
    }
    let platforms = config.platforms.iter();
    let of_platforms = platforms.filter_map(|(name, platform)| {
        Some((format!("platforms.{name}.api_token"), platform.api_token.as_ref()?))
    });
    let operator = config.admin.token.iter().map(|token| ("admin.token".to_owned(), token));
    for (place, token) in operator.chain(of_platforms) {
        if token.expose_secret().len() < LEAST_TOKEN {
            let what = format!("the token has fewer than {LEAST_TOKEN} characters and can be guessed");
            to.push(Problem::warning(&place, what, "make one by `openssl rand -hex 32`"));
        }
        if !token.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) {
            let what = "a token with spaces or other odd characters cannot be sent in a header";
            to.push(Problem::error(&place, what, "make one by `openssl rand -hex 32`"));
        }
        let same = |(_, other): &&(String, &SecretString)| other.expose_secret() == token.expose_secret();
        if let Some((other, _)) = seen.iter().find(same) {
            let what = format!("it is the same token as {other}, so nobody can tell who calls");
            to.push(Problem::error(&place, what, "give each its own, by `openssl rand -hex 32`"));
        }
        seen.push((place, token));
    }
}

/// No two listeners on one address; the admin API not open to the network by accident.
fn listeners(config: &Config, to: &mut Vec<Problem>) {
    let mut taken: Vec<(String, SocketAddr)> = Vec::new();
    for (place, address) in config.listeners() {
        let clash = |(_, other): &&(String, SocketAddr)| {
            other.port() == address.port()
                && address.port() != 0
                && (other.ip() == address.ip()
                    || other.ip().is_unspecified()
                    || address.ip().is_unspecified())
        };
        if let Some((other, _)) = taken.iter().find(clash) {
            let what = format!("{address} is the address of {other} too");
            to.push(Problem::error(&place, what, "give each listener its own port"));
        }
        taken.push((place, address));
    }
    if !config.admin.listen.ip().is_loopback() {
        let what = "the admin API is open to the network, in plain HTTP";
        let remedy =
            "listen at 127.0.0.1 and give remote platforms [callbacks], or put a proxy with TLS before it";
        to.push(Problem::warning("admin.listen", what, remedy));
    }
    if let Some(url) = &config.admin.public_url {
        web_url("admin.public_url", url, to);
    }
}

fn callbacks(config: &Config, to: &mut Vec<Problem>) {
    let silent = config.cannot_call_back();
    match &config.callbacks {
        Some(callbacks) => {
            let place = "callbacks.public_url";
            let url = web_url(place, &callbacks.public_url, to);
            if url.is_some_and(|url| url.scheme == "http" && !is_local(url.host)) {
                let what = "results and platforms' tokens go over the network in plain text";
                to.push(Problem::warning(
                    place,
                    what,
                    "put a proxy with TLS before it and use its https URL",
                ));
            }
        }
        None if !silent.is_empty() => {
            let what = format!(
                "{} is on another host, and cannot confirm by callback or send the result of an asynchronous call",
                silent.join(", ")
            );
            to.push(Problem::warning("callbacks", what, "add [callbacks] with `listen` and `public_url`"));
        }
        None => {}
    }
}

fn storage(name: &str, storage: &StorageConfig, to: &mut Vec<Problem>) {
    let place = format!("storages.{name}");
    if let Some(what) = bad_name(name) {
        to.push(Problem::error(&place, what, "rename the section"));
    }
    let at = format!("{place}.endpoint");
    if let Some(url) = web_url(&at, &storage.endpoint, to) {
        if !url.path.trim_matches('/').is_empty() {
            let what = "an S3 endpoint has no path";
            to.push(Problem::error(
                &at,
                what,
                "write scheme, host and port only, such as http://127.0.0.1:9000",
            ));
        }
        if url.scheme == "http" && !is_local(url.host) {
            let what =
                "requests go over the network in plain text (they are signed, so the key itself does not)";
            to.push(Problem::warning(&at, what, "use https where the deployment has it"));
        }
    }
    if storage.secret_key.is_none() && storage.secret_key_file.is_none() {
        let what = "there is no secret key";
        to.push(Problem::error(format!("{place}.secret_key_file"), what, "name the file that holds it"));
    }
    let at = format!("{place}.targets");
    if storage.targets.is_empty() {
        let remedy = "name the ARN that `mc admin info --json` shows under `sqsARN`, such as arn:minio:sqs::TRIGGERD:webhook";
        to.push(Problem::warning(&at, "without a target no bucket of it can be bound", remedy));
    }
    for arn in storage.targets.iter().chain(&storage.fast_targets) {
        let parts: Vec<&str> = arn.split(':').collect();
        let fine =
            matches!(parts[..], ["arn", "minio", "sqs", _, id, kind] if !id.is_empty() && !kind.is_empty());
        if !fine {
            let what = format!("`{arn}` is no ARN of a MinIO target");
            to.push(Problem::error(
                &at,
                what,
                "write arn:minio:sqs:REGION:ID:TYPE, such as arn:minio:sqs::TRIGGERD:webhook",
            ));
        }
    }
    if let Some(arn) = storage.fast_targets.iter().find(|arn| storage.targets.contains(arn)) {
        let what = format!("`{arn}` is named under `targets` too, so every binding gets it");
        let remedy = "name the target with `queue_dir` under `targets`, and the one without here";
        to.push(Problem::error(format!("{place}.fast_targets"), what, remedy));
    }
}

fn platforms(config: &Config, written: &Written, to: &mut Vec<Problem>) {
    if written.platforms == 0 {
        let remedy = "describe one under `[platforms.local]`";
        to.push(Problem::warning("platforms", "there is no platform, so no function can be called", remedy));
    }
    for (name, platform) in &config.platforms {
        let place = format!("platforms.{name}");
        if let Some(what) = bad_name(name) {
            to.push(Problem::error(&place, what, "rename the section"));
        }
        let at = format!("{place}.url");
        if let Some(url) = web_url(&at, &platform.url, to)
            && url.scheme == "http"
            && !is_local(url.host)
        {
            let what = "events and the platform's token go over the network in plain text";
            to.push(Problem::warning(&at, what, "use https where the platform has it"));
        }
        if platform.token.is_none() && platform.token_file.is_none() {
            let what = "we show this platform no token, so anybody on its network can give it rules";
            to.push(Problem::warning(
                format!("{place}.token_file"),
                what,
                "name the file that holds its token",
            ));
        }
    }
}

fn bindings(config: &Config, to: &mut Vec<Problem>) {
    if !(1..=86_400).contains(&config.bindings.inspect_every_s) {
        let what = format!("bindings cannot be inspected every {} s", config.bindings.inspect_every_s);
        to.push(Problem::error("bindings.inspect_every_s", what, "use a number between 1 and 86400"));
    }
}

fn dead_letters(config: &Config, to: &mut Vec<Problem>) {
    let (retention, notice) = (config.dead_letters.retention_s, config.dead_letters.notice_s);
    if retention > 315_360_000 {
        let what = format!("{retention} s are more than ten years");
        to.push(Problem::error("dead_letters.retention_s", what, "use 0 to keep them whatever their age"));
    }
    if !(1..=86_400).contains(&notice) {
        let what = format!("{notice} s are no notice: dropping is announced a day ahead");
        to.push(Problem::error("dead_letters.notice_s", what, "use a number between 1 and 86400"));
    }
}

fn dispatch(config: &Config, to: &mut Vec<Problem>) {
    if !(1..=100_000).contains(&config.dispatch.max_concurrency) {
        let what = format!("{} calls of a function at once cannot be", config.dispatch.max_concurrency);
        to.push(Problem::error("dispatch.max_concurrency", what, "use a number between 1 and 100000"));
    }
    if config.dispatch.drain_s > 85 {
        let what = format!(
            "{} s is longer than systemd waits by default (90 s) before it kills",
            config.dispatch.drain_s
        );
        let remedy =
            "lower it, or raise `TimeoutStopSec=` in the unit to more than this and say so with a drop-in";
        to.push(Problem::warning("dispatch.drain_s", what, remedy));
    }
}

fn log(config: &Config) -> Option<Problem> {
    let error = tracing_subscriber::EnvFilter::try_new(&config.log.level).err()?;
    let what = format!("`{}` is no level: {error}", config.log.level);
    Some(Problem::error("log.level", what, "use error, warn, info, debug or trace"))
}

/// A URL of the web; notes what is wrong with it.
fn web_url<'a>(place: &str, text: &'a str, to: &mut Vec<Problem>) -> Option<Url<'a>> {
    let url = Url::parse(text).filter(|url| matches!(url.scheme, "http" | "https"));
    match &url {
        None => {
            // Not the text itself: there may be a password in it.
            let port = if place.starts_with("storages.") { 9000 } else { 8700 };
            let remedy = format!("write it with its scheme, such as http://127.0.0.1:{port}");
            to.push(Problem::error(place, "this is no http or https URL", remedy));
        }
        Some(url) if url.has_user => {
            to.push(Problem::error(place, "it has a user or password in it", "use the section's token keys"));
        }
        Some(url) if !url.query.is_empty() => {
            to.push(Problem::error(place, "a base URL has no query", "leave out what begins with `?`"));
        }
        Some(_) => {}
    }
    url
}

impl Config {
    /// The platforms that cannot call us back: they are on other hosts, and there is no listener for them.
    pub fn cannot_call_back(&self) -> Vec<&str> {
        if self.callbacks.is_some() {
            return Vec::new();
        }
        let away = |url: &str| Url::parse(url).is_some_and(|url| !is_local(url.host));
        let platforms = self.platforms.iter().filter(|(_, platform)| away(&platform.url));
        platforms.map(|(name, _)| name.as_str()).collect()
    }

    /// Every address that the daemon listens at, with the key that says so.
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        let mut all = vec![("admin.listen".to_owned(), self.admin.listen)];
        all.extend(self.callbacks.iter().map(|callbacks| ("callbacks.listen".to_owned(), callbacks.listen)));
        let webhooks: BTreeMap<&String, SocketAddr> = self
            .sources
            .iter()
            .filter_map(|(name, source)| match source {
                super::sources::SourceConfig::Webhook(webhook) => Some((name, webhook.listen)),
                super::sources::SourceConfig::Mqtt(_) => None,
            })
            .collect();
        all.extend(webhooks.into_iter().map(|(name, address)| (format!("sources.{name}.listen"), address)));
        all
    }
}
