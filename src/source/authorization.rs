//! The `Authorization` header as MinIO's webhook target sends it.
//!
//! MinIO makes it from the target's `auth_token` by the number of its words: one is sent as `Bearer TOKEN`, two
//! exactly as they are (such as `Basic …`), and any other number sends **no header at all**. A token of the latter
//! kind is refused here, since no request could ever pass. Compared are digests, so that neither content nor
//! length can be timed.

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A token that MinIO would not send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the token has {words} words; MinIO sends a token of one word (as `Bearer TOKEN`) or of two (as they are) and no other"
)]
pub struct UnsendableToken {
    /// How many it has.
    pub words: usize,
}

/// The one header that is let in.
pub(super) struct Authorization {
    digest: [u8; 32],
}

impl Authorization {
    /// What MinIO sends when its target has this token.
    pub(super) fn of_token(token: &SecretString) -> Result<Self, UnsendableToken> {
        let token = token.expose_secret().trim();
        let digest = match token.split_whitespace().count() {
            1 => Sha256::new().chain_update(b"Bearer ").chain_update(token),
            2 => Sha256::new().chain_update(token),
            words => return Err(UnsendableToken { words }),
        };
        Ok(Self { digest: digest.finalize().into() })
    }

    /// Whether this header (none, when there is none) is the one.
    pub(super) fn admits(&self, header: Option<&HeaderValue>) -> bool {
        let given: [u8; 32] = Sha256::digest(header.map_or(&b""[..], HeaderValue::as_bytes)).into();
        self.digest.ct_eq(&given).into()
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(token: &str, header: Option<&str>) -> bool {
        let header = header.map(|header| HeaderValue::from_str(header).unwrap());
        Authorization::of_token(&token.into()).unwrap().admits(header.as_ref())
    }

    #[test]
    fn one_word_is_a_bearer_and_two_are_sent_as_they_are() {
        assert!(admits("secret", Some("Bearer secret")));
        assert!(admits(" secret\n", Some("Bearer secret")));
        assert!(admits("Basic dTpw", Some("Basic dTpw")));
        for wrong in
            [None, Some(""), Some("secret"), Some("Bearer secret2"), Some("Bearer"), Some("bearer secret")]
        {
            assert!(!admits("secret", wrong), "{wrong:?}");
        }
        assert!(!admits("Basic dTpw", Some("Bearer Basic dTpw")));
    }

    #[test]
    fn tokens_that_minio_never_sends_are_refused() {
        for (token, words) in [("", 0), ("  ", 0), ("a b c", 3)] {
            assert_eq!(Authorization::of_token(&token.into()).unwrap_err(), UnsendableToken { words });
        }
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Authorization::of_token(&"secret".into()).unwrap()), "Authorization(..)");
    }
}
