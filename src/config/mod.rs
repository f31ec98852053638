//! The configuration: one struct for each section, validated; plain data, used by whoever is configured.

pub mod platforms;
pub mod relations;
pub mod sources;
pub mod storages;
