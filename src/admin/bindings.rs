//! `/v1/bindings`.
//!
//! Asking for a binding writes what is wanted and wakes the reconciler; the answer (202) shows the binding as it stands,
//! `pending`, and whoever asked looks again until it is `active` or `rejected`. The same request again gives the same
//! binding (200).

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use crate::{
    domain::{
        binding::{Binding, BindingSpec, BindingView},
        ids::BindingId,
        secret::SigningSecret,
    },
    queue::Disposal,
    relations::{Bound, ListQuery, NewBinding},
    telemetry::excerpt,
};

use super::{
    AdminState, Caller,
    extract::{Body, Params, Segment},
    problem::Problem,
    wire::{BindingRequest, Bindings, Pending},
};

const PAGE: u32 = 100;
const MAX_PAGE: u32 = 1_000;

/// The query of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    platform: Option<String>,
    after: Option<BindingId>,
    limit: Option<u32>,
}

/// `GET /v1/bindings`.
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ListParams>,
) -> Result<Json<Bindings>, Problem> {
    if let Some(platform) = params.platform.as_deref().filter(|platform| !caller.may_see(platform)) {
        return Err(other_platform(platform));
    }
    let limit = params.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    let platform = caller.platform().map(str::to_owned).or(params.platform);
    let found = state.relations.bindings(&ListQuery { platform, after: params.after, limit }).await?;
    let full = found.len() >= limit as usize;
    let next = found.last().map(|last| last.id).filter(|_| full);
    Ok(Json(Bindings { bindings: found.iter().map(BindingView::from).collect(), next }))
}

/// `GET /v1/bindings/{id}`.
pub(super) async fn show(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<BindingId>,
) -> Result<Json<BindingView>, Problem> {
    let binding = owned(&state, &caller, id).await?;
    Ok(Json(BindingView::from(&binding)))
}

/// `POST /v1/bindings`.
pub(super) async fn bind(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Problem> {
    let spec = spec(&state, &caller, body.json()?)?;
    let platform = spec.function.platform.clone();
    let most = state.names.most.get(&platform).copied().unwrap_or(u32::MAX);
    let now = state.clock.now();
    let mut random = [0; 10];
    state.entropy.fill(&mut random);
    let new = NewBinding {
        id: BindingId::new(now, random),
        spec,
        secret: SigningSecret::generate(&*state.entropy),
        by: caller.to_string(),
        now,
        most,
    };
    match state.relations.bind(new).await? {
        Bound::Created(binding) => {
            tracing::info!(binding = %binding.id, by = %caller, "a binding was asked for");
            state.reconciler.wake(binding.id);
            let location = format!("/v1/bindings/{}", binding.id);
            let view = Json(BindingView::from(&binding));
            Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], view).into_response())
        }
        Bound::Same(binding) => {
            // Whoever asks again wants it tried now.
            state.reconciler.wake(binding.id);
            Ok(Json(BindingView::from(&binding)).into_response())
        }
        Bound::Conflict(binding) => {
            let id = binding.id.to_string();
            Err(Problem::new(409, "binding-conflict", "The binding exists with other settings")
                .detail(format!("binding {id} has the same filter and function, and other settings"))
                .remedy(format!("look at binding {id}; to change its settings, unbind it and bind again (what happens in between fires \
                     nothing; what is parked becomes dead letters, which `replay` gives to the new binding)"))
                .with("binding", id))
        }
        Bound::Full => {
            let title = "The platform has as many bindings as it may have";
            Err(Problem::new(409, "too-many-bindings", title)
                .detail(format!("platform `{platform}` may have {most} bindings (`max_bindings`), and has as many"))
                .remedy(format!(
                    "unbind what is not needed (rejected ones count by themselves, up to the same number), or raise `max_bindings` of [platforms.{platform}] in the config and restart"
                )))
        }
        Bound::Unbinding(binding) => {
            let id = binding.id.to_string();
            Err(Problem::new(409, "binding-going", "The binding is being taken back")
                .detail(format!("binding {id} is the same one, and is being taken back: {}", why(&binding)))
                .remedy(format!("ask again when binding {id} is gone"))
                .retry_after(1)
                .with("binding", id))
        }
    }
}

/// The query of an unbinding.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnbindParams {
    #[serde(default)]
    pending: Pending,
}

