//! A webhook source under test, and a sender that need not keep to HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use triggerd::config::sources::SourceConfig;
use triggerd::domain::clock::SystemClock;
use triggerd::source::webhook::{Limits, WebhookSource};
use triggerd::source::{Bound, Redelivers};

use crate::sources::{LIMIT, Running, config, origin};

/// A webhook source that runs.
pub(crate) struct Webhook {
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
    pub(crate) bound: Arc<Bound>,
}

/// Starts one with these settings (TOML) beside address and kind.
pub(crate) async fn open(settings: &str, redelivers: Redelivers, limits: Limits) -> Result<Webhook> {
    let kind = format!("{redelivers:?}").to_lowercase();
    let section =
        format!("type = \"webhook\"\nlisten = \"127.0.0.1:0\"\nredelivers = \"{kind}\"\n{settings}\n");
    let SourceConfig::Webhook(config) = config(&section)? else { bail!("not a webhook") };
    let clock = Arc::new(SystemClock::new());
    let source = WebhookSource::bind(&config, origin("hook", redelivers), clock).await?.with_limits(limits);
    let (address, bound) = (source.address(), source.bound());
    Ok(Webhook { running: Running::start(|inbox, stop| source.run(inbox, stop)), address, bound })
}

pub(crate) async fn open_plain() -> Result<Webhook> {
    open("", Redelivers::Yes, Limits::default()).await
}

pub(crate) fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: t\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// One connection of a sender.
pub(crate) struct Sender(pub(crate) TcpStream);

impl Sender {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        Ok(Self(TcpStream::connect(address).await?))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.0.write_all(bytes.as_ref()).await?)
    }

    /// The head of the next answer (bodies are empty), in lower case.
    pub(crate) async fn answer(&mut self) -> Result<String> {
        let mut head = Vec::new();
        let read = async {
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.0.read_u8().await?);
            }
            Ok::<_, std::io::Error>(())
        };
        tokio::time::timeout(LIMIT, read).await.context("no answer")??;
        let head = String::from_utf8(head)?.to_lowercase();
        ensure!(head.contains("content-length: 0") || !head.contains("transfer-encoding"), "{head}");
        Ok(head)
    }

    /// Whether the other side has closed the connection, by now or within the limit.
    pub(crate) async fn is_closed(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        let read = self.0.read_to_end(&mut rest);
        let _reset_or_end: std::io::Result<usize> =
            tokio::time::timeout(LIMIT, read).await.context("the connection stays open")?;
        Ok(())
    }
}

/// Sends one request on a connection of its own and returns its answer; nothing may be waiting for it.
pub(crate) async fn request(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Result<String> {
    let mut sender = Sender::connect(address).await?;
    sender.send(bytes).await?;
    sender.answer().await
}
