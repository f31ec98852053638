//! What a configuration is read from: one TOML file, and the environment over it.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::PathBuf};

use figment::{
    Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

use super::problem::Problem;

const MAX_FILE: u64 = 1 << 20;
/// What our variables begin with.
pub(super) const PREFIX: &str = "TRIGGERD_";

/// What a configuration is read from.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The TOML file.
    pub file: PathBuf,
    /// The environment.
    pub env: BTreeMap<String, String>,
}

impl Inputs {
    /// This file, and the environment of this process.
    pub fn of_process(file: PathBuf) -> Self {
        let env = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { file, env }
    }
}

/// The file as a table, and its mode.
pub(super) fn read_file(inputs: &Inputs) -> Result<(toml::Table, u32), Problem> {
    let place = inputs.file.display().to_string();
    let refused = |what: String, remedy: &str| Problem::error(&place, what, remedy);
    let meta = fs::metadata(&inputs.file).map_err(|error| {
        let remedy =
            "name the config file with --config or TRIGGERD_CONFIG; config.example.toml shows what is in one";
        refused(format!("the config file cannot be read: {error}"), remedy)
    })?;
    if meta.len() > MAX_FILE {
        return Err(refused(format!("the file has more than {MAX_FILE} bytes"), "name a config file"));
    }
    let text = fs::read_to_string(&inputs.file).map_err(|error| {
        refused(format!("the config file cannot be read: {error}"), "let this user read it, as UTF-8 text")
    })?;
    let table = toml::from_str(&text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        // Only the parser's words, not the line itself: there may be a secret on it.
        refused(format!("line {line} is no TOML: {}", error.message()), "correct that line")
    })?;
    Ok((table, meta.permissions().mode()))
}

/// The file's values, for figment.
pub(super) struct FileValues<'a>(pub(super) &'a Inputs, pub(super) toml::Table);

impl Provider for FileValues<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::from("config file", self.0.file.as_path())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let dict = Value::serialize(&self.1)?.into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(dict))
    }
}

/// The name under which figment remembers values of the environment.
pub(super) const ENVIRONMENT: &str = "environment";

/// The environment's values, as texts, for figment.
pub(super) struct EnvValues<'a>(pub(super) &'a Inputs);

impl Provider for EnvValues<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(ENVIRONMENT)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut root = Dict::new();
        for (key, text) in &self.0.env {
            let Some(path) = env_path(key) else {
                continue;
            };
            insert(&mut root, &path, text);
        }
        Ok(Profile::Default.collect(root))
    }
}

/// Puts a text at this path; not where a text is on the way there.
fn insert(dict: &mut Dict, path: &[String], text: &str) {
    match path {
        [] => {}
        [last] => {
            dict.insert(last.clone(), Value::from(text));
        }
        [first, rest @ ..] => {
            let entry = dict.entry(first.clone()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = entry {
                insert(inner, rest, text);
            }
        }
    }
}

/// The keys that a variable names; none when it is not one of ours.
pub(super) fn env_path(variable: &str) -> Option<Vec<String>> {
    let path: Vec<String> = variable.strip_prefix(PREFIX)?.split("__").map(str::to_ascii_lowercase).collect();
    (path.len() > 1 && path.iter().all(|key| !key.is_empty())).then_some(path)
}
