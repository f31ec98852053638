//! MQTT 3.1.1 by `rumqttc`.
//!
//! Its event loop would connect again by itself, with what it remembers; it is thrown away at the first error
//! instead.

use std::io;

use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, Publish, QoS, StateError,
    SubscribeReasonCode, TlsConfiguration, Transport, mqttbytes,
};
use secrecy::ExposeSecret;

use super::{
    session::{Broken, Happening, Protocol, Requests, Session},
    settings::Settings,
};

/// Requests that wait for the event loop, which sends one in each turn.
pub(super) const REQUESTS: usize = 100;

pub(super) struct V4;

impl Protocol for V4 {
    type Session = EventLoop;
    type Requests = AsyncClient;

    fn open(settings: &Settings) -> (EventLoop, AsyncClient) {
        let mut options = MqttOptions::new(&settings.client_id, &settings.host, settings.port);
        let limit = settings.packet_limit as usize;
        options.set_clean_session(!settings.keeps_session).set_manual_acks(true);
        options.set_keep_alive(settings.keep_alive);
        options.set_max_packet_size(limit, limit);
        if let Some(credentials) = &settings.credentials {
            let password = credentials.password.as_ref().map_or("", |password| password.expose_secret());
            options.set_credentials(&credentials.username, password);
        }
        if let Some(tls) = &settings.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::NativeConnector(tls.clone())));
        }
        let (client, session) = AsyncClient::new(options, REQUESTS);
        (session, client)
    }
}

impl Session for EventLoop {
    async fn next(&mut self) -> Result<Happening, Broken> {
        let packet = match self.poll().await.map_err(broken)? {
            Event::Incoming(packet) => packet,
            Event::Outgoing(Outgoing::Disconnect) => return Ok(Happening::Disconnected),
            Event::Outgoing(_) => return Ok(Happening::Other),
        };
        Ok(match packet {
            Packet::ConnAck(_) => Happening::Accepted,
            Packet::SubAck(answer) => match answer.return_codes.first() {
                Some(SubscribeReasonCode::Success(QoS::AtMostOnce)) => {
                    Happening::SubscriptionRefused("it grants only QoS 0".to_owned())
                }
                Some(SubscribeReasonCode::Success(_)) => Happening::Subscribed,
                other => Happening::SubscriptionRefused(format!("{other:?}")),
            },
            Packet::Publish(Publish { payload, pkid, qos, .. }) => {
                Happening::Published { payload, packet_id: (qos != QoS::AtMostOnce).then_some(pkid) }
            }
            _ => Happening::Other,
        })
    }
}

impl Requests for AsyncClient {
    fn subscribe(&self, topic: &str) -> bool {
        self.try_subscribe(topic, QoS::AtLeastOnce).is_ok()
    }

    async fn acknowledge(&self, packet_id: u16) {
        let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new());
        publish.pkid = packet_id;
        if self.ack(&publish).await.is_err() {
            tracing::debug!(packet_id, "an acknowledgement came too late for its connection");
        }
    }

    async fn disconnect(&self) {
        if Self::disconnect(self).await.is_err() {
            tracing::debug!("the connection was gone before the goodbye");
        }
    }
}

fn broken(error: ConnectionError) -> Broken {
    match error {
        ConnectionError::ConnectionRefused(code) => Broken::Refused { reason: format!("{code:?}") },
        ConnectionError::MqttState(StateError::ConnectionAborted) => Broken::Closed,
        ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)),
        )
        | ConnectionError::Io(error)
            if is_closed(&error) =>
        {
            Broken::Closed
        }
        other => Broken::Failed(Box::new(other)),
    }
}

/// Whether the other side ended an established connection.
pub(super) fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
