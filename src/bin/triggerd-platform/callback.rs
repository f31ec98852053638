//! Calls back to triggerd: the confirmation of a rule and the result of an asynchronous invocation, each
//! a POST of JSON signed with the rule's secret.
//!
//! Tried again with growing pauses for about ten minutes while the other side is away or busy; any
//! other answer is its last word. A call that is cut off by our own end is made again after the next
//! start, by whoever kept the reason for it.

use crate::{clock, signature::Secret};
use reqwest::{StatusCode, redirect::Policy};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const IN_ALL: Duration = Duration::from_mins(10);

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Answered with 2xx.
    Taken,
    /// Refused for good, or not taken in the time there was.
    GivenUp,
    /// This platform is stopping.
    Stopped,
}

/// Makes the calls.
#[derive(Clone)]
pub(crate) struct Caller {
    client: reqwest::Client,
    stop: CancellationToken,
}

impl Caller {
    pub(crate) fn new(stop: CancellationToken) -> reqwest::Result<Self> {
        let client =
            reqwest::Client::builder().redirect(Policy::none()).timeout(Duration::from_secs(10)).build()?;
        Ok(Self { client, stop })
    }

    /// Posts `body` to `url` until it is taken; `id` is the message's identity on every try.
    pub(crate) async fn post(&self, url: &str, id: &str, secret: &Secret, body: &serde_json::Value) -> Ended {
        let body = body.to_string();
        let tries = async {
            let mut pause = FIRST_PAUSE;
            loop {
                match self.try_once(url, id, secret, body.clone()).await {
                    Ok(status) if status.is_success() => return Ended::Taken,
                    Ok(status) if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                        tracing::warn!(id, %status, "a call back was refused and is not repeated");
                        return Ended::GivenUp;
                    }
                    Ok(status) => tracing::info!(id, %status, "a call back is repeated later"),
                    Err(error) => {
                        tracing::info!(id, error = %error.without_url(), "a call back is repeated later");
                    }
                }
                sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => Ended::Stopped,
            ended = timeout(IN_ALL, tries) => ended.unwrap_or(Ended::GivenUp),
        }
    }

    async fn try_once(
        &self,
        url: &str,
        id: &str,
        secret: &Secret,
        body: String,
    ) -> reqwest::Result<StatusCode> {
        let timestamp = clock::unix_seconds();
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", secret.sign(id, timestamp, body.as_bytes()));
        Ok(request.body(body).send().await?.status())
    }
}
