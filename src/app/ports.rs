//! Who talks to whom: the small traits of modules that may not use each other, joined.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use http::HeaderMap;
use serde::Deserialize;

use crate::{
    admin::{self, CallbackAnswer, wire},
    binding,
    catalog::Catalog,
    dispatch::{self, callback::Token},
    domain::{
        binding::Binding,
        clock::Clock,
        delivery::FunctionRef,
        event::Event,
        ids::{BindingId, DeliveryId},
        spec::FunctionLimits,
    },
    intake,
    platform::signature::{self, Signed, Unverified},
    telemetry::{Chain, Recent, RecentOutcome, excerpt},
};

/// Most bindings that an explanation names.
const EXPLAINED: usize = 200;

/// Results that are remembered, to tell a repeated one.
const RESULTS: usize = 10_000;

/// Longest excerpt of a result.
const EXCERPT: usize = 1_024;

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
            reasons: one.reasons.iter().map(ToString::to_string).collect(),
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

    async fn confirm(
        &self,
        id: BindingId,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(), admin::ConfirmError> {
        self.0.confirm(id, headers, body).await.map_err(|error| match error {
            binding::ConfirmError::NoSuchBinding(_) => admin::ConfirmError::Unknown,
            binding::ConfirmError::Unverified(why) => admin::ConfirmError::Signature(why.to_string()),
            binding::ConfirmError::Malformed(_) => admin::ConfirmError::Malformed(error.to_string()),
            binding::ConfirmError::NotWaiting { .. } => admin::ConfirmError::Stale(error.to_string()),
            binding::ConfirmError::Unavailable(source) => admin::ConfirmError::Relations(source),
        })
    }
}

/// Where asynchronous results end: they are checked, told, and shown among the recent outcomes.
///
/// An accepted call is delivered already; the result settles nothing. (A binding that asks for the result, and whose
/// delivery waits for it, is not built yet.)
#[derive(Debug)]
pub(super) struct ResultsPort {
    pub(super) catalog: Arc<Catalog>,
    pub(super) recent: Arc<Recent>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seen: Mutex<Seen>,
}

/// The deliveries whose result came.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ids: HashSet<DeliveryId>,
    order: VecDeque<DeliveryId>,
}

impl Seen {
    /// Whether this is the first result of the delivery, as far as is remembered.
    fn first(&mut self, id: DeliveryId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > RESULTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// The body of a callback, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Report {
    status: String,
    #[serde(default)]
    duration_ms: u64,
    #[serde(default)]
    result: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

#[async_trait]
impl admin::Callbacks for ResultsPort {
    async fn callback(&self, token: &str, headers: &HeaderMap, body: &[u8]) -> CallbackAnswer {
        let Some(token) = Token::parse(token) else { return CallbackAnswer::Unknown };
        let binding = match self.catalog.binding(token.binding).await {
            Ok(Some(binding)) if token.is_authentic(&binding) => binding,
            Ok(_) => return CallbackAnswer::Unknown,
            Err(_) => return CallbackAnswer::Unavailable,
        };
        if let Err(why) = self.verify(&binding, token.delivery, headers, body) {
            return CallbackAnswer::Refused(why);
        }
        let report: Report = match serde_json::from_slice(body) {
            Ok(report) => report,
            Err(error) => return CallbackAnswer::Refused(format!("the body cannot be read: {error}")),
        };
        if !self.seen.lock().unwrap_or_else(PoisonError::into_inner).first(token.delivery) {
            return CallbackAnswer::Repeated;
        }
        self.note(&binding, token.delivery, &report);
        CallbackAnswer::Recorded
    }
}

impl ResultsPort {
    fn verify(
        &self,
        binding: &Binding,
        delivery: DeliveryId,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(), String> {
        let signed = Signed::read(headers).map_err(|missing| missing.to_string())?;
        if signed.id != delivery.to_string() {
            return Err("webhook-id is not the delivery's id".into());
        }
        signature::verify(&binding.secret, signed, body, self.clock.now())
            .map_err(|error: Unverified| error.to_string())
    }

    fn note(&self, binding: &Binding, delivery: DeliveryId, report: &Report) {
        let succeeded = report.status == "succeeded";
        let text = report.result.as_ref().or(report.error.as_ref()).map_or("", String::as_str);
        let detail = excerpt(text.as_bytes(), EXCERPT);
        tracing::info!(
            %delivery, binding = %binding.id, function = %binding.spec.function.function, succeeded, %detail,
            "an asynchronous function has ended"
        );
        let about = self.recent.of_delivery(delivery);
        let took = Duration::from_millis(report.duration_ms);
        self.recent.note(RecentOutcome {
            at: self.clock.now(),
            event: about.as_ref().map_or(crate::domain::ids::EventId::from_bytes([0; 16]), |one| one.event),
            delivery: Some(delivery),
            binding: Some(binding.id),
            bucket: binding.spec.bucket.clone(),
            key: about.as_ref().map(|one| one.key.clone()).unwrap_or_default(),
            name: about.map(|one| one.name).unwrap_or_default(),
            outcome: if succeeded { "callback_succeeded" } else { "callback_failed" }.into(),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            detail,
        });
    }
}
