//! What a platform reports at the end of an asynchronous call, by the Trigger Rules protocol: read and classified, once.
//!
//! Its signature was checked before. Of a body that is not a report nothing is believed, nor of one that says itself that it
//! is of another call than its URL: a report that somebody has seen on its way ends no other call.

use std::time::Duration;

use serde::{Deserialize, de::Error as _};

use crate::{
    domain::{
        ids::{BindingId, DeliveryId},
        outcome::{Class, Outcome},
    },
    telemetry::excerpt,
};

/// Longest excerpt of a result or an error, in bytes.
const EXCERPT: usize = 1_000;

/// Longest time that a function is believed to have run.
const LONGEST: Duration = Duration::from_hours(24 * 366);

/// The call that a report's URL is of.
#[derive(Debug, Clone, Copy)]
pub struct Reporting {
    /// Whose rule it was made by.
    pub binding: BindingId,
    /// Which delivery it made.
    pub delivery: DeliveryId,
    /// Its number.
    pub attempt: u32,
}

/// A body that is no report; why.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not the JSON of a report.
    #[error("the body is no report: {0}")]
    Body(#[from] serde_json::Error),
    /// It says neither that the function succeeded nor that it failed.
    #[error("`status` is neither `succeeded` nor `failed`")]
    Status,
    /// It is of another call.
    #[error("`{0}` is not that of the call whose URL this is")]
    Another(&'static str),
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
    delivery: Option<String>,
    #[serde(default)]
    rule: Option<String>,
    #[serde(default)]
    attempt: Option<u32>,
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
    /// Reads a report's body. What it says of its call is held against the one that its URL is of.
    pub fn read(body: &[u8], of: Reporting) -> Result<Self, Unreadable> {
        // A list of its fields' values would do for serde.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(serde_json::Error::custom("it is no object").into());
        }
        let body: Body = serde_json::from_slice(body)?;
        let differs = [
            ("delivery", body.delivery.is_some_and(|delivery| delivery != of.delivery.to_string())),
            ("rule", body.rule.is_some_and(|rule| rule != of.binding.to_string())),
            ("attempt", body.attempt.is_some_and(|attempt| attempt != of.attempt)),
        ];
        if let Some((field, _)) = differs.into_iter().find(|(_, differs)| *differs) {
            return Err(Unreadable::Another(field));
        }
        let (class, text) = match body.status.as_str() {
            "succeeded" => (Class::Ok, body.result.or(body.result_base64)),
            "failed" => (Class::FunctionFault, body.error),
            _ => return Err(Unreadable::Status),
        };
        let detail = excerpt(text.unwrap_or_default().as_bytes(), EXCERPT);
        let took = Duration::from_millis(body.duration_ms).min(LONGEST);
        Ok(Self { outcome: Outcome::new(class, None, detail), took })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<(Class, String, u128), String> {
        let of = Reporting {
            binding: BindingId::from_bytes([1; 16]),
            delivery: DeliveryId::from_bytes([2; 16]),
            attempt: 3,
        };
        let read = Reported::read(body.as_bytes(), of).map_err(|error| error.to_string())?;
        Ok((read.outcome.class, read.outcome.detail, read.took.as_millis()))
    }

    #[test]
    fn a_report_is_a_success_with_its_result_or_the_functions_fault_with_the_platforms_words() {
        let ok = r#"{"status":"succeeded","attempt":3,"duration_ms":41,"result":"made it","more":[1]}"#;
        assert_eq!(read(ok), Ok((Class::Ok, "made it".into(), 41)));
        let failed = r#"{"status":"failed","error":"exit-3: boom"}"#;
        assert_eq!(read(failed), Ok((Class::FunctionFault, "exit-3: boom".into(), 0)));
        assert_eq!(read(r#"{"status":"succeeded","result_base64":"/w=="}"#).unwrap().1, "/w==");
        let long = format!(r#"{{"status":"failed","error":"{}"}}"#, "ä".repeat(100_000));
        assert!(read(&long).unwrap().1.len() <= Outcome::MAX_DETAIL);
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for body in ["", "[]", "{}", r#"["succeeded"]"#, r#"{"status":1}"#, r#"{"status":"succeeded""#] {
            assert!(read(body).unwrap_err().contains("no report"), "{body}");
        }
        assert!(read(r#"{"status":"running"}"#).unwrap_err().contains("neither"));
    }

    #[test]
    fn a_report_of_another_call_is_refused() {
        let id = DeliveryId::from_bytes([2; 16]);
        assert!(read(&format!(r#"{{"status":"succeeded","delivery":"{id}"}}"#)).is_ok());
        for (field, value) in [("delivery", r#""d""#), ("rule", r#""r""#), ("attempt", "4")] {
            let said = read(&format!(r#"{{"status":"succeeded","{field}":{value}}}"#)).unwrap_err();
            assert!(said.contains(field) && said.contains("not that of the call"), "{said}");
        }
    }

    #[test]
    fn an_absurd_duration_is_held_to_a_year() {
        let read = read(&format!(r#"{{"status":"succeeded","duration_ms":{}}}"#, u64::MAX)).unwrap();
        assert_eq!(read.2, LONGEST.as_millis());
    }
}
