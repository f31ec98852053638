//! Waiting for a condition, with a bound. There is no other way to wait in the tests.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `condition` holds; after `limit` fails with `what` was waited for.
pub(crate) async fn wait_for<F>(what: &str, limit: Duration, mut condition: F) -> Result<()>
where
    F: AsyncFnMut() -> bool,
{
    tokio::time::timeout(limit, async {
        while !condition().await {
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await
    .map_err(|_| anyhow!("waited {limit:?} in vain: {what}"))
}

/// Repeats `attempt` until it succeeds and returns its value; after `limit` fails with `what` was waited for and the
/// last attempt's error.
pub(crate) async fn eventually<T, F>(what: &str, limit: Duration, mut attempt: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T>,
{
    let mut last = None;
    let value = tokio::time::timeout(limit, async {
        loop {
            match attempt().await {
                Ok(value) => return value,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await
    .ok();
    match (value, last) {
        (Some(value), _) => Ok(value),
        (None, Some(error)) => Err(error).with_context(|| format!("waited {limit:?} in vain: {what}")),
        (None, None) => Err(anyhow!("waited {limit:?} in vain, the first attempt never ended: {what}")),
    }
}
