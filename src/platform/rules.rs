//! The driver of the Trigger Rules protocol (`docs/trigger-rules.openapi.yaml`).
//!
//! The platform keeps a rule for each binding (`PUT`, `GET`, `DELETE /rules/{id}`, with our bearer token) and
//! checks each invocation (`POST /functions/{name}/invocations`, signed with the binding's secret, no token)
//! against it.
//!
//! * **Establishing** is idempotent: the same rule again is success. A success that does not say the rule's state is
//!   none: whatever stands at a wrong `url` says 200 too. 409, 422 and 404 of type `unknown-function`
//!   are the platform's no, for good. Anything else that is not success (a 404 without that type is a gateway's, or
//!   a wrong `url`) is an error, and the reconciler asks again.
//! * **Inspecting** compares every field, and the secret by its digest: it does not leave the platform again.
//!   Only a 404 of type `unknown-rule` says that the rule is missing, since a missing rule degrades a binding.
//! * **Invoking** ends within the binding's timeout. Whose fault a timeout is depends on whether the request had
//!   left: before, nobody has run anything (platform fault); after, a synchronous function was too slow (function
//!   fault), and an asynchronous one was not accepted in time (platform fault).
//!
//! How a request is sent and how much of its answer is read: [`exchange`](super::exchange). A crash during any call
//! leaves the platform with the rule or without it, and every call can be made again.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::{HeaderName, HeaderValue, Request, StatusCode, header, request};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::{
    Call, Driver, Established, Inspection, PlatformError,
    exchange::{Exchange, ExchangeError, Payload, Read},
    payload, signature,
};
use crate::{
    domain::{
        binding::{Binding, Mode},
        ids::BindingId,
        outcome::{Class, Outcome},
    },
    telemetry::Chain,
};

/// Longest time of a management call.
const MANAGEMENT: Duration = Duration::from_secs(10);

