//! A real Mosquitto, started per test since its configuration is what the test is about.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rumqttc::{ConnectReturnCode, ConnectionError, Event, MqttOptions, Packet, TlsConfiguration, Transport};
use tempfile::TempDir;

use super::certificates::Certificates;
use super::installed::{self, Server};
use super::ports::{free_port, on_free_ports};
use super::process::{Halt, Process, restartable};

const READY_LIMIT: Duration = Duration::from_secs(20);

/// Whether the broker's port speaks TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tls {
    #[default]
    Off,
    /// With a certificate of the test's own authority.
    Server,
    /// And the client must show one too.
    ServerAndClient,
}

/// What a Mosquitto is started with. The default lets everybody in and keeps the stock limits, nothing on disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct MosquittoOptions {
    /// Names and passwords; with none given everybody is let in.
    pub(crate) users: Vec<(String, String)>,
    pub(crate) tls: Tls,
    /// Whether sessions and queued messages are kept over a restart, even a crash (written on every change).
    pub(crate) persistence: bool,
    /// How many messages wait for an absent client (stock: 1000).
    pub(crate) max_queued_messages: Option<u32>,
    /// More lines of its configuration.
    pub(crate) lines: Vec<String>,
}

/// A Mosquitto, which keeps its folder, port and options over a restart.
#[derive(Debug)]
pub(crate) struct Mosquitto {
    // Before its folder, which could not be removed while it writes there: fields are dropped in this order.
    process: Option<Process>,
    folder: TempDir,
    program: PathBuf,
    options: MosquittoOptions,
    port: u16,
    certificates: Option<Certificates>,
}

restartable!(Mosquitto, |_server| "Mosquitto");

impl Mosquitto {
    /// Starts one and returns when it answers a CONNECT.
    pub(crate) async fn start(options: MosquittoOptions) -> Result<Self> {
        let program = installed::path(Server::Mosquitto, "mosquitto")?;
        on_free_ports(async || {
            let folder = tempfile::Builder::new().prefix("triggerd-mosquitto-").tempdir()?;
            let certificates = match options.tls {
                Tls::Off => None,
                Tls::Server | Tls::ServerAndClient => Some(Certificates::generate(folder.path())?),
            };
            let port = free_port()?;
            let program = program.clone();
            let mut mosquitto =
                Self { folder, program, options: options.clone(), port, certificates, process: None };
            mosquitto.write_files()?;
            mosquitto.start_again().await?;
            Ok(mosquitto)
        })
        .await
    }

    /// Starts it after [`stop`](Self::stop) or [`kill9`](Self::kill9).
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("this Mosquitto runs already");
        }
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.path().join("mosquitto.conf"));
        let mut process = Process::start("Mosquitto", &command, &self.log())?;
        process.gate(READY_LIMIT, async || self.answers_connect().await).await?;
        self.process = Some(process);
        Ok(())
    }

    /// The port of 127.0.0.1 that it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its address as MinIO's MQTT target takes it: `tcp://…`, or `ssl://…` with TLS.
    pub(crate) fn broker(&self) -> String {
        let scheme = if self.certificates.is_some() { "ssl" } else { "tcp" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The certificates, if it speaks TLS.
    pub(crate) fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("mosquitto.log")
    }

    /// Whether what it keeps on disk holds this text.
    pub(crate) fn remembers(&self, text: &str) -> bool {
        let kept = std::fs::read(self.folder.path().join("mosquitto.db")).unwrap_or_default();
        kept.windows(text.len()).any(|bytes| bytes == text.as_bytes())
    }

    /// How to connect: plain, or TLS with the test's authority and, where it is asked for, the client's certificate.
    pub(crate) fn transport(&self) -> Result<Transport> {
        let Some(certificates) = &self.certificates else {
            return Ok(Transport::Tcp);
        };
        let mut tls = native_tls::TlsConnector::builder();
        tls.disable_built_in_roots(true);
        tls.add_root_certificate(native_tls::Certificate::from_pem(&std::fs::read(&certificates.ca)?)?);
        if self.options.tls == Tls::ServerAndClient {
            let certificate = std::fs::read(&certificates.client_certificate)?;
            let key = std::fs::read(&certificates.client_key)?;
            tls.identity(native_tls::Identity::from_pkcs8(&certificate, &key)?);
        }
        Ok(Transport::Tls(TlsConfiguration::NativeConnector(tls.build()?)))
    }

    /// Options of an MQTT 3.1.1 client that is let in, as the first user where there are users.
    pub(crate) fn client_options(&self, client_id: &str) -> Result<MqttOptions> {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", self.port);
        options.set_transport(self.transport()?);
        if let Some((user, password)) = self.options.users.first() {
            options.set_credentials(user, password);
        }
        Ok(options)
    }

    async fn answers_connect(&self) -> Result<()> {
        let client_id = format!("readiness-{}", self.port);
        let (_client, mut connection) = rumqttc::AsyncClient::new(self.client_options(&client_id)?, 1);
        match connection.poll().await {
            // A test may have it refuse everybody; that too is an answer of a broker which is up.
            Ok(Event::Incoming(Packet::ConnAck(_)))
            | Err(ConnectionError::ConnectionRefused(
                ConnectReturnCode::NotAuthorized | ConnectReturnCode::BadUserNamePassword,
            )) => Ok(()),
            Ok(other) => Err(anyhow!("answered CONNECT with {other:?}")),
            Err(error) => Err(error.into()),
        }
    }

    fn write_files(&self) -> Result<()> {
        let folder = self.folder.path();
        let mut text = String::new();
        writeln!(text, "listener {} 127.0.0.1", self.port)?;
        writeln!(text, "allow_anonymous {}", self.options.users.is_empty())?;
        writeln!(text, "log_dest stderr\nlog_type all\nconnection_messages true")?;
        if rustix::process::geteuid().is_root() {
            // It would otherwise become a user who may not be there, nor read these files.
            writeln!(text, "user root")?;
        }
        if !self.options.users.is_empty() {
            let file = folder.join("passwords");
            write_passwords(&file, &self.options.users)?;
            writeln!(text, "password_file {}", file.display())?;
        }
        if let Some(certificates) = &self.certificates {
            writeln!(text, "cafile {}", certificates.ca.display())?;
            writeln!(text, "certfile {}", certificates.server_certificate.display())?;
            writeln!(text, "keyfile {}", certificates.server_key.display())?;
            writeln!(text, "require_certificate {}", self.options.tls == Tls::ServerAndClient)?;
        }
        if self.options.persistence {
            writeln!(text, "persistence true\npersistence_location {}/", folder.display())?;
            writeln!(text, "autosave_interval 1\nautosave_on_changes true")?;
        }
        if let Some(limit) = self.options.max_queued_messages {
            writeln!(text, "max_queued_messages {limit}")?;
        }
        for line in &self.options.lines {
            writeln!(text, "{line}")?;
        }
        std::fs::write(folder.join("mosquitto.conf"), text)?;
        Ok(())
    }
}

fn write_passwords(file: &std::path::Path, users: &[(String, String)]) -> Result<()> {
    let program = installed::path(Server::Mosquitto, "mosquitto_passwd")?;
    std::fs::write(file, "")?;
    for (user, password) in users {
        let output = Command::new(&program).arg("-b").arg(file).args([user, password]).output()?;
        if !output.status.success() {
            bail!("mosquitto_passwd: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(())
}
