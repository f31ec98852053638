//! What an answer to an invocation by the Trigger Rules protocol means. Pure; the one place where it is decided.
//!
//! | answer | class |
//! |---|---|
//! | 202 to `Prefer: respond-async`, or with `Preference-Applied: respond-async` | accepted |
//! | other 2xx | ok |
//! | 429 | throttled |
//! | 5xx with `Trigger-Function-Error` | function fault |
//! | 401 of type `stale-timestamp` | platform fault: two clocks are apart, the binding is whole |
//! | other 401, 403 | binding broken |
//! | 404 of type `unknown-rule` or `unknown-function` | binding broken |
//! | other 404 | platform fault: nobody who knows rules has answered, a gateway for example |
//! | 408, other 5xx | platform fault |
//! | 3xx | permanent: never followed, or events would go where nobody meant them to |
//! | other 4xx | permanent |
//!
//! A broken binding is only ever suspected here: an inspection decides.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, StatusCode, header};
use serde::Deserialize;

use crate::{
    domain::{
        clock::Timestamp,
        outcome::{Class, Outcome},
    },
    telemetry::excerpt,
};

/// Longest wait that `Retry-After` may ask for here; the retry policy bounds it further.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);

/// Bytes of a foreign text that go into a detail.
const EXCERPT: usize = 512;

/// The platform's answer, its body cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

/// A problem+json body, as far as it is used.
#[derive(Debug, Default, Deserialize)]
struct Problem {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
}

