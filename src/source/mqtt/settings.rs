//! What a connection is made with, read and checked once.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;
use native_tls::{Certificate, Identity, TlsConnector};
use secrecy::SecretString;

use crate::{
    config::sources::MqttConfig,
    source::secret::{self, UnreadableFile},
};

/// Smallest packet limit, in bytes; far beyond any notification, so that `max_body` is what counts.
const MIN_PACKET_LIMIT: usize = 16 << 20;

/// Largest packet of the protocol, in bytes.
const MAX_PACKET_LIMIT: u32 = 268_435_455;

/// What a packet has beside the body: topic and properties, 64 KiB each at most.
const PACKET_SLACK: usize = 256 << 10;

/// Shortest keep-alive that the client allows, in seconds.
const MIN_KEEP_ALIVE: u16 = 5;

/// An MQTT source that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    /// Not the address of a broker.
    #[error(
        "source {name}: broker `{broker}` is not of the form mqtt://host:1883 or mqtts://host:8883{hint}"
    )]
    Broker {
        /// The source.
        name: Arc<str>,
        /// What the config says (without a user or password in it).
        broker: String,
        /// What else to do.
        hint: &'static str,
    },
    /// A client id that brokers refuse.
    #[error(
        "source {name}: the client id `{client_id}` must not be empty, begin with a blank or exceed 65535 bytes"
    )]
    ClientId {
        /// The source.
        name: Arc<str>,
        /// Which.
        client_id: String,
    },
    /// Half of a pair.
    #[error("source {name}: {given} is set without {missing}")]
    Half {
        /// The source.
        name: Arc<str>,
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// Certificates without TLS.
    #[error("source {name}: ca_file, cert_file and key_file need a broker of the form mqtts://host:8883")]
    PlainWithCertificates {
        /// The source.
        name: Arc<str>,
    },
    /// A file of the config.
    #[error("source {name}")]
    File {
        /// The source.
        name: Arc<str>,
        /// Which, and why.
        #[source]
        source: UnreadableFile,
    },
    /// A file that is not what it should be.
    #[error("source {name}: {} cannot be used as {what}", path.display())]
    Certificate {
        /// The source.
        name: Arc<str>,
        /// The file.
        path: PathBuf,
        /// `a PEM certificate`, …
        what: &'static str,
        /// What the TLS library said.
        #[source]
        source: native_tls::Error,
    },
    /// No TLS at all.
    #[error("source {name}: TLS cannot be set up")]
    Tls {
        /// The source.
        name: Arc<str>,
        /// What the TLS library said.
        #[source]
        source: native_tls::Error,
    },
}

/// User name, and password if there is one.
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: Option<SecretString>,
}

/// What every connection of a source is made with.
pub(super) struct Settings {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) topic: String,
    pub(super) client_id: String,
    /// Whether the broker keeps what is not acknowledged for the next connection.
    pub(super) keeps_session: bool,
    pub(super) credentials: Option<Credentials>,
    pub(super) tls: Option<TlsConnector>,
    pub(super) keep_alive: Duration,
    pub(super) receive_maximum: u16,
    pub(super) packet_limit: u32,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, topic, client_id, .. } = self;
        write!(f, "Settings({client_id} at {host}:{port}, topic {topic})")
    }
}

impl Settings {
    pub(super) fn of(config: &MqttConfig, node: &str, name: &Arc<str>) -> Result<Self, MqttError> {
        let (host, port, encrypted) = broker(&config.broker, name)?;
        let client_id = config.client_id.clone().unwrap_or_else(|| format!("triggerd-{node}-{name}"));
        if client_id.is_empty() || client_id.starts_with(' ') || client_id.len() > usize::from(u16::MAX) {
            return Err(MqttError::ClientId { name: Arc::clone(name), client_id });
        }
        let password = secret::read(config.password.as_ref(), config.password_file.as_ref())
            .map_err(|source| MqttError::File { name: Arc::clone(name), source })?;
        let credentials = match (config.username.clone(), password) {
            (Some(username), password) => Some(Credentials { username, password }),
            (None, Some(_)) => return Err(half(name, "password", "username")),
            (None, None) => None,
        };
        let certificates = [&config.ca_file, &config.cert_file, &config.key_file];
        let tls = match encrypted {
            true => Some(tls(config, name)?),
            false if certificates.iter().any(|file| file.is_some()) => {
                return Err(MqttError::PlainWithCertificates { name: Arc::clone(name) });
            }
            false => None,
        };
        let limit = config.max_body.saturating_add(PACKET_SLACK).max(MIN_PACKET_LIMIT);
        Ok(Self {
            host,
            port,
            topic: config.topic.clone(),
            client_id,
            keeps_session: true,
            credentials,
            tls,
            keep_alive: Duration::from_secs(config.keep_alive_s.max(MIN_KEEP_ALIVE).into()),
            // Zero is an error of the protocol.
            receive_maximum: config.receive_maximum.max(1),
            packet_limit: u32::try_from(limit).unwrap_or(u32::MAX).min(MAX_PACKET_LIMIT),
        })
    }
}

fn half(name: &Arc<str>, given: &'static str, missing: &'static str) -> MqttError {
    MqttError::Half { name: Arc::clone(name), given, missing }
}

