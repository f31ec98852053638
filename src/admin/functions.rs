//! `/v1/functions`: how this daemon's functions flow. What waits is counted in the queue, the rest is known in memory.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Extension, Json, extract::State};

use crate::{
    dispatch::Flow,
    domain::{clock::Timestamp, delivery::FunctionRef},
    queue::Backlog,
};

use super::{
    AdminState, Caller,
    problem::Problem,
    wire::{BreakerView, FunctionView, Functions, LastCallsView},
};

/// `GET /v1/functions`: every function that was called since the daemon started, or has deliveries parked. A platform
/// sees its own.
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Functions>, Problem> {
    let backlogs = state.queue.backlog().await?;
    let mut all: BTreeMap<FunctionRef, (Option<Flow>, Option<Backlog>)> = BTreeMap::new();
    for flow in state.deliveries.flows() {
        let function = flow.function.clone();
        all.entry(function).or_default().0 = Some(flow);
    }
    for backlog in backlogs {
        let function = backlog.function.clone();
        all.entry(function).or_default().1 = Some(backlog);
    }
    let now = state.clock.now();
    let visible = all.into_iter().filter(|(function, _)| caller.may_see(&function.platform));
    let functions = visible.map(|(function, (flow, backlog))| view(&function, flow, backlog, now)).collect();
    Ok(Json(Functions { functions }))
}

fn view(
    function: &FunctionRef,
    flow: Option<Flow>,
    backlog: Option<Backlog>,
    now: Timestamp,
) -> FunctionView {
    let (parked, held, awaiting, oldest) = backlog
        .map_or((0, 0, 0, None), |backlog| (backlog.parked, backlog.held, backlog.awaiting, backlog.oldest));
    let (parked_per_s, drained_per_s, died_per_s) = flow
        .as_ref()
        .map_or((0.0, 0.0, 0.0), |flow| (flow.parked_per_s, flow.drained_per_s, flow.died_per_s));
    FunctionView {
        platform: function.platform.to_string(),
        function: function.name.to_string(),
        parked,
        held,
        awaiting,
        oldest_age_s: oldest.map(|oldest| now.since(oldest).as_secs()),
        parked_per_s: rounded(parked_per_s),
        drained_per_s: rounded(drained_per_s),
        died_per_s: rounded(died_per_s),
        last: flow.as_ref().and_then(|flow| flow.last).map(|last| LastCallsView {
            class: last.class,
            failed_in_a_row: last.failed,
            ended_at: last.ended,
            ago_s: now.since(last.ended).as_secs(),
        }),
        empty_in_s: empty_in(parked, drained_per_s - parked_per_s),
        running: flow.as_ref().map_or(0, |flow| flow.running),
        concurrency: flow.as_ref().map(|flow| flow.concurrency),
        concurrency_limit: flow.as_ref().map(|flow| flow.concurrency_limit),
        rate_limit: flow.as_ref().and_then(|flow| flow.rate_limit),
        breaker: flow.map_or_else(BreakerView::closed, |flow| BreakerView {
            state: flow.breaker.to_owned(),
            open_until: flow.open_until,
            open_for_ms: flow
                .open_until
                .map(|until| u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX)),
            reason: flow.reason,
        }),
    }
}

/// Seconds until nothing is parked, at the net pace of the last minute; none when it does not shrink.
fn empty_in(parked: u64, net_per_s: f64) -> Option<u64> {
    if parked == 0 {
        return Some(0);
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate, of a quotient that is positive and cut to what a number holds"
    )]
    let seconds = (net_per_s > 0.001).then(|| (parked as f64 / net_per_s).ceil() as u64);
    seconds
}

fn rounded(per_second: f64) -> f64 {
    (per_second * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_empty_is_told_only_while_it_shrinks() {
        assert_eq!(empty_in(0, -3.0), Some(0));
        assert_eq!(empty_in(1_000, 50.0), Some(20));
        assert_eq!(empty_in(1_001, 50.0), Some(21));
        assert_eq!(empty_in(1_000, 0.0), None);
        assert_eq!(empty_in(1_000, -5.0), None);
    }
}
