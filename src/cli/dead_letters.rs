//! `dead-letters`: what was given up, listed, shown, tried again, forgotten.
//!
//! Many at once go in batches, each a request of its own, at the pace that was asked for; the daemon holds nothing of the
//! walk. Ctrl-C, or a daemon that goes away, leaves every letter either done or as it was.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    admin::wire::{DeadLetterSummary, DeadLetterView, LetterBatch, LetterRequest},
    client::{Answer, Client, ClientError},
    domain::{
        clock::{Clock, SystemClock},
        delivery::DeadReason,
        ids::DeliveryId,
        outcome::Class,
    },
};

use super::{
    Ended,
    args::{Choice, DeadLettersArgs, DeadLettersCommand},
    output::Terminal,
    show::{millis, word},
};

/// Letters on one page when all are listed.
const PAGE: u32 = 500;

/// Batches in a second, about, as long as the rate lets each have something to do.
const BATCHES: u32 = 4;

/// `dead-letters list|show|replay|discard`.
pub(super) async fn dead_letters(
    client: &Client,
    args: DeadLettersArgs,
    terminal: &mut Terminal,
) -> anyhow::Result<Ended> {
    let now = SystemClock::new().now();
    match args.command {
        DeadLettersCommand::List { which, all: true, .. } => {
            let request = LetterRequest { limit: Some(PAGE), ..which.request(now) };
            list_all(client, request, terminal).await
        }
        DeadLettersCommand::List { which, all: false, limit, cursor } => {
            list(client, LetterRequest { limit: Some(limit), cursor, ..which.request(now) }, terminal).await
        }
        DeadLettersCommand::Show { id } => {
            let letter = client.dead_letter(id).await?;
            if terminal.json() {
                terminal.document(&letter.json)?;
            } else {
                show(&letter.value, terminal)?;
            }
            Ok(Ended::Done)
        }
        DeadLettersCommand::Replay(choice) => deal(client, choice, Deed::Replay, terminal).await,
        DeadLettersCommand::Discard { choice, why } => {
            deal(client, choice, Deed::Discard { why }, terminal).await
        }
    }
}

async fn list(client: &Client, request: LetterRequest, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    let found = client.dead_letters(&request).await?;
    if terminal.json() {
        terminal.document(&found.json)?;
        return Ok(Ended::Done);
    }
    table(&found.value.dead_letters, &request, terminal)?;
    if let Some(next) = found.value.next {
        terminal.aside(format!("there may be more: --cursor {next}"))?;
    }
    Ok(Ended::Done)
}

async fn list_all(
    client: &Client,
    mut request: LetterRequest,
    terminal: &mut Terminal,
) -> anyhow::Result<Ended> {
    let mut all = Vec::new();
    loop {
        let page = client.dead_letters(&request).await?.value;
        all.extend(page.dead_letters);
        request.cursor = page.next;
        if request.cursor.is_none() {
            break;
        }
    }
    if terminal.json() {
        terminal.document(&json!({"dead_letters": all}))?;
    } else {
        table(&all, &request, terminal)?;
    }
    Ok(Ended::Done)
}

/// What is said when nothing is found: whether there is nothing, or nothing that fits.
fn nothing(request: &LetterRequest) -> &'static str {
    let LetterRequest { binding, platform, function, reason, since, until, bucket, key_prefix, .. } = request;
    let texts = [platform, function, bucket, key_prefix];
    let filtered = binding.is_some()
        || reason.is_some()
        || since.or(*until).is_some()
        || texts.iter().any(|text| text.is_some());
    if filtered { "no dead letter fits the filter" } else { "there is no dead letter" }
}

/// `2`, or `2 (4 calls)` where some were no fault of the function.
fn attempts(charged: u32, tries: u32) -> String {
    if charged == tries { charged.to_string() } else { format!("{charged} ({tries} calls)") }
}

/// Why it was given up; marked where its function has succeeded since, so that a replay would run it again.
fn reason(reason: DeadReason, succeeded_late: bool) -> String {
    let mark = if succeeded_late { " (succeeded late)" } else { "" };
    format!("{}{mark}", reason.as_str())
}

