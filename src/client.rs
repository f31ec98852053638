//! The admin API's client, as the command line uses it.
//!
//! Each call gives the typed answer and the JSON it came as, so that `--json` prints what the API said. A problem
//! document becomes an error with its detail and its remedy. Requests can be repeated safely, but are not repeated here:
//! a person at a terminal wants to know at once.

use std::{fmt::Write, time::Duration};

use http::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    admin::wire::{
        BindingRequest, Bindings, DeadLetterView, DeadLetters, Functions, HealthView, LetterBatch,
        LetterRequest, MatchRequest, Matched, Nodes, Outcomes, Pending, QuarantinePage, QuarantineView,
        Replayed, Retried,
    },
    domain::{
        binding::BindingView,
        ids::{BindingId, DeliveryId},
    },
    telemetry::excerpt,
};

/// More than any answer of the API; what is longer is not from it.
const MAX_ANSWER: usize = 64 << 20;
/// A little more than the API takes at most.
const MAX_TIME: Duration = Duration::from_secs(35);

/// An answer, and the JSON it came as.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// What was answered.
    pub value: T,
    /// As it came.
    pub json: Value,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon, or none there.
    #[error("the admin API cannot be reached at {url}; is triggerd running? (`systemctl status triggerd`)")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The API said no, in a problem document.
    #[error("{detail} → {remedy}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The last segment of the problem's type.
        slug: String,
        /// What happened.
        detail: String,
        /// What to do.
        remedy: String,
    },
    /// Something answered that is not this API.
    #[error(
        "{url} answered {status}, which is no answer of triggerd's admin API: {said}; compare `[admin] listen`"
    )]
    Foreign {
        /// Which URL.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        said: String,
    },
}

impl ClientError {
    /// Whether the thing that was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { slug, .. } if slug == "not-found")
    }
}

/// A client of one daemon's admin API.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<SecretString>,
}

impl Client {
    /// A client of the API at `base`, such as `http://127.0.0.1:8360`.
    pub fn new(base: &str, token: Option<SecretString>) -> Result<Self, ClientError> {
        let base = base.trim_end_matches('/').to_owned();
        // No proxy: the API is this host's own, and the token nobody else's.
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(MAX_TIME)
            .connect_timeout(Duration::from_secs(5))
            .build()
            .map_err(|source| ClientError::Unreachable { url: base.clone(), source })?;
        Ok(Self { http, base, token })
    }

    /// Asks for a binding.
    pub async fn bind(&self, request: &BindingRequest) -> Result<Answer<BindingView>, ClientError> {
        self.call(Method::POST, "/v1/bindings", Some(request)).await
    }

    /// One binding.
    pub async fn binding(&self, id: BindingId) -> Result<Answer<BindingView>, ClientError> {
        self.get(&format!("/v1/bindings/{id}")).await
    }

    /// A page of bindings.
    pub async fn bindings(
        &self,
        after: Option<BindingId>,
        limit: u32,
    ) -> Result<Answer<Bindings>, ClientError> {
        self.get(&with_query("/v1/bindings", &[("after", shown(after)), ("limit", Some(limit.to_string()))]))
            .await
    }

    /// Takes a binding back.
    pub async fn unbind(&self, id: BindingId, pending: Pending) -> Result<Answer<BindingView>, ClientError> {
        let pending = match pending {
            Pending::DeadLetter => "dead-letter",
            Pending::Discard => "discard",
        };
        self.call::<_, ()>(Method::DELETE, &format!("/v1/bindings/{id}?pending={pending}"), None).await
    }

    /// A page of dead letters.
    pub async fn dead_letters(&self, request: &LetterRequest) -> Result<Answer<DeadLetters>, ClientError> {
        self.get(&with_query("/v1/dead-letters", &members(request))).await
    }

    /// Replays a batch of them.
    pub async fn replay_batch(&self, request: &LetterRequest) -> Result<Answer<LetterBatch>, ClientError> {
        self.call(Method::POST, "/v1/dead-letters/replay", Some(request)).await
    }

    /// Forgets a batch of them.
    pub async fn discard_batch(&self, request: &LetterRequest) -> Result<Answer<LetterBatch>, ClientError> {
        self.call(Method::POST, "/v1/dead-letters/discard", Some(request)).await
    }

    /// One dead letter.
    pub async fn dead_letter(&self, id: DeliveryId) -> Result<Answer<DeadLetterView>, ClientError> {
        self.get(&format!("/v1/dead-letters/{id}")).await
    }

    /// Sends a dead letter on its way again.
    pub async fn replay(&self, id: DeliveryId) -> Result<Answer<Replayed>, ClientError> {
        self.call::<_, ()>(Method::POST, &format!("/v1/dead-letters/{id}/replay"), None).await
    }

