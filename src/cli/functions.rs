//! `functions`: how each function flows.

use crate::{
    admin::wire::{BreakerView, FunctionView, LastCallsView, LetterRequest},
    client::Client,
};

use super::{Ended, output::Terminal, show::word};

const HEADS: [&str; 13] = [
    "FUNCTION", "LAST", "PARKED", "HELD", "AWAITING", "OLDEST", "DRAINS", "DIED", "EMPTY IN", "RUNNING",
    "AT ONCE", "RATE", "BREAKER",
];

/// `functions`.
pub(super) async fn functions(client: &Client, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    let found = client.functions().await?;
    if terminal.json() {
        terminal.document(&found.json)?;
        return Ok(Ended::Done);
    }
    if found.value.functions.is_empty() {
        let request = LetterRequest { limit: Some(1), ..LetterRequest::default() };
        let letters = client.dead_letters(&request).await?.value.dead_letters;
        let dead = if letters.is_empty() {
            ""
        } else {
            "; there are dead letters, though: `triggerd dead-letters list`"
        };
        terminal
            .aside(format!("no function was called since the daemon started, and nothing is parked{dead}"))?;
        return Ok(Ended::Done);
    }
    let rows: Vec<_> = found.value.functions.iter().map(row).collect();
    terminal.table(HEADS, &rows)?;
    Ok(Ended::Done)
}

fn row(one: &FunctionView) -> [String; 13] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let at_once = one.concurrency.zip(one.concurrency_limit).map(|(now, limit)| format!("{now} of {limit}"));
    [
        format!("{}/{}", one.platform, one.function),
        or_dash(one.last.as_ref().map(last)),
        one.parked.to_string(),
        one.held.to_string(),
        one.awaiting.to_string(),
        or_dash(one.oldest_age_s.map(span)),
        format!("{}/s", one.drained_per_s),
        format!("{}/s", one.died_per_s),
        or_dash(one.empty_in_s.map(span)),
        one.running.to_string(),
        or_dash(at_once),
        or_dash(one.rate_limit.map(|rate| format!("{rate}/s"))),
        breaker(&one.breaker),
    ]
}

fn last(calls: &LastCallsView) -> String {
    let class = word(&calls.class);
    let ago = span(calls.ago_s);
    match calls.failed_in_a_row {
        0 | 1 => format!("{class}, {ago} ago"),
        failed => format!("{failed} failed, {class} {ago} ago"),
    }
}

fn breaker(breaker: &BreakerView) -> String {
    match breaker.open_for_ms {
        Some(wait) if breaker.state == "open" => {
            format!("open, probe in {}.{} s: {}", wait / 1_000, wait % 1_000 / 100, breaker.reason)
        }
        _ if breaker.reason.is_empty() => breaker.state.clone(),
        _ => format!("{}: {}", breaker.state, breaker.reason),
    }
}

/// Over a hundred years: what somebody else's clock or arithmetic has made.
const ABSURD: u64 = 36_500 * 86_400;

/// Seconds as a person says them: `90 s`, `9 min`, `5 h`, `3 d`.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        172_800..ABSURD => format!("{} d", seconds / 86_400),
        _ => "over 100 years".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{clock::Timestamp, outcome::Class};

    #[test]
    fn last_calls_tell_a_function_that_is_well_from_one_that_fails() {
        let calls = |class, failed_in_a_row, ago_s| {
            last(&LastCallsView { class, failed_in_a_row, ended_at: Timestamp::from_micros(0), ago_s })
        };
        assert_eq!(calls(Class::Ok, 0, 3), "ok, 3 s ago");
        assert_eq!(calls(Class::PlatformFault, 1, 300), "platform_fault, 5 min ago");
        assert_eq!(calls(Class::FunctionFault, 14, 2), "14 failed, function_fault 2 s ago");
    }

    #[test]
    fn long_times_are_told_in_large_units() {
        let told = [0, 119, 540, 7_199, 7_200, 172_800, ABSURD - 1, ABSURD, u64::MAX].map(span);
        let long = "over 100 years";
        assert_eq!(told, ["0 s", "119 s", "9 min", "119 min", "2 h", "2 d", "36499 d", long, long]);
    }
}
