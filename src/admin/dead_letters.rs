//! `/v1/dead-letters`: this daemon's own; each daemon is asked for its.
//!
//! **Replaying** moves a letter back among the parked deliveries, under its old id, in one transaction. Asked for again
//! while it is on its way, nothing changes and the answer says so; a crash in between leaves a letter or a delivery, never
//! both.

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
    queue::{DeadLetter, Direction, LetterFilter, LetterQuery},
    relations::RelationsError,
    telemetry::letters::{LetterDiscarded, LetterReplayed},
};

use super::{
    AdminState, Caller,
    extract::{Params, Segment},
    problem::Problem,
    wire::{DeadLetterSummary, DeadLetterView, DeadLetters, LetterRequest, Replayed},
};

const PAGE: u32 = 50;

/// Longest reason of a discard, in bytes.
const MAX_WHY: usize = 500;

/// What a request asks for, as this caller may see it.
pub(super) fn query(
    request: &LetterRequest,
    caller: &Caller,
    direction: Direction,
) -> Result<LetterQuery, Problem> {
    let cursor = request.cursor.as_deref().map(str::parse).transpose();
    let cursor = cursor.map_err(|error| Problem::bad_request(format!("`cursor`: {error}")))?;
    let (of, function) = match request.function.as_deref().map(|function| function.split_once('/')) {
        Some(Some((platform, name))) => (Some(platform.to_owned()), Some(name.to_owned())),
        _ => (None, request.function.clone()),
    };
    let mut platforms =
        [request.platform.clone(), of, caller.platform().map(str::to_owned)].into_iter().flatten();
    let platform = platforms.next();
    if platforms.any(|other| Some(&other) != platform.as_ref()) {
        let detail = "the platform that is asked for is not that of the function, or not the caller's own";
        return Err(Problem::bad_request(detail));
    }
    let texts = [
        ("platform", &platform),
        ("function", &function),
        ("bucket", &request.bucket),
        ("key_prefix", &request.key_prefix),
    ];
    if let Some((name, _)) = texts.iter().find(|(_, text)| text.as_deref() == Some("")) {
        return Err(Problem::bad_request(format!("`{name}` is empty; leave it out where any will do")));
    }
    if let (Some(since), Some(until)) = (request.since, request.until)
        && since >= until
    {
        let detail = format!("`since` ({since}) is not before `until` ({until}): nothing can fit");
        return Err(Problem::bad_request(detail));
    }
    let filter = LetterFilter {
        binding: request.binding,
        platform,
        function,
        reason: request.reason,
        since: request.since,
        until: request.until,
        bucket: request.bucket.clone(),
        key_prefix: request.key_prefix.clone(),
    };
    let limit = request.limit.unwrap_or(PAGE).clamp(1, LetterQuery::MAX_LIMIT);
    Ok(LetterQuery { filter, direction, cursor, limit })
}

/// Why something is discarded, as it is logged.
pub(super) fn reason_of(why: Option<String>) -> Result<Option<String>, Problem> {
    match why {
        Some(why) if why.len() > MAX_WHY => {
            Err(Problem::bad_request(format!("`why` may have {MAX_WHY} bytes, and has {}", why.len())))
        }
        why => Ok(why.filter(|why| !why.trim().is_empty())),
    }
}