    /// Forgets a dead letter, and why.
    pub async fn discard(&self, id: DeliveryId, why: Option<&str>) -> Result<(), ClientError> {
        let path = with_query(&format!("/v1/dead-letters/{id}"), &[("why", shown(why))]);
        self.call::<Value, ()>(Method::DELETE, &path, None).await.map(drop)
    }

    /// A page of the quarantine.
    pub async fn quarantine(
        &self,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Answer<QuarantinePage>, ClientError> {
        let query = [("before", shown(before)), ("limit", Some(limit.to_string()))];
        self.get(&with_query("/v1/quarantine", &query)).await
    }

    /// One item of the quarantine, with its bytes.
    pub async fn quarantined(&self, id: u64) -> Result<Answer<QuarantineView>, ClientError> {
        self.get(&format!("/v1/quarantine/{id}")).await
    }

    /// Tries an item of the quarantine again.
    pub async fn retry_quarantined(&self, id: u64) -> Result<Answer<Retried>, ClientError> {
        self.call::<_, ()>(Method::POST, &format!("/v1/quarantine/{id}/retry"), None).await
    }

    /// Forgets an item of the quarantine, and why.
    pub async fn discard_quarantined(&self, id: u64, why: Option<&str>) -> Result<(), ClientError> {
        let path = with_query(&format!("/v1/quarantine/{id}"), &[("why", shown(why))]);
        self.call::<Value, ()>(Method::DELETE, &path, None).await.map(drop)
    }

    /// Which bindings would fire.
    pub async fn explain(&self, request: &MatchRequest) -> Result<Answer<Matched>, ClientError> {
        self.call(Method::POST, "/v1/match", Some(request)).await
    }

    /// The last outcomes: of a binding, of a function (its name, or PLATFORM/NAME), of an object's key, or all.
    pub async fn outcomes(
        &self,
        binding: Option<BindingId>,
        (function, key): (Option<&str>, Option<&str>),
        limit: u32,
    ) -> Result<Answer<Outcomes>, ClientError> {
        let query = [
            ("binding", shown(binding)),
            ("function", shown(function)),
            ("key", shown(key)),
            ("limit", Some(limit.to_string())),
        ];
        self.get(&with_query("/v1/outcomes", &query)).await
    }

    /// How the functions flow.
    pub async fn functions(&self) -> Result<Answer<Functions>, ClientError> {
        self.get("/v1/functions").await
    }

    /// The daemons.
    pub async fn nodes(&self) -> Result<Answer<Nodes>, ClientError> {
        self.get("/v1/nodes").await
    }

    /// Forgets a daemon that will not return.
    pub async fn forget_node(&self, name: &str) -> Result<(), ClientError> {
        self.call::<Value, ()>(Method::DELETE, &format!("/v1/nodes/{}", encoded(name)), None).await.map(drop)
    }

    /// Whether the daemon is alive.
    pub async fn live(&self) -> Result<Answer<HealthView>, ClientError> {
        self.get("/health/live").await
    }

    /// Whether events are taken in. That they are not is an answer, too.
    pub async fn ready(&self) -> Result<Answer<HealthView>, ClientError> {
        let (url, status, text) = self.send::<()>(Method::GET, "/health/ready", None).await?;
        let said = if status == StatusCode::SERVICE_UNAVAILABLE { StatusCode::OK } else { status };
        read(said, &text).ok_or_else(|| problem(&url, status, &text))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, ClientError> {
        self.call::<T, ()>(Method::GET, path, None).await
    }

    async fn call<T: DeserializeOwned, B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Answer<T>, ClientError> {
        let (url, status, text) = self.send(method, path, body).await?;
        read(status, &text).ok_or_else(|| problem(&url, status, &text))
    }

    /// The URL, the status and the beginning of the answer.
    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<(String, StatusCode, Vec<u8>), ClientError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method, &url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |source: reqwest::Error| ClientError::Unreachable {
            url: self.base.clone(),
            source: source.without_url(),
        };
        let mut answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            text.extend_from_slice(&chunk);
            if text.len() > MAX_ANSWER {
                break;
            }
        }
        Ok((url, status, text))
    }
}

/// An answer that says yes.
fn read<T: DeserializeOwned>(status: StatusCode, text: &[u8]) -> Option<Answer<T>> {
    if !status.is_success() {
        return None;
    }
    let text = if status == StatusCode::NO_CONTENT { b"null" } else { text };
    let value = serde_json::from_slice(text).ok()?;
    Some(Answer { value, json: serde_json::from_slice(text).ok()? })
}

