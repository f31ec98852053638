//! From a file and the environment to a [`Config`], noting everything that is wrong on the way.
//!
//! Figment merges the two and remembers which value came from where. Each section is then read by itself: where serde
//! refuses a key, the problem is noted, the key is left out, and the section is read again, so that one mistake does not
//! hide the next. A value from the environment is text; where something else is expected, it is read as TOML writes it
//! (`["a", "b"]`, `true`, `5`), and never the other way round, so that a password of digits stays what it is.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use figment::{
    Figment,
    error::{Actual, Kind},
    value::{Dict, Value},
};
use serde::de::DeserializeOwned;

use super::{
    Config,
    admin::AdminConfig,
    inputs::{ENVIRONMENT, EnvValues, FileValues, Inputs, PREFIX, env_path, read_file},
    problem::{InvalidConfig, Problem, Severity},
    secrets::{Folders, Secrets},
    sources::SourceConfig,
    validate,
};

const SECTIONS: [&str; 12] = [
    "node",
    "relations",
    "queue",
    "admin",
    "callbacks",
    "storages",
    "sources",
    "platforms",
    "bindings",
    "dispatch",
    "dead_letters",
    "log",
];

/// A configuration and everything that is wrong with it.
#[derive(Debug)]
pub struct Loaded {
    /// What could be read; defaults where something could not.
    pub config: Config,
    /// Errors and warnings, in the order of the sections.
    pub problems: Vec<Problem>,
}

impl Loaded {
    /// The configuration and its warnings; all problems when one of them is an error.
    pub fn usable(self) -> Result<(Config, Vec<Problem>), InvalidConfig> {
        if self.problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(InvalidConfig(self.problems));
        }
        Ok((self.config, self.problems))
    }
}

/// Reads and validates the whole configuration.
pub fn load(inputs: &Inputs) -> Loaded {
    let mut reader = match Reader::open(inputs) {
        Ok(reader) => reader,
        Err(problem) => return Loaded { config: Config::default(), problems: vec![problem] },
    };
    reader.unknown_sections();
    let config = Config {
        node: reader.section("node"),
        relations: reader.secret_section("relations"),
        queue: reader.section("queue"),
        admin: reader.secret_section("admin"),
        callbacks: reader.take("callbacks").and_then(|value| reader.read("callbacks", value)),
        storages: reader.named("storages", Reader::read),
        sources: reader.named("sources", Reader::read_source),
        platforms: reader.named("platforms", Reader::read),
        bindings: reader.section("bindings"),
        dispatch: reader.section("dispatch"),
        dead_letters: reader.section("dead_letters"),
        log: reader.section("log"),
    };
    let Reader { mut problems, written, .. } = reader;
    problems.extend(validate::all(&config, &written));
    Loaded { config, problems }
}

/// Reads `[admin]` alone, for commands that only talk to a running daemon: whoever may do that need not be able to read
/// the secrets of the other sections.
pub fn load_admin(inputs: &Inputs) -> Result<AdminConfig, InvalidConfig> {
    let mut reader = Reader::open(inputs).map_err(|problem| InvalidConfig(vec![problem]))?;
    let admin: AdminConfig = reader.secret_section("admin");
    if reader.problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(InvalidConfig(reader.problems));
    }
    Ok(admin)
}

struct Reader {
    figment: Figment,
    sections: Dict,
    folders: Folders,
    written: validate::Written,
    problems: Vec<Problem>,
}

impl Reader {
    fn open(inputs: &Inputs) -> Result<Self, Problem> {
        let (table, mode) = read_file(inputs)?;
        let figment = Figment::from(FileValues(inputs, table)).merge(EnvValues(inputs));
        let place = inputs.file.display().to_string();
        let whole = figment
            .find_value("")
            .map_err(|error| Problem::error(&place, error.kind.to_string(), "correct it"))?;
        let config = inputs.file.parent().map(PathBuf::from).unwrap_or_default();
        let credentials = inputs.env.get("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let mut reader = Self {
            figment,
            sections: whole.into_dict().unwrap_or_default(),
            folders: Folders { credentials, config },
            written: validate::Written::default(),
            problems: Vec::new(),
        };
        if mode & 0o004 != 0 && reader.has_secret_in_file() {
            reader.problems.push(Problem::warning(
                place,
                "the file holds a secret, and every user of this host can read it",
                "move the secret into a file of its own and name that (`token_file` and so on), or `chmod 640` this one",
            ));
        }
        reader.stray_variables(inputs);
        Ok(reader)
    }

    fn take(&mut self, section: &str) -> Option<Value> {
        self.sections.remove(section)
    }

    fn section<T: DeserializeOwned + Default>(&mut self, name: &str) -> T {
        self.take(name).and_then(|value| self.read(name, value)).unwrap_or_default()
    }

