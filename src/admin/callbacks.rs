//! `/v1/bindings/{id}/confirm` and `/v1/callbacks/{token}`: what platforms send of their own accord.
//!
//! Neither carries a bearer token; whoever takes them checks signature or token, as far as he can before the body is read.
//! Both can be repeated safely.

use std::sync::Arc;

use axum::{
    extract::{FromRequest, Request, State},
    http::StatusCode,
};

use crate::domain::ids::BindingId;

use super::{
    AdminState,
    extract::{Body, Segment},
    ports::{CallbackAnswer, ConfirmError},
    problem::Problem,
};

/// Longer than any token that we give.
const MAX_TOKEN: usize = 256;

/// `POST /v1/bindings/{id}/confirm`.
pub(super) async fn confirm(
    State(state): State<Arc<AdminState>>,
    Segment(id): Segment<BindingId>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let refused = |error| unconfirmed(id, error);
    let headers = request.headers().clone();
    let binding = state.reconciler.expects(id, &headers).await.map_err(refused)?;
    let Body(body) = Body::from_request(request, &()).await?;
    state.reconciler.confirm(&binding, &headers, &body).map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

fn unconfirmed(id: BindingId, error: ConfirmError) -> Problem {
    let said = error.to_string();
    match error {
        ConfirmError::Unknown => Problem::not_found("binding", id),
        ConfirmError::Signature(_) => Problem::new(401, "bad-signature", "The signature is not accepted")
            .detail(said)
            .remedy("sign as Standard Webhooks says, with the secret that the rule came with, by a clock that is right"),
        ConfirmError::Malformed(_) => Problem::bad_request(said),
        ConfirmError::Stale(_) => Problem::new(409, "not-waiting", "Nothing waits for this confirmation")
            .detail(said)
            .remedy("look at the binding's state and reason"),
        ConfirmError::Relations(error) => error.into(),
    }
}

/// `POST /v1/callbacks/{token}`.
pub(super) async fn callback(
    State(state): State<Arc<AdminState>>,
    Segment(token): Segment<String>,
    request: Request,
) -> Result<StatusCode, Problem> {
    if token.len() > MAX_TOKEN {
        return answered(CallbackAnswer::Unknown);
    }
    let headers = request.headers().clone();
    let report = match state.callbacks.expects(&token, &headers).await {
        Ok(report) => report,
        Err(answer) => return answered(answer),
    };
    let Body(body) = Body::from_request(request, &()).await?;
    answered(report.take(&body).await)
}

fn answered(answer: CallbackAnswer) -> Result<StatusCode, Problem> {
    match answer {
        CallbackAnswer::Recorded | CallbackAnswer::Repeated => Ok(StatusCode::NO_CONTENT),
        CallbackAnswer::Unknown => {
            Err(Problem::new(404, "unknown-callback", "Nothing waits for this result")
                .detail(
                    "there is no call under this token; it may have been settled, or given up at its time",
                )
                .remedy("do not send it again"))
        }
        CallbackAnswer::Refused(why) => {
            Err(Problem::new(401, "callback-refused", "The result is not accepted")
                .detail(why)
                .remedy("send it as the Trigger Rules protocol says"))
        }
        CallbackAnswer::ClocksApart(why) => {
            Err(Problem::new(503, "clocks-apart", "The result cannot be believed now")
                .detail(why)
                .remedy("send it again, signed anew; meanwhile compare the clocks of both sides")
                .retry_after(30))
        }
        CallbackAnswer::Malformed(why) => Err(Problem::bad_request(why).remedy(
            "send it as the Trigger Rules protocol says; this one is not taken, however often it comes",
        )),
        CallbackAnswer::OtherNode(node) => Err(Problem::new(
            421,
            "other-node",
            "Another daemon waits for this result",
        )
        .detail(format!("the daemon `{node}` has made the call"))
        .remedy("send the result to the URL that the call named; each daemon needs a `public_url` of its own")
        .with("node", node)),
        CallbackAnswer::Busy => {
            Err(Problem::new(503, "call-under-way", "The call of this result is still being made")
                .detail("what came of it cannot be judged before that has ended")
                .remedy("send it again")
                .retry_after(1))
        }
        CallbackAnswer::Unavailable => {
            Err(Problem::new(503, "not-recorded", "The result cannot be recorded now")
                .detail("it is not safe yet")
                .remedy("send it again")
                .retry_after(5))
        }
    }
}
