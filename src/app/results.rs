//! Where the results of asynchronous calls end: told from forged ones, and handed to dispatch, or shown.
//!
//! A result is believed when its token was made for this call (`dispatch::callback`) *and* it is signed with the binding's
//! secret, as the protocol asks of platforms. The token, and that the headers have the form of signed ones, is judged before
//! its body is read: nobody else than the platform makes us wait for one. Of a binding that does not ask for results the
//! delivery is settled already, and what comes is shown among the recent outcomes. Of one that does, dispatch settles the
//! delivery, and the answer is given when that is on disk.
//!
//! **Refused** with a token of ours is told and counted: whoever looks for a result that did not come finds why. A right
//! signature whose time is far from our clock's is refused for now, not for good: either clock may be wrong, and when it is
//! ours, every platform's results would be lost by it.
//!
//! **Repeats.** The last [`RESULTS`] that were taken are remembered, so that a result that comes again, because our answer
//! was lost, hears the same answer though nothing waits for it any more. After a restart it hears that nothing does; for
//! the platform both mean that it is done.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use http::HeaderMap;

use crate::{
    admin::{self, CallbackAnswer},
    catalog::Catalog,
    dispatch::{Dispatcher, Report, Taken, callback::Token},
    domain::{
        binding::Binding,
        clock::Clock,
        ids::{DeliveryId, EventId},
        outcome::Class,
    },
    platform::{
        report::{Reported, Reporting},
        signature::{self, Signed, Unverified},
    },
    telemetry::{Metric, Recent, RecentOutcome, Seldom},
};

/// Results that are remembered, to tell a repeated one.
const RESULTS: usize = 10_000;

/// Takes results.
#[derive(Debug)]
pub(super) struct ResultsPort {
    pub(super) catalog: Arc<Catalog>,
    pub(super) dispatcher: Dispatcher,
    /// This daemon's name, as tokens give it.
    pub(super) node: String,
    pub(super) recent: Arc<Recent>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seen: Mutex<Seen>,
    pub(super) refusals: Seldom<&'static str>,
}

/// An attempt of a delivery.
type Call = (DeliveryId, u32);

/// The calls whose result was taken.
#[derive(Debug, Default)]
pub(super) struct Seen {
    calls: HashSet<Call>,
    order: VecDeque<Call>,
}

impl Seen {
    /// Notes a result; whether it is the first of its call, as far as is remembered.
    fn first(&mut self, call: Call) -> bool {
        if !self.calls.insert(call) {
            return false;
        }
        self.order.push_back(call);
        if self.order.len() > RESULTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.calls.remove(&oldest);
        }
        true
    }
}

#[async_trait]
impl admin::Callbacks for ResultsPort {
    async fn expects<'a>(
        &'a self,
        token: &'a str,
        headers: &'a HeaderMap,
    ) -> Result<Box<dyn admin::Report + 'a>, CallbackAnswer> {
        let token = Token::parse(token).ok_or(CallbackAnswer::Unknown)?;
        let binding = match self.catalog.binding(token.binding).await {
            Ok(Some(binding)) if token.is_authentic(&binding) => binding,
            Ok(_) => return Err(CallbackAnswer::Unknown),
            Err(_) => return Err(CallbackAnswer::Unavailable),
        };
        if token.node != self.node {
            return Err(CallbackAnswer::OtherNode(token.node.to_owned()));
        }
        let call = (token.delivery, token.attempt);
        let refused = |why: String| self.refused(&binding, call, CallbackAnswer::Refused(why));
        let signed = Signed::read(headers).map_err(|why| refused(why.to_string()))?;
        if signed.id != token.delivery.to_string() {
            return Err(refused("webhook-id is not the delivery's id".into()));
        }
        match signature::could_be_right(signed, self.clock.wall()) {
            // Whose clock is wrong is asked when it is known that the signature is right.
            Ok(()) | Err(Unverified::Stale { .. }) => (),
            Err(why) => return Err(refused(why.to_string())),
        }
        Ok(Box::new(OwnReport { port: self, binding, call, signed }))
    }
}

/// A report under a token of ours, whose signature is to be checked.
struct OwnReport<'a> {
    port: &'a ResultsPort,
    binding: Arc<Binding>,
    call: Call,
    signed: Signed<'a>,
}

