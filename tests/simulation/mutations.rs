//! Bugs put in on purpose: small replacements, kept as files, which are put into a copy of the sources.
//!
//! A file has one sentence, and then for each place the file, what stands there (exactly once), and what is put there.
//! What is put there asks `crate::mutated("its name")`, so that all can be in one build. A run of the simulation checks
//! that each still fits its place; `make mutations` builds the copy and has each found.

use std::{
    fs,
    path::{Path, PathBuf},
};

struct Mutation {
    name: String,
    places: Vec<Place>,
}

struct Place {
    file: String,
    old: String,
    new: String,
}

/// What the copy's library gains.
const SWITCH: &str = r#"
/// Whether this bug is switched on.
pub fn mutated(name: &str) -> bool {
    static ON: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var("TRIGGERD_MUTATION").unwrap_or_default()) == name
}
"#;

fn mutations() -> Result<Vec<Mutation>, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulation/mutations");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .map_err(|error| error.to_string())?
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "mutation"));
    files.sort();
    files.iter().map(|file| parse(file)).collect()
}

fn parse(file: &Path) -> Result<Mutation, String> {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    let places: Option<Vec<Place>> = text
        .split("\nfile: ")
        .skip(1)
        .map(|part| {
            let (file, rest) = part.split_once("\n--- instead of\n")?;
            let (old, new) = rest.split_once("\n--- put\n")?;
            Some(Place { file: file.into(), old: old.into(), new: new.trim_end_matches('\n').into() })
        })
        .collect();
    let places = places.filter(|places| !places.is_empty()).ok_or(format!("{name}: cannot be read"))?;
    if !places.iter().all(|place| place.new.contains(&format!("crate::mutated(\"{name}\")"))) {
        return Err(format!("{name}: does not ask whether it is switched on"));
    }
    Ok(Mutation { name, places })
}

/// The manifest (and the lock) of a package that can be built in the same folder without taking the place of the real
/// one: another version, no binaries, and no tests but this one.
fn apart(text: &str) -> String {
    let version = concat!("version = \"", env!("CARGO_PKG_VERSION"), "\"");
    let own = format!("name = \"triggerd\"\n{version}");
    let text = text.replacen(&own, "name = \"triggerd\"\nversion = \"0.0.0-mutated\"", 1);
    let text = text.replacen(
        "\ndefault-run = \"triggerd\"",
        "\nautobins = false\nautotests = false\nautobenches = false",
        1,
    );
    let others = ["[[bin]]", "[[bench]]", "name = \"it\""];
    text.split_inclusive("\n\n").filter(|block| !others.iter().any(|name| block.contains(name))).collect()
}

/// Puts all of them into the sources under `tree`; how many. Nothing is written when one of them does not fit.
pub(crate) fn put_into(tree: &Path, really: bool) -> Result<usize, String> {
    let mutations = mutations()?;
    let mut texts: std::collections::BTreeMap<PathBuf, String> = std::collections::BTreeMap::new();
    for Mutation { name, places } in &mutations {
        for place in places {
            let path = tree.join(&place.file);
            let text = match texts.remove(&path) {
                Some(text) => text,
                None => {
                    fs::read_to_string(&path).map_err(|error| format!("{name}: {}: {error}", place.file))?
                }
            };
            let found = text.matches(&place.old).count();
            if found != 1 {
                return Err(format!(
                    "mutation {name}: what it replaces is found {found} times in {}, not once; write it anew for the \
                     code as it is now:\n{}",
                    place.file, place.old
                ));
            }
            texts.insert(path, text.replacen(&place.old, &place.new, 1));
        }
    }
    if really {
        let library = tree.join("src/lib.rs");
        let text = fs::read_to_string(&library).map_err(|error| error.to_string())?;
        texts.insert(library, text + SWITCH);
        for file in ["Cargo.toml", "Cargo.lock"] {
            let path = tree.join(file);
            let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            texts.insert(path, apart(&text));
        }
        for (path, text) in texts {
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(mutations.len())
}
