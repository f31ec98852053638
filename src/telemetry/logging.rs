//! The log: on standard error, for people or as JSON.
//!
//! Keys of objects, names of events and answers of functions are other people's texts, and a key may hold a line feed:
//! in the text form control characters are escaped, so that nobody can write a line of ours, and of each field the
//! first [`FIELD`] characters are written, so that nobody can write a line without end.

use std::{
    fmt::{self, Debug, Write as _},
    io::IsTerminal,
};

use tracing::field::Field;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    filter::ParseError,
    fmt::format::{Writer, debug_fn},
};

use crate::config::log::{LogConfig, LogFormat};

/// Most characters of one field in the text form: twice the longest key, escapes aside.
const FIELD: usize = 2_048;

/// Starts logging. A second call in one process changes nothing.
pub fn start(config: &LogConfig) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(&config.level)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Refused where a test, or an embedding program, has set up its own.
    let _already_set = match config.format {
        LogFormat::Text => {
            let fields = debug_fn(one_line).delimited(" ");
            log.with_ansi(std::io::stderr().is_terminal()).fmt_fields(fields).try_init()
        }
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Writes a field without its control characters, cut to its beginning.
fn one_line(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    let mut shown = Shown { writer, left: FIELD };
    write!(shown, "{value:?}")?;
    if shown.left == 0 { shown.writer.write_char('…') } else { Ok(()) }
}

/// What passes control characters on escaped, and nothing after so many characters.
struct Shown<'a, 'w> {
    writer: &'a mut Writer<'w>,
    left: usize,
}

impl fmt::Write for Shown<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars().take(self.left) {
            if c.is_control() {
                write!(self.writer, "{}", c.escape_default())?;
            } else {
                self.writer.write_char(c)?;
            }
            self.left -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, MutexGuard};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    struct Line<'a>(MutexGuard<'a, Vec<u8>>);

    impl std::io::Write for Line<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Log {
        type Writer = Line<'a>;

        fn make_writer(&'a self) -> Line<'a> {
            Line(self.0.lock().unwrap())
        }
    }

    fn written(tell: impl FnOnce()) -> String {
        let log = Log::default();
        let fields = debug_fn(one_line).delimited(" ");
        let subscriber =
            tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).fmt_fields(fields).finish();
        tracing::subscriber::with_default(subscriber, tell);
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn foreign_text_makes_no_line_of_its_own() {
        let key = "in/a\nERROR forged\r\x1b[2J\u{9b}ü.txt";
        let text = written(|| tracing::warn!(%key, tries = 3, name = "text", "a message with {key}"));
        let key = "in/a\\nERROR forged\\r\\u{1b}[2J\\u{9b}ü.txt";
        assert!(
            text.ends_with(&format!(": a message with {key} key={key} tries=3 name=\"text\"\n")),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn foreign_text_makes_no_line_without_end() {
        let key = "k".repeat(1 << 20);
        let text = written(|| tracing::warn!(%key, tries = 3, "told"));
        assert!(text.ends_with("k… tries=3\n") && text.len() < FIELD + 200, "{} bytes", text.len());
        let key = "k".repeat(1_024);
        assert!(written(|| tracing::warn!(%key, "told")).ends_with(&format!(" key={key}\n")));
    }
}
