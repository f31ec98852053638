//! The way out: the only calls to functions and to the platforms that run them.
//!
//! A driver speaks one platform's API. It establishes, inspects and withdraws rules, and it invokes functions; each
//! answer is classified into an [`Outcome`] here, once, and nowhere else.

mod classify;
mod connection;
pub mod exchange;
pub mod payload;
pub mod report;
pub mod rules;
pub mod signature;
#[cfg(test)]
mod tests;

use std::fmt;

use async_trait::async_trait;

use crate::domain::{
    binding::Binding,
    clock::Timestamp,
    delivery::{Delivery, Obituary},
    ids::BindingId,
    outcome::Outcome,
};

/// What came of asking a platform to hold a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Established {
    /// The rule was made, or the same one is there: confirmed.
    Confirmed,
    /// The rule is kept and will be confirmed by a call back.
    Pending,
    /// The platform said no, for good; why, for a person.
    Rejected(String),
}

/// What a platform holds of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspection {
    /// The rule, as it should be; and whether the platform has confirmed it.
    InStep {
        /// Whether it is confirmed.
        confirmed: bool,
    },
    /// The rule with other contents; what differs.
    Changed(String),
    /// No such rule.
    Missing,
}

/// Why a platform could not be asked. It is asked again later.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// No answer.
    #[error("platform `{platform}` cannot be reached at {url}")]
    Unreachable {
        /// Its name in the config.
        platform: String,
        /// Where it was looked for.
        url: String,
        /// Why.
        #[source]
        source: exchange::ExchangeError,
    },
    /// An answer that is neither yes nor no.
    #[error("platform `{platform}` answered {status} to {what}: {detail}")]
    Unexpected {
        /// Its name in the config.
        platform: String,
        /// What it was asked.
        what: &'static str,
        /// Its HTTP status.
        status: u16,
        /// What it said; bounded.
        detail: String,
    },
    /// It does not accept our token.
    #[error(
        "platform `{platform}` does not accept our token ({status}); compare the platform's `token_file` with its own"
    )]
    Unauthorized {
        /// Its name in the config.
        platform: String,
        /// Its HTTP status.
        status: u16,
    },
}

/// One call of a function.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The binding as the mirror has it now.
    pub binding: &'a Binding,
    /// What is delivered.
    pub delivery: &'a Delivery,
    /// When the attempt begins; it is signed with it.
    pub now: Timestamp,
    /// Where an asynchronous result may be sent, with its token.
    pub callback_url: Option<&'a str>,
    /// What a handler function is told of a dead letter; none for every ordinary call.
    pub letter: Option<&'a Obituary>,
}

/// The code that speaks a platform's API.
#[async_trait]
pub trait Driver: Send + Sync + fmt::Debug {
    /// Asks the platform to hold the rule of this binding. Idempotent.
    async fn establish(&self, binding: &Binding, confirm_url: &str) -> Result<Established, PlatformError>;

    /// Asks what the platform holds.
    async fn inspect(&self, binding: &Binding) -> Result<Inspection, PlatformError>;

    /// Takes the rule back; one that is not there is taken back already.
    async fn withdraw(&self, id: BindingId) -> Result<(), PlatformError>;

    /// Calls the function. Never longer than the binding's timeout; every ending is an outcome.
    async fn invoke(&self, call: Call<'_>) -> Outcome;

    /// The function that is given the binding's dead letters, and that its rule allows to be called for this.
    fn handler(&self, binding: &Binding) -> Option<String> {
        binding.spec.dead_letter_function.clone()
    }

    /// Whether the platform is there and accepts our token; for `check`.
    async fn check(&self) -> Result<(), PlatformError>;
}
