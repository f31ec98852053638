//! Errors as problem documents (RFC 9457): what happened, to which thing, and what to do.

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

use crate::{
    queue::QueueError,
    relations::RelationsError,
    telemetry::{Chain, excerpt},
};

use super::ports::Unexplained;

/// Half of the longest detail, in bytes.
const HALF_DETAIL: usize = 600;

/// A request that did not do what it asked for.
#[derive(Debug, Clone)]
pub struct Problem {
    status: u16,
    slug: &'static str,
    title: &'static str,
    detail: String,
    remedy: String,
    retry_after: Option<u32>,
    more: Map<String, Value>,
}

impl Problem {
    /// A problem of the type `/problems/SLUG`.
    pub fn new(status: u16, slug: &'static str, title: &'static str) -> Self {
        let (detail, remedy) = (String::new(), String::new());
        Self { status, slug, title, detail, remedy, retry_after: None, more: Map::new() }
    }

    /// What happened this time, to which thing. What it quotes of the request may be of any length and content: it is
    /// made harmless, and shortened in its middle, since the end says what would be right.
    #[must_use]
    pub fn detail(mut self, detail: impl AsRef<str>) -> Self {
        self.detail = shortened(detail.as_ref());
        self
    }

    /// What to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Seconds after which asking again makes sense.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// A further member of the document, for programs.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.more.insert(member.to_owned(), value.into());
        self
    }

    /// A request that cannot be read.
    pub(super) fn bad_request(detail: impl AsRef<str>) -> Self {
        Self::new(400, "bad-request", "The request cannot be read")
            .detail(detail)
            .remedy("correct the request; `triggerd help` and docs show the fields")
    }

    /// Something that is not there, or not for this caller.
    pub(super) fn not_found(what: &str, id: impl std::fmt::Display) -> Self {
        let gone = if what == "dead letter" { "replayed or discarded" } else { "removed" };
        Self::new(404, "not-found", "There is no such thing")
            .detail(format!("there is no {what} {id}"))
            .remedy(format!("list the {what}s to see which there are; it may have been {gone} meanwhile"))
    }

    /// Something that only the operator may do.
    pub(super) fn operator_only() -> Self {
        Self::new(403, "operator-only", "Only the operator may do this")
            .detail("the token is a platform's")
            .remedy("use the operator's token, which `[admin]` names")
    }
}

fn shortened(text: &str) -> String {
    let bytes = text.as_bytes();
    if bytes.len() <= 2 * HALF_DETAIL {
        return excerpt(bytes, 2 * HALF_DETAIL);
    }
    let (begins, ends) =
        (text.floor_char_boundary(HALF_DETAIL), text.ceil_char_boundary(bytes.len() - HALF_DETAIL));
    format!("{} … {}", excerpt(&bytes[..begins], HALF_DETAIL), excerpt(&bytes[ends..], HALF_DETAIL))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut document = self.more;
        document.insert("type".into(), format!("/problems/{}", self.slug).into());
        document.insert("title".into(), self.title.into());
        document.insert("status".into(), self.status.into());
        document.insert("detail".into(), self.detail.into());
        document.insert("remedy".into(), self.remedy.into());
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = (status, Json(document)).into_response();
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"triggerd\""));
        }
        answer
    }
}

impl From<RelationsError> for Problem {
    fn from(error: RelationsError) -> Self {
        tracing::warn!(error = %Chain(&error), "a request of the admin API failed at the relations");
        match &error {
            RelationsError::Unavailable(_) => {
                Self::new(503, "relations-unavailable", "The relations database is away")
                    .detail("the relations database does not answer, so bindings can neither be read nor changed; events go on firing")
                    .remedy("try again when it is back; `triggerd check` shows what is wrong with it")
                    .retry_after(5)
            }
            RelationsError::NotMigrated { .. } | RelationsError::Newer { .. } => {
                Self::new(503, "relations-schema", "The relations database has another schema")
                    .detail(error.to_string())
                    .remedy("bring daemon and database to the same version, then `triggerd migrate`")
            }
            _ => Self::new(500, "relations-failed", "The relations database refused")
                .detail(error.to_string())
                .remedy("the daemon's log holds the whole cause"),
        }
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        tracing::warn!(error = %Chain(&error), "a request of the admin API failed at the queue");
        match &error {
            QueueError::Full { bytes } => Self::new(507, "queue-full", "The queue file is full")
                .detail(format!("the queue file is full ({bytes} bytes)")),
            QueueError::Closed => {
                Self::new(503, "stopping", "The daemon is stopping").detail(error.to_string()).retry_after(5)
            }
            QueueError::Failed { verb, .. } => Self::new(500, "queue-failed", "The queue file failed")
                .detail(format!("the queue file failed ({verb})")),
            _ => Self::new(500, "queue-failed", "The queue file failed").detail(error.to_string()),
        }
        .remedy(error.remedy())
    }
}

impl From<Unexplained> for Problem {
    fn from(error: Unexplained) -> Self {
        tracing::warn!(error = %Chain(&error), "a request of the admin API failed at the catalog");
        Self::new(500, "catalog-failed", "The bindings cannot be read")
            .detail(error.to_string())
            .remedy("the daemon's log holds the whole cause")
    }
}

/// For every path that is not served at this door.
pub(super) async fn no_such_path(uri: Uri) -> Problem {
    Problem::new(404, "no-such-path", "There is nothing at this path")
        .detail(format!("{} is no path of this API", excerpt(uri.path().as_bytes(), 200)))
        .remedy("see the admin API's documentation for its paths")
}

/// For every method that a path does not have.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let method = excerpt(method.as_str().as_bytes(), 32);
    Problem::new(405, "no-such-method", "The path has no such method")
        .detail(format!("{} does not take {method}", excerpt(uri.path().as_bytes(), 200)))
        .remedy("the Allow header names the methods that it takes")
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;

    #[test]
    fn the_disk_is_accused_only_where_it_is_at_fault() {
        let failed = |source| Problem::from(QueueError::Failed { verb: "replay", source: Arc::new(source) });
        let full = failed(sqlx::Error::Io(io::ErrorKind::StorageFull.into()));
        assert!(full.remedy.contains("make room") && full.detail.contains("replay"), "{full:?}");
        assert!(!full.detail.contains("make room"), "what to do is said twice: {full:?}");
        let broken = failed(sqlx::Error::Io(io::Error::other("?")));
        assert!(broken.remedy.contains("disk does not work"), "{broken:?}");
        let corrupt = QueueError::Corrupt {
            table: "delivery",
            column: "id",
            row: "7".into(),
            problem: "15 bytes".into(),
        };
        for innocent in [
            failed(sqlx::Error::PoolTimedOut),
            corrupt.into(),
            QueueError::Newer { version: 9 }.into(),
            QueueError::Older { missing: 2 }.into(),
            QueueError::Closed.into(),
            QueueError::Full { bytes: 1 }.into(),
        ] {
            let Problem { remedy, .. } = &innocent;
            assert!(!remedy.is_empty() && !remedy.contains("look at"), "{innocent:?}");
            assert!(!remedy.contains("disk of"), "{innocent:?}");
        }
    }
}
