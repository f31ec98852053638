//! The table: a line for each fault, printed as it comes, and written in Markdown where that is asked for.

use std::{env, fs::OpenOptions, io::Write as _, time::Duration};

use anyhow::{Context as _, Result};

use super::books::Spans;

/// What came of one fault.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) fault: String,
    pub(super) held: Duration,
    pub(super) offered: usize,
    pub(super) delivered: usize,
    pub(super) dead: usize,
    pub(super) duplicates: usize,
    pub(super) lost: usize,
    /// Of the healthy function and of the other one, if the rate was reached.
    pub(super) back: [Option<Duration>; 2],
    /// Of the healthy function.
    pub(super) healthy: Spans,
}

/// Lines under a title.
#[derive(Debug)]
pub(super) struct Table {
    text: String,
}

const HEAD: &str = "| fault | held s | events offered | deliveries made | dead letters | duplicates | lost | back at the \
                    rate after s: healthy, other | healthy p50 ms | p99 ms | p50 from sending ms |\n\
                    |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";

impl Table {
    /// A table of faults.
    pub(super) fn new(title: &str) -> Self {
        Self::with_head(title, HEAD)
    }

    /// Another table: its first two lines.
    pub(super) fn with_head(title: &str, head: &str) -> Self {
        let table = Self { text: format!("\n**{title}**\n\n{head}") };
        print(&table.text);
        table
    }

    /// Sentences under a title.
    pub(super) fn of_sentences(title: &str) -> Self {
        Self::with_head(title, "")
    }

    /// Adds a line.
    pub(super) fn add(&mut self, row: &Row) {
        let seconds =
            |time: Option<Duration>| time.map_or("-".into(), |time| format!("{:.1}", time.as_secs_f64()));
        self.line(&format!(
            "| {} | {:.0} | {} | {} | {} | {} | {} | {}, {} | {} | {} | {} |",
            row.fault,
            row.held.as_secs_f64(),
            row.offered,
            row.delivered,
            row.dead,
            row.duplicates,
            row.lost,
            seconds(row.back[0]),
            seconds(row.back[1]),
            row.healthy.since_yes.millis(0.5),
            row.healthy.since_yes.millis(0.99),
            row.healthy.since_sent.millis(0.5),
        ));
    }

    /// Adds a line as it is.
    pub(super) fn line(&mut self, line: &str) {
        let line = format!("{line}\n");
        print(&line);
        self.text += &line;
    }

    /// Adds a sentence.
    pub(super) fn note(&mut self, text: &str) {
        let text = format!("\n{text}\n");
        print(&text);
        self.text += &text;
    }

    /// Appends all of it to the file that is asked for.
    pub(super) fn end(&self) -> Result<()> {
        let Ok(path) = env::var("TRIGGERD_TORTURE_TABLE") else { return Ok(()) };
        let mut file = OpenOptions::new().create(true).append(true).open(&path).context(path)?;
        Ok(file.write_all(self.text.as_bytes())?)
    }
}

#[expect(clippy::print_stdout, reason = "the table is what the run is for")]
fn print(text: &str) {
    print!("{text}");
}
