//! One connection to the broker, made and closed, to see whether it lets us in.
//!
//! Under a client id of its own and without a session that is kept, so that the daemon's session is neither taken over
//! nor changed, and nothing stays behind. It does not subscribe: on a shared subscription it would take messages away.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    MqttError,
    session::{Broken, Happening, Protocol, Requests, Session},
    settings::Settings,
    v4::V4,
    v5::V5,
};
use crate::config::sources::{MqttConfig, MqttVersion};

/// Time until the broker's answer, TLS included.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time for saying goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why the broker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The source cannot be set up.
    #[error(transparent)]
    Settings(MqttError),
    /// The broker answered, and does not want us.
    #[error("{broker} refuses us: {reason}")]
    Refused {
        /// Host and port.
        broker: String,
        /// The broker's word for it.
        reason: String,
    },
    /// No connection, or none that TLS can be spoken on.
    #[error("no connection to {broker}")]
    Failed {
        /// Host and port.
        broker: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{broker} does not answer")]
    Silent {
        /// Host and port.
        broker: String,
    },
}

/// Connects as the source of this name would, and says goodbye. `random` makes the client id nobody else's.
pub async fn try_connect(config: &MqttConfig, node: &str, name: &str, random: u64) -> Result<(), TrialError> {
    let mut settings = Settings::of(config, node, &Arc::from(name)).map_err(TrialError::Settings)?;
    settings.client_id = format!("triggerd-check-{random:016x}");
    settings.keeps_session = false;
    let broker = format!("{}:{}", settings.host, settings.port);
    let connected = match config.version {
        MqttVersion::V311 => timeout(PATIENCE, connect::<V4>(&settings)).await,
        MqttVersion::V5 => timeout(PATIENCE, connect::<V5>(&settings)).await,
    };
    match connected {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Broken::Refused { reason })) => Err(TrialError::Refused { broker, reason }),
        Ok(Err(error)) => Err(TrialError::Failed { broker, source: Box::new(error) }),
        Err(_) => Err(TrialError::Silent { broker }),
    }
}

async fn connect<P: Protocol>(settings: &Settings) -> Result<(), Broken> {
    let (mut session, requests) = P::open(settings);
    while !matches!(session.next().await?, Happening::Accepted) {}
    requests.disconnect().await;
    let goodbye = async { while matches!(session.next().await, Ok(Happening::Other)) {} };
    // A broker that does not let us go has let us in all the same.
    let _said = timeout(GOODBYE, goodbye).await;
    Ok(())
}
