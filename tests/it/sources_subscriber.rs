//! An MQTT source under test, and what plays on it: the broker, a publisher, another client of its id.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rumqttc::{AsyncClient, Event, Packet, QoS};
use tokio::sync::watch;
use triggerd::config::sources::SourceConfig;
use triggerd::domain::clock::SystemClock;
use triggerd::domain::entropy::SystemEntropy;
use triggerd::source::mqtt::{MqttSource, MqttState};
use triggerd::source::{Bound, Message, Redelivers};

use crate::harness::mosquitto::{Mosquitto, MosquittoOptions};
use crate::sources::{LIMIT, Running, config, origin, text};

pub(crate) const TOPIC: &str = "minio/events";
pub(crate) const CLIENT_ID: &str = "triggerd-node1-events";

/// The version, as the config writes it.
pub(crate) type Version = &'static str;

/// An MQTT source that runs.
pub(crate) struct Subscriber {
    pub(crate) running: Running,
    pub(crate) state: watch::Receiver<MqttState>,
    pub(crate) bound: Arc<Bound>,
}

impl Subscriber {
    /// Starts a source of these settings (TOML) beside broker, version and topic.
    pub(crate) fn start(mosquitto: &Mosquitto, version: Version, settings: &str) -> Result<Self> {
        let scheme = if mosquitto.certificates().is_some() { "mqtts" } else { "mqtt" };
        Self::at(&format!("{scheme}://127.0.0.1:{}", mosquitto.port()), version, settings)
    }

    pub(crate) fn at(broker: &str, version: Version, settings: &str) -> Result<Self> {
        Self::with_inbox(1_000, broker, version, settings)
    }

    /// The same before an intake that takes no more than so many messages.
    pub(crate) fn with_inbox(size: usize, broker: &str, version: Version, settings: &str) -> Result<Self> {
        let topic = if settings.contains("topic =") { String::new() } else { format!("topic = {TOPIC:?}") };
        let section =
            format!("type = \"mqtt\"\nbroker = {broker:?}\nversion = {version:?}\n{topic}\n{settings}\n");
        let SourceConfig::Mqtt(config) = config(&section)? else { bail!("not MQTT") };
        let origin = origin("events", Redelivers::Yes);
        let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
        let source = MqttSource::new(&config, "node1", origin, clock, entropy)?;
        let (state, bound) = (source.state(), source.bound());
        Ok(Self { running: Running::with_inbox(size, |inbox, stop| source.run(inbox, stop)), state, bound })
    }

    /// Starts one and waits until it is subscribed.
    pub(crate) async fn subscribed(mosquitto: &Mosquitto, version: Version, settings: &str) -> Result<Self> {
        let mut subscriber = Self::start(mosquitto, version, settings)?;
        subscriber.until("subscribed", |state| state.subscribed).await?;
        Ok(subscriber)
    }

    /// Waits for a state and returns it.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        reached: impl FnMut(&MqttState) -> bool,
    ) -> Result<MqttState> {
        let state = tokio::time::timeout(LIMIT, self.state.wait_for(reached)).await;
        let state = state.ok().map(|state| state.map(|state| state.clone()));
        state.with_context(|| format!("not {what}: {:?}", *self.state.borrow()))?.context("the source ended")
    }

    pub(crate) async fn next(&mut self) -> Result<Message> {
        self.running.next().await
    }

    pub(crate) async fn expect(&mut self, payloads: &[&str]) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        for payload in payloads {
            let message = self.next().await?;
            ensure!(text(&message) == *payload, "{} came instead of {payload}", text(&message));
            messages.push(message);
        }
        Ok(messages)
    }

    /// Ends it as a crash would: nothing is acknowledged and no goodbye said.
    pub(crate) async fn crash(self) {
        self.running.task.abort();
        let _aborted: Result<(), tokio::task::JoinError> = self.running.task.await;
    }
}

pub(crate) fn lasting() -> MosquittoOptions {
    MosquittoOptions {
        persistence: true,
        max_queued_messages: Some(1_000_000),
        ..MosquittoOptions::default()
    }
}

pub(crate) async fn broker() -> Result<Mosquitto> {
    Mosquitto::start(lasting()).await
}

/// Publishes at QoS 1 and returns when the broker has acknowledged all.
pub(crate) async fn publish(mosquitto: &Mosquitto, topic: &str, payloads: Vec<Vec<u8>>) -> Result<()> {
    let mut options = mosquitto.client_options("publisher")?;
    options.set_max_packet_size(4 << 20, 4 << 20);
    let (client, mut events) = AsyncClient::new(options, 100);
    let (topic, count) = (topic.to_owned(), payloads.len());
    let publishing = tokio::spawn(async move {
        for payload in payloads {
            client.publish(&topic, QoS::AtLeastOnce, false, payload).await?;
        }
        // The client is held until all is acknowledged: the event loop ends with its last one.
        Ok::<_, rumqttc::ClientError>(client)
    });
    let mut acknowledged = 0;
    while acknowledged < count {
        let event =
            tokio::time::timeout(LIMIT, events.poll()).await.context("the broker does not answer")??;
        acknowledged += usize::from(matches!(event, Event::Incoming(Packet::PubAck(_))));
    }
    drop(publishing.await??);
    Ok(())
}

pub(crate) async fn publish_all(mosquitto: &Mosquitto, payloads: &[&str]) -> Result<()> {
    publish(mosquitto, TOPIC, payloads.iter().map(|payload| payload.as_bytes().to_vec()).collect()).await
}

/// The packet ids that the broker has seen acknowledged by us, in order.
pub(crate) fn seen_acknowledged(mosquitto: &Mosquitto) -> Result<Vec<u16>> {
    let log = std::fs::read_to_string(mosquitto.log())?;
    let prefix = format!("Received PUBACK from {CLIENT_ID} (Mid: ");
    let ids = log.lines().filter_map(|line| line.split_once(&prefix));
    ids.map(|(_, rest)| {
        let id = rest.split([',', ')']).next().context("no packet id")?;
        Ok(id.parse()?)
    })
    .collect()
}

/// Another client of our id, of the same version, which stays connected while it is held.
pub(crate) async fn intrude(mosquitto: &Mosquitto, version: Version) -> Result<Box<dyn std::any::Any>> {
    use rumqttc::v5;
    let connect = async {
        let held: Box<dyn std::any::Any> = if version == "5" {
            let options = v5::MqttOptions::new(CLIENT_ID, "127.0.0.1", mosquitto.port());
            let (client, mut events) = v5::AsyncClient::new(options, 1);
            while !matches!(events.poll().await?, v5::Event::Incoming(v5::Incoming::ConnAck(_))) {}
            Box::new((client, events))
        } else {
            let (client, mut events) = AsyncClient::new(mosquitto.client_options(CLIENT_ID)?, 1);
            while !matches!(events.poll().await?, Event::Incoming(Packet::ConnAck(_))) {}
            Box::new((client, events))
        };
        Ok(held)
    };
    tokio::time::timeout(LIMIT, connect).await.context("the intruder was not let in")?
}
