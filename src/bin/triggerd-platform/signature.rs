//! Standard Webhooks 1.0 signatures (symmetric): who holds a rule's secret may invoke by that rule.
//!
//! Signed is `id.timestamp.body`, where `id` is the delivery's (the same on every retry) and `timestamp`
//! the seconds of this attempt. A caller that rotates its secret sends several signatures; one that
//! matches is enough. What is not signed (the other headers) decides nothing here.

use crate::clock;
use axum::http::HeaderMap;
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serializer};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// How far the signed time may lie from now, before or after, in seconds.
pub(crate) const WINDOW: u64 = 300;

/// A rule's secret, `whsec_` and the base64 of 24 to 64 bytes.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Secret(SecretString);

/// Why a call is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// No signature in the list is ours.
    Signature,
    /// The signature is right, its time is not: an old call sent again, or two clocks apart.
    Stale { seconds_off: u64 },
}

impl TryFrom<String> for Secret {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let key = text.strip_prefix("whsec_").and_then(|coded| STANDARD.decode(coded).ok());
        if key.is_none_or(|key| !(24..=64).contains(&key.len())) {
            return Err("field `secret` must be whsec_ and the base64 of 24 to 64 bytes");
        }
        Ok(Self(text.into()))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        same(self.0.expose_secret(), other.0.expose_secret())
    }
}

impl Secret {
    /// The signature header for a message that we send.
    pub(crate) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        format!("v1,{}", STANDARD.encode(self.mac(id, timestamp, body).finalize().into_bytes()))
    }

    /// Checks a message that we received; the signature first, so that only who holds the secret learns
    /// that the clocks differ.
    pub(crate) fn verify(&self, signed: &Signed<'_>, body: &[u8]) -> Result<(), Rejected> {
        let matches = |signature: &str| {
            let sent = signature.strip_prefix("v1,").and_then(|coded| STANDARD.decode(coded).ok());
            sent.is_some_and(|sent| self.mac(signed.id, signed.timestamp, body).verify_slice(&sent).is_ok())
        };
        if !signed.signatures.split(' ').take(16).any(matches) {
            return Err(Rejected::Signature);
        }
        let seconds_off = clock::unix_seconds().abs_diff(signed.timestamp);
        if seconds_off > WINDOW { Err(Rejected::Stale { seconds_off }) } else { Ok(()) }
    }

    /// By what the other side can tell, without seeing it, that this is the secret it knows.
    pub(crate) fn digest(&self) -> String {
        format!("sha256:{}", hex(&Sha256::digest(self.0.expose_secret())))
    }

    fn mac(&self, id: &str, timestamp: u64, body: &[u8]) -> Hmac<Sha256> {
        let coded = self.0.expose_secret().trim_start_matches("whsec_");
        let key = STANDARD.decode(coded).unwrap_or_default();
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of every length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        mac
    }
}

/// Writes the secret; only the rule's own file does this.
pub(crate) fn into_file<S: Serializer>(secret: &Secret, file: S) -> Result<S::Ok, S::Error> {
    file.serialize_str(secret.0.expose_secret())
}

/// The three headers of a signed message.
pub(crate) struct Signed<'a> {
    pub(crate) id: &'a str,
    pub(crate) timestamp: u64,
    pub(crate) signatures: &'a str,
}

impl<'a> Signed<'a> {
    /// Reads them, or says which one is missing or malformed.
    pub(crate) fn read(headers: &'a HeaderMap) -> Result<Self, String> {
        let text = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.ok_or_else(|| format!("header {name} is missing"))
        };
        let timestamp = text("webhook-timestamp")?;
        let digits = timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = timestamp.parse().ok().filter(|_| digits);
        Ok(Self {
            id: text("webhook-id")?,
            timestamp: seconds.ok_or("header webhook-timestamp is not in whole seconds")?,
            signatures: text("webhook-signature")?,
        })
    }
}

/// Compares two secrets in a time that tells nothing of either.
pub(crate) fn same(left: &str, right: &str) -> bool {
    subtle::ConstantTimeEq::ct_eq(&Sha256::digest(left)[..], &Sha256::digest(right)[..]).into()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/trigger-rules.md");

    /// The text between two marks of the document.
    fn between(start: &str, end: &str) -> &'static str {
        DOCUMENT.split_once(start).and_then(|(_, rest)| rest.split_once(end)).unwrap().0
    }

    #[test]
    fn worked_example_in_the_document_is_right() {
        let secret = Secret::try_from(between("the secret `", "`").to_owned()).unwrap();
        let id = between("\n    webhook-id: ", "\n");
        let timestamp = between("webhook-timestamp: ", "\n").parse().unwrap();
        let signature = between("webhook-signature: ", "\n\n");
        let body = between(&format!("{signature}\n\n    "), "\n");
        assert_eq!(body.len(), 125);
        assert_eq!(secret.sign(id, timestamp, body.as_bytes()), signature);
        let key = STANDARD.decode(secret.0.expose_secret().trim_start_matches("whsec_")).unwrap();
        assert_eq!(between("    key        ", " "), hex(&key));
        assert!(DOCUMENT.matches(signature).count() == 2 && DOCUMENT.matches(&hex(&key)).count() == 2);
        let mut signed = Signed { id, timestamp, signatures: signature };
        assert!(matches!(secret.verify(&signed, body.as_bytes()), Err(Rejected::Stale { .. })));
        signed.id = "another";
        assert_eq!(secret.verify(&signed, body.as_bytes()), Err(Rejected::Signature));
    }

    #[test]
    fn secret_must_be_24_to_64_bytes_of_base64_and_is_never_shown() {
        let secret = |bytes| Secret::try_from(format!("whsec_{}", STANDARD.encode(vec![7; bytes])));
        assert!(secret(23).is_err() && secret(65).is_err());
        assert!(secret(24).is_ok() && secret(64).is_ok());
        assert!(Secret::try_from("no prefix".to_owned()).is_err());
        assert!(Secret::try_from("whsec_not base64".to_owned()).is_err());
        assert!(!format!("{:?}", secret(24).unwrap()).contains("BwcH"));
    }
}
