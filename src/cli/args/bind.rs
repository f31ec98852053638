//! The arguments of `bind` and `unbind`.

use clap::Args;
use jiff::SignedDuration;

use super::parse_duration;
use crate::domain::{binding::Payload, ids::BindingId, spec::MAX_AWAIT_S};

pub(super) const BIND_EXAMPLES: &str = "\
Examples:
  triggerd bind --bucket photos --event 's3:ObjectCreated:*' --prefix in/ --suffix .jpg --function local/thumb
  triggerd bind --bucket logs --event 's3:ObjectCreated:*' --glob 'in/**/*.gz' --function local/etl --async
  triggerd bind --bucket films --event 's3:ObjectCreated:*' --function local/encode --async --await-result 2h
      Tried again when the platform reports a failure, or nothing in two hours. `triggerd functions` shows what is
      AWAITING.
  triggerd bind --bucket photos --event s3:ObjectRemoved:Delete --function local/cleanup --wait 0s

A --dead-letter-function is tried as the binding's own retries say, and then given up: the letter stays a dead letter,
but no command gives it to that function again. A call that is not answered within --timeout is given up here and goes on
at the platform, and the next attempt beside it: let --timeout be longer than the platform's own limit. With --async the
answer only says that the event was taken; how long the result may take is --await-result.

The same command again gives the same binding. To change its settings, unbind it and bind again.";

/// A binding to be asked for.
#[derive(Debug, Args)]
pub(in crate::cli) struct BindArgs {
    /// The bucket.
    #[arg(long)]
    pub(in crate::cli) bucket: String,
    /// An event or a group of events, such as 's3:ObjectCreated:*'; can be given several times.
    #[arg(long = "event", required = true, value_name = "NAME")]
    pub(in crate::cli) events: Vec<String>,
    /// Only keys that begin with this.
    #[arg(long)]
    pub(in crate::cli) prefix: Option<String>,
    /// Only keys that end with this.
    #[arg(long)]
    pub(in crate::cli) suffix: Option<String>,
    /// Only keys like this, in the place of prefix and suffix: `*` and `?` within a path segment, `**` across them.
    #[arg(long, conflicts_with_all = ["prefix", "suffix"])]
    pub(in crate::cli) glob: Option<String>,
    /// The function, as PLATFORM/FUNCTION.
    #[arg(long, value_name = "PLATFORM/FUNCTION", value_parser = parse_function)]
    pub(in crate::cli) function: (String, String),
    /// The storage's name in the config, where there are several.
    #[arg(long)]
    pub(in crate::cli) storage: Option<String>,
    /// Let the platform take the event and run the function later; its result is shown when it comes.
    #[arg(long = "async")]
    pub(in crate::cli) asynchronous: bool,
    /// Wait for that result for this long, and try again when none has come or the function has failed. Whole seconds,
    /// 1s to 7d, and no longer than --max-event-age. Without it, what the platform has accepted is delivered.
    #[arg(long, requires = "asynchronous", value_parser = parse_await, value_name = "TIME")]
    pub(in crate::cli) await_result: Option<SignedDuration>,
    /// The form in which the function gets the event; cloudevents-structured when not given.
    #[arg(long, value_parser = parse_payload, value_name = "cloudevents-structured|cloudevents-binary|s3-records")]
    pub(in crate::cli) payload: Option<Payload>,
    /// How long the platform's answer to a call is waited for (with --async: that it has taken the event, not the
    /// function's result); 30s when not given.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(in crate::cli) timeout: Option<SignedDuration>,
    /// The age at which an event is given up, in whole seconds; 24h when not given.
    #[arg(long, value_parser = parse_seconds, value_name = "TIME")]
    pub(in crate::cli) max_event_age: Option<SignedDuration>,
    /// Most calls of the function at once; 16 when not given.
    #[arg(long, value_name = "NUMBER")]
    pub(in crate::cli) concurrency: Option<u32>,
    /// Most calls of the function in a second, such as 50 or 0.5; what exceeds it waits. No limit when not given.
    #[arg(long, value_name = "NUMBER", value_parser = parse_rate)]
    pub(in crate::cli) rate_limit: Option<f64>,
    /// Failed attempts after which a delivery becomes a dead letter; 10 when not given.
    #[arg(long, value_name = "NUMBER")]
    pub(in crate::cli) max_attempts: Option<u32>,
    /// The bound of the first wait between attempts; 1s when not given. It doubles each time.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(in crate::cli) first_wait: Option<SignedDuration>,
    /// The bound of every wait between attempts; 5m when not given.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(in crate::cli) max_wait: Option<SignedDuration>,
    /// A user whose doings do not fire: the one that the function writes with. Can be given several times.
    #[arg(long = "ignore-principal", value_name = "USER")]
    pub(in crate::cli) ignore_principals: Vec<String>,
    /// The function, on the same platform, that is given what this one has finally failed at.
    #[arg(long, value_name = "FUNCTION")]
    pub(in crate::cli) dead_letter_function: Option<String>,
    /// Have the storage's fast targets bring its events too (twin targets).
    #[arg(long)]
    pub(in crate::cli) twin: bool,
    /// How long to follow the handshake; 0s does not.
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "TIME")]
    pub(in crate::cli) wait: SignedDuration,
}

/// A binding to be taken back.
#[derive(Debug, Args)]
pub(in crate::cli) struct UnbindArgs {
    /// The binding.
    pub(in crate::cli) id: BindingId,
    /// Forget what this daemon has parked for it, in the place of making dead letters of it.
    #[arg(long)]
    pub(in crate::cli) discard: bool,
    /// Wait until it is gone: `--wait` for 30 seconds, `--wait=5m` for another time.
    #[arg(long, value_parser = parse_duration, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s")]
    pub(in crate::cli) wait: Option<SignedDuration>,
}

fn parse_function(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((platform, function)) if !platform.is_empty() && !function.is_empty() => {
            Ok((platform.to_owned(), function.to_owned()))
        }
        _ => Err("write PLATFORM/FUNCTION, such as local/thumb".to_owned()),
    }
}

fn parse_payload(text: &str) -> Result<Payload, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "use cloudevents-structured, cloudevents-binary or s3-records".to_owned())
}

/// A time that the API takes in whole seconds.
fn parse_seconds(text: &str) -> Result<SignedDuration, String> {
    let time = parse_duration(text)?;
    if time.subsec_nanos() == 0 {
        return Ok(time);
    }
    Err("it is counted in whole seconds: write for example 1s, 90s or 10m".to_owned())
}

/// A rate that JSON can say; its bounds are the daemon's.
fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| rate.is_finite())
        .ok_or_else(|| "write a number of calls, such as 50 or 0.5".to_owned())
}

/// How long a result is waited for.
fn parse_await(text: &str) -> Result<SignedDuration, String> {
    let time = parse_seconds(text)?;
    if (1..=MAX_AWAIT_S).contains(&time.unsigned_abs().as_secs()) {
        return Ok(time);
    }
    Err("a result (`await_result_s`) is waited for from 1s to 7d".to_owned())
}
