//! Holds the sources of what is simulated against whatever would make a run depend on more than its seed.
//!
//! No `select!` that begins at a random branch; no map whose order is another in each process (where it is only looked
//! up by name and never walked, the line says so by its place in [`LOOKED_UP`]); no clock and no randomness of its own.

use std::path::{Path, PathBuf};

/// The modules that run in the simulation.
const SIMULATED: [&str; 6] = ["dispatch", "intake", "binding", "settle.rs", "domain", "queue/timekeeper.rs"];

/// Maps with a random order that nobody walks: found by a part of their line.
const LOOKED_UP: [&str; 4] = [
    "pub drivers: HashMap<",
    "pub storages: HashMap<",
    // Its hasher is a fixed one.
    "in_flight: HashMap<EventId, Vec<Arc<Held>>, Hasher>",
    "settled: HashSet<EventId, Hasher>",
];

const FORBIDDEN: [(&str, &str); 10] = [
    ("HashMap", "its order is another in each process; use a BTreeMap"),
    ("HashSet", "its order is another in each process; use a BTreeSet"),
    ("RandomState", "it is another in each process"),
    ("SystemTime::now", "time comes in as a Clock"),
    ("Instant::now", "time comes in as a Clock"),
    ("std::thread", "what runs on another thread runs in no order"),
    ("spawn_blocking", "what runs on another thread runs in no order"),
    ("rand::", "randomness comes in as Entropy"),
    ("sync::watch", "it wakes those who wait in a random order"),
    ("moka", "it has clocks and threads of its own"),
];

/// The one place where clock and randomness are at home.
const AT_HOME: [&str; 2] = ["domain/clock.rs", "domain/entropy.rs"];

/// What is wrong, each with its place; and how many files were looked at.
pub(crate) fn scan(sources: &Path) -> (Vec<String>, usize) {
    let (mut wrong, mut files) = (Vec::new(), Vec::new());
    for module in SIMULATED {
        collect(&sources.join(module), &mut files);
    }
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.strip_prefix(sources).unwrap_or(file).display().to_string();
        if !AT_HOME.contains(&name.as_str()) {
            wrong
                .extend(wrong_in(&text).into_iter().map(|(line, what)| format!("src/{name}:{line}: {what}")));
        }
    }
    (wrong, files.len())
}

/// Files of tests are no part of what is simulated.
fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for entry in &entries {
            collect(entry, files);
        }
        return;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let of_tests =
        name.ends_with("tests.rs") || ["bench.rs", "fakes.rs", "races.rs"].contains(&name.as_str());
    if !of_tests && !path.components().any(|part| part.as_os_str() == "tests") {
        files.push(path.to_owned());
    }
}

fn wrong_in(text: &str) -> Vec<(usize, String)> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let code: Vec<(usize, &str)> = text
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim()))
        .filter(|(_, line)| !line.starts_with("//") && !line.is_empty())
        .collect();
    let mut wrong = Vec::new();
    for (at, (number, line)) in code.iter().enumerate() {
        let is_use = line.starts_with("use ") || line.starts_with("collections::{");
        for (word, why) in FORBIDDEN {
            if line.contains(word) && !is_use && !LOOKED_UP.iter().any(|known| line.contains(known)) {
                wrong.push((*number, format!("`{word}`: {why}")));
            }
        }
        let is_biased = code.get(at + 1).is_some_and(|(_, next)| next.starts_with("biased;"));
        if line.contains("select! {") && !is_biased {
            wrong.push((*number, "`select!` without `biased;`: it begins at a random branch".to_owned()));
        }
    }
    wrong
}

/// The scan finds what it is there for.
pub(crate) fn finds() -> Result<(), String> {
    let bad = "fn a() {\n    tokio::select! {\n        () = b() => (),\n    }\n    let c: HashMap<u8, u8> = d();\n}\n";
    let good = "fn a() {\n    tokio::select! {\n        biased;\n        () = b() => (),\n    }\n}\n";
    let (found, none) = (wrong_in(bad), wrong_in(good));
    let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
    if lines == [2, 5] && none.is_empty() { Ok(()) } else { Err(format!("{found:?} {none:?}")) }
}
