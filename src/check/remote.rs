//! Probes of what must be spoken to: the relations, the platforms, the storages.
//!
//! How each is reached comes in as an argument: a driver, or a function that connects.

use std::{collections::BTreeSet, fmt::Display, future::Future, pin::Pin, sync::Arc};

use async_trait::async_trait;

use crate::{
    config::{sources::Redelivers, storages::StorageConfig},
    platform::{Driver, PlatformError},
    relations::{Relations, RelationsError},
    telemetry::Chain,
};

use super::{Finding, Probe};

/// What a connecting function gives back.
pub type Connecting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

type ConnectRelations = Box<dyn Fn() -> Connecting<Result<Arc<dyn Relations>, RelationsError>> + Send + Sync>;
type AskStorage = Box<dyn Fn() -> Connecting<StorageAnswer> + Send + Sync>;

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

/// What a storage said when it was asked.
#[derive(Debug)]
pub enum StorageAnswer {
    /// It does not answer; why.
    Unreachable(String),
    /// It does not know the access key, or the secret key is wrong; what it said.
    Credentials(String),
    /// The user may not do this; what, such as `s3:GetBucketNotification`.
    Forbidden(String),
    /// It answered otherwise; what it said.
    Odd(String),
    /// It let us in.
    In(Targets),
}

/// What is known of a storage's targets.
#[derive(Debug)]
pub enum Targets {
    /// Their ARNs, as `sqsARN` lists them.
    There(BTreeSet<String>),
    /// The user may not see them.
    Hidden,
    /// They could not be asked for; why.
    Unknown(String),
}

/// A storage: reached, lets us in, has the targets that the config names.
pub struct StorageProbe {
    name: String,
    targets: Vec<String>,
    fast_targets: Vec<String>,
    sources: Vec<(&'static str, Redelivers)>,
    ask: AskStorage,
}

/// A target whose type fits sources of both legs.
const EITHER: &str = "one of a fast and a safe leg";

impl StorageProbe {
    /// The probe of the storage of this name, asked by this function.
    pub fn new(
        name: impl Into<String>,
        config: &StorageConfig,
        ask: impl Fn() -> Connecting<StorageAnswer> + Send + Sync + 'static,
    ) -> Self {
        let (targets, fast_targets) = (config.targets.clone(), config.fast_targets.clone());
        Self { name: name.into(), targets, fast_targets, sources: Vec::new(), ask: Box::new(ask) }
    }

    /// The same, knowing the sources that take its notifications: their types and what they say of redelivery.
    #[must_use]
    pub fn with_sources(mut self, sources: Vec<(&'static str, Redelivers)>) -> Self {
        self.sources = sources;
        self
    }

    /// Which kind of target this must be. MinIO does not tell whether a target has a `queue_dir`, so it is what the
    /// config takes it for.
    fn kind(&self, arn: &str) -> &'static str {
        const FAST: &str = "the fast leg of twin targets, without queue_dir";
        if self.fast_targets.iter().any(|fast| fast == arn) {
            return FAST;
        }
        let of_type = arn.rsplit(':').next().unwrap_or_default();
        let mut kinds = self.sources.iter().filter(|(kind, _)| *kind == of_type).map(|(_, says)| *says);
        let Some(first) = kinds.next() else { return "no source here is of its type" };
        match first {
            _ if kinds.any(|other| other != first) => EITHER,
            Redelivers::Yes => "taken for safe: it must have a queue_dir",
            Redelivers::No => "taken for one without queue_dir: what comes while triggerd is away is lost",
            Redelivers::Twin => FAST,
        }
    }

    fn fail(&self, what: impl Display, remedy: &str) -> Vec<Finding> {
        vec![Finding::fail(self.part(), what.to_string(), remedy)]
    }

    fn targets(&self, targets: &Targets) -> Vec<Finding> {
        let part = format!("{}.targets", self.part());
        let there = match targets {
            Targets::There(there) => there,
            Targets::Hidden => {
                let remedy = "give its user `admin:ServerInfo` to have the targets checked";
                return vec![Finding::warn(part, "the user may not see which targets there are", remedy)];
            }
            Targets::Unknown(why) => {
                let what = format!("it does not tell which targets there are: {why}");
                let remedy = "compare the ARNs with what `mc admin info --json` shows under `sqsARN`";
                return vec![Finding::warn(part, what, remedy)];
            }
        };
        let listed: Vec<&str> = there.iter().map(String::as_str).collect();
        let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
        let one = |arn: &String| {
            if there.contains(arn) {
                return Finding::ok(&part, format!("{arn} is there ({})", self.kind(arn)));
            }
            let remedy =
                "configure the target in MinIO (MINIO_NOTIFY_…) and restart MinIO, or correct the ARN";
            Finding::fail(&part, format!("{arn} is not there; it has {listed}"), remedy)
        };
        let mut found: Vec<_> = self.targets.iter().chain(&self.fast_targets).map(one).collect();
        if self.targets.iter().any(|arn| there.contains(arn) && self.kind(arn) == EITHER) {
            let what = "that MinIO does not tell a fast leg from a safe one is no fault; named under `fast_targets`, the \
                        fast one would be told apart, and bring only the events of bindings made with `--twin`";
            found.push(Finding::ok(part, what.to_owned()));
        }
        found
    }
}

#[async_trait]
impl Probe for StorageProbe {
    fn part(&self) -> String {
        format!("storages.{}", self.name)
    }