fn table(
    letters: &[DeadLetterSummary],
    request: &LetterRequest,
    terminal: &mut Terminal,
) -> anyhow::Result<()> {
    if letters.is_empty() {
        terminal.aside(nothing(request))?;
        return Ok(());
    }
    let rows: Vec<_> = letters
        .iter()
        .map(|letter| {
            [
                letter.id.to_string(),
                letter.died_at.to_string(),
                format!("{}/{}", letter.platform, letter.function),
                reason(letter.reason, letter.succeeded_late),
                attempts(letter.charged, letter.tries),
                format!("{}/{}", letter.bucket, letter.key),
                letter.detail.trim_end().to_owned(),
            ]
        })
        .collect();
    terminal.table(["ID", "DIED", "FUNCTION", "REASON", "ATTEMPTS", "OBJECT", "DETAIL"], &rows)?;
    Ok(())
}

fn show(letter: &DeadLetterView, terminal: &mut Terminal) -> anyhow::Result<()> {
    let event = &letter.event;
    let late = letter.attempts.iter().any(|attempt| attempt.class == Class::Ok);
    let lines = [
        ("delivery", letter.id.to_string()),
        ("reason", format!("{}: {}", reason(letter.reason, late), letter.detail.trim_end())),
        ("function", format!("{}/{}", letter.platform, letter.function)),
        ("binding", letter.binding.to_string()),
        ("event", format!("{} {}/{}/{}", event.name, event.storage, event.bucket, event.key)),
        ("happened", event.time.to_string()),
        ("age from", letter.accepted_at.to_string()),
        ("died", letter.died_at.to_string()),
        ("replays", letter.replays.to_string()),
    ];
    for (name, value) in lines {
        terminal.line(format!("{name:9} {value}"))?;
    }
    terminal.line("attempts")?;
    let rows: Vec<_> = letter
        .attempts
        .iter()
        .map(|attempt| {
            let status = attempt.status.map(|status| status.to_string()).unwrap_or_default();
            let at = format!("  {}", attempt.at);
            [at, word(&attempt.class), status, millis(attempt.took_us), attempt.detail.trim_end().to_owned()]
        })
        .collect();
    terminal.table(["  AT", "OUTCOME", "STATUS", "TOOK", "DETAIL"], &rows)?;
    terminal.line("record")?;
    terminal.line(format!("  {}", letter.event.record.get()))?;
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Deed {
    Replay,
    Discard { why: Option<String> },
}

impl Deed {
    fn word(&self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Discard { .. } => "discarded",
        }
    }

    async fn one(&self, client: &Client, id: DeliveryId) -> Result<&'static str, ClientError> {
        match self {
            Self::Replay if client.replay(id).await?.value.already => Ok("is on its way already"),
            Self::Replay => Ok("replayed"),
            Self::Discard { why } => client.discard(id, why.as_deref()).await.map(|()| "discarded"),
        }
    }

    async fn batch(
        &self,
        client: &Client,
        request: &LetterRequest,
    ) -> Result<Answer<LetterBatch>, ClientError> {
        match self {
            Self::Replay => client.replay_batch(request).await,
            Self::Discard { why } => {
                client.discard_batch(&LetterRequest { why: why.clone(), ..request.clone() }).await
            }
        }
    }
}

async fn deal(client: &Client, choice: Choice, deed: Deed, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    if choice.ids.is_empty() {
        walk(client, choice, deed, terminal).await
    } else {
        each(client, choice, deed, terminal).await
    }
}

