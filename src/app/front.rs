//! The sources and intake: what is opened last and closed first.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    foundation::Foundation,
    health::Ask,
    ports::{CatalogPort, IntakePort},
};
use crate::{
    admin::{Part, Reintake},
    config::{Config, sources::SourceConfig},
    dispatch::Dispatcher,
    domain::event::KeyEncoding,
    intake::{Intake, Loops, Repeats},
    lifecycle::{Pulse, Workers},
    source::{Message, Origin, mqtt::MqttSource, webhook::WebhookSource},
    telemetry::Recent,
};

/// Messages on their way from the sources to intake. Small: the sources' bounds hold the rest back.
const INBOX: usize = 1_024;

/// Sources and intake.
pub(super) struct Front {
    pub(super) workers: Workers,
    waiting: Option<Waiting>,
    asks: Vec<Ask>,
    /// Where each source's messages come from.
    origins: HashMap<String, Arc<Origin>>,
    stop: CancellationToken,
    /// Kept until the sources are closed: without any source intake would have nobody to wait for.
    inbox: Option<mpsc::Sender<Message>>,
}

/// What is made and not opened yet.
struct Waiting {
    sources: Vec<(String, Opened)>,
    intake: Intake,
    pulse: Pulse,
}

/// A source that can run.
enum Opened {
    Webhook(WebhookSource),
    Mqtt(Box<MqttSource>),
}

impl Front {
    /// Makes the sources; webhooks listen from now on, and their requests wait.
    pub(super) async fn build(
        config: &Config,
        foundation: &Foundation,
        dispatcher: &Dispatcher,
        recent: Arc<Recent>,
        pulse: Pulse,
    ) -> anyhow::Result<Self> {
        let (mut sources, mut asks, mut origins) = (Vec::new(), Vec::new(), HashMap::new());
        for (name, source) in &config.sources {
            let Some(storage) = config.storage_of(source) else {
                bail!("sources.{name}: `storage` is missing, and there is more than one storage")
            };
            let (redelivers, ack_within_ms) = match source {
                SourceConfig::Webhook(webhook) => (webhook.redelivers, webhook.ack_within_ms),
                SourceConfig::Mqtt(mqtt) => (mqtt.redelivers, mqtt.ack_within_ms),
            };
            let origin = Arc::new(Origin {
                source: name.as_str().into(),
                storage,
                encoding: KeyEncoding::Form,
                redelivers,
                ack_within: Duration::from_millis(ack_within_ms),
            });
            origins.insert(name.clone(), Arc::clone(&origin));
            let clock = Arc::clone(&foundation.clock);
            let opened = match source {
                SourceConfig::Webhook(webhook) => {
                    let opened = WebhookSource::bind(webhook, origin, clock).await?;
                    tracing::info!(source = %name, address = %opened.address(), path = %webhook.path, "listening");
                    Opened::Webhook(opened)
                }
                SourceConfig::Mqtt(mqtt) => {
                    let entropy = Arc::clone(&foundation.entropy);
                    let opened = MqttSource::new(mqtt, &config.node.name, origin, clock, entropy)
                        .with_context(|| format!("sources.{name}"))?;
                    asks.push(ask_mqtt(name, &opened));
                    Opened::Mqtt(Box::new(opened))
                }
            };
            sources.push((name.clone(), opened));
        }
        let intake = Intake {
            matcher: Arc::new(CatalogPort(Arc::clone(&foundation.catalog))),
            dispatcher: dispatcher.clone(),
            queue: foundation.queue.clone(),
            repeats: Repeats::new(Repeats::WINDOW),
            loops: Arc::new(Loops::default()),
            recent,
            clock: Arc::clone(&foundation.clock),
        };
        Ok(Self {
            workers: Workers::default(),
            waiting: Some(Waiting { sources, intake, pulse }),
            asks,
            origins,
            stop: CancellationToken::new(),
            inbox: None,
        })
    }

    /// Where what is in quarantine is tried again, once it is `open`. To be asked for before the sources are opened.
    pub(super) fn reintake(&mut self, open: Arc<AtomicBool>) -> Option<Arc<dyn Reintake>> {
        let intake = self.waiting.as_ref()?.intake.clone();
        Some(Arc::new(IntakePort { intake, origins: std::mem::take(&mut self.origins), open }))
    }

    /// What health asks.
    pub(super) fn asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// Opens the sources.
    pub(super) fn open(&mut self) {
        let Some(Waiting { sources, intake, pulse }) = self.waiting.take() else { return };
        let (inbox, messages) = mpsc::channel::<Message>(INBOX);
        self.workers.spawn("intake", async move {
            intake.run(messages, || pulse.beat()).await;
            Ok(())
        });
        for (name, source) in sources {
            let (inbox, stop) = (inbox.clone(), self.stop.clone());
            self.workers.spawn(format!("source {name}"), async move {
                match source {
                    Opened::Webhook(source) => source.run(inbox, stop).await,
                    Opened::Mqtt(source) => source.run(inbox, stop).await,
                }
                Ok(())
            });
        }
        self.inbox = Some(inbox);
    }

    /// Closes the sources; intake ends when the last has ended.
    pub(super) fn close(&mut self) {
        self.stop.cancel();
        self.inbox = None;
    }

    /// Resolves when sources and intake have ended.
    pub(super) async fn ended(&mut self) {
        while self.workers.next_ended().await.is_some() {}
    }
}

fn ask_mqtt(name: &str, source: &MqttSource) -> Ask {
    let (name, state) = (format!("source {name}"), source.state());
    Box::new(move || {
        let state = state.borrow();
        let detail = match &state.last_error {
            _ if state.taken_over => {
                "another client with our client id takes the session over; end one of the two".into()
            }
            _ if state.subscribed => "connected and subscribed".into(),
            Some(error) => error.clone(),
            None => "connecting".into(),
        };
        Part { name: name.clone(), ok: state.subscribed, detail }
    })
}
