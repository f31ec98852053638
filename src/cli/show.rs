//! Commands that show: `bindings`, `match`, `outcomes`, `nodes`.

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    admin::wire::{Explanation, FunctionView, MatchRequest},
    client::Client,
    domain::binding::{BindingSpec, BindingView},
};

use super::{
    Ended,
    args::{BindingsArgs, MatchArgs, NodesArgs, OutcomesArgs},
    bind::step_line,
    functions::span,
    output::Terminal,
};

const PAGE: u32 = 500;

/// The word of an enum, as the API writes it.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

/// Which keys a binding wants.
fn keys(spec: &BindingSpec) -> String {
    let written = serde_json::to_value(&spec.filter).unwrap_or_default();
    let part = |name: &str| written[name].as_str().unwrap_or_default().to_owned();
    match part("glob") {
        glob if glob.is_empty() => format!("{}…{}", part("prefix"), part("suffix")),
        glob => glob,
    }
}

/// Whether it waits for results.
fn awaits(spec: &BindingSpec) -> String {
    spec.await_result_s.map_or_else(String::new, |wait| format!(", the result awaited for {wait} s"))
}

/// `bindings [ID]`.
pub(super) async fn bindings(
    client: &Client,
    args: BindingsArgs,
    terminal: &mut Terminal,
) -> anyhow::Result<Ended> {
    if let Some(id) = args.id {
        let found = client.binding(id).await?;
        if terminal.json() {
            terminal.document(&found.json)?;
        } else {
            one(&found.value, terminal)?;
        }
        return Ok(Ended::Done);
    }
    let (mut after, mut all, mut documents) = (None, Vec::new(), Vec::new());
    loop {
        let page = client.bindings(after, PAGE).await?;
        if let Some(Value::Array(list)) = page.json.get("bindings") {
            documents.extend(list.iter().cloned());
        }
        all.extend(page.value.bindings);
        after = page.value.next;
        if after.is_none() {
            break;
        }
    }
    if terminal.json() {
        terminal.document(&json!({"bindings": documents}))?;
    } else if all.is_empty() {
        terminal.aside("there is no binding yet; `triggerd help bind` shows how to make one")?;
    } else {
        let row = |view: &BindingView| {
            [
                view.id.to_string(),
                view.state.to_string(),
                format!("{}/{}", view.spec.storage, view.spec.bucket),
                view.spec.filter.events.names().join(","),
                keys(&view.spec),
                format!("{}/{}", view.spec.function.platform, view.spec.function.function),
                view.why().unwrap_or_default(),
            ]
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        terminal.table(["ID", "STATE", "BUCKET", "EVENTS", "KEYS", "FUNCTION", "REASON"], &rows)?;
    }
    Ok(Ended::Done)
}

fn one(view: &BindingView, terminal: &mut Terminal) -> std::io::Result<()> {
    let spec = &view.spec;
    let retry = spec.retry;
    let lines = [
        ("binding", view.id.to_string()),
        ("state", view.state.to_string()),
        ("reason", view.reason.clone().unwrap_or_default()),
        ("bucket", format!("{}/{}", spec.storage, spec.bucket)),
        ("events", spec.filter.events.names().join(", ")),
        ("keys", keys(spec)),
        ("function", format!("{}/{}", spec.function.platform, spec.function.function)),
        ("mode", format!("{}, {}{}", word(&spec.mode), word(&spec.payload), awaits(spec))),
        (
            "limits",
            format!(
                "timeout {} ms, event age {} s, {} at once{}",
                spec.timeout_ms,
                spec.max_event_age_s,
                spec.concurrency,
                spec.rate_limit.map_or_else(String::new, |rate| format!(", {rate} in a second"))
            ),
        ),
        (
            "retry",
            format!(
                "{} attempts, waits of {} ms to {} ms",
                retry.max_attempts, retry.first_wait_ms, retry.max_wait_ms
            ),
        ),
        ("ignores", spec.ignore_principals.join(", ")),
        ("handler", spec.dead_letter_function.clone().unwrap_or_default()),
        ("targets", if spec.twin { "both legs of twin targets".to_owned() } else { String::new() }),
        ("made", view.created_at.to_string()),
        ("changed", format!("{} (revision {})", view.updated_at, view.revision)),
    ];
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        terminal.line(format!("{name:9} {value}"))?;
    }
    terminal.line("handshake")?;
    view.steps.iter().try_for_each(|step| terminal.line(step_line(step)))
}

