//! `/v1/match`: which bindings would fire for an event, and why the others would not. Fires nothing.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Extension, Json, extract::State};
use serde_json::value::RawValue;

use crate::domain::{
    event::{Event, StorageName},
    event_name::EventName,
    ids::EventId,
};

use super::{
    AdminState, Caller, bindings,
    extract::Body,
    problem::Problem,
    wire::{MatchRequest, Matched},
};

/// `POST /v1/match`.
pub(super) async fn explain(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<Matched>, Problem> {
    let event = event(&state, body.json()?)?;
    let mut found = state.catalog.explain(&event).await?;
    found.retain(|explanation| caller.may_see(&explanation.platform));
    // What fires, and is not called now: the delivery waits.
    let flows = state.deliveries.flows();
    let open = flows.iter().filter_map(|flow| Some((&flow.function, flow.open_until?, &flow.reason)));
    for (function, until, reason) in open {
        let of_it = found.iter_mut().filter(|explanation| {
            explanation.fires
                && *explanation.platform == *function.platform
                && *explanation.function == *function.name
        });
        let words =
            format!("its function's circuit breaker is open until {until} ({reason}): deliveries wait");
        of_it.for_each(|explanation| explanation.reasons.push(words.clone()));
    }
    found.sort_by_key(|explanation| (!explanation.fires, explanation.binding));
    let fires = found.iter().filter(|explanation| explanation.fires).count();
    Ok(Json(Matched { fires, bindings: found }))
}

fn event(state: &AdminState, request: MatchRequest) -> Result<Event, Problem> {
    let outlined = request.bucket.is_some() || request.key.is_some() || request.name.is_some();
    if let Some(event) = request.event {
        if outlined || request.storage.is_some() || request.principal.is_some() {
            return Err(Problem::bad_request("`event` is a whole event; give nothing else beside it"));
        }
        return Ok(*event);
    }
    let storage = bindings::storage(state, request.storage)?;
    let missing = |field: &str| Problem::bad_request(format!("the field `{field}` is missing"));
    let bucket = request.bucket.ok_or_else(|| missing("bucket"))?;
    let key = request.key.ok_or_else(|| missing("key"))?;
    let name = EventName::new(request.name.as_deref().unwrap_or("s3:ObjectCreated:Put"));
    if !name.is_known() {
        return Err(Problem::new(422, "unknown-event", "There is no such event")
            .detail(format!("`{name}` is no single event of MinIO"))
            .remedy("name one thing that happens, such as s3:ObjectCreated:Put; groups are for bindings"));
    }
    let record = RawValue::NULL.to_owned();
    Ok(Event {
        id: EventId::of_record(&storage, record.get().as_bytes()),
        storage: StorageName::new(storage),
        bucket,
        key,
        name,
        time: state.clock.now(),
        size: None,
        etag: None,
        content_type: None,
        version_id: None,
        sequencer: None,
        principal: request.principal.unwrap_or_default(),
        user_metadata: BTreeMap::new(),
        record,
    })
}
