//! Standard Webhooks 1.0.0 signatures (symmetric, `v1`): who holds a binding's secret is the other side of it.
//!
//! Signed is `id.timestamp.body`. The id is a delivery's, the same on every attempt; the timestamp is the attempt's,
//! in seconds. A sender that rotates its secret sends several signatures, separated by spaces; one that matches is
//! enough. What is not signed (the other headers) must decide nothing.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::Sha256;

use crate::domain::{
    clock::Timestamp,
    secret::{InvalidSecret, SigningSecret},
};

/// How far the signed time may lie from now, before or after, in seconds.
pub const WINDOW_SECONDS: u64 = 300;

/// Most signatures of one message that are looked at.
const MAX_SIGNATURES: usize = 16;

/// The three headers of a signed message, as they came.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// `webhook-id`
    pub id: &'a str,
    /// `webhook-timestamp`
    pub timestamp: &'a str,
    /// `webhook-signature`
    pub signature: &'a str,
}

impl<'a> Signed<'a> {
    /// Takes the three headers.
    pub fn read(headers: &'a HeaderMap) -> Result<Self, Unverified> {
        let text = |name: &'static str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.ok_or(Unverified::Missing(name))
        };
        Ok(Self {
            id: text("webhook-id")?,
            timestamp: text("webhook-timestamp")?,
            signature: text("webhook-signature")?,
        })
    }
}

/// Why a message is not believed. Says nothing of the secret or of the right signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// A header is not there, or not plain text.
    #[error("header `{0}` is missing or not plain text")]
    Missing(&'static str),
    /// Our own secret cannot be read.
    #[error("the binding's secret cannot be read; bind anew")]
    Secret(#[source] InvalidSecret),
    /// The time is not a number.
    #[error("`webhook-timestamp` is not a number of seconds")]
    Timestamp,
    /// No signature of the list is by our secret.
    #[error(
        "no signature in `webhook-signature` matches; sign `id.timestamp.body` with the binding's secret"
    )]
    Signature,
    /// The signature is right and its time is not: an old message sent again, or two clocks apart.
    #[error(
        "`webhook-timestamp` is {seconds_off} s from our clock, more than {WINDOW_SECONDS}; compare the clocks"
    )]
    Stale {
        /// How far off.
        seconds_off: u64,
    },
}

/// The value of `webhook-signature` for a message that we send at `at`.
pub fn sign(secret: &SigningSecret, id: &str, at: Timestamp, body: &[u8]) -> Result<String, InvalidSecret> {
    let tag = mac(secret, id, at.as_seconds(), body)?.finalize().into_bytes();
    Ok(format!("v1,{}", STANDARD.encode(tag)))
}

/// Whether a message with these headers can be right at all, which is known before its body has come: its time is of now,
/// and at least one signature has the form of one. (That it tells about our clock tells nothing new: each of our answers
/// carries its date.)
pub fn could_be_right(signed: Signed<'_>, now: Timestamp) -> Result<(), Unverified> {
    is_fresh(seconds(signed)?, now)?;
    // HMAC-SHA256 gives 32 bytes.
    if tags(signed).any(|tag| tag.len() == 32) { Ok(()) } else { Err(Unverified::Signature) }
}

/// Checks a message that we received. Signatures are compared in constant time.
pub fn verify(
    secret: &SigningSecret,
    signed: Signed<'_>,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Unverified> {
    let timestamp = seconds(signed)?;
    let mut matched = false;
    for tag in tags(signed) {
        let mac = mac(secret, signed.id, timestamp, body).map_err(Unverified::Secret)?;
        matched |= mac.verify_slice(&tag).is_ok();
    }
    if matched { is_fresh(timestamp, now) } else { Err(Unverified::Signature) }
}

fn seconds(signed: Signed<'_>) -> Result<i64, Unverified> {
    signed.timestamp.trim().parse().map_err(|_| Unverified::Timestamp)
}

/// The signatures of the list, as far as they are looked at and have the form of one.
fn tags(signed: Signed<'_>) -> impl Iterator<Item = Vec<u8>> {
    let listed = signed.signature.split(' ').take(MAX_SIGNATURES);
    listed.filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok())
}

fn is_fresh(timestamp: i64, now: Timestamp) -> Result<(), Unverified> {
    match now.as_seconds().abs_diff(timestamp) {
        0..=WINDOW_SECONDS => Ok(()),
        seconds_off => Err(Unverified::Stale { seconds_off }),
    }
}

