//! From the fuzzer's bytes to spoiled recordings: decisions are read off them, and an input that ends decides for
//! nothing more, so that shorter inputs are simpler ones.

/// What JSON, keys and notifications are sensitive to.
const TOKENS: [&str; 32] = [
    "null",
    "[]",
    "{}",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\u00e9",
    "%",
    "%2F",
    "%FF",
    "%00",
    "%E2%82%AC",
    "+",
    "/",
    "-1",
    "1e999",
    "0.5",
    "99999999999999999999",
    "true",
    ",",
    ":",
    "{\"Records\":[",
    "]}",
    "\"key\":",
    "\"Key\":",
    "\"eventName\":",
    "\"s3:ObjectCreated:*\"",
    "\u{feff}",
    "\u{0}",
    "[[[[[[[[",
    "1970-01-01T00:00:00Z",
];

/// Most changes to one recording.
const CHANGES: usize = 5;

/// Decisions, one byte or two for each.
pub struct Dice<'a>(&'a [u8]);

impl<'a> Dice<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// A number below `limit`; 0 when nothing is left to decide by.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit <= 1 {
            return 0;
        }
        let bytes = if limit <= 256 { 1 } else { 2 };
        let number = (0..bytes).fold(0, |number, _| number << 8 | usize::from(self.byte()));
        number % limit
    }

    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left, as text of these characters.
    pub fn text_of(&mut self, characters: &[char], longest: usize) -> String {
        let length = self.below(longest + 1);
        (0..length).map(|_| characters[self.below(characters.len())]).collect()
    }
}

/// One of the recordings with a few changes.
pub fn mangled(recordings: &[Vec<u8>], dice: &mut Dice<'_>) -> Vec<u8> {
    let mut body = recordings[dice.below(recordings.len())].clone();
    for _ in 0..=dice.below(CHANGES) {
        if dice.is_empty() {
            break;
        }
        let at = dice.below(body.len() + 1);
        let end = (at + 1 + dice.below(64)).min(body.len());
        match dice.below(7) {
            0 => body.insert(at, dice.byte()),
            1 if at < body.len() => body[at] ^= 1 << dice.below(8),
            2 => drop(body.drain(at..end)),
            3 => drop(body.splice(at..at, TOKENS[dice.below(TOKENS.len())].bytes())),
            4 => drop(body.splice(at..end, TOKENS[dice.below(TOKENS.len())].bytes())),
            5 => {
                let copied = body[at.min(end)..end].to_vec();
                drop(body.splice(at..at, copied));
            }
            _ => {
                let other = &recordings[dice.below(recordings.len())];
                let from = dice.below(other.len());
                let to = (from + dice.below(512)).min(other.len());
                drop(body.splice(at..end, other[from..to].iter().copied()));
            }
        }
    }
    body
}
