//! Requests taken apart, every refusal a problem document.

use std::str::FromStr;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::telemetry::excerpt;

use super::{MAX_BODY, MAX_REPORT, problem::Problem};

/// A body, at most [`MAX_BODY`] bytes (of a report [`MAX_REPORT`]).
#[derive(Debug)]
pub(super) struct Body(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                return Problem::new(413, "too-large", "The body is too large")
                    .detail(format!("a body may have {MAX_BODY} bytes, a report of a result {MAX_REPORT}"))
                    .remedy("send less");
            }
            Problem::bad_request(format!("the body did not arrive: {rejection}"))
        })
    }
}

impl Body {
    /// What the body says in JSON.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.0).map_err(|error| {
            let said = error.to_string();
            Problem::bad_request(format!(
                "the body is not the JSON that is expected: {}",
                excerpt(said.as_bytes(), 500)
            ))
        })
    }
}

/// The query's parameters. Unknown ones are refused where `T` says so.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|rejection| {
            let said = rejection.body_text();
            Problem::bad_request(format!("the query is refused: {}", excerpt(said.as_bytes(), 500)))
        })
    }
}

/// The path's one variable segment.
#[derive(Debug)]
pub(super) struct Segment<T>(pub(super) T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for Segment<T>
where
    T::Err: std::fmt::Display,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        text.parse().map(Self).map_err(|error| {
            let shown = excerpt(text.as_bytes(), 80);
            Problem::bad_request(format!("`{shown}` in the path is refused: {error}"))
        })
    }
}