fn mac(secret: &SigningSecret, id: &str, timestamp: i64, body: &[u8]) -> Result<Hmac<Sha256>, InvalidSecret> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.key()?).map_err(|_| InvalidSecret)?;
    mac.update(id.as_bytes());
    mac.update(b".");
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use standardwebhooks::Webhook;

    use super::*;
    use crate::domain::{
        clock::{Clock, SystemClock},
        entropy::SeededEntropy,
    };

    fn secret(seed: u64) -> SigningSecret {
        SigningSecret::generate(&SeededEntropy::new(seed))
    }

    proptest! {
        #[test]
        fn we_sign_as_the_reference_library_does(
            seed: u64, id in "[a-z0-9_]{1,40}", seconds in 0i64..4_000_000_000, body: Vec<u8>,
        ) {
            // The library takes text only.
            let body = String::from_utf8_lossy(&body).into_owned();
            let secret = secret(seed);
            let theirs = Webhook::new(secret.expose()).unwrap().sign(&id, seconds, body.as_bytes()).unwrap();
            let at = Timestamp::from_micros(seconds * 1_000_000 + 999_999);
            prop_assert_eq!(sign(&secret, &id, at, body.as_bytes()).unwrap(), theirs.clone());
            let signed = Signed { id: &id, timestamp: &seconds.to_string(), signature: &theirs };
            prop_assert_eq!(verify(&secret, signed, body.as_bytes(), at), Ok(()));
        }
    }

    #[test]
    fn the_reference_library_accepts_what_we_sign() {
        let (secret, now) = (secret(1), SystemClock::new().now());
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", "d1".parse().unwrap());
        headers.insert("webhook-timestamp", now.as_seconds().into());
        headers.insert("webhook-signature", sign(&secret, "d1", now, b"{}").unwrap().parse().unwrap());
        Webhook::new(secret.expose()).unwrap().verify(b"{}", &headers).unwrap();
    }

    #[test]
    fn every_signed_part_counts_and_one_of_several_signatures_is_enough() {
        let (old, new, now) = (secret(1), secret(2), Timestamp::from_micros(1_700_000_000_000_000));
        let seconds = now.as_seconds().to_string();
        let both =
            format!("v1a,xx {} {}", sign(&old, "d", now, b"x").unwrap(), sign(&new, "d", now, b"x").unwrap());
        let signed = Signed { id: "d", timestamp: &seconds, signature: &both };
        assert_eq!(verify(&old, signed, b"x", now), Ok(()));
        assert_eq!(verify(&new, signed, b"x", now), Ok(()));
        assert_eq!(verify(&secret(3), signed, b"x", now), Err(Unverified::Signature));
        assert_eq!(verify(&old, signed, b"y", now), Err(Unverified::Signature));
        assert_eq!(verify(&old, Signed { id: "e", ..signed }, b"x", now), Err(Unverified::Signature));
        assert_eq!(
            verify(&old, Signed { timestamp: "1700000001", ..signed }, b"x", now),
            Err(Unverified::Signature)
        );
        assert_eq!(
            verify(&old, Signed { timestamp: "soon", ..signed }, b"x", now),
            Err(Unverified::Timestamp)
        );
    }

    #[test]
    fn headers_alone_tell_what_no_body_can_make_right() {
        let now = Timestamp::from_micros(1_700_000_000_000_000);
        let signature = sign(&secret(1), "d", now, b"x").unwrap();
        let signed = Signed { id: "d", timestamp: "1700000000", signature: &signature };
        assert_eq!(could_be_right(signed, now), Ok(()), "whatever the body will be");
        let many = format!("v1a,xx v1,%% {signature}");
        assert_eq!(could_be_right(Signed { signature: &many, ..signed }, now), Ok(()));
        for signature in ["", "v1,", "v1,eHg=", "v2,xx", "%%"] {
            let odd = Signed { signature, ..signed };
            assert_eq!(could_be_right(odd, now), Err(Unverified::Signature), "{signature}");
        }
        let odd = Signed { timestamp: "soon", ..signed };
        assert_eq!(could_be_right(odd, now), Err(Unverified::Timestamp));
        for timestamp in ["1699999699", "1700000301"] {
            let old = Signed { timestamp, ..signed };
            assert_eq!(could_be_right(old, now), Err(Unverified::Stale { seconds_off: 301 }));
        }
    }

    #[test]
    fn a_message_from_beyond_the_window_is_stale_on_both_sides() {
        let (secret, at) = (secret(1), Timestamp::from_micros(1_700_000_000_000_000));
        let signature = sign(&secret, "d", at, b"x").unwrap();
        let seconds = at.as_seconds().to_string();
        let signed = Signed { id: "d", timestamp: &seconds, signature: &signature };
        let later = |seconds| at.plus(Duration::from_secs(seconds));
        assert_eq!(verify(&secret, signed, b"x", later(300)), Ok(()));
        assert_eq!(verify(&secret, signed, b"x", later(301)), Err(Unverified::Stale { seconds_off: 301 }));
        let earlier = Timestamp::from_micros(at.as_micros() - 301_000_000);
        assert_eq!(verify(&secret, signed, b"x", earlier), Err(Unverified::Stale { seconds_off: 301 }));
    }
}
