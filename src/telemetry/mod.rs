//! What is told to the operator: metrics, logs, and the recent outcomes.
//!
//! Metric names live in one enum ([`Metric`]); a happening that is both logged and counted is told in one place, by one
//! type, so that log and metric cannot disagree. Label values come from closed sets (states, classes, names in the
//! config), never from events.

pub mod bindings;
pub mod happening;
pub mod letters;
pub mod logging;
mod metric;
mod often;
mod recent;
pub mod results;
mod seldom;

use std::{error::Error, fmt};

pub use metric::Metric;
pub use recent::{Recent, RecentOutcome};
pub use seldom::Seldom;

/// Shows an error with everything that caused it, in one line; for the one place where it is logged.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Whether a terminal does something with this character instead of showing it: control characters, separators of lines, and
/// those that turn the direction of writing, by which a text shows as another.
pub fn is_trick(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Foreign text cut to at most `limit` bytes at a character boundary; what [`is_trick`] is shown escaped, except line feeds
/// and tabs.
pub fn excerpt(text: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(limit)]);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_trick(c) && c != '\n' && c != '\t' {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        if out.len() >= limit {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_cut_and_made_harmless() {
        assert_eq!(excerpt(b"a\x1b[31mb", 100), "a\\u{1b}[31mb");
        assert!(excerpt("ä".repeat(100).as_bytes(), 11).len() <= 14);
        assert_eq!(excerpt("in/\u{202e}gpj.exe".as_bytes(), 100), "in/\\u{202e}gpj.exe");
        assert_eq!(
            excerpt("\u{2066}a\u{2069}\u{85}\u{2028}".as_bytes(), 100),
            "\\u{2066}a\\u{2069}\\u{85}\\u{2028}"
        );
        let plain = "שלום, na\u{ef}ve \u{1f469}\u{200d}\u{1f52c} \u{4e2d}";
        assert_eq!(excerpt(plain.as_bytes(), 100), plain, "letters of any script are as they are");
    }
}
