//! Probes of what must be spoken to: the relations, the brokers, the platforms.
//!
//! How each is reached comes in as an argument: a driver, or a function that connects.

use std::{future::Future, pin::Pin, sync::Arc};

use async_trait::async_trait;

use crate::{
    platform::{Driver, PlatformError},
    relations::{Relations, RelationsError},
    telemetry::Chain,
};

use super::{Finding, Probe};

/// What a connecting function gives back.
pub type Connecting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

type ConnectRelations = Box<dyn Fn() -> Connecting<Result<Arc<dyn Relations>, RelationsError>> + Send + Sync>;

/// The relations: reached, of a schema that this version knows.
pub struct RelationsProbe {
    connect: ConnectRelations,
}

impl RelationsProbe {
    /// A probe that connects by this function. It must not migrate.
    pub fn new(
        connect: impl Fn() -> Connecting<Result<Arc<dyn Relations>, RelationsError>> + Send + Sync + 'static,
    ) -> Self {
        Self { connect: Box::new(connect) }
    }
}

#[async_trait]
impl Probe for RelationsProbe {
    fn part(&self) -> String {
        "relations".into()
    }

    async fn look(&self) -> Vec<Finding> {
        let part = self.part();
        let head = match (self.connect)().await {
            Ok(relations) => relations.head().await,
            Err(error) => Err(error),
        };
        vec![match head {
            Ok(head) => Finding::ok(part, format!("reached, at revision {}", head.revision)),
            Err(error @ RelationsError::NotMigrated { .. }) => Finding::warn(
                part,
                error.to_string(),
                "run `triggerd migrate`, or start the daemon with migrate_at_start",
            ),
            Err(error @ RelationsError::Unavailable(_)) => {
                let remedy = "see that the database runs, and that host, user, password and TLS of `relations.url` are right";
                Finding::fail(part, Chain(&error).to_string(), remedy)
            }
            Err(error) => {
                Finding::fail(part, Chain(&error).to_string(), "give it a database that this version can use")
            }
        }]
    }
}

/// A platform: reached, and takes our token.
pub struct PlatformProbe {
    name: String,
    driver: Arc<dyn Driver>,
}

impl PlatformProbe {
    /// The probe of the platform of this name.
    pub fn new(name: impl Into<String>, driver: Arc<dyn Driver>) -> Self {
        Self { name: name.into(), driver }
    }
}

#[async_trait]
impl Probe for PlatformProbe {
    fn part(&self) -> String {
        format!("platforms.{}", self.name)
    }

    async fn look(&self) -> Vec<Finding> {
        let Err(error) = self.driver.check().await else {
            return vec![Finding::ok(self.part(), "reached, and it takes our token")];
        };
        let remedy = match &error {
            PlatformError::Unreachable { .. } => "see that the platform runs, and that its `url` is right",
            PlatformError::Unauthorized { .. } => "write the platform's own token into `token_file`",
            PlatformError::Unexpected { .. } => {
                "see that `url` is the base URL of a platform of this `driver`"
            }
        };
        vec![Finding::fail(self.part(), Chain(&error).to_string(), remedy)]
    }
}

/// What a broker said to a connection.
#[derive(Debug)]
pub enum BrokerAnswer {
    /// It let us in.
    In,
    /// It does not want us; its word for it.
    Refused(String),
    /// There is no connection, or no answer; why.
    Unreachable(String),
    /// The source's own settings are wrong; what.
    Misconfigured(String),
}

type AskBroker = Box<dyn Fn() -> Connecting<BrokerAnswer> + Send + Sync>;

/// An MQTT broker: reached, and lets us in.
pub struct BrokerProbe {
    source: String,
    ask: AskBroker,
}

impl BrokerProbe {
    /// The probe of the broker of the source of this name, asked by this function.
    pub fn new(
        source: impl Into<String>,
        ask: impl Fn() -> Connecting<BrokerAnswer> + Send + Sync + 'static,
    ) -> Self {
        Self { source: source.into(), ask: Box::new(ask) }
    }
}