// Made once: a name that is given as text is read and copied for each call.
const TRIGGER_RULE_ID: HeaderName = HeaderName::from_static("trigger-rule-id");
const TRIGGER_DELIVERY_ID: HeaderName = HeaderName::from_static("trigger-delivery-id");
const TRIGGER_ATTEMPT: HeaderName = HeaderName::from_static("trigger-attempt");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// A platform that cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPlatform {
    /// Its URL is none.
    #[error(
        "platforms.{platform}: `url` must be an http or https URL without query and credentials, such as http://127.0.0.1:8700"
    )]
    Url {
        /// Its name in the config.
        platform: String,
    },
    /// No HTTP client can be made.
    #[error("platforms.{platform}: no HTTP client can be made")]
    Client {
        /// Its name in the config.
        platform: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// A platform that speaks the Trigger Rules protocol.
#[derive(Debug)]
pub struct RulesDriver {
    platform: String,
    base: Url,
    token: SecretString,
    exchange: Exchange,
    /// The function that is given dead letters where the binding names none.
    handler: Option<String>,
}

impl RulesDriver {
    /// The platform of this name at `url`, which is shown `token`.
    pub fn new(platform: &str, url: &str, token: SecretString) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform::Url { platform: platform.to_owned() };
        let base = Url::parse(url).map_err(|_| invalid())?;
        let plain = base.query().is_none() && base.fragment().is_none();
        // Credentials in a URL would appear in logs.
        let anonymous = base.username().is_empty() && base.password().is_none();
        if !matches!(base.scheme(), "http" | "https") || !plain || !anonymous {
            return Err(invalid());
        }
        let exchange = Exchange::new()
            .map_err(|source| InvalidPlatform::Client { platform: platform.to_owned(), source })?;
        Ok(Self { platform: platform.to_owned(), base, token, exchange, handler: None })
    }

    /// The same with a function that is given the dead letters of bindings that name none themselves.
    #[must_use]
    pub fn with_handler(mut self, handler: Option<String>) -> Self {
        self.handler = handler;
        self
    }

    /// The URL of these path segments below the platform's own.
    fn url(&self, segments: &[&str]) -> String {
        let mut url = self.base.clone();
        // Only a URL that cannot be a base has no segments, and `new` refuses those.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url.into()
    }

    fn rule_url(&self, id: BindingId) -> String {
        self.url(&["rules", &id.to_string()])
    }

    async fn manage(&self, request: request::Builder, payload: Payload) -> Result<Read, PlatformError> {
        let unreachable = |source: ExchangeError| PlatformError::Unreachable {
            platform: self.platform.clone(),
            url: self.base.to_string(),
            source,
        };
        let mut token = HeaderValue::try_from(format!("Bearer {}", self.token.expose_secret()))
            .map_err(|error| unreachable(ExchangeError::Build(error.into())))?;
        token.set_sensitive(true);
        let request = request.header(header::AUTHORIZATION, token);
        let read = self.exchange.call_within(MANAGEMENT, request, payload).await.map_err(unreachable)?;
        if matches!(read.status.as_u16(), 401 | 403) {
            let status = read.status.as_u16();
            return Err(PlatformError::Unauthorized { platform: self.platform.clone(), status });
        }
        Ok(read)
    }

    fn unexpected(&self, what: &'static str, read: &Read) -> PlatformError {
        let mut detail = read.answer().detail();
        if read.status == StatusCode::NOT_FOUND || read.status.is_redirection() || read.status.is_success() {
            detail.push_str(" (is the platform's `url` right?)");
        }
        PlatformError::Unexpected {
            platform: self.platform.clone(),
            what,
            status: read.status.as_u16(),
            detail,
        }
    }

    async fn send(&self, call: Call<'_>, sent: Arc<AtomicBool>) -> Result<Outcome, Outcome> {
        let (binding, delivery) = (call.binding, call.delivery);
        let encoded = match call.letter {
            None => payload::encode(&delivery.event, binding.spec.payload),
            Some(letter) => payload::encode_letter(&delivery.event, delivery.id, letter),
        };
        let encoded = encoded.map_err(|error| {
            Outcome::new(Class::Permanent, None, format!("the event cannot be encoded: {error}"))
        })?;
        let id = delivery.id.to_string();
        let signature = signature::sign(&binding.secret, &id, call.now, &encoded.body).map_err(|error| {
            Outcome::new(Class::BindingBroken, None, format!("the binding's secret: {error}"))
        })?;
        let mut request = Request::post(self.url(&["functions", &delivery.function.name, "invocations"]))
            .header(header::CONTENT_TYPE, encoded.content_type)
            .header(TRIGGER_RULE_ID, binding.id.to_string())
            .header(TRIGGER_DELIVERY_ID, &id)
            .header(TRIGGER_ATTEMPT, delivery.number())
            .header(WEBHOOK_ID, &id)
            .header(WEBHOOK_TIMESTAMP, call.now.as_seconds())
            .header(WEBHOOK_SIGNATURE, signature);
        for (name, value) in encoded.headers {
            request = request.header(name, value);
        }
        // A handler's answer is waited for: nobody would hear of its failure otherwise.
        let asked_async = binding.spec.mode == Mode::Async && call.letter.is_none();
        if asked_async {
            request = request.header("prefer", "respond-async");
            if let Some(url) = call.callback_url {
                request = request.header("trigger-callback-url", url);
            }
        }
        let fault =
            |error: ExchangeError| Outcome::new(Class::PlatformFault, None, Chain(&error).to_string());
        let payload = Payload::new(encoded.body).marking(sent);
        let read = self.exchange.call(request, payload).await.map_err(fault)?;
        Ok(read.answer().classify(asked_async, call.now))
    }
}

/// The rule's contents as the protocol writes them: no secret, no confirm URL.
fn contents(binding: &Binding, handler: Option<String>) -> Value {
    let mut rule = serde_json::to_value(&binding.spec.filter).unwrap_or_else(|_| json!({}));
    rule["storage"] = json!(binding.spec.storage);
    rule["bucket"] = json!(binding.spec.bucket);
    rule["function"] = json!(binding.spec.function.function);
    rule["mode"] = json!(binding.spec.mode);
    if let Some(handler) = handler {
        rule["dead_letter_function"] = json!(handler);
    }
    rule
}

/// Which fields of the platform's rule are not as they should be.
fn differences(binding: &Binding, handler: Option<String>, theirs: &Value) -> Vec<&'static str> {
    let mut ours = contents(binding, handler);
    ours["secret_digest"] = json!(binding.secret.digest());
    let fields = [
        "storage",
        "bucket",
        "events",
        "prefix",
        "suffix",
        "glob",
        "function",
        "mode",
        "dead_letter_function",
        "secret_digest",
    ];
    let same = |field: &str| {
        if field == "events" {
            return words(&ours[field]) == words(&theirs[field]);
        }
        let plain = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        plain(&ours[field]) == plain(&theirs[field])
    };
    fields.into_iter().filter(|field| !same(field)).collect()
}

