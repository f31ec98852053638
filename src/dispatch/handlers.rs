//! Sees to it that handler functions are called: looks at every new dead letter once, finds out whether a function is to
//! be given it, and has a delivery to that function parked. From there on the pump has it.
//!
//! A letter whose binding is gone is not handed over: the rule that would allow the call is gone with it.

use std::time::Duration;

use super::{Deliveries, Dispatcher};
use crate::{
    domain::{
        binding::Binding,
        delivery::{FunctionRef, Obituary},
    },
    queue::{DeadLetter, Handover, QueueError, Unhanded, UnhandedLetter},
    telemetry::Chain,
};

/// How often it is looked for new dead letters.
const LOOK: Duration = Duration::from_millis(500);

/// Letters looked at in one go.
const BATCH: u32 = 200;

impl Dispatcher {
    /// Looks again and again until a soft stop.
    pub async fn hand_over_letters(&self) {
        while !self.inner.soft.is_cancelled() {
            match self.hand_over().await {
                Ok(true) => continue,
                Ok(false) => (),
                Err(error) => self.note_trouble("hand dead letters over", &error),
            }
            tokio::select! {
                biased;
                () = self.inner.soft.cancelled() => (),
                () = tokio::time::sleep(LOOK) => (),
            }
        }
    }

    /// Looks at a batch of letters; whether there may be more.
    pub(super) async fn hand_over(&self) -> Result<bool, QueueError> {
        let parts = &self.inner.parts;
        let unhanded = parts.queue.unhanded(BATCH).await?;
        let Some(upto) = unhanded.upto else { return Ok(false) };
        let more = unhanded.letters.len() >= BATCH as usize;
        let Some(letters) = self.handovers(unhanded).await else { return Ok(false) };
        let functions: Vec<FunctionRef> = letters.iter().map(|letter| letter.function.clone()).collect();
        let handed = parts.queue.hand_over(letters, upto).await;
        // Some may be handed over though not all were.
        for function in functions {
            self.wake(&function);
        }
        handed.map(|_| more)
    }

    /// The letters that a function is to be given; none when the bindings cannot be read now.
    async fn handovers(&self, unhanded: Unhanded) -> Option<Vec<Handover>> {
        let parts = &self.inner.parts;
        let mut letters = Vec::new();
        for UnhandedLetter { id: letter, binding, platform } in unhanded.letters {
            if !parts.drivers.contains_key(&platform) {
                continue;
            }
            let binding = match parts.bindings.binding(binding).await {
                Ok(Some(binding)) => binding,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(error = %Chain(error.as_ref()), %binding,
                        "the local relations cannot be read; handler functions wait");
                    return None;
                }
            };
            if let Some(function) = self.handler(&binding) {
                letters.push(Handover { letter, function, now: parts.clock.now() });
            }
        }
        Some(letters)
    }

    /// The function that is given a binding's dead letters, if there is one.
    pub(super) fn handler(&self, binding: &Binding) -> Option<FunctionRef> {
        let FunctionRef { platform, .. } = binding.spec.function.to_ref();
        let name = self.inner.parts.drivers.get(&platform)?.handler(binding)?;
        Some(FunctionRef { platform, name: name.into() })
    }
}

/// What a handler function is told.
pub(super) fn obituary(letter: DeadLetter) -> Obituary {
    Obituary {
        delivery: letter.delivery.id,
        function: letter.delivery.function,
        reason: letter.reason,
        detail: letter.detail,
        died_at: letter.died_at,
        attempts: letter.attempts,
    }
}
