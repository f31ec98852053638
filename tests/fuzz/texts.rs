//! Texts that users and senders write: keys, filters, the config.

use std::{collections::BTreeMap, fs};

use serde_json::Value;
use triggerd::{
    config::{self, Inputs},
    dialect::decode,
    domain::{
        event::{KeyEncoding, StorageName},
        filter::{Glob, KeyFilter},
    },
};

use crate::{
    mangle::{Dice, mangled},
    run,
};

const RECORDING: &str = include_str!("../fixtures/minio/webhook-object-created-put.json");
const EXAMPLE: &str = include_str!("../../config.example.toml");

/// As Go's `url.QueryEscape` writes it, which MinIO uses.
fn form_encoded(key: &str) -> String {
    let encoded = key.bytes().map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        b' ' => "+".to_owned(),
        _ => format!("%{byte:02X}"),
    });
    encoded.collect()
}

#[test]
fn every_key_that_minio_encodes_is_decoded_to_what_it_was() {
    let recording: Value = serde_json::from_str(RECORDING).unwrap();
    let storage = StorageName::new("default");
    run("keys", 40_000, |input| {
        // Without the slash at the beginning, which MinIO takes away.
        let key = String::from_utf8_lossy(input).trim_start_matches('/').to_owned();
        if key.is_empty() {
            return;
        }
        let mut body = recording.clone();
        body.as_object_mut().unwrap().remove("Key");
        body["Records"][0]["s3"]["object"]["key"] = form_encoded(&key).into();
        let events = decode(body.to_string().as_bytes(), &storage, KeyEncoding::Form).unwrap();
        assert_eq!(events[0].key, key);
    });
}

/// Whether a pattern of plain characters, `*` and `?` matches, as one would explain it.
fn naive(pattern: &[char], key: &[char]) -> bool {
    match (pattern, key) {
        ([], []) => true,
        (['*', rest @ ..], _) => {
            naive(rest, key) || matches!(key, [first, left @ ..] if *first != '/' && naive(pattern, left))
        }
        (['?', rest @ ..], [first, left @ ..]) => *first != '/' && naive(rest, left),
        ([wanted, rest @ ..], [first, left @ ..]) => wanted == first && naive(rest, left),
        _ => false,
    }
}

#[test]
fn globs_never_panic_keep_to_their_prefix_and_agree_with_a_naive_matcher() {
    run("filters", 30_000, |input| {
        let mut dice = Dice::new(input);
        let simple = dice.below(2) == 0;
        let pattern = if simple {
            dice.text_of(&['*', '?', '/', 'a', 'b', 'é', '.'], 12)
        } else {
            dice.text_of(
                &['*', '*', '?', '[', ']', '{', '}', '!', ',', '-', '\\', '/', 'a', 'b', 'é', '.', '\0'],
                40,
            )
        };
        let key = dice.text_of(&['/', 'a', 'b', 'é', '.', '*'], 16);
        let glob = match Glob::parse(&pattern) {
            Ok(glob) => glob,
            Err(error) => return assert!(error.to_string().len() < 400, "{error}"),
        };
        let filter = KeyFilter::Glob(glob);
        let matches = filter.matches(&key);
        assert!(!matches || key.starts_with(filter.literal_prefix()), "{pattern:?} {key:?}");
        if simple && !pattern.contains("**") {
            let (pattern, key): (Vec<_>, Vec<_>) = (pattern.chars().collect(), key.chars().collect());
            assert_eq!(matches, naive(&pattern, &key), "{pattern:?} {key:?}");
        }
    });
}

#[test]
fn any_config_is_loaded_or_refused_with_reasons() {
    // With its commented keys in force, too.
    let in_force = EXAMPLE.replace("\n#", "\n");
    let examples = [EXAMPLE.as_bytes().to_vec(), in_force.into_bytes()];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("triggerd.toml");
    run("config", 1_000, |input| {
        let mut dice = Dice::new(input);
        fs::write(&file, mangled(&examples, &mut dice)).unwrap();
        let variable = format!("TRIGGERD_{}", dice.text_of(&['N', 'O', 'D', 'E', '_', '_', 'X', '0'], 12));
        let env = BTreeMap::from([(variable, dice.text_of(&['[', ']', '"', '1', 'x', '='], 6))]);
        let loaded = config::load(&Inputs { file: file.clone(), env });
        for problem in &loaded.problems {
            assert!(!problem.to_string().is_empty());
        }
    });
}
