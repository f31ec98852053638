//! The configuration: one struct for each section, validated; plain data, used by whoever is configured.
//!
//! It comes from one TOML file and from environment variables over it: `TRIGGERD_SECTION__KEY`, for example
//! `TRIGGERD_ADMIN__LISTEN` or `TRIGGERD_STORAGES__MAIN__SECRET_KEY`. An unknown key is an error, so that a typing
//! mistake cannot become a silent default. Each secret has a `_file` twin ([`secrets`]).
//!
//! Everything that is wrong is found in one go ([`load`]): what cannot be read is noted and left out, the rest is read on
//! and held against itself ([`validate`]). Errors keep the daemon from starting; warnings are contradictions that it
//! can live with. Not here: whether what is named is there and answers, which is `triggerd check`.

pub mod admin;
pub mod bindings;
pub mod callbacks;
pub mod dead_letters;
pub mod dispatch;
mod inputs;
mod load;
pub mod log;
pub mod node;
pub mod platforms;
mod problem;
pub mod queue;
pub mod relations;
mod secrets;
pub mod sources;
pub mod storages;
mod validate;

#[cfg(test)]
mod example_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::domain::event::StorageName;

pub use inputs::Inputs;
pub use load::{Loaded, load, load_admin};
pub use problem::{InvalidConfig, Problem, Severity};

/// The whole configuration. Secrets are read, defaults filled in.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `[node]`.
    pub node: node::NodeConfig,
    /// `[relations]`.
    pub relations: relations::RelationsConfig,
    /// `[queue]`.
    pub queue: queue::QueueConfig,
    /// `[admin]`.
    pub admin: admin::AdminConfig,
    /// `[callbacks]`, where there is one.
    pub callbacks: Option<callbacks::CallbacksConfig>,
    /// `[storages.NAME]`.
    pub storages: BTreeMap<String, storages::StorageConfig>,
    /// `[sources.NAME]`.
    pub sources: BTreeMap<String, sources::SourceConfig>,
    /// `[platforms.NAME]`.
    pub platforms: BTreeMap<String, platforms::PlatformConfig>,
    /// `[bindings]`.
    pub bindings: bindings::BindingsConfig,
    /// `[dispatch]`.
    pub dispatch: dispatch::DispatchConfig,
    /// `[dead_letters]`.
    pub dead_letters: dead_letters::DeadLettersConfig,
    /// `[log]`.
    pub log: log::LogConfig,
}

impl Config {
    /// Everything that is wrong with it and everything that is probably not meant; empty when all is well.
    pub fn validate(&self) -> Vec<Problem> {
        validate::all(self, &validate::Written::of(self))
    }

    /// The storage that is meant when none is named: the only one.
    pub fn default_storage(&self) -> Option<StorageName> {
        let mut names = self.storages.keys();
        match (names.next(), names.next()) {
            (Some(only), None) => Some(StorageName::new(only.as_str())),
            _ => None,
        }
    }

    /// The storage whose events a source brings; none when it names none and there are several.
    pub fn storage_of(&self, source: &sources::SourceConfig) -> Option<StorageName> {
        source.storage().map(StorageName::new).or_else(|| self.default_storage())
    }
}
