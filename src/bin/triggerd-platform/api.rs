//! The HTTP interface: the routes of the Trigger Rules protocol (`docs/trigger-rules.openapi.yaml`).
//!
//! Management calls need the bearer token; an invocation is believed by its signature. Every request is
//! handled in a task of its own, so that a panic is a 500 and not a lost connection, and what was begun
//! is brought to its end when the caller hangs up.

use crate::{
    config::{Config, Confirm},
    confirm::Confirmer,
    functions::Function,
    invoke::invoke,
    jobs::Jobs,
    problem::{Kind, Problem},
    rule::{Rule, State},
    rules::{Put, Rules},
    signature,
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{FromRequestParts, Path, Request, State as Shared},
    http::{StatusCode, header, request::Parts},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::StreamExt;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

/// What every handler can reach.
pub(crate) struct Platform {
    pub(crate) config: Config,
    pub(crate) token: SecretString,
    pub(crate) rules: Arc<Rules>,
    pub(crate) functions: Arc<BTreeMap<String, Arc<Function>>>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) confirmer: Confirmer,
}

pub(crate) fn router(platform: Arc<Platform>) -> Router {
    let management = Router::new()
        .route("/rules", get(list_rules))
        .route("/rules/{id}", get(show_rule).put(put_rule).delete(remove_rule))
        .route_layer(from_fn_with_state(Arc::clone(&platform), with_token));
    let router = Router::new()
        .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/functions/{name}/invocations", post(invoke))
        .merge(management)
        .method_not_allowed_fallback(|| async {
            Problem::new(Kind::MethodNotAllowed, "see the OpenAPI document")
        })
        .fallback(|| async { Problem::new(Kind::NotFound, "see the OpenAPI document") })
        .with_state(platform);
    in_own_task(router)
}

fn in_own_task(router: Router) -> Router {
    router.layer(from_fn(|request: Request, next: Next| async {
        let handled = tokio::spawn(next.run(request)).await;
        handled.unwrap_or_else(|_| {
            Problem::new(Kind::Internal, "the handler panicked; the log says where").into_response()
        })
    }))
}

async fn with_token(Shared(platform): Shared<Arc<Platform>>, request: Request, next: Next) -> Response {
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = sent
        .and_then(|sent| sent.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match token {
        Some((_, token)) if signature::same(token.trim(), platform.token.expose_secret()) => {
            next.run(request).await
        }
        _ => Problem::new(Kind::Unauthorized, "this call needs the platform's bearer token").into_response(),
    }
}

async fn list_rules(Shared(platform): Shared<Arc<Platform>>) -> Json<serde_json::Value> {
    let rules: Vec<_> = platform.rules.all().iter().map(|stored| stored.view()).collect();
    Json(json!({ "rules": rules }))
}

async fn show_rule(
    Shared(platform): Shared<Arc<Platform>>,
    Segment(id): Segment,
) -> Result<Json<serde_json::Value>, Problem> {
    Ok(Json(platform.rules.get(&id)?.view()))
}

async fn remove_rule(
    Shared(platform): Shared<Arc<Platform>>,
    Segment(id): Segment,
) -> Result<StatusCode, Problem> {
    platform.rules.remove(&id).await?;
    platform.confirmer.forget(&id);
    tracing::info!(id, "rule removed");
    Ok(StatusCode::NO_CONTENT)
}

async fn put_rule(
    Shared(platform): Shared<Arc<Platform>>,
    Segment(id): Segment,
    request: Request,
) -> Result<Response, Problem> {
    let body = read_body(request.into_body(), &platform.config).await?;
    let rule: Rule = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(Kind::BadRequest, format!("the rule: {error}")))?;
    rule.check().map_err(|detail| Problem::new(Kind::BadRequest, detail))?;
    let named = [Some(&rule.function), rule.dead_letter_function.as_ref()];
    if let Some(unknown) = named.into_iter().flatten().find(|name| !platform.functions.contains_key(*name)) {
        let detail = format!("there is no function {unknown:?}; the platform's config names the functions");
        return Err(Problem::new(Kind::UnknownFunction, detail));
    }
    let state = match platform.config.confirm {
        Confirm::Answer => State::Confirmed,
        Confirm::Callback if rule.confirm_url.is_some() => State::Pending,
        Confirm::Callback => {
            return Err(Problem::new(
                Kind::Refused,
                "this platform confirms by callback, and the rule has no confirm_url",
            ));
        }
    };
    let (stored, status) = match platform.rules.put(&id, rule, state).await? {
        Put::Created(stored) => (stored, StatusCode::CREATED),
        Put::Same(stored) => (stored, StatusCode::OK),
    };
    tracing::info!(id, function = stored.rule.function, state = ?stored.state, "rule kept");
    let status = if stored.state == State::Pending { StatusCode::ACCEPTED } else { status };
    let answer = Json(json!({ "id": id, "state": stored.state }));
    if stored.state == State::Pending {
        platform.confirmer.confirm(stored);
    }
    Ok((status, answer).into_response())
}

/// The rule id or function name in a path, as text; what it may be is for its owner to say.
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let path = path.map_err(|rejection| Problem::new(Kind::BadRequest, rejection.body_text()));
        path.map(|Path(text)| Self(text))
    }
}

/// Reads a body, in the time and up to the length that the config allows. Some of what is over it is read and thrown away, because a caller that is
/// still sending would miss the answer.
pub(crate) async fn read_body(body: Body, config: &Config) -> Result<Bytes, Problem> {
    let (limit, time) = (config.max_body, config.body_timeout);
    let read = async {
        let (mut kept, mut total) = (Vec::new(), 0_usize);
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk
                .map_err(|error| Problem::new(Kind::BadRequest, format!("the body broke off: {error}")))?;
            total = total.saturating_add(chunk.len());
            if total <= limit {
                kept.extend_from_slice(&chunk);
            } else if total > limit.saturating_mul(16) {
                break;
            }
        }
        if total > limit {
            return Err(Problem::new(Kind::TooLarge, format!("this platform takes at most {limit} bytes")));
        }
        Ok(kept.into())
    };
    let late = |_| Problem::new(Kind::RequestTimeout, format!("the body took longer than {time:?}"));
    tokio::time::timeout(time, read).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panicking_handler_answers_500_and_the_next_request_is_served() {
        let router =
            in_own_task(Router::new().route("/panic", get(|| async { panic!("on purpose") as StatusCode })));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/panic", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        for _ in 0..2 {
            let answer = reqwest::get(&url).await.unwrap();
            assert_eq!(answer.status(), 500);
            assert!(answer.text().await.unwrap().contains("/problems/internal"));
        }
        server.abort();
    }
}