/// Does it to each that is named; one that fails does not keep the others.
async fn each(client: &Client, choice: Choice, deed: Deed, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    let one_by_name = choice.ids.len() == 1;
    let (mut done, mut failed): (Vec<DeliveryId>, Vec<Value>) = (Vec::new(), Vec::new());
    let mut met = BTreeSet::new();
    for id in choice.ids.into_iter().filter(|id| met.insert(*id)) {
        match deed.one(client, id).await {
            Ok(word) => {
                if !terminal.json() {
                    terminal.line(format!("{id} {word}"))?;
                }
                done.push(id);
            }
            Err(error) => {
                let said = format!("{:#}", anyhow::Error::from(error));
                // Most problems name the letter themselves.
                let which = if said.contains(&id.to_string()) { String::new() } else { format!("{id}: ") };
                terminal.aside(format!("error: {which}{said}"))?;
                failed.push(json!({"id": id, "error": said}));
            }
        }
    }
    if terminal.json() {
        terminal.document(&json!({deed.word(): done, "failed": failed}))?;
    } else if !one_by_name {
        terminal.aside(format!("{} {}, {} failed", done.len(), deed.word(), failed.len()))?;
    }
    Ok(if failed.is_empty() { Ended::Done } else { Ended::Failed })
}

/// Does it to all that fit, batch after batch, until Ctrl-C.
async fn walk(client: &Client, choice: Choice, deed: Deed, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    let mut request = choice.which.request(SystemClock::new().now());
    request.all = choice.all;
    let limit = choice.rate.div_ceil(BATCHES).clamp(1, PAGE);
    request.limit = Some(limit);
    let mut stop = signal(SignalKind::interrupt())?;
    let (mut done, mut skipped, mut succeeded) = (Vec::new(), 0, 0);
    let ended = loop {
        let batch = match deed.batch(client, &request).await {
            Ok(batch) => batch.value,
            Err(error) => {
                if !done.is_empty() {
                    terminal.aside(format!(
                        "{} {} so far; the same command again does the rest",
                        done.len(),
                        deed.word()
                    ))?;
                }
                return Err(error.into());
            }
        };
        if !terminal.json() {
            for id in &batch.done {
                terminal.line(format!("{id} {}", deed.word()))?;
            }
        }
        let pause = Duration::from_secs(batch.done.len() as u64) / choice.rate;
        done.extend(batch.done);
        skipped += batch.skipped;
        succeeded += batch.succeeded_late;
        request.cursor = batch.next;
        if request.cursor.is_none() {
            break Ended::Done;
        }
        terminal.aside(format!("{} {}, {} to look at", done.len(), deed.word(), counted(batch.left)))?;
        tokio::select! {
            biased;
            _ = stop.recv() => break Ended::StillWaiting,
            () = tokio::time::sleep(pause) => (),
        }
    };
    let stopped = ended == Ended::StillWaiting;
    if terminal.json() {
        let mut said = json!({deed.word(): done, "stopped": stopped});
        if deed == Deed::Replay {
            said["skipped"] = skipped.into();
            said["succeeded_late"] = succeeded.into();
        }
        terminal.document(&said)?;
    } else if done.is_empty() && skipped + succeeded == 0 && !stopped {
        terminal.aside(format!("{}: nothing is {}", nothing(&request), deed.word()))?;
    } else {
        terminal.aside(format!("{} {}", done.len(), deed.word()))?;
    }
    if skipped > 0 {
        terminal.aside(format!(
            "{skipped} skipped: their binding is gone, so nothing would call their function"
        ))?;
    }
    if succeeded > 0 {
        terminal.aside(format!(
            "{succeeded} left alone: their functions have succeeded since; to run one again, name its id"
        ))?;
    }
    if stopped {
        terminal.aside("stopped; the same command again does the rest")?;
    }
    Ok(ended)
}

fn counted(left: u64) -> String {
    if left >= 100_000 { "100000 or more".to_owned() } else { left.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_were_charged_are_told_from_calls() {
        assert_eq!((attempts(3, 3), attempts(2, 4)), ("3".to_owned(), "2 (4 calls)".to_owned()));
    }

    #[test]
    fn nothing_that_fits_is_told_from_nothing_at_all() {
        let all = LetterRequest { all: true, limit: Some(5), ..LetterRequest::default() };
        assert_eq!(nothing(&all), "there is no dead letter");
        let some = LetterRequest { bucket: Some("photos".into()), ..all };
        assert_eq!(nothing(&some), "no dead letter fits the filter");
    }
}
