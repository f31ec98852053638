//! `/v1/nodes`: the daemons that share the relations. A binding becomes `active` only when all of them know it, so one
//! that will not return has to be forgotten.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};

use super::{
    AdminState, Caller,
    extract::Segment,
    problem::Problem,
    wire::{NodeView, Nodes},
};

/// `GET /v1/nodes`.
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Nodes>, Problem> {
    caller.operator()?;
    let mut nodes = state.relations.nodes().await?;
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(Nodes { nodes: nodes.into_iter().map(|node| NodeView::new(node, &state.node)).collect() }))
}

/// `DELETE /v1/nodes/{name}`.
pub(super) async fn forget(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Segment(name): Segment<String>,
) -> Result<StatusCode, Problem> {
    caller.operator()?;
    if name == state.node {
        return Err(Problem::new(409, "node-alive", "This daemon is running")
            .detail(format!("`{name}` is the daemon that answers, and it would come back at once"))
            .remedy("stop it, and ask another daemon to forget it"));
    }
    if !state.relations.forget_node(&name).await? {
        return Err(Problem::not_found("node", crate::telemetry::excerpt(name.as_bytes(), 80)));
    }
    tracing::info!(node = %crate::telemetry::excerpt(name.as_bytes(), 80), "a node is forgotten");
    Ok(StatusCode::NO_CONTENT)
}
