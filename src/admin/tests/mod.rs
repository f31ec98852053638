//! Every handler through the whole router: who may, what comes back, and what hostile input comes to.

mod access;
mod bindings;
mod resources;
mod strangers;

use std::sync::atomic::Ordering;

use axum::body::{Body, to_bytes};
use http::{StatusCode, header};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{
    fakes::{LOCAL, OPERATOR, OTHER, World, state},
    *,
};
use crate::domain::ids::BindingId;

const LOOPBACK: Door = Door::Admin { loopback: true };

struct Api {
    world: Arc<World>,
    state: Arc<AdminState>,
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Value,
    text: String,
}

impl Answer {
    /// The answer as a problem document of this status and slug; its detail and remedy.
    #[track_caller]
    fn problem(&self, status: u16, slug: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(self.body["type"], format!("/problems/{slug}"));
        assert_eq!(self.body["status"], status);
        for member in ["title", "detail", "remedy"] {
            assert!(
                self.body[member].as_str().is_some_and(|text| !text.is_empty()),
                "{member}: {}",
                self.text
            );
        }
        format!("{} | {}", self.body["detail"], self.body["remedy"])
    }

    #[track_caller]
    fn is(&self, status: u16) -> &Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        &self.body
    }
}

impl Api {
    async fn new() -> Self {
        let world = World::new().await;
        let state = Arc::new(state(&world));
        Self { world, state }
    }

    async fn send(&self, door: Door, token: &str, call: (&str, &str), body: impl Into<Body>) -> Answer {
        let (method, path) = call;
        let mut request = http::Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.raw(door, request.body(body.into()).unwrap()).await
    }

    async fn raw(&self, door: Door, request: http::Request<Body>) -> Answer {
        let answer = router(Arc::clone(&self.state), door).oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let text = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
        let body = serde_json::from_str(&text).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, body, text }
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(LOOPBACK, token, ("GET", path), "").await
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.send(LOOPBACK, token, ("POST", path), body.to_string()).await
    }

    async fn delete(&self, token: &str, path: &str) -> Answer {
        self.send(LOOPBACK, token, ("DELETE", path), "").await
    }

    /// Binds as this caller; the binding's id.
    async fn bind(&self, token: &str, request: &Value) -> BindingId {
        let answer = self.post(token, "/v1/bindings", request).await;
        answer.is(202)["id"].as_str().unwrap().parse().unwrap()
    }
}

fn request() -> Value {
    json!({"bucket": "photos", "events": ["s3:ObjectCreated:*"], "prefix": "in/", "platform": "local", "function": "thumb"})
}

fn with(field: &str, value: impl Into<Value>) -> Value {
    let mut request = request();
    request[field] = value.into();
    request
}
