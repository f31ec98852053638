//! What we need of an MQTT client, so that another can take its place: one connection, made, polled and thrown
//! away.
//!
//! A client behind this trait never connects a second time, never acknowledges by itself, and holds nothing that
//! outlives the connection.

use std::error::Error;

use bytes::Bytes;

use super::settings::Settings;

/// A version of the protocol, by a client that speaks it.
pub(super) trait Protocol {
    type Session: Session;
    type Requests: Requests;

    /// One connection to be, and the way to ask something of it.
    fn open(settings: &Settings) -> (Self::Session, Self::Requests);
}

/// The end that must always be polled.
pub(super) trait Session: Send {
    /// Goes on until something happens. A call that is dropped midway, or has failed, is the session's end.
    fn next(&mut self) -> impl Future<Output = Result<Happening, Broken>> + Send;
}

/// The end for asking. Gone requests are no error: the session tells why it ended.
pub(super) trait Requests: Send + Sync {
    /// Subscribes at QoS 1. False when the topic is no topic filter.
    fn subscribe(&self, topic: &str) -> bool;

    /// Acknowledges a message of this connection. Waits while the session has too much to send.
    fn acknowledge(&self, packet_id: u16) -> impl Future<Output = ()> + Send;

    /// Says goodbye after all that was asked before; the session the broker keeps stays.
    fn disconnect(&self) -> impl Future<Output = ()> + Send;
}

/// What a session tells.
#[derive(Debug)]
pub(super) enum Happening {
    /// The broker has accepted the connection.
    Accepted,
    /// The subscription stands, at QoS 1 or higher.
    Subscribed,
    /// The broker refuses the subscription, or grants only QoS 0.
    SubscriptionRefused(String),
    /// A message; without a packet id it came at QoS 0.
    Published { payload: Bytes, packet_id: Option<u16> },
    /// The goodbye has been sent.
    Disconnected,
    /// Pings and the like.
    Other,
}

/// Why a connection is no more, or never was.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The broker does not want us.
    #[error(
        "the broker refused the connection ({reason}); check user, password, client id and protocol version"
    )]
    Refused { reason: String },
    /// The broker gave our session to another client.
    #[error("another client with the same client id took over the session")]
    TakenOver,
    /// The broker said why it ended the connection.
    #[error("the broker ended the connection ({reason})")]
    Ended { reason: String },
    /// The broker, or the network, closed the connection without a word.
    #[error("the broker closed the connection")]
    Closed,
    /// Everything else, from no broker at this address to a certificate that we do not trust.
    #[error("the connection to the broker failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}
