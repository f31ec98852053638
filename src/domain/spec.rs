//! What a user asks of a binding: which events, which function, and how it is called.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    delivery::FunctionRef,
    event::StorageName,
    filter::Filter,
    retry::{InvalidRetry, RetryPolicy},
};

/// How the function is invoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The function's result comes back on the call.
    #[default]
    Sync,
    /// The platform says "accepted" and runs the function on its own account.
    Async,
}

/// What the function is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Payload {
    /// A CloudEvents 1.0 event as one JSON document. The default: receivers differ in how they read odd keys in headers.
    #[default]
    CloudeventsStructured,
    /// A CloudEvents 1.0 event, attributes in `ce-` headers, the S3 record as body.
    CloudeventsBinary,
    /// `{"Records":[…]}` as S3 sends it.
    S3Records,
}

/// What a user asks for. Two bindings with the same storage, filter and function are the same binding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BindingSpec {
    /// Where events come from.
    pub storage: StorageName,
    /// Which bucket.
    pub bucket: String,
    /// Which events of it.
    #[serde(flatten)]
    pub filter: Filter,
    /// What is called.
    #[serde(flatten)]
    pub function: Target,
    /// How it is called.
    #[serde(default)]
    pub mode: Mode,
    /// How long the result of an asynchronous call is waited for, in seconds; 1 to 604,800 (7 days), and no longer than
    /// the event may live. Left out: what the platform has accepted is delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub await_result_s: Option<u64>,
    /// What it is given.
    #[serde(default)]
    pub payload: Payload,
    /// How often and when it is tried again.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// Longest time one attempt may take, in milliseconds; 1 to 900,000.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Age at which an event is given up, in seconds; 1 to 2,592,000 (30 days).
    #[serde(default = "default_max_event_age_s")]
    pub max_event_age_s: u64,
    /// Most calls of the function at once; 1 to 10,000. The least of a function's bindings counts.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Most calls of the function in a second; 0.01 to 10,000, no limit when it is left out. The least of a function's
    /// bindings counts. What exceeds it waits in the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<f64>,
    /// Events caused by these principals do not fire: those that the function itself writes with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore_principals: Vec<String>,
    /// The function, on the same platform, that is given each dead letter of this binding; the platform's own handler
    /// when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_function: Option<String>,
    /// Both legs of twin targets: the storage's fast targets bring its events too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub twin: bool,
}

/// What a function's bindings allow together: the least of each, unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FunctionLimits {
    /// Most calls at once.
    pub concurrency: u32,
    /// Most calls in a second; none without a limit.
    pub rate: Option<f64>,
    /// The longest that a delivery to it can wait to be tried again; the greatest of all.
    pub longest_wait: Duration,
}

/// The function of a spec, as the API writes it: two plain fields.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The platform's name in the config.
    pub platform: String,
    /// The function's name on that platform.
    pub function: String,
}

impl Target {
    /// The same as a reference that is cheap to share.
    pub fn to_ref(&self) -> FunctionRef {
        FunctionRef { platform: self.platform.as_str().into(), name: self.function.as_str().into() }
    }
}

/// Longest wait for a result, in seconds: a week.
pub const MAX_AWAIT_S: u64 = 604_800;

fn default_timeout_ms() -> u64 {
    30_000
}

fn default_max_event_age_s() -> u64 {
    86_400
}

fn default_concurrency() -> u32 {
    16
}

/// A spec out of its limits.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidSpec {
    /// A bucket name that S3 does not allow.
    #[error(
        "`{0}` is no bucket name: 3 to 63 of a-z, 0-9, `-` and `.`, beginning and ending with a letter or digit"
    )]
    Bucket(String),
    /// A function name that would not survive in a URL.
    #[error(
        "`{0}` is no function name: 1 to 140 of A-Z, a-z, 0-9, `-`, `_`, `.` and `:`, not beginning with a dot"
    )]
    Function(String),
    /// A number out of its range.
    #[error("{field} must be between {least} and {most}, not {value}")]
    Range {
        /// Which number.
        field: &'static str,
        /// The least it may be.
        least: u64,
        /// The most it may be.
        most: u64,
        /// What it is.
        value: u64,
    },
    /// A rate out of its range.
    #[error("rate_limit must be between 0.01 and 10000 calls in a second, not {0}")]
    Rate(f64),
    /// A handler function with a platform before it.
    #[error(
        "dead_letter_function is a function of the binding's own platform: write {0:?}, without the platform"
    )]
    HandlersPlatform(String),
    /// A function that would be given what it has failed at itself.
    #[error("dead_letter_function is the binding's own function; name another, or none")]
    OwnHandler,
    /// A result that nobody would send.
    #[error("await_result_s is for mode `async`; the result of a synchronous call comes on the call itself")]
    AwaitsSync,
    /// More ignored principals than are sensible.
    #[error("ignore_principals may name at most 64 principals of at most 256 bytes")]
    Principals,
    /// A retry policy out of its limits.
    #[error(transparent)]
    Retry(#[from] InvalidRetry),
}

