//! A binding's secret: what triggerd and the platform both know and nobody else does.
//!
//! The text form is that of Standard Webhooks 1.0.0: `whsec_` and base64 of 24 to 64 bytes.

use std::fmt::{self, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::entropy::Entropy;

const PREFIX: &str = "whsec_";

/// A signing secret. `Debug` shows nothing of it.
#[derive(Debug, Clone)]
pub struct SigningSecret(SecretString);

/// A text that is no signing secret. Says nothing of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a signing secret: expected `whsec_` and base64 of 24 to 64 bytes")]
pub struct InvalidSecret;

impl SigningSecret {
    /// A new secret of 32 random bytes.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0; 32];
        entropy.fill(&mut bytes);
        Self(format!("{PREFIX}{}", STANDARD.encode(bytes)).into())
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let secret = Self(text.to_owned().into());
        match secret.key() {
            Ok(key) if (24..=64).contains(&key.len()) => Ok(secret),
            _ => Err(InvalidSecret),
        }
    }

    /// The text form, for the platform and the relations only.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The bytes that sign.
    pub fn key(&self) -> Result<Vec<u8>, InvalidSecret> {
        let encoded = self.expose().strip_prefix(PREFIX).ok_or(InvalidSecret)?;
        STANDARD.decode(encoded).map_err(|_| InvalidSecret)
    }

    /// `sha256:` and the hexadecimal digest of the text form: what may be compared and shown in its place.
    pub fn digest(&self) -> String {
        let digest = Sha256::digest(self.expose().as_bytes());
        digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ok: fmt::Result = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::entropy::SeededEntropy;

    #[test]
    fn secret_reads_its_text_and_hides_itself() {
        let secret = SigningSecret::generate(&SeededEntropy::new(1));
        assert_eq!(SigningSecret::parse(secret.expose()).unwrap().key(), secret.key());
        assert!(!format!("{secret:?}").contains(secret.expose()));
        assert_eq!(secret.digest().len(), "sha256:".len() + 64);
    }

    #[test]
    fn short_or_foreign_text_is_refused() {
        for text in ["", "whsec_", "whsec_AAAA", "hunter2", "whsec_!!!"] {
            assert_eq!(SigningSecret::parse(text).unwrap_err(), InvalidSecret, "{text}");
        }
    }
}
