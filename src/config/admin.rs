//! `[admin]`: the operator's API.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use secrecy::SecretString;
use serde::Deserialize;

/// The admin API's listener and the operator's token.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Where it listens. It speaks plain HTTP: anything but loopback belongs behind a proxy that does TLS.
    pub listen: SocketAddr,
    /// What the operator, and the command line, show it.
    pub token: Option<SecretString>,
    /// A file that holds it.
    pub token_file: Option<PathBuf>,
    /// Where other daemons and the operator's tools reach this API, if that is not `listen`.
    pub public_url: Option<String>,
    /// Whether `/metrics` is open on a loopback listener without a token.
    pub open_metrics: bool,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8_360),
            token: None,
            token_file: None,
            public_url: None,
            open_metrics: true,
        }
    }
}

impl AdminConfig {
    /// The URL at which this host's own command line reaches the API.
    pub fn local_url(&self) -> String {
        let ip = match self.listen.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        };
        format!("http://{}", SocketAddr::new(ip, self.listen.port()))
    }
}
