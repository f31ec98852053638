//! Every error answer: RFC 9457 `application/problem+json`. The slug in `type` is what a caller may
//! decide by; `detail` is for people.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use std::io;

/// The closed list of what can be wrong: (slug, status, title) of each kind is in `Kind::told`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    BadRequest,
    Unauthorized,
    BadSignature,
    StaleTimestamp,
    RuleMismatch,
    NotFound,
    UnknownRule,
    UnknownFunction,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    TooLarge,
    Refused,
    Busy,
    FunctionFailed,
    Internal,
    FunctionTimeout,
}

impl Kind {
    const fn told(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::BadRequest => ("bad-request", 400, "The request cannot be understood"),
            Self::Unauthorized => ("unauthorized", 401, "The bearer token is missing or wrong"),
            Self::BadSignature => ("bad-signature", 401, "No signature matches the rule's secret"),
            Self::StaleTimestamp => ("stale-timestamp", 401, "The signed time is too far from now"),
            Self::RuleMismatch => ("rule-mismatch", 403, "The rule does not allow this invocation"),
            Self::NotFound => ("not-found", 404, "There is nothing at this path"),
            Self::UnknownRule => ("unknown-rule", 404, "There is no rule with this id"),
            Self::UnknownFunction => ("unknown-function", 404, "There is no function of this name"),
            Self::MethodNotAllowed => ("method-not-allowed", 405, "The path has no such method"),
            Self::RequestTimeout => ("request-timeout", 408, "The body did not arrive in time"),
            Self::Conflict => ("conflict", 409, "The rule exists with other contents"),
            Self::TooLarge => ("body-too-large", 413, "The body is larger than this platform takes"),
            Self::Refused => ("refused", 422, "The platform refuses the rule"),
            Self::Busy => ("concurrency-limit", 429, "The function has no free place"),
            Self::FunctionFailed => ("function-failed", 500, "The function failed"),
            Self::Internal => ("internal", 500, "The platform failed"),
            Self::FunctionTimeout => ("function-timeout", 504, "The function ran over its time limit"),
        }
    }
}

/// One error answer.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    detail: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let header = match kind {
            Kind::Unauthorized => Some((header::WWW_AUTHENTICATE, "Bearer")),
            Kind::BadSignature | Kind::StaleTimestamp => Some((header::WWW_AUTHENTICATE, "StandardWebhooks")),
            Kind::Busy => Some((header::RETRY_AFTER, "1")),
            _ => None,
        };
        let header = header.map(|(name, value)| (name, HeaderValue::from_static(value)));
        Self { kind, detail: detail.into(), header }
    }

    /// The function itself failed; `code` (such as `exit-3` or `timeout`) goes into the header by which a
    /// caller tells the function's fault from the platform's.
    pub(crate) fn of_function(kind: Kind, code: &str, detail: impl Into<String>) -> Self {
        let name = HeaderName::from_static("trigger-function-error");
        let header = HeaderValue::from_str(code).ok().map(|value| (name, value));
        Self { header, ..Self::new(kind, detail) }
    }
}

/// The platform's own trouble (a disk that refuses, a program that cannot be started): said in full in
/// the log, and only in outline to the caller.
impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        tracing::error!(%error, "a request failed by the platform's own fault");
        Self::new(Kind::Internal, "the platform's own storage or system failed; its log says how")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (slug, status, title) = self.kind.told();
        let body = serde_json::json!({
            "type": format!("/problems/{slug}"), "title": title, "status": status, "detail": self.detail,
        });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response.headers_mut().extend(self.header);
        response
    }
}