#[async_trait]
impl admin::Report for OwnReport<'_> {
    async fn take(self: Box<Self>, body: &[u8]) -> CallbackAnswer {
        let Self { port, binding, call, signed } = *self;
        let refused = |answer| port.refused(&binding, call, answer);
        match signature::verify(&binding.secret, signed, body, port.clock.wall()) {
            Ok(()) => (),
            Err(why @ Unverified::Stale { .. }) => {
                return refused(CallbackAnswer::ClocksApart(why.to_string()));
            }
            Err(why) => return refused(CallbackAnswer::Refused(why.to_string())),
        }
        let of = Reporting { binding: binding.id, delivery: call.0, attempt: call.1 };
        let reported = match Reported::read(body, of) {
            Ok(reported) => reported,
            Err(error) => return refused(CallbackAnswer::Malformed(error.to_string())),
        };
        if binding.spec.await_result().is_some() {
            return port.settle(binding, call, reported).await;
        }
        if !port.first(call) {
            return CallbackAnswer::Repeated;
        }
        port.note(&binding, call.0, reported);
        CallbackAnswer::Recorded
    }
}

impl ResultsPort {
    /// Tells of a report under a token of ours that is not taken: each kind now and then, as whoever has seen a URL may send
    /// as many as he likes.
    fn refused(
        &self,
        binding: &Binding,
        (delivery, attempt): Call,
        answer: CallbackAnswer,
    ) -> CallbackAnswer {
        let (kind, why) = match &answer {
            CallbackAnswer::Refused(why) => ("refused", why),
            CallbackAnswer::ClocksApart(why) => ("clocks_apart", why),
            CallbackAnswer::Malformed(why) => ("malformed", why),
            _ => return answer,
        };
        let platform = binding.spec.function.platform.clone();
        Metric::Results.count(&[("platform", platform), ("result", kind.to_owned())]);
        if let Some(untold) = self.refusals.is_due(kind, self.clock.monotonic()) {
            tracing::warn!(
                %delivery, attempt, binding = %binding.id, function = %binding.spec.function.function, why, untold,
                "a result was not taken; unless it comes again as it should, none is known to have come"
            );
        }
        answer
    }

    fn first(&self, call: Call) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).first(call)
    }

    fn is_known(&self, call: Call) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).calls.contains(&call)
    }

    /// Has dispatch take a result that is awaited.
    async fn settle(&self, binding: Arc<Binding>, call: Call, reported: Reported) -> CallbackAnswer {
        let (delivery, attempt) = call;
        let report = Report { delivery, attempt, outcome: reported.outcome, took: reported.took };
        match self.dispatcher.result(binding, report).await {
            Ok(Taken::Delivered | Taken::Failed | Taken::Outdated | Taken::Late) => {
                if self.first(call) {
                    CallbackAnswer::Recorded
                } else {
                    CallbackAnswer::Repeated
                }
            }
            Ok(Taken::Unknown) if self.is_known(call) => CallbackAnswer::Repeated,
            Ok(Taken::Unknown) => CallbackAnswer::Unknown,
            Ok(Taken::Busy) => CallbackAnswer::Busy,
            Err(_) => CallbackAnswer::Unavailable,
        }
    }

    /// Shows a result that nothing waits for.
    fn note(&self, binding: &Binding, delivery: DeliveryId, reported: Reported) {
        let Reported { outcome, took } = reported;
        let (succeeded, detail) = (outcome.class == Class::Ok, outcome.detail);
        tracing::info!(
            %delivery, binding = %binding.id, function = %binding.spec.function.function, succeeded, %detail,
            "an asynchronous function has ended"
        );
        let about = self.recent.of_delivery(delivery);
        self.recent.note(RecentOutcome {
            at: self.clock.now(),
            event: about.as_ref().map_or(EventId::from_bytes([0; 16]), |one| one.event),
            delivery: Some(delivery),
            binding: Some(binding.id),
            platform: Some(binding.spec.function.platform.as_str().into()),
            function: Some(binding.spec.function.function.as_str().into()),
            bucket: binding.spec.bucket.clone(),
            key: about.as_ref().map(|one| one.key.clone()).unwrap_or_default(),
            name: about.map(|one| one.name).unwrap_or_default(),
            outcome: if succeeded { "callback_succeeded" } else { "callback_failed" }.into(),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            detail,
        });
    }
}