#[async_trait]
impl Probe for BrokerProbe {
    fn part(&self) -> String {
        format!("sources.{}.broker", self.source)
    }

    async fn look(&self) -> Vec<Finding> {
        let (what, remedy) = match (self.ask)().await {
            BrokerAnswer::In => {
                return vec![Finding::ok(self.part(), "reached, and it lets us in")];
            }
            BrokerAnswer::Refused(what) => {
                (what, "correct `username`, `password_file` and `version`, or let this user in at the broker")
            }
            BrokerAnswer::Unreachable(why) => (
                why,
                "see that the broker runs (`systemctl status mosquitto`), that host and port are right, and that both \
                 sides agree on TLS (mqtt:// or mqtts://, `ca_file`, `cert_file`)",
            ),
            BrokerAnswer::Misconfigured(what) => (what, "correct the source in the config"),
        };
        vec![Finding::fail(self.part(), what, remedy)]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use axum::Router;
    use http::{HeaderName, StatusCode, header::CONTENT_TYPE};

    use super::{super::Level, *};
    use crate::{
        platform::rules::RulesDriver,
        relations::{Head, Role, Snapshot, SqliteRelations},
    };

    const PROBLEM: (HeaderName, &str) = (CONTENT_TYPE, "application/problem+json");

    /// A platform that gives this answer to everything.
    async fn platform(status: StatusCode, body: &'static str) -> PlatformProbe {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = Router::new().fallback(move || async move { (status, [PROBLEM], body) });
        tokio::spawn(async { axum::serve(listener, answer).await });
        let driver = RulesDriver::new("local", &url, "token".to_owned().into()).unwrap();
        PlatformProbe::new("local", Arc::new(driver))
    }

    /// What a probe finds, in words.
    pub(in crate::check) async fn shown(probe: impl Probe) -> Vec<String> {
        let show = |finding: Finding| {
            format!(
                "{:?} {}: {} → {}",
                finding.level,
                finding.part,
                finding.what,
                finding.remedy.unwrap_or_default()
            )
        };
        probe.look().await.into_iter().map(show).collect()
    }

    #[tokio::test]
    async fn a_platform_is_asked_by_its_driver() {
        let unknown = platform(StatusCode::NOT_FOUND, r#"{"type": "/problems/unknown-rule"}"#).await;
        assert!(shown(unknown).await[0].starts_with("Ok platforms.local"));
        let stranger = platform(StatusCode::UNAUTHORIZED, "").await;
        assert!(shown(stranger).await[0].contains("token_file"));
        let other = platform(StatusCode::NOT_FOUND, "<html>").await;
        assert!(shown(other).await[0].contains("base URL"));
    }

    #[tokio::test]
    async fn relations_are_connected_to_and_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = SqliteRelations::open(&folder.path().join("relations.db"), Role::Mirror).await.unwrap();
        let head = Head { database: [1; 16], revision: 4 };
        file.take_over_all(&Snapshot { head, bindings: Vec::new() }).await.unwrap();
        let file: Arc<dyn Relations> = Arc::new(file);
        let there = RelationsProbe::new(move || {
            let file = Arc::clone(&file);
            Box::pin(async { Ok(file) })
        });
        assert_eq!(shown(there).await, ["Ok relations: reached, at revision 4 → "]);
        let away = || {
            Box::pin(async { Err(RelationsError::Unavailable(sqlx::Error::PoolTimedOut)) }) as Connecting<_>
        };
        let away = shown(RelationsProbe::new(away)).await;
        assert!(away[0].starts_with("Fail relations: the relations database does not answer: "), "{away:?}");
        let old = || Box::pin(async { Err(RelationsError::NotMigrated { missing: 2 }) }) as Connecting<_>;
        assert!(shown(RelationsProbe::new(old)).await[0].contains("triggerd migrate"));
        let new = || Box::pin(async { Err(RelationsError::Newer { version: 9 }) }) as Connecting<_>;
        assert_eq!(RelationsProbe::new(new).look().await[0].level, Level::Fail);
    }
}
