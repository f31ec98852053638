//! What a platform reports at the end of an asynchronous call, by the Trigger Rules protocol: read and classified, once.
//!
//! Its signature was checked before. Of a body that is not a report nothing is believed.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    domain::outcome::{Class, Outcome},
    telemetry::excerpt,
};

/// Longest excerpt of a result or an error, in bytes.
const EXCERPT: usize = 1_000;

/// A body that is no report; why.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not the JSON of a report.
    #[error("the body is no report: {0}")]
    Body(#[from] serde_json::Error),
    /// It says neither that the function succeeded nor that it failed.
    #[error("`status` is neither `succeeded` nor `failed`")]
    Status,
}

/// How an asynchronous call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// `Ok`, with the result's beginning as detail; or the function's fault, with the platform's words.
    pub outcome: Outcome,
    /// How long the function ran, as the platform says.
    pub took: Duration,
}

#[derive(Debug, Deserialize)]
struct Body {
    status: String,
    #[serde(default)]
    duration_ms: u64,
    #[serde(default)]
    result: Option<String>,
    #[serde(default)]
    result_base64: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

impl Reported {
    /// Reads a report's body.
    pub fn read(body: &[u8]) -> Result<Self, Unreadable> {
        let Body { status, duration_ms, result, result_base64, error } = serde_json::from_slice(body)?;
        let (class, text) = match status.as_str() {
            "succeeded" => (Class::Ok, result.or(result_base64)),
            "failed" => (Class::FunctionFault, error),
            _ => return Err(Unreadable::Status),
        };
        let detail = excerpt(text.unwrap_or_default().as_bytes(), EXCERPT);
        Ok(Self { outcome: Outcome::new(class, None, detail), took: Duration::from_millis(duration_ms) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<(Class, String, u128), String> {
        let read = Reported::read(body.as_bytes()).map_err(|error| error.to_string())?;
        Ok((read.outcome.class, read.outcome.detail, read.took.as_millis()))
    }

    #[test]
    fn a_report_is_a_success_with_its_result_or_the_functions_fault_with_the_platforms_words() {
        let ok = r#"{"delivery":"d","status":"succeeded","attempt":1,"duration_ms":41,"result":"made it","more":[1]}"#;
        assert_eq!(read(ok), Ok((Class::Ok, "made it".into(), 41)));
        let failed = r#"{"status":"failed","error":"exit-3: boom"}"#;
        assert_eq!(read(failed), Ok((Class::FunctionFault, "exit-3: boom".into(), 0)));
        assert_eq!(read(r#"{"status":"succeeded","result_base64":"/w=="}"#).unwrap().1, "/w==");
        let long = format!(r#"{{"status":"failed","error":"{}"}}"#, "ä".repeat(100_000));
        assert!(read(&long).unwrap().1.len() <= Outcome::MAX_DETAIL);
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for body in ["", "[]", "{}", r#"{"status":1}"#, r#"{"status":"succeeded""#] {
            assert!(read(body).unwrap_err().contains("no report"), "{body}");
        }
        assert!(read(r#"{"status":"running"}"#).unwrap_err().contains("neither"));
    }
}
