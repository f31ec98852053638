//! `/v1/dead-letters`: this daemon's own; each daemon is asked for its.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use crate::{
    domain::ids::{BindingId, DeliveryId},
    queue::{DeadLetter, DeadLetterQuery},
    relations::RelationsError,
};

use super::{
    AdminState, Caller,
    extract::{Params, Segment},
    problem::Problem,
    wire::{DeadLetterSummary, DeadLetterView, DeadLetters, Replayed},
};

const PAGE: u32 = 50;
const MAX_PAGE: u32 = 500;

/// The query of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    binding: Option<BindingId>,
    before: Option<DeliveryId>,
    limit: Option<u32>,
}

/// `GET /v1/dead-letters`.
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ListParams>,
) -> Result<Json<DeadLetters>, Problem> {
    let limit = params.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    let platform = caller.platform().map(str::to_owned);
    let query = DeadLetterQuery { binding: params.binding, platform, before: params.before, limit };
    let found = state.queue.dead_letters(&query).await?;
    let full = found.len() >= limit as usize;
    let next = found.last().map(|last| last.delivery.id).filter(|_| full);
    Ok(Json(DeadLetters { dead_letters: found.iter().map(DeadLetterSummary::from).collect(), next }))
}

/// `GET /v1/dead-letters/{id}`.
pub(super) async fn show(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<DeliveryId>,
) -> Result<Json<DeadLetterView>, Problem> {
    Ok(Json(owned(&state, &caller, id).await?.into()))
}

/// `POST /v1/dead-letters/{id}/replay`.
pub(super) async fn replay(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<DeliveryId>,
) -> Result<Response, Problem> {
    let letter = owned(&state, &caller, id).await?;
    let binding = letter.delivery.binding;
    match state.relations.binding(binding).await {
        // A replay is this daemon's own affair: it goes on while the relations are away.
        Ok(Some(_)) | Err(RelationsError::Unavailable(_)) => {}
        Ok(None) => {
            return Err(Problem::new(409, "binding-gone", "The dead letter's binding is gone")
                .detail(format!("binding {binding} was taken back, so nothing would call its function"))
                .remedy("bind again and store the object again, or discard the dead letter")
                .with("binding", binding.to_string()));
        }
        Err(error) => return Err(error.into()),
    }
    let function = state.queue.replay(id, state.clock.now()).await?;
    let function = function.ok_or_else(|| Problem::not_found("dead letter", id))?;
    tracing::info!(delivery = %id, by = %caller, "a dead letter is replayed");
    state.deliveries.wake(&function);
    let replayed =
        Replayed { id, platform: function.platform.to_string(), function: function.name.to_string() };
    Ok((StatusCode::ACCEPTED, Json(replayed)).into_response())
}

/// `DELETE /v1/dead-letters/{id}`.
pub(super) async fn discard(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<DeliveryId>,
) -> Result<StatusCode, Problem> {
    owned(&state, &caller, id).await?;
    if !state.queue.discard(id).await? {
        return Err(Problem::not_found("dead letter", id));
    }
    tracing::info!(delivery = %id, by = %caller, "a dead letter is discarded");
    Ok(StatusCode::NO_CONTENT)
}

/// The dead letter, if it is there for this caller.
async fn owned(state: &AdminState, caller: &Caller, id: DeliveryId) -> Result<DeadLetter, Problem> {
    let found = state.queue.dead_letter(id).await?;
    found
        .filter(|letter| caller.may_see(&letter.delivery.function.platform))
        .ok_or_else(|| Problem::not_found("dead letter", id))
}
