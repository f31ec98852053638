//! What came of an asynchronous call whose result was awaited.

use std::{sync::Arc, time::Duration};

use super::{Metric, Recent, RecentOutcome};
use crate::domain::{clock::Timestamp, delivery::Delivery};

/// How the wait for a result ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The function succeeded.
    Succeeded,
    /// The function failed.
    Failed,
    /// Nothing came in time.
    Nothing,
    /// The function succeeded, and its delivery was a dead letter by then.
    Late,
}

/// A result came, or did not come in time.
#[derive(Debug)]
pub struct ResultCame<'a> {
    /// Of what.
    pub delivery: &'a Delivery,
    /// What.
    pub awaited: Awaited,
    /// How long the function took, as its platform says; or how long was waited in vain.
    pub took: Duration,
    /// The result's or the error's beginning.
    pub detail: &'a str,
    /// When.
    pub at: Timestamp,
}

impl ResultCame<'_> {
    /// Tells it.
    pub fn tell(&self, recent: &Recent) {
        let delivery = self.delivery;
        let (result, outcome) = match self.awaited {
            Awaited::Succeeded => ("succeeded", "callback_succeeded"),
            Awaited::Failed => ("failed", "callback_failed"),
            Awaited::Nothing => ("none", "no_result"),
            Awaited::Late => ("late", "callback_late"),
        };
        let platform = delivery.function.platform.to_string();
        Metric::Results.count(&[("platform", platform.clone()), ("result", result.to_owned())]);
        let (binding, function, key) = (delivery.binding, &delivery.function, &delivery.event.key);
        match self.awaited {
            Awaited::Succeeded => {
                let age = self.at.since(delivery.accepted_at);
                Metric::DeliverySeconds.observe(age.as_secs_f64(), &[("platform", platform)]);
                tracing::debug!(delivery = %delivery.id, %binding, %function, key, "delivered: its result came");
            }
            Awaited::Failed => tracing::warn!(
                delivery = %delivery.id, %binding, %function, key, detail = self.detail, tries = delivery.tries + 1,
                "attempt failed: the platform reports that the function did"
            ),
            Awaited::Nothing => tracing::warn!(
                delivery = %delivery.id, %binding, %function, key, detail = self.detail, tries = delivery.tries + 1,
                "attempt failed: no result came"
            ),
            Awaited::Late => tracing::warn!(
                delivery = %delivery.id, %binding, %function, key,
                "a function has succeeded after its delivery was given up; its dead letter says so, too \
                 (`triggerd dead-letters show {}`)", delivery.id
            ),
        }
        recent.note(RecentOutcome {
            at: self.at,
            event: delivery.event.id,
            delivery: Some(delivery.id),
            binding: Some(delivery.binding),
            platform: Some(Arc::clone(&function.platform)),
            function: Some(Arc::clone(&function.name)),
            bucket: delivery.event.bucket.clone(),
            key: key.clone(),
            name: delivery.event.name.to_string(),
            outcome: outcome.to_owned(),
            took_us: u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX),
            detail: self.detail.to_owned(),
        });
    }
}