impl BindingSpec {
    /// Checks every limit; the first that is broken is the error.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        if !is_bucket_name(&self.bucket) {
            return Err(InvalidSpec::Bucket(self.bucket.clone()));
        }
        if !is_function_name(&self.function.function) {
            return Err(InvalidSpec::Function(self.function.function.clone()));
        }
        match &self.dead_letter_function {
            Some(handler) if !is_function_name(handler) => {
                let name = handler.rsplit('/').next().filter(|name| is_function_name(name));
                let platform = handler.strip_suffix(name.unwrap_or_default());
                return Err(match (name, platform) {
                    (Some(name), Some(platform)) if is_function_name(platform.trim_end_matches('/')) => {
                        InvalidSpec::HandlersPlatform(name.to_owned())
                    }
                    _ => InvalidSpec::Function(handler.clone()),
                });
            }
            Some(handler) if *handler == self.function.function => return Err(InvalidSpec::OwnHandler),
            _ => (),
        }
        let range = |field, value, least, most| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(InvalidSpec::Range { field, least, most, value })
            }
        };
        range("timeout_ms", self.timeout_ms, 1, 900_000)?;
        range("max_event_age_s", self.max_event_age_s, 1, 2_592_000)?;
        range("concurrency", u64::from(self.concurrency), 1, 10_000)?;
        if let Some(wait) = self.await_result_s {
            if self.mode == Mode::Sync {
                return Err(InvalidSpec::AwaitsSync);
            }
            range("await_result_s", wait, 1, self.max_event_age_s.min(MAX_AWAIT_S))?;
        }
        if let Some(rate) = self.rate_limit
            && !(0.01..=10_000.0).contains(&rate)
        {
            return Err(InvalidSpec::Rate(rate));
        }
        if self.ignore_principals.len() > 64 || self.ignore_principals.iter().any(|name| name.len() > 256) {
            return Err(InvalidSpec::Principals);
        }
        self.retry.validate()?;
        Ok(())
    }

    /// What makes it this binding and no other: storage, bucket, filter and function, as one canonical text.
    pub fn identity(&self) -> String {
        // serde_json writes struct fields in order and the event set is sorted, so equal specs give equal texts.
        serde_json::json!([self.storage, self.bucket, self.filter, self.function]).to_string()
    }

    /// Longest time of one attempt.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// How long the result of a call that was accepted is waited for; none when accepted is delivered.
    pub fn await_result(&self) -> Option<Duration> {
        self.await_result_s.filter(|_| self.mode == Mode::Async).map(Duration::from_secs)
    }

    /// Age at which an event is given up.
    pub fn max_event_age(&self) -> Duration {
        Duration::from_secs(self.max_event_age_s)
    }
}

fn is_bucket_name(name: &str) -> bool {
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.starts_with(ends)
        && name.ends_with(ends)
        && name.chars().all(|c| ends(c) || c == '-' || c == '.')
}

fn is_function_name(name: &str) -> bool {
    (1..=140).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> BindingSpec {
        serde_json::from_str(json).unwrap()
    }

    const SPEC: &str = r#"{"storage":"default","bucket":"photos","events":["s3:ObjectCreated:*"],"prefix":"in/",
        "platform":"local","function":"thumb"}"#;

    #[test]
    fn defaults_are_filled_in_and_valid() {
        let spec = spec(SPEC);
        assert_eq!(
            (spec.mode, spec.payload, spec.concurrency),
            (Mode::Sync, Payload::CloudeventsStructured, 16)
        );
        spec.validate().unwrap();
    }

    #[test]
    fn identity_ignores_how_the_function_is_called() {
        let one = spec(SPEC);
        let mut two = one.clone();
        two.concurrency = 3;
        assert_eq!(one.identity(), two.identity());
        two.function.function = "other".into();
        assert_ne!(one.identity(), two.identity());
    }

    #[test]
    fn limits_are_held() {
        let broken = |change: fn(&mut BindingSpec)| {
            let mut spec = spec(SPEC);
            change(&mut spec);
            spec.validate().unwrap_err().to_string()
        };
        assert!(broken(|spec| spec.bucket = "No".into()).contains("no bucket name"));
        assert!(broken(|spec| spec.function.function = "../x".into()).contains("no function name"));
        for rate in [0.0, -1.0, 10_001.0, f64::NAN] {
            let mut spec = spec(SPEC);
            spec.rate_limit = Some(rate);
            assert!(spec.validate().unwrap_err().to_string().contains("rate_limit"), "{rate}");
        }
        assert!(broken(|spec| spec.timeout_ms = 0).contains("timeout_ms"));
        assert!(broken(|spec| spec.dead_letter_function = Some("../x".into())).contains("no function name"));
        let named = broken(|spec| spec.dead_letter_function = Some("local/undertaker".into()));
        assert!(named.contains("\"undertaker\", without the platform"), "{named}");
        let own = broken(|spec| spec.dead_letter_function = Some(spec.function.function.clone()));
        assert!(own.contains("own function"), "{own}");
        assert!(broken(|spec| spec.retry.max_attempts = 0).contains("max_attempts"));
    }

    #[test]
    fn a_result_is_awaited_of_asynchronous_calls_within_the_events_life() {
        let asks = |mode, wait, age| {
            let mut spec = spec(SPEC);
            (spec.mode, spec.await_result_s, spec.max_event_age_s) = (mode, Some(wait), age);
            spec.validate().map_err(|error| error.to_string()).map(|()| spec.await_result())
        };
        assert_eq!(asks(Mode::Async, 600, 86_400), Ok(Some(Duration::from_mins(10))));
        assert!(asks(Mode::Sync, 600, 86_400).unwrap_err().contains("comes on the call"));
        for (wait, age, most) in [(0, 86_400, "86400"), (601, 600, "600"), (604_801, 2_592_000, "604800")] {
            let error = asks(Mode::Async, wait, age).unwrap_err();
            assert!(error.contains("await_result_s") && error.contains(most), "{error}");
        }
        assert_eq!(spec(SPEC).await_result(), None);
    }
}
