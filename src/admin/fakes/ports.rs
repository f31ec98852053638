//! The small ports: what they are asked is noted, and they fail on demand.

use async_trait::async_trait;
use http::HeaderMap;

use super::*;

#[async_trait]
impl Reintake for World {
    async fn again(&self, item: &Quarantined) -> Retaken {
        match &*item.bytes {
            b"good" => Retaken::Taken { events: 2, deliveries: 3 },
            b"later" => Retaken::NotNow,
            b"orphan" => Retaken::NoSource,
            _ => Retaken::Hopeless("still not JSON".into()),
        }
    }
}

#[async_trait]
impl Deliveries for World {
    fn wake(&self, function: &FunctionRef) {
        self.note(format!("wake function {function}"));
    }

    fn running(&self, _: BindingId) -> Vec<DeliveryId> {
        Vec::new()
    }

    fn flows(&self) -> Vec<Flow> {
        lock(&self.flows).clone()
    }

    async fn hold(&self, binding: BindingId, held: bool) -> Result<u64, QueueError> {
        self.queue.hold(binding, held, NOW).await
    }

    async fn clear(&self, binding: BindingId, disposal: Disposal) -> Result<u64, QueueError> {
        self.note(format!("clear {disposal:?} at revision {}", self.revision()));
        self.queue.dispose(binding, disposal, &[], NOW).await?;
        self.queue.parked_of(binding).await
    }
}

#[async_trait]
impl Reconciler for World {
    fn wake(&self, id: BindingId) {
        self.note(format!("wake binding {id} at revision {}", self.revision()));
        if let Some(found) = lock(&self.found_next).take() {
            let relations = Arc::clone(&self.relations);
            tokio::spawn(async move { record(&relations, id, &found).await });
        }
    }

    async fn expects(&self, id: BindingId, headers: &HeaderMap) -> Result<Binding, ConfirmError> {
        let binding = self.relations.binding(id).await?.ok_or(ConfirmError::Unknown)?;
        if headers.contains_key("webhook-signature") {
            Ok(binding)
        } else {
            Err(ConfirmError::Signature("it is not there".into()))
        }
    }

    fn confirm(&self, _: &Binding, headers: &HeaderMap, body: &[u8]) -> Result<(), ConfirmError> {
        if headers.get("webhook-signature").is_none_or(|signature| signature != "good") {
            return Err(ConfirmError::Signature("it is not good".into()));
        }
        match body {
            b"stale" => Err(ConfirmError::Stale("it is being taken back".into())),
            b"odd" => Err(ConfirmError::Malformed("not JSON".into())),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Explain for World {
    async fn explain(&self, event: &Event) -> Result<Vec<Explanation>, Unexplained> {
        if self.sick.load(Ordering::Relaxed) {
            return Err(Unexplained("disk I/O error".into()));
        }
        lock(&self.explained).push(event.clone());
        Ok(lock(&self.explanations).clone())
    }
}

impl Health for World {
    fn liveness(&self) -> Vec<Part> {
        let listening = self.listening.get().map(ToString::to_string).unwrap_or_default();
        let listeners = Part { name: LISTENERS.into(), ok: true, detail: listening };
        vec![Part { name: "workers".into(), ok: true, detail: "progress 1 s ago".into() }, listeners]
    }

    fn readiness(&self) -> Vec<Part> {
        let ok = !self.sick.load(Ordering::Relaxed);
        vec![Part { name: "queue".into(), ok, detail: "2 of 100 bytes".into() }]
    }

    fn metrics(&self) -> String {
        "triggerd_up 1\n".into()
    }
}

#[async_trait]
impl Callbacks for World {
    async fn expects<'a>(
        &'a self,
        token: &'a str,
        _: &'a HeaderMap,
    ) -> Result<Box<dyn Report + 'a>, CallbackAnswer> {
        self.note(format!("callback {token}"));
        match token {
            "known" | "again" | "garbled" | "early" | "later" => Ok(Box::new(Called { world: self, token })),
            "unsigned" => Err(CallbackAnswer::Refused("it is not signed".into())),
            "elsewhere" => Err(CallbackAnswer::OtherNode("node2".into())),
            _ => Err(CallbackAnswer::Unknown),
        }
    }
}

/// A report under this token.
struct Called<'a> {
    world: &'a World,
    token: &'a str,
}

#[async_trait]
impl Report for Called<'_> {
    async fn take(self: Box<Self>, body: &[u8]) -> CallbackAnswer {
        self.world.note(format!("{} bytes of {}", body.len(), self.token));
        match self.token {
            "known" => CallbackAnswer::Recorded,
            "again" => CallbackAnswer::Repeated,
            "garbled" => CallbackAnswer::Malformed("the body is no report".into()),
            "early" => CallbackAnswer::Busy,
            _ => CallbackAnswer::Unavailable,
        }
    }
}
