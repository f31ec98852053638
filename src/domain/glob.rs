//! Globs over object keys: `*` and `?` stay within one path segment, `**` crosses segments, `[a-z]` and `{a,b}` work; a
//! backslash escapes.
//!
//! `globset` reads the pattern; but it counts bytes, and keys are text: its `?` is half an `é`. So its expression is taken
//! as it is but for "one byte that is not …", which becomes "one character that is not …". What stands in brackets has to
//! be ASCII, because there it cannot be told any more which bytes belong together.

use globset::GlobBuilder;
use regex::bytes::{Regex, RegexBuilder};

use super::filter::InvalidFilter;

/// Longest prefix, suffix or glob, in bytes: the longest key that S3 allows.
pub const MAX_PATTERN: usize = 1_024;

/// Largest compiled pattern, in bytes; alternatives within alternatives multiply.
const MAX_COMPILED: usize = 1 << 20;

/// A shell-like pattern over whole keys.
#[derive(Debug, Clone)]
pub struct Glob {
    text: String,
    matcher: Regex,
}

impl Glob {
    /// Reads a glob.
    pub fn parse(text: &str) -> Result<Self, InvalidFilter> {
        let invalid = |reason: String| InvalidFilter::Glob { glob: text.to_owned(), reason };
        if text.len() > MAX_PATTERN {
            return Err(InvalidFilter::TooLong { what: "glob", bytes: text.len() });
        }
        if text.starts_with('/') {
            return Err(InvalidFilter::LeadingSlash { what: "glob", value: text.to_owned() });
        }
        let glob = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build();
        let glob = glob.map_err(|error| invalid(error.kind().to_string()))?;
        if !brackets_are_ascii(text) {
            let reason = "only ASCII characters can stand in brackets; write {ä,ö} for others";
            return Err(invalid(reason.into()));
        }
        let matcher = RegexBuilder::new(&by_characters(glob.regex()))
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(MAX_COMPILED)
            .build()
            .map_err(|_too_large| {
                invalid(
                    "it is nested too deeply or has too many alternatives; make several bindings of it"
                        .into(),
                )
            })?;
        Ok(Self { text: text.to_owned(), matcher })
    }

    /// Whether the whole key fits.
    pub fn matches(&self, key: &str) -> bool {
        self.matcher.is_match(key.as_bytes())
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What every matching key begins with: the text before the first special character.
    pub fn literal_prefix(&self) -> &str {
        let end = self.text.find(['*', '?', '[', '{', '\\']).unwrap_or(self.text.len());
        &self.text[..end]
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Glob {}

/// Makes characters of the bytes in an expression of globset's: each `[^…]` that is not repeated gets the characters of
/// several bytes. (Repeated, it makes no difference.)
fn by_characters(expression: &str) -> String {
    let mut written = String::with_capacity(expression.len() * 2);
    let mut rest = expression;
    while let Some(at) = rest.find(['\\', '[']) {
        let (before, from) = rest.split_at(at);
        written.push_str(before);
        let length = if from.starts_with('\\') { escape_length(from) } else { class_length(from) };
        let (piece, after) = from.split_at(length);
        match piece.strip_prefix("[^").and_then(|class| class.strip_suffix(']')) {
            Some(others) if !after.starts_with('*') => {
                written.push_str("(?:[^");
                written.push_str(others);
                written.push_str(r"\x80-\xFF]|[\xC2-\xF4][\x80-\xBF]+)");
            }
            _ => written.push_str(piece),
        }
        rest = after;
    }
    written.push_str(rest);
    written
}

/// How long an escape at the beginning is.
fn escape_length(text: &str) -> usize {
    1 + text[1..].chars().next().map_or(0, char::len_utf8)
}

/// How long a class at the beginning is, its bracket at the end included.
fn class_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b']' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Whether a pattern that `globset` accepts has nothing but ASCII in its brackets.
fn brackets_are_ascii(pattern: &str) -> bool {
    let (mut inside, mut first, mut escaped) = (false, false, false);
    for character in pattern.chars() {
        if escaped {
            escaped = false;
        } else if !inside {
            (inside, first, escaped) = (character == '[', true, character == '\\');
        } else if !character.is_ascii() {
            return false;
        } else if first && (character == '!' || character == '^') {
            // The bracket that closes may not come yet.
        } else {
            inside = first || character != ']';
            first = false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(glob: &str, key: &str) -> bool {
        Glob::parse(glob).unwrap().matches(key)
    }

    #[test]
    fn stars_stay_within_a_segment_and_double_stars_do_not() {
        assert!(fits("in/*.jpg", "in/a.jpg") && !fits("in/*.jpg", "in/sub/a.jpg"));
        for (key, expected) in [("in/a.jpg", true), ("in/x/y/a.jpg", true), ("out/a.jpg", false)] {
            assert_eq!(fits("in/**/*.jpg", key), expected, "{key}");
        }
        assert!(fits("图片/*", "图片/照片 一.jpg"));
        assert_eq!(Glob::parse("in/**/*.jpg").unwrap().literal_prefix(), "in/");
        assert!(fits("in/*.txt", "in/tab\tnl\n.txt"));
    }

    #[test]
    fn a_question_mark_is_one_character_however_many_bytes_it_has() {
        for key in ["a.jpg", "é.jpg", "照.jpg", "\u{1f600}.jpg"] {
            assert!(fits("?.jpg", key) && fits("[!x].jpg", key) && !fits("??.jpg", key), "{key}");
        }
        assert!(fits("第?章/[^0-9]?", "第一章/éa") && !fits("a?b", "a/b"));
    }

    #[test]
    fn brackets_hold_ascii_only() {
        for refused in ["[ä].jpg", "[a-é]", "x[!é]", "[]é]", r"[\é]"] {
            assert!(matches!(Glob::parse(refused), Err(InvalidFilter::Glob { .. })), "{refused}");
        }
        for (glob, key) in
            [("[]a]é", "]é"), (r"\[é]", "[é]"), ("[!a]{ä,ö}", "bö"), ("[a^]", "^"), (r"[\]", r"\")]
        {
            assert!(fits(glob, key), "{glob} {key}");
        }
    }

    #[test]
    fn impossible_globs_are_refused() {
        // Nested too deeply, and too many alternatives.
        let nested = format!("{}a{}", "{".repeat(511), "}".repeat(511));
        let many = "{[a-z]{a,b,c}{d,e,f}*,?}".repeat(42);
        for refused in ["[", "{a", r"a\", &nested] {
            assert!(matches!(Glob::parse(refused), Err(InvalidFilter::Glob { .. })), "{refused}");
        }
        assert!(Glob::parse(&many).is_ok_and(|glob| glob.matches(&"a".repeat(42))));
        assert!(matches!(Glob::parse("/in"), Err(InvalidFilter::LeadingSlash { .. })));
        assert!(matches!(Glob::parse(&"a".repeat(1_025)), Err(InvalidFilter::TooLong { .. })));
    }
}
