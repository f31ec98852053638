//! What the tests of the sources share: the other end of a source, in the place of intake.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use triggerd::config::sources::SourceConfig;
use triggerd::domain::event::{KeyEncoding, StorageName};
use triggerd::source::{Message, Origin, Redelivers};

/// How long anything in these tests may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Reads a source's section, as it stands in the config.
pub(crate) fn config(text: &str) -> Result<SourceConfig> {
    toml::from_str(text).with_context(|| format!("in the config: {text}"))
}

pub(crate) fn origin(name: &str, redelivers: Redelivers) -> Arc<Origin> {
    Arc::new(Origin {
        source: name.into(),
        storage: StorageName::new("default"),
        encoding: KeyEncoding::Form,
        redelivers,
        ack_within: Duration::from_millis(25),
    })
}

/// A source that runs, and what it hands over.
pub(crate) struct Running {
    pub(crate) messages: mpsc::Receiver<Message>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Running {
    /// Starts what `run` makes of an inbox and a stop signal.
    pub(crate) fn start<F>(run: impl FnOnce(mpsc::Sender<Message>, CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with_inbox(1_000, run)
    }

    /// The same with an inbox of this many messages.
    pub(crate) fn with_inbox<F>(
        size: usize,
        run: impl FnOnce(mpsc::Sender<Message>, CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (inbox, messages) = mpsc::channel(size);
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(inbox, stop.clone()));
        Self { messages, stop, task }
    }

    /// The next message, which must come.
    pub(crate) async fn next(&mut self) -> Result<Message> {
        let message = tokio::time::timeout(LIMIT, self.messages.recv()).await;
        message.context("no message came")?.context("the source ended")
    }

    /// Whether nothing is there now.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Stops it and waits until it has ended.
    pub(crate) async fn end(self) -> Result<()> {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task).await.context("the source did not stop")??;
        Ok(())
    }
}

/// The message's body as text.
pub(crate) fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.bytes).into_owned()
}