/// Host, port, and whether it is to be encrypted.
fn broker(text: &str, name: &Arc<str>) -> Result<(String, u16, bool), MqttError> {
    let secretive = text.contains('@');
    let wrong = |hint| MqttError::Broker {
        name: Arc::clone(name),
        // What stands before the `@` may be a password.
        broker: text.rsplit_once('@').map_or(text, |(_, host)| host).to_owned(),
        hint,
    };
    if secretive {
        return Err(wrong("; give user and password as `username` and `password`"));
    }
    let uri: Uri = text.parse().map_err(|_| wrong(""))?;
    let (encrypted, default_port) = match uri.scheme_str() {
        Some("mqtt") => (false, 1883),
        Some("mqtts") => (true, 8883),
        _ => return Err(wrong("")),
    };
    let (Some(host), Some(authority)) = (uri.host(), uri.authority()) else { return Err(wrong("")) };
    // A port that is no number would otherwise pass for none.
    let port = match uri.port_u16() {
        None if authority.as_str() == host => default_port,
        port => port.ok_or_else(|| wrong(""))?,
    };
    if host.is_empty() || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong(""));
    }
    Ok((host.to_owned(), port, encrypted))
}

fn tls(config: &MqttConfig, name: &Arc<str>) -> Result<TlsConnector, MqttError> {
    let read = |path: &PathBuf| {
        secret::read_file(path).map_err(|source| MqttError::File { name: Arc::clone(name), source })
    };
    let unusable = |path: &PathBuf, what| {
        let (name, path) = (Arc::clone(name), path.clone());
        move |source| MqttError::Certificate { name, path, what, source }
    };
    let mut builder = TlsConnector::builder();
    if let Some(path) = &config.ca_file {
        let chain = Certificate::stack_from_pem(read(path)?.as_bytes())
            .map_err(unusable(path, "an authority's certificates (PEM)"))?;
        if chain.is_empty() {
            let empty = io::Error::other("it holds no certificate");
            let source = UnreadableFile { path: path.clone(), source: empty };
            return Err(MqttError::File { name: Arc::clone(name), source });
        }
        // An authority of one's own means: this one, and not whoever the system trusts beside it.
        builder.disable_built_in_roots(true);
        for certificate in chain {
            builder.add_root_certificate(certificate);
        }
    }
    match (&config.cert_file, &config.key_file) {
        (Some(certificate), Some(key)) => {
            let identity = Identity::from_pkcs8(read(certificate)?.as_bytes(), read(key)?.as_bytes())
                .map_err(unusable(key, "the private key (PEM, PKCS #8) of cert_file"))?;
            builder.identity(identity);
        }
        (Some(_), None) => return Err(half(name, "cert_file", "key_file")),
        (None, Some(_)) => return Err(half(name, "key_file", "cert_file")),
        (None, None) => {}
    }
    builder.build().map_err(|source| MqttError::Tls { name: Arc::clone(name), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, MqttError> {
        let config: MqttConfig = toml::from_str(&format!("topic = \"minio\"\n{text}")).unwrap();
        Settings::of(&config, "node1", &Arc::from("events"))
    }

    #[test]
    fn broker_has_scheme_host_and_port() {
        let plain = settings("broker = \"mqtt://broker.example\"").unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.tls.is_some()), ("broker.example", 1883, false));
        let encrypted = settings("broker = \"mqtts://127.0.0.1:9\"").unwrap();
        assert_eq!(
            (encrypted.host.as_str(), encrypted.port, encrypted.tls.is_some()),
            ("127.0.0.1", 9, true)
        );
        for wrong in [
            "tcp://host:1883",
            "host:1883",
            "mqtt://",
            "mqtt://host/topic",
            "mqtt://host:99999",
            "mqtt://host:x",
            "mqtt://host:",
            "",
        ] {
            let error = settings(&format!("broker = \"{wrong}\"")).unwrap_err();
            assert!(error.to_string().contains("mqtt://host:1883"), "{error}");
        }
    }

    #[test]
    fn password_in_the_address_is_refused_and_not_repeated() {
        let error = settings("broker = \"mqtt://user:hunter2@host\"").unwrap_err().to_string();
        assert!(error.contains("`username` and `password`") && !error.contains("hunter2"), "{error}");
        let full = settings("broker = \"mqtt://host\"\nusername = \"u\"\npassword = \"hunter2\"").unwrap();
        assert!(!format!("{full:?}").contains("hunter2"));
    }

    #[test]
    fn client_id_is_of_node_and_source_and_never_random() {
        assert_eq!(settings("broker = \"mqtt://h\"").unwrap().client_id, "triggerd-node1-events");
        assert_eq!(settings("broker = \"mqtt://h\"\nclient_id = \"x\"").unwrap().client_id, "x");
        assert!(matches!(
            settings("broker = \"mqtt://h\"\nclient_id = \"\""),
            Err(MqttError::ClientId { .. })
        ));
    }

    #[test]
    fn halves_and_misplaced_certificates_are_refused() {
        let message = |text: &str| settings(&format!("broker = {text}")).unwrap_err().to_string();
        assert!(message("\"mqtt://h\"\npassword = \"p\"").contains("password is set without username"));
        assert!(message("\"mqtts://h\"\nkey_file = \"k\"").contains("key_file is set without cert_file"));
        assert!(message("\"mqtt://h\"\nca_file = \"ca\"").contains("mqtts://"));
        assert!(matches!(
            settings("broker = \"mqtts://h\"\nca_file = \"/nowhere/ca.pem\""),
            Err(MqttError::File { .. })
        ));
    }

    #[test]
    fn limits_stay_within_the_protocol() {
        let limit = |max_body: u64| {
            settings(&format!("broker = \"mqtt://h\"\nmax_body = {max_body}")).unwrap().packet_limit
        };
        assert_eq!(limit(1_000), 16 << 20);
        assert_eq!(limit(32 << 20), (32 << 20) + (256 << 10));
        assert_eq!(limit(1 << 40), MAX_PACKET_LIMIT);
        let low = settings("broker = \"mqtt://h\"\nkeep_alive_s = 0\nreceive_maximum = 0").unwrap();
        assert_eq!((low.keep_alive, low.receive_maximum), (Duration::from_secs(5), 1));
    }
}
