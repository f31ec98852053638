//! `/v1/quarantine`: what could never be processed, with its bytes. For the operator alone: nobody knows whose it is.
//!
//! Trying again takes an item out of the quarantine only once everything it causes is safe; one that can still not be
//! processed stays, with its first reason and the new one.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::{
    queue::Item,
    telemetry::letters::{ItemDiscarded, ItemTaken},
};

use super::{
    AdminState, Caller, Retaken,
    dead_letters::{DiscardParams, reason_of},
    extract::{Params, Segment},
    problem::Problem,
    wire::{QuarantinePage, QuarantineSummary, QuarantineView, Retried},
};

const PAGE: u32 = 50;
const MAX_PAGE: u32 = 500;

/// The query of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    before: Option<u64>,
    limit: Option<u32>,
}

/// `GET /v1/quarantine`.
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ListParams>,
) -> Result<Json<QuarantinePage>, Problem> {
    caller.operator()?;
    let limit = params.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    // One more than is shown tells whether there are more.
    let mut items = state.letters.quarantine_page(params.before, limit + 1).await?;
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next = items.last().map(|item| item.id).filter(|_| more);
    Ok(Json(QuarantinePage { quarantine: items.iter().map(QuarantineSummary::from).collect(), next }))
}

/// `GET /v1/quarantine/{id}`.
pub(super) async fn show(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<u64>,
) -> Result<Json<QuarantineView>, Problem> {
    let item = item(&state, &caller, id).await?;
    let bytes = STANDARD.encode(&item.what.bytes);
    Ok(Json(QuarantineView { item: QuarantineSummary::from(&item), kept: item.what.bytes.len(), bytes }))
}

/// `POST /v1/quarantine/{id}/retry`.
pub(super) async fn retry(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<u64>,
) -> Result<Json<Retried>, Problem> {
    let item = item(&state, &caller, id).await?;
    match state.reintake.again(&item.what).await {
        Retaken::Taken { events, deliveries } => {
            ItemTaken { id, source: &item.what.source, events, deliveries, by: &caller.to_string() }.tell();
            // Gone meanwhile is as good: it was tried twice at once, or the oldest made room.
            state.letters.unquarantine(id).await?;
            Ok(Json(Retried { id, events, deliveries }))
        }
        Retaken::Hopeless(reason) => {
            state.letters.requarantine(id, &reason, state.clock.now()).await?;
            Err(Problem::new(409, "still-quarantined", "It can still not be processed")
                .detail(format!("item {id} stays in quarantine: {reason}"))
                .remedy("look at its bytes, and discard it when they are of no use")
                .with("reason", reason))
        }
        Retaken::NoSource => Err(Problem::new(409, "no-such-source", "Its source is not configured")
            .detail(format!(
                "item {id} came by the source `{}`, which says whose events they are",
                item.what.source
            ))
            .remedy("configure a source of this name, or discard the item")),
        Retaken::NotNow => Err(Problem::new(503, "not-safe", "It could not be taken in now")
            .detail(format!(
                "what item {id} causes could not be matched or parked, so it stays in quarantine"
            ))
            .remedy("see `/health/ready` and the daemon's log, then try again")
            .retry_after(5)),
    }
}

/// `DELETE /v1/quarantine/{id}?why=TEXT`.
pub(super) async fn discard(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<u64>,
    Params(params): Params<DiscardParams>,
) -> Result<StatusCode, Problem> {
    let why = reason_of(params.why)?;
    let item = item(&state, &caller, id).await?;
    if !state.letters.unquarantine(id).await? {
        return Err(Problem::not_found("quarantined item", id));
    }
    let what = &item.what;
    let by = &caller.to_string();
    ItemDiscarded {
        id,
        source: &what.source,
        reason: &what.reason,
        length: what.length,
        by,
        why: why.as_deref(),
    }
    .tell();
    Ok(StatusCode::NO_CONTENT)
}

async fn item(state: &AdminState, caller: &Caller, id: u64) -> Result<Item, Problem> {
    caller.operator()?;
    state.letters.quarantine_item(id).await?.ok_or_else(|| Problem::not_found("quarantined item", id))
}
