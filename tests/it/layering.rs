//! Who uses whom: every `use crate::` of the library is held against the table in ARCHITECTURE.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::harness::suite::{Ctx, Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [] every_module_uses_only_what_the_table_allows;
        [] the_reference_platform_uses_nothing_of_the_library;
        [] pure_modules_use_no_io_crate;
    }
}

/// Open to every module.
const OPEN: [&str; 2] = ["domain", "telemetry"];

/// Modules that do no input or output.
const PURE: [&str; 3] = ["domain", "dialect", "settle"];

async fn every_module_uses_only_what_the_table_allows(_: Ctx) -> Result<()> {
    let table = table()?;
    let mut seen = BTreeSet::new();
    let mut broken = Vec::new();
    for file in rust_files(&root().join("src"))? {
        let Some(module) = module_of(&file) else { continue };
        seen.insert(module.clone());
        let Some(allowed) = table.get(&module) else {
            broken.push(format!("{}: module `{module}` is not in the table", file.display()));
            continue;
        };
        for used in used_modules(&std::fs::read_to_string(&file)?) {
            let open =
                OPEN.contains(&used.as_str()) || (used == "config" && !PURE.contains(&module.as_str()));
            if used != module && !open && !allowed.contains(&used) {
                broken.push(format!("{}: `{module}` may not use `{used}`", file.display()));
            }
        }
    }
    for module in table.keys().filter(|module| !seen.contains(*module)) {
        broken.push(format!("the table names `{module}`, which is not there"));
    }
    ensure!(broken.is_empty(), "against the table in ARCHITECTURE.md:\n{}", broken.join("\n"));
    Ok(())
}

async fn the_reference_platform_uses_nothing_of_the_library(_: Ctx) -> Result<()> {
    for file in rust_files(&root().join("src/bin/triggerd-platform"))? {
        let text = std::fs::read_to_string(&file)?;
        ensure!(!text.contains("triggerd::"), "{} uses the library", file.display());
    }
    Ok(())
}

async fn pure_modules_use_no_io_crate(_: Ctx) -> Result<()> {
    let io = ["tokio", "sqlx", "reqwest", "axum", "rumqttc", "aws_sdk_s3", "std::fs", "std::net"];
    for module in PURE {
        let files = rust_files(&root().join("src"))?;
        for file in files.iter().filter(|file| module_of(file).as_deref() == Some(module)) {
            let text = std::fs::read_to_string(file)?;
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                let found = io.iter().find(|name| line.contains(&format!("{name}::")));
                ensure!(found.is_none(), "{}: {line}", file.display());
            }
        }
    }
    Ok(())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Module → modules that it may use.
fn table() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let rows = text.lines().skip_while(|line| !line.starts_with("| module |")).skip(2);
    let mut table = BTreeMap::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [module, _, uses] = cells[..] else { anyhow::bail!("not three cells: {row}") };
        let uses = uses.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        table.insert(module.to_owned(), uses.collect());
    }
    ensure!(table.len() > 10, "the table in ARCHITECTURE.md was not found");
    Ok(table)
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// The module a file belongs to; none for the crate's roots and the binaries.
fn module_of(file: &Path) -> Option<String> {
    let inside = file.strip_prefix(root().join("src")).ok()?;
    let first = inside.components().next()?.as_os_str().to_str()?;
    match first {
        "lib.rs" | "main.rs" | "bin" => None,
        _ => Some(first.trim_end_matches(".rs").to_owned()),
    }
}

/// The modules that a file names after `crate::`, in `use` lines (braces unfolded) and in paths; its unit tests aside,
/// which may stand on other modules.
fn used_modules(text: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => used.extend(top_level_names(list)),
            None => used.extend(name_at(rest)),
        }
    }
    used
}

/// The names at the first level of a braced list.
fn top_level_names(list: &str) -> Vec<String> {
    let (mut depth, mut names, mut expect) = (1, Vec::new(), true);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => expect = true,
            c if expect && depth == 1 && (c.is_alphabetic() || c == '_') => {
                names.extend(name_at(&list[at..]));
                expect = false;
            }
            _ => (),
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn name_at(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}
