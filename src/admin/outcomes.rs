//! `/v1/outcomes`: what fired lately on this daemon, and what came of it. Kept in memory only.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::Deserialize;

use crate::{domain::ids::BindingId, telemetry::RecentOutcome};

use super::{AdminState, Caller, bindings, extract::Params, problem::Problem, wire::Outcomes};

const PAGE: usize = 50;
const MAX_PAGE: usize = 1_000;

/// The query of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    binding: Option<BindingId>,
    /// Its name, or PLATFORM/NAME.
    function: Option<String>,
    /// The whole key.
    key: Option<String>,
    limit: Option<usize>,
}

impl ListParams {
    fn wants(&self, outcome: &RecentOutcome) -> bool {
        let function = self.function.as_deref().map(|function| match function.split_once('/') {
            Some((platform, name)) => (Some(platform), name),
            None => (None, function),
        });
        self.binding.is_none_or(|binding| outcome.binding == Some(binding))
            && self.key.as_ref().is_none_or(|key| outcome.key == *key)
            && function.is_none_or(|(platform, name)| {
                outcome.function.as_deref() == Some(name)
                    && platform.is_none_or(|platform| outcome.platform.as_deref() == Some(platform))
            })
    }
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
    if params.function.as_deref() == Some("") {
        return Err(Problem::bad_request("`function` is empty; leave it out where any will do"));
    }
    let limit = params.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    let outcomes = state.recent.latest_where(limit, |outcome| params.wants(outcome));
    Ok(Json(Outcomes { outcomes }))
}
