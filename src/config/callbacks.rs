//! `[callbacks]`: the listener for platforms on other hosts.

use std::net::SocketAddr;

use serde::Deserialize;

/// A second listener that carries only what a remote platform needs: its own bindings, confirmations, results.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallbacksConfig {
    /// Where it listens. It speaks plain HTTP: put a proxy that does TLS before it.
    pub listen: SocketAddr,
    /// The base URL under which platforms reach it, for example `https://triggers.example.com`.
    pub public_url: String,
}
