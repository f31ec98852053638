//! `functions`: how each function flows.

use crate::{admin::wire::FunctionView, client::Client};

use super::{Ended, output::Terminal};

/// `functions`.
pub(super) async fn functions(client: &Client, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    let found = client.functions().await?;
    if terminal.json() {
        terminal.document(&found.json)?;
        return Ok(Ended::Done);
    }
    if found.value.functions.is_empty() {
        terminal.aside("no function was called since the daemon started, and nothing is parked")?;
        return Ok(Ended::Done);
    }
    let rows: Vec<_> = found.value.functions.iter().map(row).collect();
    let heads = [
        "FUNCTION", "PARKED", "HELD", "AWAITING", "OLDEST", "DRAINS", "EMPTY IN", "RUNNING", "AT ONCE",
        "RATE", "BREAKER",
    ];
    terminal.table(heads, &rows)?;
    Ok(Ended::Done)
}

fn row(one: &FunctionView) -> [String; 11] {
    let seconds =
        |seconds: Option<u64>| seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s"));
    let at_once = match (one.concurrency, one.concurrency_limit) {
        (Some(now), Some(limit)) => format!("{now} of {limit}"),
        _ => "-".to_owned(),
    };
    let rate = one.rate_limit.map_or_else(|| "-".to_owned(), |rate| format!("{rate}/s"));
    let breaker = &one.breaker;
    let breaker = match breaker.open_until {
        Some(until) if breaker.state == "open" => format!("open until {until}: {}", breaker.reason),
        Some(_) => format!("{}: {}", breaker.state, breaker.reason),
        None => breaker.state.clone(),
    };
    [
        format!("{}/{}", one.platform, one.function),
        one.parked.to_string(),
        one.held.to_string(),
        one.awaiting.to_string(),
        seconds(one.oldest_age_s),
        format!("{}/s", one.drained_per_s),
        seconds(one.empty_in_s),
        one.running.to_string(),
        at_once,
        rate,
        breaker,
    ]
}
