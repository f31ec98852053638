//! Confirmation by callback: tells the binding's side that a rule stands, and notes that it has heard.
//!
//! At most one attempt at this is under way per rule; the rule put again begins it afresh, perhaps at a
//! new `confirm_url`. When the other side refuses, or does not hear for ten minutes, the rule stays pending
//! until it is put again or this platform starts again.

use crate::{
    callback::{Caller, Pauses, Said},
    clock,
    rule::Stored,
    rules::Rules,
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::task::AbortHandle;

/// How long one confirmation is tried.
const IN_ALL: Duration = Duration::from_mins(10);

/// Confirms pending rules.
pub(crate) struct Confirmer {
    rules: Arc<Rules>,
    caller: Caller,
    /// By rule id; no more entries than rules.
    under_way: Mutex<BTreeMap<String, AbortHandle>>,
}

impl Confirmer {
    pub(crate) fn new(rules: Arc<Rules>, caller: Caller) -> Self {
        Self { rules, caller, under_way: Mutex::default() }
    }

    /// Begins to confirm the rule, in the background.
    pub(crate) fn confirm(&self, stored: Arc<Stored>) {
        let id = stored.id.clone();
        let task = tokio::spawn(tell(Arc::clone(&self.rules), self.caller.clone(), stored));
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = under_way.insert(id, task.abort_handle()) {
            before.abort();
        }
    }

    /// The rule is gone, and needs no confirmation.
    pub(crate) fn forget(&self, id: &str) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = under_way.remove(id) {
            before.abort();
        }
    }
}

async fn tell(rules: Arc<Rules>, caller: Caller, stored: Arc<Stored>) {
    let (id, rule) = (&stored.id, &stored.rule);
    let Some(url) = &rule.confirm_url else { return };
    let body = json!({ "rule": id, "state": "confirmed" });
    let began = clock::steady();
    let mut pauses = Pauses::default();
    loop {
        let message = format!("confirm-{id}");
        match caller.send(url, &message, &rule.secret, body.to_string()).await {
            Said::Taken => break,
            Said::Stopped => return,
            Said::Refused { status, why } => {
                tracing::warn!(id, %status, ?why, "the confirmation of a rule was refused and is not repeated");
                return;
            }
            Said::Later { why, .. } if began.elapsed() >= IN_ALL => {
                tracing::warn!(id, ?why, "the confirmation of a rule was not taken; the rule stays pending");
                return;
            }
            Said::Later { why, after } => {
                tracing::info!(id, ?why, "the confirmation of a rule is repeated");
                if !caller.pause(pauses.next(after)).await {
                    return;
                }
            }
        }
    }
    if rules.confirm(&stored).await.is_err() {
        tracing::warn!(id, "a rule was confirmed and could not be marked so");
    }
}