/// `match`.
pub(super) async fn matching(
    client: &Client,
    args: MatchArgs,
    terminal: &mut Terminal,
) -> anyhow::Result<Ended> {
    let request = MatchRequest {
        event: None,
        storage: args.storage,
        bucket: Some(args.bucket),
        key: Some(args.key),
        name: Some(args.event),
        principal: args.principal,
    };
    let matched = client.explain(&request).await?;
    if terminal.json() {
        terminal.document(&matched.json)?;
        return Ok(Ended::Done);
    }
    let count = matched.value.bindings.len();
    let held = |one: &Explanation| one.fires && one.state.holds();
    let holding = match matched.value.bindings.iter().filter(|one| held(one)).count() {
        0 => String::new(),
        some => format!("; held without a call now: {some}"),
    };
    terminal
        .line(format!("{} of {count} binding(s) of this bucket would fire{holding}", matched.value.fires))?;
    let rows: Vec<_> = matched
        .value
        .bindings
        .iter()
        .map(|one| {
            let fires = match one.fires {
                true if held(one) => "held",
                true => "fires",
                false => "no",
            };
            let function = format!("{}/{}", one.platform, one.function);
            [
                fires.to_owned(),
                one.binding.to_string(),
                one.state.to_string(),
                function,
                one.reasons.join("; "),
            ]
        })
        .collect();
    if !rows.is_empty() {
        terminal.table(["FIRES", "BINDING", "STATE", "FUNCTION", "WHY"], &rows)?;
    }
    Ok(Ended::Done)
}

/// `outcomes`.
pub(super) async fn outcomes(
    client: &Client,
    args: OutcomesArgs,
    terminal: &mut Terminal,
) -> anyhow::Result<Ended> {
    let OutcomesArgs { binding, function, key, limit } = args;
    let any = binding.is_none() && function.is_none() && key.is_none();
    let latest = client.outcomes(binding, (function.as_deref(), key.as_deref()), limit).await?;
    if terminal.json() {
        terminal.document(&latest.json)?;
        return Ok(Ended::Done);
    }
    if latest.value.outcomes.is_empty() {
        let nothing = "nothing of that is among the last outcomes; `triggerd match` says what would fire";
        terminal.aside(if any { without_outcome(client).await } else { nothing.to_owned() })?;
        return Ok(Ended::Done);
    }
    let rows: Vec<_> = latest
        .value
        .outcomes
        .iter()
        .map(|one| {
            [
                one.at.to_string(),
                one.outcome.clone(),
                millis(one.took_us),
                one.name.clone(),
                format!("{}/{}", one.bucket, one.key),
                one.binding.map(|id| id.to_string()).unwrap_or_default(),
                one.detail.trim_end().to_owned(),
            ]
        })
        .collect();
    terminal.table(["AT", "OUTCOME", "TOOK", "EVENT", "OBJECT", "BINDING", "DETAIL"], &rows)?;
    Ok(Ended::Done)
}

/// Why there is no outcome at all: nothing came in, or what did waits.
async fn without_outcome(client: &Client) -> String {
    let nothing = "nothing has come in since the daemon started";
    // Where that cannot be told, the list alone is what was asked for.
    let functions = client.functions().await.map(|answer| answer.value.functions).unwrap_or_default();
    let sum = |count: fn(&FunctionView) -> u64| functions.iter().map(count).sum::<u64>();
    let (parked, held, awaiting) = (sum(|one| one.parked), sum(|one| one.held), sum(|one| one.awaiting));
    if parked + held + awaiting == 0 {
        return nothing.to_owned();
    }
    format!(
        "nothing has been called since the daemon started; {held} held (`triggerd bindings` says why), \
         {parked} parked, {awaiting} awaiting a result (`triggerd functions`)"
    )
}

/// Microseconds for a person: milliseconds up to a minute, then as [`span`] has it.
pub(super) fn millis(micros: u64) -> String {
    match micros {
        0..60_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => span(micros / 1_000_000),
    }
}

/// `nodes`.
pub(super) async fn nodes(
    client: &Client,
    args: NodesArgs,
    terminal: &mut Terminal,
) -> anyhow::Result<Ended> {
    if let Some(name) = args.forget {
        client.forget_node(&name).await?;
        terminal.aside(format!("{name} is forgotten; it comes back if it is started again"))?;
        return Ok(Ended::Done);
    }
    let found = client.nodes().await?;
    if terminal.json() {
        terminal.document(&found.json)?;
        return Ok(Ended::Done);
    }
    let rows: Vec<_> = found
        .value
        .nodes
        .iter()
        .map(|node| {
            let name = if node.this { format!("{} (this one)", node.name) } else { node.name.clone() };
            let url = node.admin_url.clone().unwrap_or_default();
            [name, node.revision.to_string(), format!("{} ago", span(node.silent_for_s)), url]
        })
        .collect();
    terminal.table(["NAME", "REVISION", "HEARD OF", "ADMIN API"], &rows)?;
    Ok(Ended::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_every_size_are_short_and_in_units_that_fit() {
        let told = [1_250, 59_999_999, 60_000_000, 600_000_000, u64::MAX].map(millis);
        assert_eq!(told, ["1.2 ms", "59999.9 ms", "60 s", "10 min", "over 100 years"]);
    }
}
