//! Where an asynchronous function's result is sent, and how a result that comes is told from a forged one.
//!
//! The callback URL carries a token: the delivery's and the binding's ids, which attempt it is, the name of the node that
//! has the delivery, and a MAC over all of them by the binding's secret. So it needs no memory, survives restarts, and
//! cannot be made by anybody who does not hold the secret. Which attempt a result is of, the token says and not what comes
//! with it: a platform need not know of attempts. Platforms that sign their callbacks are held to the signature besides
//! (the composition root checks it).

use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::domain::{
    binding::{Binding, Mode},
    delivery::Delivery,
    ids::{BindingId, DeliveryId},
};

/// Makes callback URLs.
#[derive(Debug, Clone)]
pub struct Callbacks {
    public_url: String,
    node: String,
}

/// What a token says, before its MAC is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// Which delivery's result.
    pub delivery: DeliveryId,
    /// Of which binding.
    pub binding: BindingId,
    /// Of which attempt, counted from 1 as the call says it.
    pub attempt: u32,
    /// On which daemon the delivery is.
    pub node: &'a str,
    mac: &'a str,
}

impl Callbacks {
    /// Callbacks that reach the daemon of this name under this URL.
    pub fn new(public_url: &str, node: &str) -> Self {
        Self { public_url: public_url.trim_end_matches('/').to_owned(), node: node.to_owned() }
    }

    /// The URL for the result of a delivery's next attempt; none for a synchronous binding.
    pub fn url(&self, binding: &Binding, delivery: &Delivery) -> Option<String> {
        if binding.spec.mode != Mode::Async {
            return None;
        }
        let (id, attempt) = (delivery.id, delivery.number());
        let mac = mac(binding, (id, attempt, &self.node))?;
        let tag =
            mac.finalize().into_bytes().iter().fold(String::new(), |tag, byte| format!("{tag}{byte:02x}"));
        Some(format!("{}/v1/callbacks/{id}.{}.{attempt}.{}.{tag}", self.public_url, binding.id, self.node))
    }
}

impl<'a> Token<'a> {
    /// Reads a token's form; there is one for each call.
    pub fn parse(text: &'a str) -> Option<Self> {
        let is_hex = |mac: &str| mac.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let (head, mac) = text.rsplit_once('.').filter(|(_, mac)| mac.len() == 64 && is_hex(mac))?;
        let mut parts = head.splitn(4, '.');
        let delivery = exactly(parts.next()?)?;
        let binding = exactly(parts.next()?)?;
        let attempt = exactly(parts.next()?)?;
        // A node's name may have full stops in it.
        let node = parts.next().filter(|node| !node.is_empty())?;
        Some(Self { delivery, binding, attempt, node, mac })
    }

    /// Whether it was made for this binding by somebody who holds its secret; in constant time.
    pub fn is_authentic(&self, binding: &Binding) -> bool {
        let bytes: Option<Vec<u8>> = (0..self.mac.len())
            .step_by(2)
            .map(|at| self.mac.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect();
        let made = mac(binding, (self.delivery, self.attempt, self.node));
        let (Some(bytes), Some(mac)) = (bytes, made) else { return false };
        self.binding == binding.id && mac.verify_slice(&bytes).is_ok()
    }
}

/// Read, if it is written as we write it.
fn exactly<T: FromStr + ToString>(text: &str) -> Option<T> {
    text.parse().ok().filter(|read: &T| read.to_string() == text)
}

fn mac(binding: &Binding, (delivery, attempt, node): (DeliveryId, u32, &str)) -> Option<Hmac<Sha256>> {
    let key = binding.secret.key().ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(b"triggerd callback 2");
    mac.update(delivery.as_bytes());
    mac.update(binding.id.as_bytes());
    mac.update(&attempt.to_be_bytes());
    // The last, and the only one whose length varies.
    mac.update(node.as_bytes());
    Some(mac)
}
