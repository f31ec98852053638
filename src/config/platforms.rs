//! `[platforms.NAME]`: the FaaS platforms whose functions are called.

use secrecy::SecretString;
use serde::Deserialize;

/// Which API a platform speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// The Trigger Rules protocol (`docs/trigger-rules.openapi.yaml`).
    Rules,
}

/// One platform.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformConfig {
    /// Which API it speaks.
    pub driver: DriverKind,
    /// Its base URL, for example `http://127.0.0.1:8700`.
    pub url: String,
    /// The token that we show it.
    #[serde(default)]
    pub token: Option<SecretString>,
    /// A file that holds that token.
    #[serde(default)]
    pub token_file: Option<std::path::PathBuf>,
    /// The token that it shows us, to bind and unbind from its side.
    #[serde(default)]
    pub api_token: Option<SecretString>,
    /// A file that holds that token.
    #[serde(default)]
    pub api_token_file: Option<std::path::PathBuf>,
    /// Most bindings of its functions; 0 takes no new ones.
    #[serde(default = "max_bindings")]
    pub max_bindings: u32,
    /// Its function that is given the dead letters of bindings that name none themselves.
    #[serde(default)]
    pub dead_letter_function: Option<String>,
}

fn max_bindings() -> u32 {
    10_000
}
