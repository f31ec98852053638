//! The config file, whole and checked: unknown keys are errors, paths are taken from the config file's
//! folder, and tokens are read from files of their own.

use anyhow::{Context, bail, ensure};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// What `platform.example.toml` explains key by key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default = "default_listen")]
    pub(crate) listen: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) token_file: PathBuf,
    #[serde(default)]
    pub(crate) confirm: Confirm,
    #[serde(default = "default_max_body")]
    pub(crate) max_body: usize,
    #[serde(default = "default_timeout", deserialize_with = "duration")]
    pub(crate) body_timeout: Duration,
    #[serde(default)]
    pub(crate) functions: BTreeMap<String, FunctionConfig>,
    pub(crate) triggerd: Option<TriggerdConfig>,
}

/// How a new rule is confirmed to its binding.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Confirm {
    /// In the answer to `PUT /rules/{id}`.
    #[default]
    Answer,
    /// By a signed call to the rule's `confirm_url`, after an answer that says `pending`.
    Callback,
}

/// One function: a command of this host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FunctionConfig {
    pub(crate) command: Vec<String>,
    #[serde(default = "default_timeout", deserialize_with = "duration")]
    pub(crate) timeout: Duration,
    #[serde(default = "default_concurrency")]
    pub(crate) concurrency: usize,
    #[serde(default = "default_backlog")]
    pub(crate) backlog: usize,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
}

/// The triggerd that `bind` and `unbind` speak to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TriggerdConfig {
    pub(crate) url: String,
    pub(crate) token_file: PathBuf,
    /// The name by which triggerd's config knows this platform.
    pub(crate) platform: String,
}

impl Config {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read the config {}", path.display()))?;
        let mut config: Self =
            toml::from_str(&text).with_context(|| format!("in the config {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mine = [&mut config.state_dir, &mut config.token_file];
        for file in mine.into_iter().chain(config.triggerd.as_mut().map(|triggerd| &mut triggerd.token_file))
        {
            *file = folder.join(&*file);
        }
        ensure!((1024..=64 << 20).contains(&config.max_body), "max_body must be from 1024 to 67108864 bytes");
        for (name, function) in &config.functions {
            function.check(name)?;
        }
        Ok(config)
    }
}

impl FunctionConfig {
    fn check(&self, name: &str) -> anyhow::Result<()> {
        ensure!(is_name(name), "functions.{name}: a name is 1 to 64 of A-Z a-z 0-9 . _ -");
        ensure!(
            self.command.first().is_some_and(|program| !program.is_empty()),
            "functions.{name}: command is empty"
        );
        ensure!(!self.timeout.is_zero(), "functions.{name}: timeout must be longer than 0");
        ensure!((1..=1024).contains(&self.concurrency), "functions.{name}: concurrency must be 1 to 1024");
        ensure!((1..=100_000).contains(&self.backlog), "functions.{name}: backlog must be 1 to 100000");
        Ok(())
    }
}

/// Rule ids and function names: safe as a file's name and as one segment of a path.
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != ".."
}

/// A bearer token: the first line of its file.
pub(crate) fn read_token(path: &Path) -> anyhow::Result<SecretString> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read the token file {}", path.display()))?;
    match text.lines().next().map(str::trim) {
        Some(token) if token.len() >= 16 => Ok(token.into()),
        _ => bail!("the token in {} has fewer than 16 characters; write a longer one", path.display()),
    }
}

/// `500ms`, `30s`, `5m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let signed = text.parse::<jiff::SignedDuration>().map_err(|error| error.to_string())?;
    Duration::try_from(signed).map_err(|_| format!("{text} is not a length of time"))
}

fn duration<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(value)?).map_err(serde::de::Error::custom)
}

fn default_listen() -> String {
    "127.0.0.1:8700".to_owned()
}

const fn default_max_body() -> usize {
    1 << 20
}

const fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

const fn default_concurrency() -> usize {
    4
}

const fn default_backlog() -> usize {
    1000
}