    fn secret_section<T: DeserializeOwned + Default + Secrets>(&mut self, name: &str) -> T {
        let mut section: T = self.section(name);
        self.folders.resolve(name, &mut section, &mut self.problems);
        section
    }

    fn named<T: Secrets>(
        &mut self,
        name: &str,
        read: fn(&mut Self, &str, Value) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let Some(value) = self.take(name) else {
            return BTreeMap::new();
        };
        let Some(entries) = value.into_dict() else {
            let what = format!("`{name}` is no table of tables");
            self.problems.push(Problem::error(name, what, format!("write it as `[{name}.NAME]`")));
            return BTreeMap::new();
        };
        match name {
            "storages" => self.written.storages = entries.keys().cloned().collect(),
            "sources" => self.written.sources = entries.len(),
            _ => self.written.platforms = entries.len(),
        }
        let mut sections = BTreeMap::new();
        for (key, value) in entries {
            let place = format!("{name}.{key}");
            if let Some(mut section) = read(self, &place, value) {
                self.folders.resolve(&place, &mut section, &mut self.problems);
                sections.insert(key, section);
            }
        }
        sections
    }

    fn read_source(&mut self, place: &str, mut value: Value) -> Option<SourceConfig> {
        // Serde would buffer an internally tagged enum, and lose where in it the mistake is.
        let kind = match &mut value {
            Value::Dict(_, keys) => keys.remove("type").and_then(Value::into_string),
            _ => None,
        };
        match kind.as_deref() {
            Some("webhook") => self.read(place, value).map(SourceConfig::Webhook),
            Some("mqtt") => self.read(place, value).map(SourceConfig::Mqtt),
            Some(other) => {
                let what = format!("`{other}` is no type of source");
                self.problems.push(Problem::error(format!("{place}.type"), what, "use `webhook` or `mqtt`"));
                None
            }
            None => {
                let remedy = "write `type = \"webhook\"` or `type = \"mqtt\"`";
                self.problems.push(Problem::error(
                    format!("{place}.type"),
                    "the key `type` is missing",
                    remedy,
                ));
                None
            }
        }
    }

    /// Reads one section, leaving out every key that serde refuses; none when what is left is not enough.
    fn read<T: DeserializeOwned>(&mut self, place: &str, mut value: Value) -> Option<T> {
        let mut left_out: HashSet<String> = HashSet::new();
        self.numbers_for_words(place, &mut value, &mut left_out);
        loop {
            let error = match value.deserialize::<T>() {
                Ok(section) => return Some(section),
                Err(error) => error,
            };
            let from = value.find_ref(&error.path.join(".")).map(Value::tag);
            let metadata = from.and_then(|tag| self.figment.get_metadata(tag));
            let by_env = metadata.is_some_and(|metadata| metadata.name == ENVIRONMENT);
            if let Kind::InvalidType(Actual::Str(text), _) = &error.kind
                && by_env
                && let Some(typed) = typed(text)
                && replace(&mut value, &error.path, Some(typed))
            {
                continue;
            }
            let known = matches!(&error.kind, Kind::MissingField(key) if left_out.contains(key.as_ref()));
            if !known {
                self.problems.push(problem(place, &error, by_env));
            }
            let missing = matches!(error.kind, Kind::MissingField(_));
            if missing || error.path.is_empty() || !replace(&mut value, &error.path, None) {
                return None;
            }
            left_out.extend(error.path.last().cloned());
        }
    }

    /// Leaves out numbers where a word is expected: figment would take them for the word's place in its list.
    fn numbers_for_words(&mut self, place: &str, value: &mut Value, left_out: &mut HashSet<String>) {
        const WORDS: [&str; 4] = ["driver", "format", "redelivers", "version"];
        let Value::Dict(_, keys) = value else {
            return;
        };
        for key in WORDS {
            if matches!(keys.get(key), Some(Value::Num(..))) {
                keys.remove(key);
                left_out.insert(key.to_owned());
                let what = "a text is expected, and a number was found";
                self.problems.push(Problem::error(format!("{place}.{key}"), what, "put it in quotes"));
            }
        }
    }

    fn unknown_sections(&mut self) {
        let unknown: Vec<String> =
            self.sections.keys().filter(|name| !SECTIONS.contains(&name.as_str())).cloned().collect();
        for name in unknown {
            let remedy = format!("remove it; the sections are {}", SECTIONS.join(", "));
            self.problems.push(Problem::error(&name, format!("`{name}` is no section"), remedy));
            self.sections.remove(&name);
        }
    }

