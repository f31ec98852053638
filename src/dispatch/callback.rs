//! Where an asynchronous function's result is sent, and how a result that comes is told from a forged one.
//!
//! The callback URL carries a token: the delivery's and the binding's ids, and a MAC over them by the binding's secret.
//! So it needs no memory, survives restarts, and cannot be made by anybody who does not hold the secret. Platforms that
//! sign their callbacks are held to the signature besides (the admin API checks it).

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::domain::{
    binding::{Binding, Mode},
    ids::{BindingId, DeliveryId},
};

/// Makes callback URLs.
#[derive(Debug, Clone)]
pub struct Callbacks {
    public_url: String,
}

/// What a token says, before its MAC is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// Which delivery's result.
    pub delivery: DeliveryId,
    /// Of which binding.
    pub binding: BindingId,
    mac: &'a str,
}

impl Callbacks {
    /// Callbacks that reach us under this URL.
    pub fn new(public_url: &str) -> Self {
        Self { public_url: public_url.trim_end_matches('/').to_owned() }
    }

    /// The URL for one delivery's result; none for a synchronous binding.
    pub fn url(&self, binding: &Binding, delivery: DeliveryId) -> Option<String> {
        if binding.spec.mode != Mode::Async {
            return None;
        }
        let mac = mac(binding, delivery)?;
        let tag =
            mac.finalize().into_bytes().iter().fold(String::new(), |tag, byte| format!("{tag}{byte:02x}"));
        Some(format!("{}/v1/callbacks/{delivery}.{}.{tag}", self.public_url, binding.id))
    }
}

impl<'a> Token<'a> {
    /// Reads a token's form.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let delivery = parts.next()?.parse().ok()?;
        let binding = parts.next()?.parse().ok()?;
        let mac = parts.next().filter(|mac| mac.len() == 64)?;
        Some(Self { delivery, binding, mac })
    }

    /// Whether it was made for this binding by somebody who holds its secret; in constant time.
    pub fn is_authentic(&self, binding: &Binding) -> bool {
        let bytes: Option<Vec<u8>> = (0..self.mac.len())
            .step_by(2)
            .map(|at| self.mac.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect();
        let (Some(bytes), Some(mac)) = (bytes, mac(binding, self.delivery)) else { return false };
        self.binding == binding.id && mac.verify_slice(&bytes).is_ok()
    }
}

fn mac(binding: &Binding, delivery: DeliveryId) -> Option<Hmac<Sha256>> {
    let key = binding.secret.key().ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(b"triggerd callback 1");
    mac.update(delivery.as_bytes());
    mac.update(binding.id.as_bytes());
    Some(mac)
}
