//! `/v1/outcomes`: what fired lately on this daemon, and what came of it. Kept in memory only.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::Deserialize;

use crate::domain::ids::BindingId;

use super::{AdminState, Caller, bindings, extract::Params, problem::Problem, wire::Outcomes};

const PAGE: usize = 50;
const MAX_PAGE: usize = 1_000;

/// The query of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    binding: Option<BindingId>,
    limit: Option<usize>,
}

/// `GET /v1/outcomes`. A platform names one of its bindings; the operator may see all.
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ListParams>,
) -> Result<Json<Outcomes>, Problem> {
    if caller != Caller::Operator {
        let id = params
            .binding
            .ok_or_else(|| Problem::bad_request("a platform names one of its bindings: `?binding=ID`"))?;
        bindings::owned(&state, &caller, id).await?;
    }
    let limit = params.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    Ok(Json(Outcomes { outcomes: state.recent.latest(params.binding, limit) }))
}
