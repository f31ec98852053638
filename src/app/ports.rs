//! Who talks to whom: the small traits of modules that may not use each other, joined.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use http::HeaderMap;

use crate::{
    admin::{self, wire},
    binding,
    catalog::Catalog,
    dispatch,
    domain::{binding::Binding, delivery::FunctionRef, event::Event, ids::BindingId, spec::FunctionLimits},
    intake,
    queue::{Quarantined, REJECTED_ROWS},
    source::Origin,
    telemetry::Chain,
};

/// Most bindings that an explanation names.
const EXPLAINED: usize = 200;

/// The catalog, as dispatch, intake and the admin API see it.
#[derive(Debug, Clone)]
pub(super) struct CatalogPort(pub(super) Arc<Catalog>);

#[async_trait]
impl dispatch::Bindings for CatalogPort {
    async fn binding(&self, id: BindingId) -> anyhow::Result<Option<Arc<Binding>>> {
        Ok(self.0.binding(id).await?)
    }

    async fn function_limits(&self, function: &FunctionRef) -> Option<FunctionLimits> {
        self.0.function_limits(function).await.unwrap_or_else(|error| {
            tracing::error!(error = %Chain(&error), %function, "the function's limits cannot be read");
            None
        })
    }
}

#[async_trait]
impl intake::Matcher for CatalogPort {
    async fn matching(&self, event: &Event) -> anyhow::Result<Vec<Arc<Binding>>> {
        Ok(self.0.matching(event).await?)
    }
}

#[async_trait]
impl admin::Explain for CatalogPort {
    async fn explain(&self, event: &Event) -> Result<Vec<wire::Explanation>, admin::Unexplained> {
        let explained = self.0.explain(event, EXPLAINED).await;
        let explained = explained.map_err(|error| admin::Unexplained(Box::new(error)))?;
        let explained = explained.into_iter().map(|one| wire::Explanation {
            binding: one.binding.id,
            platform: one.binding.spec.function.platform.clone(),
            function: one.binding.spec.function.function.clone(),
            state: one.binding.state,
            fires: one.fires,
            reasons: one.words(),
        });
        Ok(explained.collect())
    }
}

/// The reconciler, as the admin API sees it.
#[derive(Debug, Clone)]
pub(super) struct ReconcilerPort(pub(super) binding::Handle);

#[async_trait]
impl admin::Reconciler for ReconcilerPort {
    fn wake(&self, id: BindingId) {
        self.0.wake_binding(id);
    }

    async fn expects(&self, id: BindingId, headers: &HeaderMap) -> Result<Binding, admin::ConfirmError> {
        self.0.expects(id, headers).await.map_err(unconfirmed)
    }

    fn confirm(
        &self,
        binding: &Binding,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(), admin::ConfirmError> {
        self.0.confirm(binding, headers, body).map_err(unconfirmed)
    }
}

fn unconfirmed(error: binding::ConfirmError) -> admin::ConfirmError {
    match error {
        binding::ConfirmError::NoSuchBinding(_) => admin::ConfirmError::Unknown,
        binding::ConfirmError::Unverified(why) => admin::ConfirmError::Signature(why.to_string()),
        binding::ConfirmError::Malformed(_) => admin::ConfirmError::Malformed(error.to_string()),
        binding::ConfirmError::NotWaiting { .. } => admin::ConfirmError::Stale(error.to_string()),
        binding::ConfirmError::Unavailable(source) => admin::ConfirmError::Relations(source),
    }
}

/// Intake, as the admin API sees it: for what is in quarantine.
#[derive(Debug)]
pub(super) struct IntakePort {
    pub(super) intake: intake::Intake,
    /// The sources by their names.
    pub(super) origins: HashMap<String, Arc<Origin>>,
    /// Whether the bindings are known: without them everything would match nothing, and be gone.
    pub(super) open: Arc<AtomicBool>,
}

#[async_trait]
impl admin::Reintake for IntakePort {
    async fn again(&self, item: &Quarantined) -> admin::Retaken {
        if !self.open.load(Ordering::Acquire) {
            return admin::Retaken::NotNow;
        }
        // A row of our own names its storage itself, so any origin does.
        let origin = match self.origins.get(&item.source) {
            None if item.source == REJECTED_ROWS => self.origins.values().next(),
            origin => origin,
        };
        let Some(origin) = origin else { return admin::Retaken::NoSource };
        match self.intake.again(item, origin).await {
            intake::Again::Taken { events, deliveries } => admin::Retaken::Taken { events, deliveries },
            intake::Again::Hopeless(reason) => admin::Retaken::Hopeless(reason),
            intake::Again::Unsafe => admin::Retaken::NotNow,
        }
    }
}
