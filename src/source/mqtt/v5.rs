//! MQTT 5 by `rumqttc`; see the notes of 3.1.1 beside it.
//!
//! The packet limit can only be set together with the property that tells it to the broker, who then drops larger
//! messages by itself and says nothing.
//!
//! A DISCONNECT without properties, as Mosquitto sends it, is taken by version 0.25.1 for an incomplete packet:
//! what reaches us is a closed connection, without the reason. Brokers that send properties are heard.

use rumqttc::v5::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError,
    mqttbytes::{
        self, QoS,
        v5::{DisconnectReasonCode, Packet, Publish, SubscribeReasonCode},
    },
};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use secrecy::ExposeSecret;

use super::{
    session::{Broken, Happening, Protocol, Requests, Session},
    settings::Settings,
    v4::{REQUESTS, is_closed},
};

pub(super) struct V5;

impl Protocol for V5 {
    type Session = EventLoop;
    type Requests = AsyncClient;

    fn open(settings: &Settings) -> (EventLoop, AsyncClient) {
        let mut options = MqttOptions::new(&settings.client_id, &settings.host, settings.port);
        options.set_clean_start(!settings.keeps_session).set_manual_acks(true);
        options.set_keep_alive(settings.keep_alive);
        // The largest value means that the session never expires.
        options.set_session_expiry_interval(Some(if settings.keeps_session { u32::MAX } else { 0 }));
        options.set_receive_maximum(Some(settings.receive_maximum));
        options.set_max_packet_size(Some(settings.packet_limit));
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
        let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new(), None);
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
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            if reason_code == DisconnectReasonCode::SessionTakenOver {
                return Broken::TakenOver;
            }
            let reason = reason_string.unwrap_or_else(|| format!("{reason_code:?}"));
            Broken::Ended { reason }
        }
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
