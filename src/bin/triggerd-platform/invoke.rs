//! `POST /functions/{name}/invocations`: the checks, in the order of the protocol, and then the call.
//!
//! 1. the headers are there (400) and the rule exists (404)
//! 2. a signature matches and its time is near (401)
//! 3. the rule is for this function (403), which exists (404)
//! 4. the event in the signed body fits the rule (400, 403)
//! 5. there is room (429)
//!
//! Nothing is learnt about rules or functions without the rule's secret, save that a rule id exists.

use crate::{
    api::{Platform, Segment, read_body},
    event::Event,
    functions::{Failure, Function},
    jobs::Invocation,
    problem::{Kind, Problem},
    signature::{Rejected, Signed, WINDOW},
};
use axum::{
    extract::{Request, State as Shared},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use std::{collections::BTreeMap, sync::Arc};

const PREFER: HeaderName = HeaderName::from_static("prefer");

pub(crate) async fn invoke(
    Shared(platform): Shared<Arc<Platform>>,
    Segment(name): Segment,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    let wanted = Wanted::read(&headers)?;
    let signed = Signed::read(&headers).map_err(bad)?;
    if signed.id != wanted.delivery {
        return Err(bad("webhook-id and Trigger-Delivery-Id differ"));
    }
    let rule = platform.rules.get(&wanted.rule)?;
    let body = read_body(body, &platform.config).await?;

    let verified = rule.rule.secret.verify(&signed, &body);
    verified.map_err(disbelieve)?;
    if rule.rule.function != name && rule.rule.dead_letter_function.as_ref() != Some(&name) {
        let detail = format!("the rule is for the function {:?}, not {name:?}", rule.rule.function);
        return Err(Problem::new(Kind::RuleMismatch, detail));
    }
    let Some(function) = platform.functions.get(&name) else {
        return Err(Problem::new(
            Kind::UnknownFunction,
            format!("the function {name} is not configured any more"),
        ));
    };
    let event = Event::read(&headers, &body).map_err(bad)?;
    if let Some(detail) = rule.mismatch(&event) {
        return Err(Problem::new(Kind::RuleMismatch, detail));
    }

    let (rule, delivery, attempt) = (wanted.rule, wanted.delivery, wanted.attempt);
    let mut invocation =
        Invocation { rule, function: name, delivery, attempt, env: BTreeMap::new(), body: body.into() };
    invocation.describe(event);
    if wanted.asynchronous {
        accept(&platform, function, invocation, wanted.callback_url).await
    } else {
        run(function, invocation).await
    }
}

fn disbelieve(rejected: Rejected) -> Problem {
    let (kind, detail) = match rejected {
        Rejected::Signature => {
            (Kind::BadSignature, "sign `id.timestamp.body` with the rule's secret".to_owned())
        }
        Rejected::Stale { seconds_off } => (
            Kind::StaleTimestamp,
            format!("webhook-timestamp is {seconds_off} s from this host's clock, over {WINDOW}"),
        ),
    };
    Problem::new(kind, detail)
}

/// Answers 202 once the invocation is on the disk.
async fn accept(
    platform: &Platform,
    function: &Function,
    invocation: Invocation,
    callback_url: Option<String>,
) -> Result<Response, Problem> {
    let Ok(room) = Arc::clone(&function.backlog).try_acquire_owned() else {
        return Err(Problem::new(Kind::Busy, "as many asynchronous invocations as allowed are waiting"));
    };
    if !platform.jobs.accept(invocation, callback_url, room).await? {
        return Err(Problem::new(Kind::Busy, "this very attempt is being accepted, or has just ended"));
    }
    Ok((StatusCode::ACCEPTED, [("preference-applied", "respond-async")]).into_response())
}

/// Answers with the function's result.
async fn run(function: &Function, invocation: Invocation) -> Result<Response, Problem> {
    let Ok(_place) = function.places.try_acquire() else {
        return Err(Problem::new(Kind::Busy, "as many invocations as allowed are running"));
    };
    match function.run(&invocation.env, invocation.body.into()).await {
        Ok(result) => {
            let text = std::str::from_utf8(&result).is_ok();
            let content_type = if text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
            Ok(([(header::CONTENT_TYPE, content_type)], result).into_response())
        }
        Err(Failure::Failed { code, detail }) => {
            Err(Problem::of_function(Kind::FunctionFailed, &code, detail))
        }
        Err(Failure::TimedOut { detail }) => {
            Err(Problem::of_function(Kind::FunctionTimeout, "timeout", detail))
        }
        Err(Failure::NotRun(error)) => Err(error.into()),
    }
}

/// What the headers say is wanted.
struct Wanted {
    rule: String,
    delivery: String,
    attempt: u32,
    asynchronous: bool,
    callback_url: Option<String>,
}

impl Wanted {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let text = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.ok_or_else(|| bad(format!("header {name} is missing or not plain text")))
        };
        let delivery = text("Trigger-Delivery-Id")?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if !(1..=128).contains(&delivery.len()) || !delivery.bytes().all(allowed) {
            return Err(bad("Trigger-Delivery-Id is 1 to 128 of A-Z a-z 0-9 _ -"));
        }
        let attempt = text("Trigger-Attempt")?.parse().ok().filter(|attempt| *attempt > 0);
        let callback_url =
            headers.get("trigger-callback-url").map(|_| text("Trigger-Callback-Url")).transpose()?;
        if callback_url.is_some_and(|url| !is_http_url(url)) {
            return Err(bad("Trigger-Callback-Url is not an http or https URL"));
        }
        let preferences = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        let names = preferences.flat_map(|value| value.split(','));
        let mut names = names.filter_map(|preference| preference.split(';').next());
        Ok(Self {
            rule: text("Trigger-Rule-Id")?.to_owned(),
            delivery: delivery.to_owned(),
            attempt: attempt.ok_or_else(|| bad("Trigger-Attempt is a number from 1"))?,
            asynchronous: names.any(|name| name.trim().eq_ignore_ascii_case("respond-async")),
            callback_url: callback_url.map(str::to_owned),
        })
    }
}

/// Calls back go to such URLs only.
pub(crate) fn is_http_url(url: &str) -> bool {
    url.len() <= 2048 && reqwest::Url::parse(url).is_ok_and(|url| ["http", "https"].contains(&url.scheme()))
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::BadRequest, detail)
}