    async fn look(&self) -> Vec<Finding> {
        match (self.ask)().await {
            StorageAnswer::Unreachable(why) => self.fail(
                format!("it does not answer: {why}"),
                "see that MinIO runs, and that `endpoint` is right",
            ),
            StorageAnswer::Credentials(said) => self
                .fail(format!("it does not let us in: {said}"), "correct `access_key` and `secret_key_file`"),
            StorageAnswer::Forbidden(action) => self.fail(
                format!("its user may not {action}"),
                "give it a policy with s3:GetBucketNotification and s3:PutBucketNotification",
            ),
            StorageAnswer::Odd(said) => self.fail(
                format!("it answered otherwise than S3: {said}"),
                "see that `endpoint` is MinIO's S3 port, not its console",
            ),
            StorageAnswer::In(targets) => {
                let mut findings = vec![Finding::ok(self.part(), "reached, and it lets us in")];
                findings.extend(self.targets(&targets));
                findings
            }
        }
    }
}

#[cfg(test)]
mod tests {
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

    async fn shown(probe: impl Probe) -> Vec<String> {
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

    #[tokio::test]
    async fn a_storage_must_let_us_in_and_have_the_targets() {
        let config: StorageConfig = toml::from_str(
            "endpoint = \"http://127.0.0.1:1\"\naccess_key = \"a\"\ntargets = [\"arn:minio:sqs::A:mqtt\", \"arn:minio:sqs::B:mqtt\"]",
        )
        .unwrap();
        let ask = async |answer: fn() -> StorageAnswer| {
            shown(StorageProbe::new("main", &config, move || Box::pin(async move { answer() }))).await
        };
        let there =
            ask(|| StorageAnswer::In(Targets::There(["arn:minio:sqs::A:mqtt".to_owned()].into()))).await;
        assert_eq!(there.len(), 3);
        assert!(
            there[1].starts_with("Ok storages.main.targets") && there[2].starts_with("Fail"),
            "{there:?}"
        );
        assert!(there[2].contains("B:mqtt is not there; it has arn:minio:sqs::A:mqtt"), "{there:?}");
        assert!(ask(|| StorageAnswer::In(Targets::Hidden)).await[1].contains("admin:ServerInfo"));
        let twins =
            StorageConfig { fast_targets: vec!["arn:minio:sqs::FAST:webhook".into()], ..config.clone() };
        let there = ["arn:minio:sqs::A:mqtt", "arn:minio:sqs::B:mqtt", "arn:minio:sqs::FAST:webhook"]
            .map(str::to_owned);
        let answer = move || {
            let there = there.clone().into();
            Box::pin(async move { StorageAnswer::In(Targets::There(there)) }) as Connecting<_>
        };
        let sources = vec![("mqtt", Redelivers::Yes), ("webhook", Redelivers::Twin)];
        let kinds = shown(StorageProbe::new("main", &twins, answer.clone()).with_sources(sources)).await;
        assert!(
            kinds[1].contains("safe") && kinds[2].contains("safe") && kinds[3].contains("fast"),
            "{kinds:?}"
        );
        let sources = vec![("mqtt", Redelivers::Yes), ("mqtt", Redelivers::Twin)];
        let kinds = shown(StorageProbe::new("main", &twins, answer).with_sources(sources)).await;
        let said = kinds.iter().filter(|kind| kind.contains("fast_targets")).count();
        assert!(kinds[1].contains("a fast and a safe leg") && said == 1, "{kinds:?}");
        assert!(kinds.iter().any(|kind| kind.contains("--twin")), "{kinds:?}");
        let unknown = ask(|| StorageAnswer::In(Targets::Unknown("it answered 404".into()))).await;
        assert!(unknown[1].starts_with("Warn") && unknown[1].contains("404"), "{unknown:?}");
        for answer in [
            (|| StorageAnswer::Unreachable("refused".into())) as fn() -> StorageAnswer,
            || StorageAnswer::Credentials("InvalidAccessKeyId".into()),
            || StorageAnswer::Forbidden("s3:PutBucketNotification".into()),
            || StorageAnswer::Odd("200 <html>".into()),
        ] {
            let lines = ask(answer).await;
            assert!(lines.len() == 1 && lines[0].starts_with("Fail storages.main: "), "{lines:?}");
        }
    }
}
