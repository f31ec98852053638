//! `/health/live`, `/health/ready`, `/metrics`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{AdminState, ports::Part, wire::HealthView};

/// `GET /health/live`: 503 when only a restart helps.
pub(super) async fn live(State(state): State<Arc<AdminState>>) -> Response {
    answer(state.health.liveness())
}

/// `GET /health/ready`: 503 when events are not taken in.
pub(super) async fn ready(State(state): State<Arc<AdminState>>) -> Response {
    answer(state.health.readiness())
}

fn answer(parts: Vec<Part>) -> Response {
    let ok = parts.iter().all(|part| part.ok);
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(HealthView { ok, parts })).into_response()
}

/// `GET /metrics`.
pub(super) async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, state.health.metrics()).into_response()
}
