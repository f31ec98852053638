//! What is told to the operator: metrics, logs, and the recent outcomes.
//!
//! Metric names live in one enum ([`Metric`]); a happening that is both logged and counted is told in one place, by one
//! type, so that log and metric cannot disagree. Label values come from closed sets (states, classes, names in the
//! config), never from events.

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

/// Foreign text cut to at most `limit` bytes at a character boundary, control characters shown escaped.
pub fn excerpt(text: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(limit)]);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
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
    }
}