fn words(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[async_trait]
impl Driver for RulesDriver {
    async fn establish(&self, binding: &Binding, confirm_url: &str) -> Result<Established, PlatformError> {
        let mut rule = contents(binding, self.handler(binding));
        rule["secret"] = json!(binding.secret.expose());
        if !confirm_url.is_empty() {
            rule["confirm_url"] = json!(confirm_url);
        }
        let read = self
            .manage(
                Request::put(self.rule_url(binding.id)).header(header::CONTENT_TYPE, "application/json"),
                Payload::new(rule.to_string().into_bytes()),
            )
            .await?;
        let answer = read.answer();
        let state = serde_json::from_slice::<Value>(&read.body).unwrap_or_default();
        match read.status.as_u16() {
            202 => Ok(Established::Pending),
            200..=299 if state["state"] == "pending" => Ok(Established::Pending),
            200..=299 if state["state"] == "confirmed" => Ok(Established::Confirmed),
            404 if answer.problem_type() != "unknown-function" => {
                Err(self.unexpected("keep the rule", &read))
            }
            408 | 425 | 429 => Err(self.unexpected("keep the rule", &read)),
            400..=499 => Ok(Established::Rejected(format!(
                "platform `{}` refused the rule ({}): {}",
                self.platform,
                read.status.as_u16(),
                answer.detail()
            ))),
            _ => Err(self.unexpected("keep the rule", &read)),
        }
    }

    async fn inspect(&self, binding: &Binding) -> Result<Inspection, PlatformError> {
        let read = self.manage(Request::get(self.rule_url(binding.id)), Payload::default()).await?;
        if read.status == StatusCode::NOT_FOUND && read.answer().problem_type() == "unknown-rule" {
            return Ok(Inspection::Missing);
        }
        let theirs = match serde_json::from_slice::<Value>(&read.body) {
            Ok(rule) if read.status.is_success() && rule.is_object() => rule,
            _ => return Err(self.unexpected("show the rule", &read)),
        };
        let differences = differences(binding, self.handler(binding), &theirs);
        if differences.is_empty() {
            return Ok(Inspection::InStep { confirmed: theirs["state"] != "pending" });
        }
        Ok(Inspection::Changed(format!("the platform's rule differs in: {}", differences.join(", "))))
    }

    async fn withdraw(&self, id: BindingId) -> Result<(), PlatformError> {
        let read = self.manage(Request::delete(self.rule_url(id)), Payload::default()).await?;
        let gone = read.status == StatusCode::NOT_FOUND && read.answer().problem_type() == "unknown-rule";
        if read.status.is_success() || gone {
            return Ok(());
        }
        Err(self.unexpected("remove the rule", &read))
    }

    async fn invoke(&self, call: Call<'_>) -> Outcome {
        let sent = Arc::new(AtomicBool::new(false));
        let limit = call.binding.spec.timeout();
        let asked_async = call.binding.spec.mode == Mode::Async && call.letter.is_none();
        match tokio::time::timeout(limit, self.send(call, Arc::clone(&sent))).await {
            Ok(Ok(outcome) | Err(outcome)) => outcome,
            Err(_) if !sent.load(Ordering::Acquire) => Outcome::new(
                Class::PlatformFault,
                None,
                format!("no connection to platform `{}` within the timeout of {limit:?}", self.platform),
            ),
            Err(_) if asked_async => Outcome::new(
                Class::PlatformFault,
                None,
                format!("not accepted within the timeout of {limit:?}"),
            ),
            Err(_) => {
                Outcome::new(Class::FunctionFault, None, format!("no result within the timeout of {limit:?}"))
            }
        }
    }

    fn handler(&self, binding: &Binding) -> Option<String> {
        let handler = binding.spec.dead_letter_function.as_ref().or(self.handler.as_ref());
        // What the handler itself failed at, it would fail at again.
        handler.filter(|handler| **handler != binding.spec.function.function).cloned()
    }

    async fn check(&self) -> Result<(), PlatformError> {
        // A rule that cannot be: who answers that it is unknown speaks the protocol and has accepted our token.
        let nobody = BindingId::from_bytes([0; 16]);
        let read = self.manage(Request::get(self.rule_url(nobody)), Payload::default()).await?;
        if read.status == StatusCode::NOT_FOUND && read.answer().problem_type() == "unknown-rule" {
            return Ok(());
        }
        Err(self.unexpected("show a rule that is not there", &read))
    }
}
