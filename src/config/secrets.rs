//! Secrets and the files that hold them.
//!
//! Every secret key has a twin that ends in `_file`. A relative path is looked for in `$CREDENTIALS_DIRECTORY` first
//! (systemd's `LoadCredential=`), then beside the config file. What follows the last line of the secret, a line feed,
//! is not part of it. Nothing here puts a secret's value into a message.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use secrecy::SecretString;

use super::{
    admin::AdminConfig,
    platforms::PlatformConfig,
    problem::Problem,
    relations::RelationsConfig,
    sources::{MqttConfig, SourceConfig, WebhookConfig},
    storages::StorageConfig,
};

/// More than any token or URL; a file beyond it is the wrong file.
const MAX_SECRET: u64 = 64 << 10;

/// A secret of a section, and its twin.
pub(super) struct Twin<'a> {
    key: &'static str,
    value: &'a mut Option<SecretString>,
    file: &'a mut Option<PathBuf>,
}

/// A section that holds secrets.
pub(super) trait Secrets {
    /// All of them.
    fn twins(&mut self) -> Vec<Twin<'_>>;

    /// Other files that it names, to be found in the same places.
    fn files(&mut self) -> Vec<&mut PathBuf> {
        Vec::new()
    }
}

impl Secrets for RelationsConfig {
    fn twins(&mut self) -> Vec<Twin<'_>> {
        vec![Twin { key: "url", value: &mut self.url, file: &mut self.url_file }]
    }
}

impl Secrets for AdminConfig {
    fn twins(&mut self) -> Vec<Twin<'_>> {
        vec![Twin { key: "token", value: &mut self.token, file: &mut self.token_file }]
    }
}

impl Secrets for StorageConfig {
    fn twins(&mut self) -> Vec<Twin<'_>> {
        vec![Twin { key: "secret_key", value: &mut self.secret_key, file: &mut self.secret_key_file }]
    }
}

impl Secrets for WebhookConfig {
    fn twins(&mut self) -> Vec<Twin<'_>> {
        vec![Twin { key: "token", value: &mut self.token, file: &mut self.token_file }]
    }
}

impl Secrets for MqttConfig {
    fn twins(&mut self) -> Vec<Twin<'_>> {
        vec![Twin { key: "password", value: &mut self.password, file: &mut self.password_file }]
    }

    fn files(&mut self) -> Vec<&mut PathBuf> {
        [&mut self.ca_file, &mut self.cert_file, &mut self.key_file].into_iter().flatten().collect()
    }
}

impl Secrets for SourceConfig {
    fn twins(&mut self) -> Vec<Twin<'_>> {
        match self {
            Self::Webhook(source) => source.twins(),
            Self::Mqtt(source) => source.twins(),
        }
    }

    fn files(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Webhook(source) => source.files(),
            Self::Mqtt(source) => source.files(),
        }
    }
}

impl Secrets for PlatformConfig {
    fn twins(&mut self) -> Vec<Twin<'_>> {
        vec![
            Twin { key: "token", value: &mut self.token, file: &mut self.token_file },
            Twin { key: "api_token", value: &mut self.api_token, file: &mut self.api_token_file },
        ]
    }
}

/// Where relative paths are looked for.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    /// `$CREDENTIALS_DIRECTORY`, where systemd sets it.
    pub(super) credentials: Option<PathBuf>,
    /// The config file's folder.
    pub(super) config: PathBuf,
}

impl Folders {
    /// The file meant by a path of the config, and whether it is one of systemd's credentials.
    fn find(&self, path: &Path) -> (PathBuf, bool) {
        if path.is_relative()
            && let Some(folder) = &self.credentials
            && folder.join(path).exists()
        {
            return (folder.join(path), true);
        }
        (self.config.join(path), false)
    }

    /// Reads the files of a section's secrets into their values; `place` is the section.
    pub(super) fn resolve(&self, place: &str, section: &mut dyn Secrets, problems: &mut Vec<Problem>) {
        for file in section.files() {
            *file = self.find(file).0;
        }
        for twin in section.twins() {
            let at = format!("{place}.{}_file", twin.key);
            let Some(path) = twin.file.as_ref() else {
                continue;
            };
            if twin.value.is_some() {
                let what = format!("both `{0}` and `{0}_file` are set", twin.key);
                problems.push(Problem::error(place, what, "keep one of them, best the file"));
                continue;
            }
            let (path, credential) = self.find(path);
            match read(&path) {
                Ok((secret, mode)) => {
                    if !credential && mode & 0o004 != 0 {
                        let what = format!("every user of this host can read {}", path.display());
                        let remedy =
                            format!("`chmod 640 {0}` and give it to the daemon's group", path.display());
                        problems.push(Problem::warning(&at, what, remedy));
                    }
                    *twin.value = Some(secret);
                }
                Err((what, remedy)) => problems.push(Problem::error(&at, what, remedy)),
            }
            *twin.file = Some(path);
        }
    }
}

/// A secret and its file's mode, or what is wrong and what to do.
fn read(path: &Path) -> Result<(SecretString, u32), (String, String)> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => "make the file, or correct the path".to_owned(),
            std::io::ErrorKind::PermissionDenied => {
                "let the user that runs triggerd read it (`chgrp triggerd`, `chmod 640`)".to_owned()
            }
            _ => "give it a file that can be read".to_owned(),
        };
        (format!("{shown} cannot be read: {error}"), remedy)
    };
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() || meta.len() > MAX_SECRET {
        let what = format!("{shown} is no plain file of at most {MAX_SECRET} bytes");
        return Err((what, "name the file that holds the secret and nothing else".to_owned()));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| (format!("{shown} is not UTF-8 text"), "write the secret as plain text".to_owned()))?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.trim().is_empty() {
        let remedy = format!("write the secret into it, for example `openssl rand -hex 32 > {shown}`");
        return Err((format!("{shown} is empty"), remedy));
    }
    Ok((secret.into(), meta.permissions().mode()))
}