    fn stray_variables(&mut self, inputs: &Inputs) {
        let known = |key: &str| {
            matches!(key, "TRIGGERD_CONFIG" | "TRIGGERD_PLATFORM_CONFIG") || key.starts_with("TRIGGERD_TEST_")
        };
        for key in inputs.env.keys().filter(|key| key.starts_with(PREFIX) && !known(key)) {
            if env_path(key).is_none() {
                let what = "the environment variable names no key";
                let remedy = "write TRIGGERD_SECTION__KEY, with two underscores, or unset it";
                self.problems.push(Problem::warning(key, what, remedy));
            }
        }
    }

    fn has_secret_in_file(&self) -> bool {
        const SECRETS: [&str; 4] = ["token", "api_token", "secret_key", "password"];
        let in_file = |value: &Value| {
            let metadata = self.figment.get_metadata(value.tag());
            metadata.is_some_and(|metadata| metadata.name != ENVIRONMENT)
        };
        let mut left: Vec<&Value> = self.sections.values().collect();
        let url = self.sections.get("relations").and_then(|section| section.find_ref("url"));
        if url.is_some_and(in_file) {
            return true;
        }
        while let Some(value) = left.pop() {
            for (key, value) in value.as_dict().into_iter().flatten() {
                if SECRETS.contains(&key.as_str()) && in_file(value) {
                    return true;
                }
                left.push(value);
            }
        }
        false
    }
}

/// What serde said, without any value that might be a secret.
fn problem(section: &str, error: &figment::Error, by_env: bool) -> Problem {
    let mut place = section.to_owned();
    for key in &error.path {
        place = format!("{place}.{key}");
    }
    let (what, remedy) = match &error.kind {
        Kind::UnknownField(key, known) => (
            format!("`{key}` is no key of [{section}]"),
            format!("remove it, or use one of: {}", known.join(", ")),
        ),
        Kind::MissingField(key) => {
            place = format!("{place}.{key}");
            (format!("the key `{key}` is missing"), format!("set `{key}` in [{section}]"))
        }
        Kind::UnknownVariant(word, known) => (
            format!("`{word}` is none of the values it can have"),
            format!("use one of: {}", known.join(", ")),
        ),
        Kind::InvalidType(Actual::Unsigned(_) | Actual::Signed(_), expected) if expected == "a string" => {
            ("a text is expected, and a number was found".to_owned(), "put it in quotes".to_owned())
        }
        Kind::InvalidType(actual, _) if error.path.is_empty() => (
            format!("a table is expected, and {} was found", kind_of(actual)),
            format!("write `[{section}]`"),
        ),
        Kind::InvalidType(actual, expected) => (
            format!("{} is expected, and {} was found", wanted(expected), kind_of(actual)),
            "see config.example.toml".to_owned(),
        ),
        Kind::InvalidValue(Actual::Unsigned(_) | Actual::Signed(_), expected) => {
            ("the number is out of range".to_owned(), format!("choose {}", range(expected)))
        }
        Kind::InvalidValue(actual, expected) => (
            format!("{} is not accepted: {expected} is expected", kind_of(actual)),
            "see config.example.toml".to_owned(),
        ),
        other => (other.to_string(), "see config.example.toml".to_owned()),
    };
    let what = if by_env { format!("{what} (set in the environment)") } else { what };
    Problem::error(place, what, remedy)
}

/// What is expected, in words: a config knows no `u64`.
fn wanted(expected: &str) -> &str {
    match expected {
        "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
        "f32" | "f64" => "a number",
        other => other,
    }
}

/// Which numbers are in range, in words.
fn range(expected: &str) -> String {
    let most = match expected {
        "u16" => u32::from(u16::MAX),
        "u32" => u32::MAX,
        // What a file can say and is beyond the others is below zero.
        other => return wanted(other).to_owned(),
    };
    format!("a whole number from 0 to {most}")
}

fn kind_of(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "a truth value",
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) => "a number",
        Actual::Char(_) | Actual::Str(_) => "a text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "something else",
    }
}

/// What a text from the environment means where no text is expected.
fn typed(text: &str) -> Option<Value> {
    let mut table: toml::Table = toml::from_str(&format!("value = {text}")).ok()?;
    let value = table.remove("value").filter(|_| table.is_empty())?;
    Value::serialize(value).ok()
}

/// Replaces what is at this path, or takes it out (a whole list, where the path leads into one).
fn replace(value: &mut Value, path: &[String], new: Option<Value>) -> bool {
    let (Value::Dict(_, keys), Some((first, rest))) = (value, path.split_first()) else {
        return false;
    };
    if let Some(inner @ Value::Dict(..)) = keys.get_mut(first)
        && !rest.is_empty()
    {
        return replace(inner, rest, new);
    }
    match new {
        Some(new) => keys.insert(first.clone(), new).is_some(),
        None => keys.remove(first).is_some(),
    }
}