/// Any other answer.
fn problem(url: &str, status: StatusCode, text: &[u8]) -> ClientError {
    let document: Value = serde_json::from_slice(text).unwrap_or_default();
    let member = |name: &str| document[name].as_str().map(|said| excerpt(said.as_bytes(), 4_096));
    match (member("type"), member("detail"), member("remedy")) {
        (Some(kind), Some(detail), Some(remedy)) if !status.is_success() => {
            let slug = kind.rsplit('/').next().unwrap_or_default().to_owned();
            ClientError::Refused { status: status.as_u16(), slug, detail, remedy }
        }
        _ => ClientError::Foreign { url: url.to_owned(), status: status.as_u16(), said: excerpt(text, 200) },
    }
}

fn shown(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

/// What is said in a request, for its query.
fn members(request: &impl Serialize) -> Vec<(String, Option<String>)> {
    let Ok(Value::Object(members)) = serde_json::to_value(request) else { return Vec::new() };
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    members.into_iter().map(|(name, value)| (name, Some(text(value)))).collect()
}

fn with_query(path: &str, query: &[(impl AsRef<str>, Option<String>)]) -> String {
    let mut url = path.to_owned();
    for (key, value) in query.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(key.as_ref());
        url.push('=');
        url.push_str(&encoded(value));
    }
    url
}

/// Percent-encoded, as a segment or a value.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut url, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            url.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ok: std::fmt::Result = write!(url, "%{byte:02X}");
        }
        url
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::admin::fakes::{OPERATOR, World, listen, state};

    async fn client(world: &Arc<World>, token: &str) -> Client {
        let address = listen(state(world)).await;
        Client::new(&format!("http://{address}/"), Some(token.into())).unwrap()
    }

    fn request() -> BindingRequest {
        BindingRequest {
            bucket: "photos".into(),
            events: vec!["s3:ObjectCreated:*".into()],
            platform: Some("local".into()),
            function: "thumb".into(),
            ..BindingRequest::default()
        }
    }

    #[tokio::test]
    async fn answers_come_typed_and_as_they_were() {
        let world = World::new().await;
        let client = client(&world, OPERATOR).await;
        let bound = client.bind(&request()).await.unwrap();
        assert_eq!(bound.json["id"], bound.value.id.to_string());
        let id = bound.value.id;
        assert_eq!(client.binding(id).await.unwrap().value.spec.bucket, "photos");
        assert_eq!(client.bindings(None, 10).await.unwrap().value.bindings.len(), 1);
        let (one, two) = (world.bury(id, "local", "1").await, world.bury(id, "local", "2").await);
        let page = LetterRequest { binding: Some(id), limit: Some(10), ..LetterRequest::default() };
        assert_eq!(client.dead_letters(&page).await.unwrap().value.dead_letters.len(), 2);
        assert_eq!(client.dead_letter(one).await.unwrap().value.event.bucket, "photos");
        assert_eq!(client.replay(one).await.unwrap().value.function, "thumb");
        client.discard(two, Some("a try")).await.unwrap();
        assert!(client.dead_letter(two).await.unwrap_err().is_not_found());
        assert!(client.outcomes(Some(id), (None, None), 5).await.unwrap().value.outcomes.is_empty());
        world.hears_of("a/b c", 3).await;
        client.forget_node("a/b c").await.unwrap();
        assert!(client.nodes().await.unwrap().value.nodes.is_empty());
        assert!(client.live().await.unwrap().value.ok);
        assert_eq!(client.unbind(id, Pending::Discard).await.unwrap().json["state"], "unbinding");
    }

    #[tokio::test]
    async fn problems_become_errors_that_say_what_to_do() {
        let world = World::new().await;
        let address = listen(state(&world)).await;
        let stranger = Client::new(&format!("http://{address}"), Some("wrong".into())).unwrap();
        let error = stranger.nodes().await.unwrap_err();
        assert!(matches!(&error, ClientError::Refused { status: 401, .. }), "{error}");
        assert!(error.to_string().contains("compare the token's file"), "{error}");
        world.relations.close().await;
        let client = Client::new(&format!("http://{address}"), Some(OPERATOR.into())).unwrap();
        let error = client.bind(&request()).await.unwrap_err().to_string();
        assert!(error.contains("does not answer"), "{error}");
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_is_asked_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let client = Client::new(&format!("http://{address}"), Some("secret-token".into())).unwrap();
        let error = client.nodes().await.unwrap_err();
        assert!(error.to_string().contains("is triggerd running?"), "{error}");
        assert!(!format!("{error:?}{client:?}").contains("secret-token"));
    }

    #[test]
    fn answers_of_something_else_are_told_apart() {
        let error = problem("http://x", StatusCode::OK, b"<html>\x1b[31m");
        assert!(matches!(error, ClientError::Foreign { status: 200, .. }));
        assert!(error.to_string().contains("[admin] listen") && !error.to_string().contains('\x1b'));
        assert!(read::<Nodes>(StatusCode::OK, b"{}").is_none());
    }
}
