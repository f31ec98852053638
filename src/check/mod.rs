//! What `triggerd check` asks of each part: is it there, does it let us in, does it have what the config names?
//!
//! A [`Probe`] looks at one part and changes nothing. All probes run at once, each with a time limit, and all of them are
//! reported, so that one run shows everything that is wrong. Probes of this host are in [`local`]; those that need a
//! driver, a database or a storage take it as an argument ([`remote`], [`storage`]) and are built by the composition root.

pub mod local;
pub mod remote;
pub mod storage;

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use serde::Serialize;

use crate::config::{Problem, Severity};

/// How long one probe may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and is probably not what is wanted.
    Warn,
    /// It does not work.
    Fail,
}

/// What was found out about a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it is.
    pub level: Level,
    /// Which part, as the config names it.
    pub part: String,
    /// What was seen.
    pub what: String,
    /// What to do; nothing when all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(part: impl Into<String>, what: impl Into<String>) -> Self {
        Self { level: Level::Ok, part: part.into(), what: what.into(), remedy: None }
    }

    /// Something that is probably not wanted.
    pub fn warn(part: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warn, part: part.into(), what: what.into(), remedy: Some(remedy.into()) }
    }

    /// Something that does not work.
    pub fn fail(part: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Fail, part: part.into(), what: what.into(), remedy: Some(remedy.into()) }
    }
}

impl From<Problem> for Finding {
    fn from(problem: Problem) -> Self {
        let level = match problem.severity {
            Severity::Warning => Level::Warn,
            Severity::Error => Level::Fail,
        };
        Self { level, part: problem.place, what: problem.what, remedy: Some(problem.remedy) }
    }
}

/// Looks at one part, and changes nothing.
#[async_trait]
pub trait Probe: Send + Sync {
    /// The part, as the config names it.
    fn part(&self) -> String;

    /// What is found; nothing where there is nothing to look at.
    async fn look(&self) -> Vec<Finding>;
}

/// Runs all probes at once; their findings in the probes' order.
pub async fn run(probes: &[Box<dyn Probe>]) -> Vec<Finding> {
    let looks = probes.iter().map(|probe| async {
        tokio::time::timeout(PATIENCE, probe.look()).await.unwrap_or_else(|_| {
            let what = format!("there was no answer within {} s", PATIENCE.as_secs());
            vec![Finding::fail(
                probe.part(),
                what,
                "see whether something on the way drops packets (a firewall)",
            )]
        })
    });
    join_all(looks).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stuck;

    #[async_trait]
    impl Probe for Stuck {
        fn part(&self) -> String {
            "stuck".into()
        }

        async fn look(&self) -> Vec<Finding> {
            std::future::pending().await
        }
    }

    struct Fine;

    #[async_trait]
    impl Probe for Fine {
        fn part(&self) -> String {
            "fine".into()
        }

        async fn look(&self) -> Vec<Finding> {
            vec![Finding::ok("fine", "it is")]
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_fails_and_the_others_are_reported() {
        let findings = run(&[Box::new(Stuck), Box::new(Fine)]).await;
        let shown: Vec<_> = findings.iter().map(|finding| (finding.part.as_str(), finding.level)).collect();
        assert_eq!(shown, [("stuck", Level::Fail), ("fine", Level::Ok)]);
    }
}
