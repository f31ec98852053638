//! Calls back to triggerd: the confirmation of a rule and the result of an asynchronous invocation, each
//! a POST of JSON signed with the rule's secret, anew with the present time on every try.
//!
//! `Caller::send` makes one try and says what came of it; who has something to say repeats it, with the
//! pauses of `Pauses`, for as long as it is worth that: a report for days, over restarts (`jobs`), a
//! confirmation for ten minutes (`confirm`). Any answer but 408, 429 and 5xx is the other side's last word.
//! At most `AT_ONCE` calls are under way, so that the reports that wait take no memory.

use crate::{clock, signature::Secret};
use reqwest::{Response, StatusCode, header::RETRY_AFTER, redirect::Policy};
use std::{
    error::Error,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};
use tokio::{sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest `Retry-After` that is kept to.
const LONGEST_ASKED: Duration = Duration::from_mins(10);
const AT_ONCE: usize = 64;
/// How much of an answer is read for its reason.
const MAX_ANSWER: usize = 4096;
/// How many characters of a reason are told.
const MAX_REASON: usize = 300;

/// What came of one try.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Answered with 2xx.
    Taken,
    /// Refused for good: the status, and why in the other side's words.
    Refused { status: StatusCode, why: String },
    /// Not now: why, and how long to wait at least, where the answer says it.
    Later { why: String, after: Option<Duration> },
    /// This platform is stopping.
    Stopped,
}

/// The pauses between tries: they double, up to half a minute.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pauses {
    /// The next pause, at least as long as the other side asked for.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let own = self.0;
        self.0 = LONGEST_PAUSE.min(own * 2);
        own.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }
}

/// Makes the calls.
#[derive(Clone)]
pub(crate) struct Caller {
    client: reqwest::Client,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Caller {
    pub(crate) fn new(stop: CancellationToken) -> reqwest::Result<Self> {
        let client =
            reqwest::Client::builder().redirect(Policy::none()).timeout(Duration::from_secs(10)).build()?;
        Ok(Self { client, places: Arc::new(Semaphore::new(AT_ONCE)), stop })
    }

    /// Posts `body` to `url` once; `id` is the message's identity on
    /// every try.
    pub(crate) async fn send(&self, url: &str, id: &str, secret: &Secret, body: String) -> Said {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Said::Stopped,
            said = self.try_once(url, id, secret, body) => said.unwrap_or_else(|error| {
                Said::Later { why: whole(&error.without_url()), after: None }
            }),
        }
    }

    /// A place among the calls that are under way.
    pub(crate) async fn place(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.places.acquire().await.ok()
    }

    /// Waits so long; false when this platform is stopping.
    pub(crate) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = sleep(time) => true,
        }
    }

    async fn try_once(&self, url: &str, id: &str, secret: &Secret, body: String) -> reqwest::Result<Said> {
        let timestamp = clock::unix_seconds();
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", secret.sign(id, timestamp, body.as_bytes()));
        let answer = request.body(body).send().await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Said::Taken);
        }
        let after = retry_after(&answer, clock::unix_seconds());
        let why = reason(answer).await;
        let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        if again || status.is_server_error() {
            return Ok(Said::Later { why: format!("{status}: {why}"), after });
        }
        Ok(Said::Refused { status, why })
    }
}

/// How long the answer asks to wait, as seconds or as a date; `now` is in seconds since 1970. A date that is past asks for
/// nothing.
fn retry_after(answer: &Response, now: u64) -> Option<Duration> {
    let value = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let now = UNIX_EPOCH + Duration::from_secs(now);
    Some(date.duration_since(now).unwrap_or_default())
}

/// The beginning of what the answer says: a problem's `detail`, or its text.
async fn reason(mut answer: Response) -> String {
    let mut body = Vec::new();
    while body.len() < MAX_ANSWER {
        let Ok(Some(chunk)) = answer.chunk().await else { break };
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER - body.len())]);
    }
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let said = problem["detail"].as_str().or(problem["title"].as_str());
    let text = said.map_or_else(|| String::from_utf8_lossy(&body).into_owned(), str::to_owned);
    let text = text.trim();
    if text.is_empty() { "no reason given".to_owned() } else { text.chars().take(MAX_REASON).collect() }
}

/// An error with what it comes from: reqwest's own words seldom say why.
fn whole(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute_and_are_as_long_as_is_asked() {
        let mut pauses = Pauses::default();
        let own: Vec<_> = (0..9).map(|_| pauses.next(None).as_millis()).collect();
        assert_eq!(own, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        let mut pauses = Pauses::default();
        assert_eq!(pauses.next(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pauses.next(Some(Duration::from_millis(1))), Duration::from_millis(500));
        assert_eq!(pauses.next(Some(Duration::from_hours(24))), LONGEST_ASKED, "the report would be lost");
    }

    #[tokio::test]
    async fn an_answer_says_why_and_how_long_to_wait() {
        let answer = |after: &str, body: String| {
            Response::from(http::Response::builder().header("retry-after", after).body(body).unwrap())
        };
        let after = |value| retry_after(&answer(value, String::new()), 784_111_770);
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:20 GMT"), Some(Duration::ZERO));
        assert_eq!((after("soon"), after("-1"), after("")), (None, None, None));
        let problem = serde_json::json!({"title": "No", "detail": "the disk fails"}).to_string();
        assert_eq!(reason(answer("1", problem)).await, "the disk fails");
        assert_eq!(reason(answer("1", " \n".into())).await, "no reason given");
        assert_eq!(reason(answer("1", "ä".repeat(100_000))).await, "ä".repeat(MAX_REASON));
    }
}
