//! `dead-letters`: what was given up, listed, shown, tried again, forgotten.

use serde_json::{Value, json};

use crate::{
    admin::wire::DeadLetterView,
    client::{Client, Page},
    domain::ids::DeliveryId,
};

use super::{
    Ended,
    args::{Choice, DeadLettersArgs, DeadLettersCommand},
    output::Terminal,
    show::{millis, word},
};

const PAGE: u32 = 500;

/// `dead-letters list|show|replay|discard`.
pub(super) async fn dead_letters(
    client: &Client,
    args: DeadLettersArgs,
    terminal: &mut Terminal,
) -> anyhow::Result<Ended> {
    match args.command {
        DeadLettersCommand::List { binding, limit, before } => {
            list(client, Page { binding, before, limit: Some(limit) }, terminal).await
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
        DeadLettersCommand::Replay(choice) => each(client, choice, Deed::Replay, terminal).await,
        DeadLettersCommand::Discard(choice) => each(client, choice, Deed::Discard, terminal).await,
    }
}

async fn list(client: &Client, page: Page, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    let found = client.dead_letters(page).await?;
    if terminal.json() {
        terminal.document(&found.json)?;
        return Ok(Ended::Done);
    }
    if found.value.dead_letters.is_empty() {
        terminal.aside("there is no dead letter")?;
        return Ok(Ended::Done);
    }
    let rows: Vec<_> = found
        .value
        .dead_letters
        .iter()
        .map(|letter| {
            [
                letter.id.to_string(),
                letter.died_at.to_string(),
                format!("{}/{}", letter.platform, letter.function),
                letter.reason.as_str().to_owned(),
                letter.attempts.to_string(),
                format!("{}/{}", letter.bucket, letter.key),
                letter.detail.clone(),
            ]
        })
        .collect();
    terminal.table(["ID", "DIED", "FUNCTION", "REASON", "ATTEMPTS", "OBJECT", "DETAIL"], &rows)?;
    if let Some(next) = found.value.next {
        terminal.aside(format!("there may be more: --before {next}"))?;
    }
    Ok(Ended::Done)
}

fn show(letter: &DeadLetterView, terminal: &mut Terminal) -> anyhow::Result<()> {
    let event = &letter.event;
    let lines = [
        ("delivery", letter.id.to_string()),
        ("reason", format!("{}: {}", letter.reason.as_str(), letter.detail)),
        ("function", format!("{}/{}", letter.platform, letter.function)),
        ("binding", letter.binding.to_string()),
        ("event", format!("{} {}/{}/{}", event.name, event.storage, event.bucket, event.key)),
        ("accepted", letter.accepted_at.to_string()),
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
            [at, word(&attempt.class), status, millis(attempt.took_us), attempt.detail.clone()]
        })
        .collect();
    terminal.table(["  AT", "OUTCOME", "STATUS", "TOOK", "DETAIL"], &rows)?;
    terminal.line("record")?;
    terminal.line(format!("  {}", letter.event.record.get()))?;
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Replay,
    Discard,
}

/// Does it to each chosen one; one that fails does not keep the others.
async fn each(client: &Client, choice: Choice, deed: Deed, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    // All are found first: one that is replayed and dies again must not be met twice.
    let one_by_name = choice.ids.len() == 1;
    let ids = chosen(client, choice).await?;
    let done_word = if deed == Deed::Replay { "replayed" } else { "discarded" };
    let (mut done, mut failed): (Vec<DeliveryId>, Vec<Value>) = (Vec::new(), Vec::new());
    for id in ids {
        let ended = match deed {
            Deed::Replay => client.replay(id).await.map(drop),
            Deed::Discard => client.discard(id).await,
        };
        match ended {
            Ok(()) => {
                if !terminal.json() {
                    terminal.line(format!("{id} {done_word}"))?;
                }
                done.push(id);
            }
            Err(error) => {
                let said = format!("{:#}", anyhow::Error::from(error));
                terminal.aside(format!("error: {id}: {said}"))?;
                failed.push(json!({"id": id, "error": said}));
            }
        }
    }
    if terminal.json() {
        terminal.document(&json!({done_word: done, "failed": failed}))?;
    } else if !one_by_name {
        terminal.aside(format!("{} {done_word}, {} failed", done.len(), failed.len()))?;
    }
    Ok(if failed.is_empty() { Ended::Done } else { Ended::Failed })
}

async fn chosen(client: &Client, choice: Choice) -> anyhow::Result<Vec<DeliveryId>> {
    if !choice.ids.is_empty() {
        return Ok(choice.ids);
    }
    let (mut ids, mut before) = (Vec::new(), None);
    loop {
        let page = client.dead_letters(Page { binding: choice.binding, before, limit: Some(PAGE) }).await?;
        ids.extend(page.value.dead_letters.iter().map(|letter| letter.id));
        before = page.value.next;
        if before.is_none() {
            return Ok(ids);
        }
    }
}
