//! `[sources.NAME]` held against itself and against the storages.

use crate::config::{
    Config,
    problem::Problem,
    sources::{BoundConfig, MqttConfig, MqttVersion, Redelivers, SourceConfig, WebhookConfig},
};

use super::{
    Written, bad_name,
    url::{Url, is_local},
};

/// MinIO gives up on a webhook whose answer takes longer, and sends again.
const MINIO_PATIENCE_MS: u64 = 60_000;
/// MinIO has no more than two requests under way, so the wait of one is the wait of all behind it.
const LONG_WAIT_MS: u64 = 250;

pub(super) fn all(config: &Config, written: &Written, to: &mut Vec<Problem>) {
    let storages: Vec<&str> = written.storages.iter().map(String::as_str).collect();
    if written.sources == 0 {
        let remedy = "describe where MinIO sends to under `[sources.minio]`";
        to.push(Problem::warning("sources", "there is no source, so no event can come in", remedy));
    }
    for (name, source) in &config.sources {
        let place = format!("sources.{name}");
        if let Some(what) = bad_name(name) {
            to.push(Problem::error(&place, what, "rename the section"));
        }
        storage(&place, source, &storages, to);
        match source {
            SourceConfig::Webhook(source) => webhook(&place, source, to),
            SourceConfig::Mqtt(source) => mqtt(&place, source, to),
        }
        // The safe one may be among those that could not be read.
        if source.redelivers() == Redelivers::Twin && config.sources.len() == written.sources {
            twin(config, name, source, to);
        }
    }
    same_session(config, to);
}

fn storage(place: &str, source: &SourceConfig, storages: &[&str], to: &mut Vec<Problem>) {
    let at = format!("{place}.storage");
    match source.storage() {
        Some(name) if !storages.contains(&name) => {
            let remedy = match storages {
                [] => format!("add [storages.{name}]"),
                known => format!("use one of {}, or add [storages.{name}]", known.join(", ")),
            };
            to.push(Problem::error(at, format!("there is no storage `{name}`"), remedy));
        }
        None if storages.len() != 1 => {
            let what =
                format!("whose events come in here is not said, and there are {} storages", storages.len());
            to.push(Problem::error(at, what, "name the storage"));
        }
        _ => {}
    }
}

fn bound(place: &str, bound: &BoundConfig, max_body: usize, to: &mut Vec<Problem>) {
    if bound.messages == 0 || max_body == 0 {
        let key = if max_body == 0 { "max_body" } else { "bound.messages" };
        to.push(Problem::error(format!("{place}.{key}"), "0 lets nothing in", "use a greater number"));
    }
    if u64::try_from(max_body).is_ok_and(|body| body > bound.bytes) {
        let what = format!("{} bytes are less than one body may have (max_body = {max_body})", bound.bytes);
        to.push(Problem::error(format!("{place}.bound.bytes"), what, "raise it, or lower `max_body`"));
    }
}

fn webhook(place: &str, source: &WebhookConfig, to: &mut Vec<Problem>) {
    if !source.path.starts_with('/') || source.path.contains(['?', '#', '{', '}', ' ']) {
        let what = format!("`{}` is no path", source.path);
        to.push(Problem::error(format!("{place}.path"), what, "begin it with a slash, such as /minio"));
    }
    if source.token.is_none() && source.token_file.is_none() && !source.listen.ip().is_loopback() {
        let what = "anybody on the network can send events";
        let remedy = "name a file with the target's `auth_token` here";
        to.push(Problem::warning(format!("{place}.token_file"), what, remedy));
    }
    let at = format!("{place}.ack_within_ms");
    let wait = source.ack_within_ms;
    if source.redelivers == Redelivers::Yes && wait >= MINIO_PATIENCE_MS {
        let what = format!("MinIO waits {MINIO_PATIENCE_MS} ms for an answer, so {wait} ms is never reached");
        to.push(Problem::error(at, what, "lower it; the default is 2"));
    } else if source.redelivers == Redelivers::Yes && wait > LONG_WAIT_MS {
        let what = format!(
            "MinIO has at most two requests under way, so a slow function holds up all others by {wait} ms"
        );
        to.push(Problem::warning(at, what, "lower it; what takes longer is parked, and loses nothing"));
    } else if source.redelivers != Redelivers::Yes && wait > LONG_WAIT_MS {
        let what =
            "this has no effect: a source that does not redeliver is answered without waiting for a function";
        to.push(Problem::warning(
            at,
            what,
            "leave it out, or say `redelivers = \"yes\"` if the target has a queue_dir",
        ));
    }
    bound(place, &source.bound, source.max_body, to);
}

fn topic(place: &str, topic: &str, to: &mut Vec<Problem>) {
    if topic.is_empty() {
        to.push(Problem::error(place, "it is empty", "write the topic of MinIO's target"));
    } else if !rumqttc::valid_filter(topic) {
        let what = format!("`{}` is no topic filter", topic.escape_default());
        let remedy = "`#` may only be the last level, and `+` a level of its own";
        to.push(Problem::error(place, what, remedy));
    }
}

