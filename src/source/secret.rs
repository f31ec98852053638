//! A secret that is given as text or as a file that holds it.

use std::{fs, io, path::PathBuf};

use secrecy::SecretString;

/// A file that should hold a secret and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the file {} cannot be read", path.display())]
pub struct UnreadableFile {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// The secret itself where it is given, else what its file holds, without blanks and line ends around it.
pub(super) fn read(
    value: Option<&SecretString>,
    file: Option<&PathBuf>,
) -> Result<Option<SecretString>, UnreadableFile> {
    match (value, file) {
        (Some(value), _) => Ok(Some(value.clone())),
        (None, Some(path)) => read_file(path).map(|text| Some(text.trim().into())),
        (None, None) => Ok(None),
    }
}

/// The text of a small file.
pub(super) fn read_file(path: &PathBuf) -> Result<String, UnreadableFile> {
    fs::read_to_string(path).map_err(|source| UnreadableFile { path: path.clone(), source })
}
