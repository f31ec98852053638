//! Fuzz targets: whatever bytes come, nothing panics, and what is said of them stays true.
//!
//! Each target reads the fuzzer's bytes as decisions: which recording to begin with and how to spoil it (`mangle`), so
//! that most inputs get past the first check. They run on stable Rust by bolero's own random engine, a bounded number in
//! `make test` (`TRIGGERD_FUZZ` says how many times that) and 10^8 in all by `make fuzz`.
//!
//! **What is kept.** Each run begins with the files of `corpus/TARGET/`: inputs that once failed, and some that reach what
//! chance seldom does. An input that fails is printed; written into a file there, it is tried first from then on. Most of
//! them are decisions, so whoever changes what is decided (`mangle`, the recordings) makes other inputs of them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a failure of a test is a panic, and the count of executions is its result"
)]

mod callbacks;
mod mangle;
mod requests;
mod texts;

use std::{
    fs, panic,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use triggerd::{
    dialect::{MAX_RECORDS, decode},
    domain::event::{KeyEncoding, StorageName},
};

use self::mangle::{Dice, mangled};

/// Runs a target so many times, and says how often it ran. A panic in it fails the test.
fn run(target: &str, times: usize, check: impl Fn(&[u8]) + panic::RefUnwindSafe) {
    let factor = std::env::var("TRIGGERD_FUZZ").map_or(1, |text| text.parse().expect("a number"));
    let kept = corpus(target);
    for (name, input) in &kept {
        let passed = panic::catch_unwind(|| check(input)).is_ok();
        assert!(passed, "{target} fails for what is kept as {name}: {input:?}");
    }
    let executions = AtomicU64::new(0);
    bolero::check!(name = target).with_iterations(times * factor).with_max_len(256).for_each(
        |input: &[u8]| {
            executions.fetch_add(1, Ordering::Relaxed);
            check(input);
        },
    );
    println!("{target}: {} kept inputs, {} executions", kept.len(), executions.load(Ordering::Relaxed));
}

/// The inputs that are kept for a target, with their files' names; at least one.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let mut kept: Vec<_> = files.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect();
    kept.sort();
    assert!(!kept.is_empty(), "nothing is kept in {}", folder.display());
    kept
}

/// The recordings whose names begin like one of these.
fn recordings(beginnings: &[&str]) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/minio");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let wanted = files.iter().filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        beginnings.iter().any(|beginning| name.starts_with(beginning))
    });
    let found: Vec<_> = wanted.map(|path| fs::read(path).unwrap()).collect();
    assert!(found.len() > 20, "{} recordings", found.len());
    found
}

#[test]
fn notifications_decode_to_whole_events_or_to_a_short_reason() {
    let recordings = recordings(&["webhook-", "mqtt-"]);
    let storage = StorageName::new("default");
    run("notifications", 60_000, |input| {
        let mut dice = Dice::new(input);
        let encoding = if dice.below(8) == 0 { KeyEncoding::Raw } else { KeyEncoding::Form };
        let body = mangled(&recordings, &mut dice);
        match decode(&body, &storage, encoding) {
            Ok(events) => {
                assert!(events.len() <= MAX_RECORDS);
                let text = std::str::from_utf8(&body).expect("events of what is no text");
                for event in &events {
                    assert!(text.contains(event.record.get()), "a record that was not sent");
                }
                let again = decode(&body, &storage, encoding).expect("decoded a moment ago");
                assert!(events.iter().map(|event| event.id).eq(again.iter().map(|event| event.id)));
            }
            Err(error) => assert!(error.to_string().len() < 2_000, "a reason as long as the body: {error}"),
        }
    });
}
