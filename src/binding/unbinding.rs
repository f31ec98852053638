//! The way out: what is done with a binding in `unbinding` once its bucket was looked at.

use super::{
    bucket_step::BucketLooked,
    decide::{self, Found},
    look::Core,
    rule_step::Away,
    schedule::Left,
};
use crate::{
    domain::{
        binding::{Binding, StepName},
        ids::BindingId,
    },
    relations::{Node, RelationsError},
    telemetry::Chain,
};

impl Core {
    /// Clears its deliveries, withdraws its rule, and removes it when everybody knows. The steps do not wait for the
    /// bucket's: while a storage is away the secret need not stay at the platform.
    pub(super) async fn take_back(
        &self,
        binding: &Binding,
        bucket: Option<&BucketLooked>,
        nodes: &[Node],
        away: &Away,
    ) -> Result<Left, RelationsError> {
        let bucket = match bucket {
            Some(looked) if !looked.gone => looked.found.clone(),
            _ => Found::Done,
        };
        let mut deliveries = self.clear(binding.id).await;
        let rule = if deliveries.is_done() {
            self.withdraw(binding, away).await
        } else {
            Found::Waiting("the rule is withdrawn when no delivery runs any more".to_owned())
        };
        // While something else is open its record changes the revision, and nobody can have seen the next one.
        let others = [&bucket, &deliveries, &rule].into_iter().all(Found::is_done);
        let revision = if others { binding.revision } else { u64::MAX };
        let nodes = decide::seen_by_all(nodes, &self.settings.node, revision);
        if others && nodes.is_done() {
            // A daemon that had not seen the change may have parked more, this one too.
            deliveries = self.clear(binding.id).await;
            if deliveries.is_done() {
                let removed = self.parts.relations.remove(binding.id, self.parts.clock.now()).await?;
                tracing::info!(binding = %binding.id, removed, "a binding is gone");
                return Ok(Left::Changed);
            }
        }
        let steps = [
            (StepName::Bucket, bucket),
            (StepName::Relation, deliveries),
            (StepName::Rule, rule),
            (StepName::Nodes, nodes),
        ];
        let failed = steps.iter().any(|(_, found)| matches!(found, Found::Failed(_)));
        let progress = decide::absent(&steps, self.parts.clock.now());
        if !self.record(binding, &progress).await? {
            return Ok(Left::Changed);
        }
        Ok(if failed { Left::Failed } else { Left::Waiting })
    }

    async fn clear(&self, id: BindingId) -> Found {
        match self.parts.deliveries.clear(id, self.settings.disposal).await {
            Ok(0) => Found::Done,
            Ok(_) => Found::Waiting("deliveries are still running".to_owned()),
            Err(error) => Found::Failed(Chain(&error).to_string()),
        }
    }

    async fn withdraw(&self, binding: &Binding, away: &Away) -> Found {
        let driver = match self.driver(binding, away) {
            Ok(driver) => driver,
            Err(error) => return Found::Failed(error),
        };
        match driver.withdraw(binding.id).await {
            Ok(()) => {
                self.agenda.forget_confirmation(binding.id);
                Found::Done
            }
            Err(error) => Found::Failed(away.note(&binding.spec.function.platform, &error)),
        }
    }
}
