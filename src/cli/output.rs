//! The only place that writes to the terminal.
//!
//! Foreign text (keys, reasons, details) is written with what would act on the terminal escaped (`telemetry::is_trick`), in JSON
//! by JSON's own means. A reader that goes away (`| head`)
//! ends the output quietly.

use std::io::{self, Write};

use serde_json::Value;

use crate::telemetry::{excerpt, is_trick};

/// Longest cell of a table, in bytes.
const MAX_CELL: usize = 1_100;

/// Standard output and standard error, or what stands for them in a test.
pub(crate) struct Terminal {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    json: bool,
}

impl Terminal {
    /// The process's own.
    pub(super) fn standard(json: bool) -> Self {
        Self::new(Box::new(io::stdout()), Box::new(io::stderr()), json)
    }

    /// A terminal that writes to these.
    pub(super) fn new(out: Box<dyn Write>, err: Box<dyn Write>, json: bool) -> Self {
        Self { out, err, json }
    }

    /// Whether the user asked for JSON.
    pub(super) fn json(&self) -> bool {
        self.json
    }

    /// A line of output.
    pub(super) fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        let written = writeln!(self.out, "{}", harmless(text.as_ref()).replace('\n', "\\n"))
            .and_then(|()| self.out.flush());
        reader_gone(written)
    }

    /// A document, as `--json` prints it.
    pub(super) fn document(&mut self, document: &Value) -> io::Result<()> {
        let written = writeln!(self.out, "{}", harmless_json(&format!("{document:#}")));
        reader_gone(written.and_then(|()| self.out.flush()))
    }

    /// Bytes as they are, for a file or a program.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        reader_gone(self.out.write_all(bytes).and_then(|()| self.out.flush()))
    }

    /// A line beside the output: hints, warnings, errors.
    pub(super) fn aside(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.err, "{}", harmless(text.as_ref()))
    }

    /// Columns under their heads, each as wide as it has to be; the last as long as it is.
    pub(super) fn table<const N: usize>(&mut self, heads: [&str; N], rows: &[[String; N]]) -> io::Result<()> {
        let cells: Vec<[String; N]> =
            rows.iter().map(|row| row.each_ref().map(|cell| harmless_cell(cell))).collect();
        let mut widths = heads.map(str::len);
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let heads = heads.map(str::to_owned);
        for row in std::iter::once(&heads).chain(&cells) {
            let padded: Vec<String> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            self.line(padded.join("  ").trim_end())?;
        }
        Ok(())
    }

    /// What a generator of completions writes to.
    pub(super) fn raw(&mut self) -> &mut dyn Write {
        &mut *self.out
    }
}

fn reader_gone(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn harmless(text: &str) -> String {
    excerpt(text.as_bytes(), usize::MAX)
}

fn harmless_cell(text: &str) -> String {
    excerpt(text.as_bytes(), MAX_CELL).replace('\n', "\\n").replace('\t', "\\t")
}

/// The same document: outside of strings JSON has none of these but line feeds.
fn harmless_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_trick(c) {
            let mut units = [0; 2];
            out.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was written, for tests to look at.
    #[derive(Clone, Default)]
    pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn columns_are_aligned_and_foreign_text_is_harmless() {
        let written = Written::default();
        let mut terminal = Terminal::new(Box::new(written.clone()), Box::new(io::sink()), false);
        let rows = [["ä".to_owned(), "x\n\x1b[31mred".to_owned()], ["longer".to_owned(), String::new()]];
        terminal.table(["ONE", "TWO"], &rows).unwrap();
        assert_eq!(written.text(), "ONE     TWO\nä       x\\n\\u{1b}[31mred\nlonger\n");
    }

    #[test]
    fn what_turns_the_direction_of_writing_is_escaped_in_tables_lines_and_json() {
        let (out, err) = (Written::default(), Written::default());
        let mut terminal = Terminal::new(Box::new(out.clone()), Box::new(err.clone()), true);
        let foreign = "in/\u{202e}gpj.exe\u{2069}\u{9b}31m\u{7f}";
        terminal.table(["KEY"], &[[foreign.to_owned()]]).unwrap();
        terminal.line(foreign).unwrap();
        terminal.aside(foreign).unwrap();
        let document = serde_json::json!({"key": foreign, "plain": "ä"});
        let shown = out.text().len();
        terminal.document(&document).unwrap();
        let json = out.text().split_off(shown);
        assert!(json.contains("in/\\u202egpj.exe\\u2069\\u009b31m\\u007f") && json.contains('ä'), "{json}");
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), document, "it says the same");
        let all = out.text() + &err.text();
        assert!(all.chars().all(|c| c == '\n' || !is_trick(c)), "{all:?}");
        assert_eq!(all.matches("in/\\u{202e}gpj.exe").count(), 3);
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error() {
        let mut terminal = Terminal::new(Box::new(Gone), Box::new(io::sink()), false);
        terminal.line("x").unwrap();
        terminal.document(&Value::Null).unwrap();
    }
}