/// `DELETE /v1/bindings/{id}`.
pub(super) async fn unbind(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment<BindingId>,
    Params(params): Params<UnbindParams>,
) -> Result<Response, Problem> {
    owned(&state, &caller, id).await?;
    let going = state.relations.unbind(id, &caller.to_string(), state.clock.now()).await?;
    let going = going.ok_or_else(|| Problem::not_found("binding", id))?;
    tracing::info!(binding = %id, by = %caller, pending = ?params.pending, "a binding is taken back");
    if params.pending == Pending::Discard
        && let Err(error) = state.deliveries.clear(id, Disposal::Discard).await
    {
        state.reconciler.wake(id);
        return Err(Problem::from(error).with("binding", id.to_string()));
    }
    // What is still parked when the reconciler comes to it becomes dead letters.
    state.reconciler.wake(id);
    Ok((StatusCode::ACCEPTED, Json(BindingView::from(&going))).into_response())
}

/// The binding, if it is there for this caller.
pub(super) async fn owned(state: &AdminState, caller: &Caller, id: BindingId) -> Result<Binding, Problem> {
    let found = state.relations.binding(id).await?;
    found
        .filter(|binding| caller.may_see(&binding.spec.function.platform))
        .ok_or_else(|| Problem::not_found("binding", id))
}

fn why(binding: &Binding) -> &str {
    binding.reason.as_deref().unwrap_or("it was just begun")
}

fn other_platform(platform: &str) -> Problem {
    let platform = excerpt(platform.as_bytes(), 80);
    Problem::new(403, "other-platform", "This is another platform's")
        .detail(format!("the token is not that of platform `{platform}`"))
        .remedy("leave `platform` out, or use that platform's token or the operator's")
}

fn unknown(
    what: &'static str,
    slug: &'static str,
    name: &str,
    known: &std::collections::BTreeSet<String>,
) -> Problem {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let listed =
        if known.is_empty() { "there is none".to_owned() } else { format!("there is {}", known.join(", ")) };
    let name = excerpt(name.as_bytes(), 80);
    Problem::new(422, slug, "The config does not know this name")
        .detail(format!("there is no {what} `{name}` in the config; {listed}"))
        .remedy(format!("use one that is there, or add [{what}s.NAME] to the config and restart"))
        .with("known", known)
}

/// The storage that is meant.
pub(super) fn storage(state: &AdminState, named: Option<String>) -> Result<String, Problem> {
    let known = &state.names.storages;
    match named {
        Some(name) if known.contains(&name) => Ok(name),
        Some(name) => Err(unknown("storage", "unknown-storage", &name, known)),
        None if known.len() == 1 => Ok(known.first().cloned().unwrap_or_default()),
        None => Err(unknown("storage", "unknown-storage", "", known)
            .detail("`storage` is not given, and there is not exactly one")
            .remedy("name one of the config's storages")),
    }
}

/// What is asked for, with its defaults, within its limits.
fn spec(state: &AdminState, caller: &Caller, mut request: BindingRequest) -> Result<BindingSpec, Problem> {
    request.storage = Some(storage(state, request.storage.take())?);
    let platform = match (request.platform.take(), caller.platform()) {
        (Some(platform), _) if !caller.may_see(&platform) => return Err(other_platform(&platform)),
        (Some(platform), _) => platform,
        (None, Some(own)) => own.to_owned(),
        (None, None) => return Err(Problem::bad_request("the field `platform` is missing")),
    };
    if !state.names.platforms.contains(&platform) {
        return Err(unknown("platform", "unknown-platform", &platform, &state.names.platforms));
    }
    request.platform = Some(platform);
    let invalid = |detail: String| {
        Problem::new(422, "invalid-binding", "The binding is not possible")
            .detail(detail)
            .remedy("correct that, and ask again")
    };
    let spec: Result<BindingSpec, _> = serde_json::to_value(&request)
        .and_then(serde_json::from_value)
        .map_err(|error| invalid(error.to_string()));
    let spec = spec?;
    spec.validate().map_err(|error| invalid(error.to_string()))?;
    if spec.await_result().is_some() && state.names.silent.contains(&spec.function.platform) {
        let platform = &spec.function.platform;
        return Err(Problem::new(422, "no-way-back", "The platform cannot send results")
            .detail(format!(
                "the binding asks for results (`await_result_s`); platform `{platform}` is on another host, and this \
                 daemon has no listener that it reaches"
            ))
            .remedy("add [callbacks] with `listen` and `public_url`, or bind without `await_result_s`"));
    }
    if spec.twin && !state.names.twins.contains(spec.storage.as_str()) {
        let storage = spec.storage.as_str();
        return Err(Problem::new(422, "no-fast-target", "The storage has no fast target")
            .detail(format!("the binding asks for `twin`, and storage `{storage}` has no `fast_targets`"))
            .remedy(format!(
                "name one under `fast_targets` of [storages.{storage}], or bind without `twin`"
            )));
    }
    Ok(spec)
}
