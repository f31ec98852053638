//! `[relations]`: where bindings are kept.

use secrecy::SecretString;
use serde::Deserialize;

/// The shared database, or none: then `relations.db` in the state directory is the authority.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelationsConfig {
    /// `mysql://user:password@host/database`; TLS as MySQL's `ssl-mode` says (`?ssl-mode=REQUIRED`).
    pub url: Option<SecretString>,
    /// A file that holds the URL.
    pub url_file: Option<std::path::PathBuf>,
    /// Whether migrations run at start; otherwise `triggerd migrate` runs them.
    pub migrate_at_start: bool,
}

impl Default for RelationsConfig {
    fn default() -> Self {
        Self { url: None, url_file: None, migrate_at_start: true }
    }
}