/// `GET /v1/dead-letters`.
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Params(request): Params<LetterRequest>,
) -> Result<Json<DeadLetters>, Problem> {
    if request.all || request.why.is_some() {
        return Err(Problem::bad_request("`all` and `why` are not for a list"));
    }
    let page = state.letters.dead_letters(&query(&request, &caller, Direction::NewestFirst)?).await?;
    let dead_letters = page.letters.iter().map(DeadLetterSummary::from).collect();
    Ok(Json(DeadLetters { dead_letters, next: page.next.map(|next| next.to_string()) }))
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
    let Some(letter) = seen(&state, &caller, id).await? else {
        return on_its_way(&state, &caller, id).await;
    };
    if !may_be_called(&state, letter.delivery.binding).await? && !rebind(&state, &letter).await? {
        let (binding, function) = (letter.delivery.binding, &letter.delivery.function);
        return Err(Problem::new(409, "binding-gone", "The dead letter's binding is gone")
            .detail(format!(
                "binding {binding} is not known here (any more), and no other fires {function} for this event"
            ))
            .remedy(format!(
                "bind {function} again, with a filter that fits, and replay once the binding is active; or discard the \
                 dead letter"
            ))
            .with("binding", binding.to_string()));
    }
    let Some(function) = state.queue.replay(id, state.clock.now()).await? else {
        return on_its_way(&state, &caller, id).await;
    };
    LetterReplayed { delivery: &letter.delivery, by: &caller.to_string() }.tell();
    state.deliveries.wake(&function);
    let (platform, function) = (function.platform.to_string(), function.name.to_string());
    Ok((StatusCode::ACCEPTED, Json(Replayed { id, platform, function, already: false })).into_response())
}

/// Whether a replay of this binding's letters can come to anything. A replay is this daemon's own affair: it goes on while
/// the relations are away.
pub(super) async fn may_be_called(state: &AdminState, binding: BindingId) -> Result<bool, Problem> {
    match state.relations.binding(binding).await {
        Ok(Some(_)) | Err(RelationsError::Unavailable(_)) => Ok(true),
        Ok(None) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives a letter whose binding is gone to one that fires the same function for the same event now (it was bound again,
/// or the queue was moved here); whether there is one.
pub(super) async fn rebind(state: &AdminState, letter: &DeadLetter) -> Result<bool, Problem> {
    let delivery = &letter.delivery;
    let bindings = state.catalog.explain(&delivery.event).await?;
    let heir = bindings.iter().find(|one| {
        one.fires && *one.platform == *delivery.function.platform && *one.function == *delivery.function.name
    });
    let Some(heir) = heir else { return Ok(false) };
    Ok(state.letters.rebind(delivery.id, heir.binding).await?)
}

/// The answer about a delivery that is no dead letter: whoever replayed it before us is as good.
async fn on_its_way(state: &AdminState, caller: &Caller, id: DeliveryId) -> Result<Response, Problem> {
    let function = state.letters.parked_function(id).await?;
    let function = function.filter(|function| caller.may_see(&function.platform));
    let function = function.ok_or_else(|| Problem::not_found("dead letter", id))?;
    let (platform, function) = (function.platform.to_string(), function.name.to_string());
    Ok((StatusCode::ACCEPTED, Json(Replayed { id, platform, function, already: true })).into_response())
}

/// The query of a discard.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiscardParams {
    pub(super) why: Option<String>,
}

/// `DELETE /v1/dead-letters/{id}?why=TEXT`.
pub(super) async fn discard(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<DeliveryId>,
    Params(params): Params<DiscardParams>,
) -> Result<StatusCode, Problem> {
    let why = reason_of(params.why)?;
    let letter = owned(&state, &caller, id).await?;
    if !state.queue.discard(id).await? {
        return Err(Problem::not_found("dead letter", id));
    }
    let (delivery, reason) = (&letter.delivery, letter.reason);
    LetterDiscarded { delivery, reason, by: &caller.to_string(), why: why.as_deref() }.tell();
    Ok(StatusCode::NO_CONTENT)
}

/// The dead letter, if it is there and this caller may see it.
async fn seen(state: &AdminState, caller: &Caller, id: DeliveryId) -> Result<Option<DeadLetter>, Problem> {
    let found = state.queue.dead_letter(id).await?;
    Ok(found.filter(|letter| caller.may_see(&letter.delivery.function.platform)))
}

/// The same, where it has to be there.
async fn owned(state: &AdminState, caller: &Caller, id: DeliveryId) -> Result<DeadLetter, Problem> {
    seen(state, caller, id).await?.ok_or_else(|| Problem::not_found("dead letter", id))
}
