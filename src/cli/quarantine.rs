//! `quarantine`: what could never be processed, listed, shown, tried again, forgotten.

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    admin::wire::{QuarantineSummary, QuarantineView},
    client::{Client, ClientError},
    telemetry::excerpt,
};

use super::{
    Ended,
    args::{Items, QuarantineArgs, QuarantineCommand},
    output::Terminal,
};

const PAGE: u32 = 500;

/// Bytes that are shown of an item that is no text.
const SHOWN: usize = 1_024;

/// `quarantine list|show|retry|discard`.
pub(super) async fn quarantine(
    client: &Client,
    args: QuarantineArgs,
    terminal: &mut Terminal,
) -> anyhow::Result<Ended> {
    match args.command {
        QuarantineCommand::List { limit, before } => list(client, (before, limit), terminal).await,
        QuarantineCommand::Show { id, raw } => {
            let item = client.quarantined(id).await?;
            let bytes = STANDARD.decode(&item.value.bytes).context("the daemon's answer is no base64")?;
            if raw {
                terminal.bytes(&bytes)?;
                let (kept, length) = (item.value.kept, item.value.item.length);
                if (kept as u64) < length {
                    terminal.aside(format!("only the first {kept} of {length} bytes were kept"))?;
                }
            } else if terminal.json() {
                terminal.document(&item.json)?;
            } else {
                show(&item.value, &bytes, terminal)?;
            }
            Ok(Ended::Done)
        }
        QuarantineCommand::Retry(items) => each(client, items, &Deed::Retry, terminal).await,
        QuarantineCommand::Discard { items, why } => {
            each(client, items, &Deed::Discard { why }, terminal).await
        }
    }
}

enum Deed {
    Retry,
    Discard { why: Option<String> },
}

impl Deed {
    fn word(&self) -> &'static str {
        match self {
            Self::Retry => "taken in",
            Self::Discard { .. } => "discarded",
        }
    }

    async fn one(&self, client: &Client, id: u64) -> Result<String, ClientError> {
        match self {
            Self::Retry => {
                let retried = client.retry_quarantined(id).await?.value;
                Ok(format!("{id} taken in: {} events, {} deliveries", retried.events, retried.deliveries))
            }
            Self::Discard { why } => {
                client.discard_quarantined(id, why.as_deref()).await?;
                Ok(format!("{id} discarded"))
            }
        }
    }
}

async fn list(
    client: &Client,
    (before, limit): (Option<u64>, u32),
    terminal: &mut Terminal,
) -> anyhow::Result<Ended> {
    let page = client.quarantine(before, limit).await?;
    if terminal.json() {
        terminal.document(&page.json)?;
        return Ok(Ended::Done);
    }
    if page.value.quarantine.is_empty() {
        terminal.aside("nothing is in quarantine")?;
        return Ok(Ended::Done);
    }
    let row = |item: &QuarantineSummary| {
        let id = item.id.to_string();
        let received = item.received_at.to_string();
        [
            id,
            received,
            item.source.clone(),
            item.length.to_string(),
            item.tries.to_string(),
            item.reason.clone(),
        ]
    };
    let rows: Vec<_> = page.value.quarantine.iter().map(row).collect();
    terminal.table(["ID", "RECEIVED", "SOURCE", "BYTES", "TRIES", "REASON"], &rows)?;
    if let Some(next) = page.value.next {
        terminal.aside(format!("there are more: --before {next}"))?;
    }
    Ok(Ended::Done)
}

fn show(item: &QuarantineView, bytes: &[u8], terminal: &mut Terminal) -> anyhow::Result<()> {
    let (kept, item) = (item.kept, &item.item);
    let tried = item.tried_at.map_or_else(String::new, |at| format!(", last at {at}"));
    let lines = [
        ("item", item.id.to_string()),
        ("reason", item.reason.clone()),
        ("source", item.source.clone()),
        ("received", item.received_at.to_string()),
        ("length", format!("{} bytes, {kept} of them kept", item.length)),
        ("tries", format!("{}{tried}", item.tries)),
    ];
    for (name, value) in lines {
        terminal.line(format!("{name:9} {value}"))?;
    }
    terminal.line("bytes")?;
    if std::str::from_utf8(bytes).is_ok() {
        terminal.line(format!("  {}", excerpt(bytes, usize::MAX)))?;
        return Ok(());
    }
    for (at, line) in bytes[..bytes.len().min(SHOWN)].chunks(16).enumerate() {
        let digits: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let plain =
            |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
        let text: String = line.iter().map(plain).collect();
        terminal.line(format!("  {:08x}  {:47}  {text}", at * 16, digits.join(" ")))?;
    }
    if bytes.len() > SHOWN {
        terminal.aside(format!("the first {SHOWN} bytes are shown; --raw writes all"))?;
    }
    Ok(())
}

/// Does it to each; one that fails does not keep the others.
async fn each(client: &Client, items: Items, deed: &Deed, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    let (word, all_of_them) = (deed.word(), items.all);
    let ids = if items.all { all(client).await? } else { items.ids };
    let (mut done, mut failed): (Vec<u64>, Vec<Value>) = (Vec::new(), Vec::new());
    for id in ids {
        match deed.one(client, id).await {
            Ok(said) => {
                if !terminal.json() {
                    terminal.line(said)?;
                }
                done.push(id);
            }
            Err(error) => {
                let is_not_found = error.is_not_found();
                let said = format!("{:#}", anyhow::Error::from(error));
                // That there is no such item is said with its number.
                let which = if is_not_found { String::new() } else { format!("{id}: ") };
                terminal.aside(format!("error: {which}{said}"))?;
                failed.push(json!({"id": id, "error": said}));
            }
        }
    }
    if terminal.json() {
        terminal.document(&json!({word.replace(' ', "_"): done, "failed": failed}))?;
    } else if all_of_them {
        terminal.aside(format!("{} {word}, {} failed", done.len(), failed.len()))?;
    }
    Ok(if failed.is_empty() { Ended::Done } else { Ended::Failed })
}

/// The items that are there now, oldest first.
async fn all(client: &Client) -> anyhow::Result<Vec<u64>> {
    let (mut ids, mut before) = (Vec::new(), None);
    loop {
        let page = client.quarantine(before, PAGE).await?.value;
        ids.extend(page.quarantine.iter().map(|item| item.id));
        before = page.next;
        if before.is_none() {
            ids.reverse();
            return Ok(ids);
        }
    }
}