fn mqtt(place: &str, source: &MqttConfig, to: &mut Vec<Problem>) {
    let key = |key: &str| format!("{place}.{key}");
    let url = Url::parse(&source.broker).filter(|url| matches!(url.scheme, "mqtt" | "mqtts"));
    match &url {
        None => {
            let remedy = "write mqtt://HOST:1883 or mqtts://HOST:8883";
            to.push(Problem::error(key("broker"), "this is no mqtt or mqtts URL", remedy));
        }
        Some(url) if url.has_user => {
            let remedy = "use `username` and `password_file`";
            to.push(Problem::error(key("broker"), "it has a user or password in it", remedy));
        }
        Some(_) => {}
    }
    let plain = url.as_ref().is_some_and(|url| url.scheme == "mqtt");
    let has_password = source.password.is_some() || source.password_file.is_some();
    if plain && has_password && url.as_ref().is_some_and(|url| !is_local(url.host)) {
        let what = "the password goes over the network in plain text";
        to.push(Problem::warning(key("broker"), what, "use mqtts://"));
    }
    if plain && (source.ca_file.is_some() || source.cert_file.is_some()) {
        let what = "certificates have no effect on an mqtt:// connection";
        to.push(Problem::error(key("broker"), what, "use mqtts://, or leave the certificates out"));
    }
    if source.cert_file.is_some() != source.key_file.is_some() {
        let what = "a certificate and its private key belong together, and one of them is missing";
        to.push(Problem::error(key("cert_file"), what, "set both `cert_file` and `key_file`, or neither"));
    }
    if has_password && source.username.is_none() {
        let what = "there is a password without a user name";
        to.push(Problem::error(key("username"), what, "set `username`"));
    }
    for (name, file) in
        [("ca_file", &source.ca_file), ("cert_file", &source.cert_file), ("key_file", &source.key_file)]
    {
        if let Some(Err(error)) = file.as_ref().map(std::fs::File::open) {
            to.push(Problem::error(
                key(name),
                format!("it cannot be read: {error}"),
                "correct the path or its mode",
            ));
        }
    }
    topic(&key("topic"), &source.topic, to);
    if source.keep_alive_s < 5 {
        let what = format!("{} s is too short for the client", source.keep_alive_s);
        to.push(Problem::error(key("keep_alive_s"), what, "use at least 5"));
    }
    if source.receive_maximum == 0 {
        to.push(Problem::error(key("receive_maximum"), "0 is not allowed by MQTT", "use at least 1"));
    } else if usize::from(source.receive_maximum) > source.bound.messages {
        let what = "the broker may send more than may be unsettled, so events are parked that need not be";
        to.push(Problem::warning(key("receive_maximum"), what, "keep it at or below `bound.messages`"));
    }
    if source.version == MqttVersion::V311
        && source.receive_maximum != super::super::sources::DEFAULT_RECEIVE_MAXIMUM
    {
        let what = "MQTT 3.1.1 has no receive-maximum, so this has no effect";
        let remedy = "leave it out, or use `version = \"5\"`; on Mosquitto set `max_inflight_messages`";
        to.push(Problem::warning(key("receive_maximum"), what, remedy));
    }
    if source.ack_within_ms >= u64::from(source.keep_alive_s) * 1_000 {
        let what = format!("{} ms is longer than the keep-alive", source.ack_within_ms);
        to.push(Problem::error(key("ack_within_ms"), what, "lower it; the default is 25"));
    } else if source.ack_within_ms > LONG_WAIT_MS {
        let what = format!(
            "acknowledgements go in order, so one slow function holds up all others by {} ms",
            source.ack_within_ms
        );
        to.push(Problem::warning(
            key("ack_within_ms"),
            what,
            "lower it; what takes longer is parked, and loses nothing",
        ));
    }
    bound(place, &source.bound, source.max_body, to);
}

/// A twin is acknowledged on receipt, so another source of the same storage must be the safe one.
fn twin(config: &Config, name: &str, source: &SourceConfig, to: &mut Vec<Problem>) {
    let storage = config.storage_of(source);
    let safe = config.sources.iter().any(|(other, candidate)| {
        other != name && candidate.redelivers() == Redelivers::Yes && config.storage_of(candidate) == storage
    });
    if !safe {
        let what =
            "a twin is answered before anything is safe, and no other source of this storage redelivers";
        let remedy =
            "add the source of the target with a `queue_dir` (`redelivers = \"yes\"`), or say `no` here";
        to.push(Problem::error(format!("sources.{name}.redelivers"), what, remedy));
    }
    // MinIO does not tell which of its targets sends where; but one target alone cannot be both legs.
    let storage = storage.and_then(|name| config.storages.get_key_value(name.as_str()));
    if let Some((storage, named)) =
        storage.filter(|(_, named)| named.targets.len() + named.fast_targets.len() == 1)
    {
        let what = format!(
            "source `{name}` takes a twin, so there are two targets, and only {} is named: what it loses, nobody brings",
            named.targets.iter().chain(&named.fast_targets).map(String::as_str).collect::<String>()
        );
        let remedy = "name the one with a `queue_dir`, too";
        to.push(Problem::error(format!("storages.{storage}.targets"), what, remedy));
    }
}

/// Two sources with one session throw each other out; two on one topic bring everything twice.
fn same_session(config: &Config, to: &mut Vec<Problem>) {
    let mut seen: Vec<(&str, &MqttConfig)> = Vec::new();
    for (name, source) in &config.sources {
        let SourceConfig::Mqtt(source) = source else {
            continue;
        };
        for (other, earlier) in seen.iter().filter(|(_, earlier)| earlier.broker == source.broker) {
            if source.client_id.is_some() && source.client_id == earlier.client_id {
                let what = format!(
                    "`{other}` has the same client id at the same broker; each would throw the other out"
                );
                to.push(Problem::error(
                    format!("sources.{name}.client_id"),
                    what,
                    "give each its own, or leave it out",
                ));
            }
            if source.topic == earlier.topic {
                let what = format!("`{other}` subscribes to the same topic, so every event comes in twice");
                to.push(Problem::warning(format!("sources.{name}.topic"), what, "remove one of the two"));
            }
        }
        seen.push((name, source));
    }
}