impl Answer<'_> {
    /// The outcome of an invocation that was answered so.
    pub(super) fn classify(&self, asked_async: bool, now: Timestamp) -> Outcome {
        let status = self.status.as_u16();
        let function_error = self.text("trigger-function-error");
        let class = match (status, self.problem_type().as_str()) {
            (202, _) if asked_async || self.prefers_async() => Class::Accepted,
            (200..=299, _) => Class::Ok,
            (429, _) => Class::Throttled,
            (500..=599, _) if function_error.is_some() => Class::FunctionFault,
            (401, "stale-timestamp") => Class::PlatformFault,
            (401 | 403, _) | (404, "unknown-rule" | "unknown-function") => Class::BindingBroken,
            (404 | 408 | 500..=599, _) => Class::PlatformFault,
            _ => Class::Permanent,
        };
        let detail = match (class, function_error) {
            (Class::FunctionFault, Some(code)) => format!("{code}: {}", self.detail()),
            (Class::Permanent, _) if self.status.is_redirection() => {
                "redirects are not followed; correct the platform's `url` in the config".to_owned()
            }
            _ => self.detail(),
        };
        let wait = matches!(class, Class::Throttled | Class::PlatformFault | Class::FunctionFault);
        Outcome::new(class, Some(status), detail).retry_after(if wait { self.retry_after(now) } else { None })
    }

    /// The last segment of the problem's type, empty when the body is no problem.
    pub(super) fn problem_type(&self) -> String {
        let kind = self.problem().map(|problem| problem.r#type).unwrap_or_default();
        kind.rsplit(['/', ':', '#']).next().unwrap_or_default().to_owned()
    }

    /// What it says, for a person: the problem's detail, or the body's beginning.
    pub(super) fn detail(&self) -> String {
        match self.problem() {
            Some(problem) if !problem.detail.is_empty() => excerpt(problem.detail.as_bytes(), EXCERPT),
            Some(problem) if !problem.title.is_empty() => excerpt(problem.title.as_bytes(), EXCERPT),
            _ => excerpt(self.body, EXCERPT),
        }
    }

    fn problem(&self) -> Option<Problem> {
        let media_type = self.text("content-type")?;
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if media_type != "application/problem+json" {
            return None;
        }
        serde_json::from_slice(self.body).ok()
    }

    fn prefers_async(&self) -> bool {
        let applied = self.headers.get_all(HeaderName::from_static("preference-applied"));
        let mut words =
            applied.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        words.any(|word| word.trim().eq_ignore_ascii_case("respond-async"))
    }

    fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        let text = self.text(header::RETRY_AFTER.as_str())?;
        let text = text.trim();
        let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            // More digits than a number holds are still a wish to wait, and bounded below.
            Duration::from_secs(text.parse().unwrap_or(u64::MAX))
        } else {
            // All three forms of RFC 9110, section 5.6.7, the obsolete ones too.
            let date = httpdate::parse_http_date(text).ok()?;
            let since_epoch = date.duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp::default().plus(since_epoch).since(now)
        };
        Some(wait.min(MAX_RETRY_AFTER))
    }

    fn text(&self, name: &str) -> Option<String> {
        let value = self.headers.get(name)?;
        Some(excerpt(value.as_bytes(), EXCERPT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(784_111_777_000_000);

    fn outcome(status: u16, headers: &[(&'static str, &str)], body: &str, asked_async: bool) -> Outcome {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: &headers, body: body.as_bytes() }.classify(asked_async, NOW)
    }

    fn problem(status: u16, kind: &str) -> Class {
        let body = format!(r#"{{"type":"/problems/{kind}","detail":"why"}}"#);
        let outcome = outcome(status, &[("content-type", "application/problem+json")], &body, false);
        assert_eq!(outcome.detail, "why");
        outcome.class
    }

    fn plain(status: u16) -> Class {
        outcome(status, &[], "", false).class
    }

    #[test]
    fn success_is_ok_or_accepted() {
        assert_eq!(plain(200), Class::Ok);
        assert_eq!(plain(204), Class::Ok);
        assert_eq!(plain(202), Class::Ok);
        assert_eq!(
            outcome(202, &[("preference-applied", "respond-async")], "", false).class,
            Class::Accepted
        );
        assert_eq!(outcome(202, &[], "", true).class, Class::Accepted);
        assert_eq!(outcome(200, &[], "done", true).class, Class::Ok);
        assert_eq!(outcome(200, &[], "done", true).detail, "done");
    }

    #[test]
    fn broken_bindings_are_told_from_gateways() {
        for (status, kind) in [
            (404, "unknown-rule"),
            (404, "unknown-function"),
            (401, "bad-signature"),
            (403, "rule-mismatch"),
            (401, "unauthorized"),
        ] {
            assert_eq!(problem(status, kind), Class::BindingBroken, "{kind}");
        }
        assert_eq!(plain(403), Class::BindingBroken);
        assert_eq!(plain(404), Class::PlatformFault);
        assert_eq!(problem(404, "not-found"), Class::PlatformFault);
        assert_eq!(problem(401, "stale-timestamp"), Class::PlatformFault);
        let body = r#"{"type":"/problems/unknown-rule"}"#;
        assert_eq!(outcome(404, &[("content-type", "text/html")], body, false).class, Class::PlatformFault);
    }

    #[test]
    fn the_functions_faults_are_told_from_the_platforms() {
        let failed = outcome(500, &[("trigger-function-error", "exit-3")], "boom", false);
        assert_eq!((failed.class, failed.detail.as_str()), (Class::FunctionFault, "exit-3: boom"));
        assert_eq!(
            outcome(504, &[("trigger-function-error", "timeout")], "", false).class,
            Class::FunctionFault
        );
        for status in [408, 500, 502, 503, 504] {
            assert_eq!(plain(status), Class::PlatformFault, "{status}");
        }
    }

    #[test]
    fn what_another_try_cannot_change_is_permanent() {
        for status in [301, 302, 307, 308, 400, 405, 409, 410, 413, 415, 422] {
            assert_eq!(plain(status), Class::Permanent, "{status}");
        }
        assert!(
            outcome(302, &[("location", "http://elsewhere/")], "", false).detail.contains("not followed")
        );
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_date_and_bounded() {
        let wait = |value| outcome(429, &[("retry-after", value)], "", false).retry_after;
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        // NOW is Sun, 06 Nov 1994 08:49:37 GMT.
        for in_ten_seconds in
            ["Sun, 06 Nov 1994 08:49:47 GMT", "Sunday, 06-Nov-94 08:49:47 GMT", "Sun Nov  6 08:49:47 1994"]
        {
            assert_eq!(wait(in_ten_seconds), Some(Duration::from_secs(10)), "{in_ten_seconds}");
        }
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:07 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("99999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(wait("99999999999999999999999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(wait("Fri, 31 Dec 9999 23:59:59 GMT"), Some(MAX_RETRY_AFTER));
        assert_eq!(wait("0"), Some(Duration::ZERO));
        assert_eq!(wait(" 7 "), Some(Duration::from_secs(7)));
        for absurd in ["soon", "", "-5", "+5", "1e9", "7.5", "0x10", "7 s", "Sun, 99 Nov 1994 08:49:47 GMT"] {
            assert_eq!(wait(absurd), None, "{absurd}");
        }
        assert_eq!(
            outcome(503, &[("retry-after", "3")], "", false).retry_after,
            Some(Duration::from_secs(3))
        );
        let own = outcome(500, &[("trigger-function-error", "exit-3"), ("retry-after", "3")], "", false);
        assert_eq!(own.retry_after, Some(Duration::from_secs(3)), "the function's own failure");
        assert_eq!(outcome(400, &[("retry-after", "3")], "", false).retry_after, None);
    }
}
