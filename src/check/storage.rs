//! The probe of a storage: reached, lets us in, has the targets that the config names, and a safe one among them.
//!
//! MinIO does not tell whether a target has a `queue_dir`, nor which one sends where; so a target is what the config
//! takes it for, by what the sources of its type say of redelivery.

use std::{collections::BTreeSet, fmt::Display};

use async_trait::async_trait;

use crate::config::{sources::Redelivers, storages::StorageConfig};

use super::{Finding, Probe, remote::Connecting};

type AskStorage = Box<dyn Fn() -> Connecting<StorageAnswer> + Send + Sync>;

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

/// What the config takes a target for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It redelivers.
    Safe,
    /// It does not, and nothing else is said to bring its events.
    Lossy,
    /// It does not, and its source relies on another target to.
    Fast,
    /// Its type fits sources of both legs.
    Either,
    /// It is named as a fast leg, and all sources of its type are said to redeliver.
    Misnamed,
    /// No source is of its type.
    Nobodys,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Safe => "taken for safe: it must have a queue_dir",
            Self::Lossy => "taken for one without queue_dir: what comes while triggerd is away is lost",
            Self::Fast => "the fast leg of twin targets, without queue_dir",
            Self::Either => "one of a fast and a safe leg",
            Self::Misnamed => {
                "named as a fast leg, and its source says `redelivers = \"yes\"`, as of a safe one"
            }
            Self::Nobodys => "no source here is of its type",
        }
    }

    /// What to do about it where it is probably not what is wanted.
    fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Lossy => Some(
                "give the target a `queue_dir` and say `redelivers = \"yes\"` at its source; or let a second target with \
                 a `queue_dir` bring every event too, and say `redelivers = \"twin\"` here",
            ),
            Self::Misnamed => Some(
                "name it under `targets` if it has a `queue_dir`; if it has none, say `redelivers = \"twin\"` at its source",
            ),
            Self::Safe | Self::Fast | Self::Either | Self::Nobodys => None,
        }
    }
}

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

    /// Which kind of target this must be.
    fn kind(&self, arn: &str) -> Kind {
        let of_type = arn.rsplit(':').next().unwrap_or_default();
        let kinds = self.sources.iter().filter(|(kind, _)| *kind == of_type).map(|(_, says)| *says);
        let says: Vec<Redelivers> = kinds.collect();
        let all = |wanted| says.iter().all(|one| *one == wanted);
        let named_fast = self.fast_targets.iter().any(|fast| fast == arn);
        match says.first() {
            Some(Redelivers::Yes) if named_fast && all(Redelivers::Yes) => Kind::Misnamed,
            _ if named_fast => Kind::Fast,
            None => Kind::Nobodys,
            Some(first) if !all(*first) => Kind::Either,
            Some(Redelivers::Yes) => Kind::Safe,
            Some(Redelivers::No) => Kind::Lossy,
            Some(Redelivers::Twin) => Kind::Fast,
        }
    }

    /// A twin source answers before anything is safe, so that one of the targets that bring every binding's events must
    /// be a safe one.
    fn safe_leg(&self) -> Option<Finding> {
        let fast: Vec<&str> =
            self.targets.iter().map(String::as_str).filter(|arn| self.kind(arn) == Kind::Fast).collect();
        let safe = self.targets.iter().any(|arn| matches!(self.kind(arn), Kind::Safe | Kind::Either));
        if fast.is_empty() || safe {
            return None;
        }
        let what = format!(
            "there is no safe leg: what {} loses while triggerd is away, no other of `targets` brings",
            fast.join(", ")
        );
        let remedy = "name the target with a `queue_dir` (its source says `redelivers = \"yes\"`) under `targets`, and the \
                      one without under `fast_targets`";
        Some(Finding::fail(format!("{}.targets", self.part()), what, remedy))
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
                let kind = self.kind(arn);
                let what = format!("{arn} is there ({})", kind.words());
                return match kind.remedy() {
                    Some(remedy) => Finding::warn(&part, what, remedy),
                    None => Finding::ok(&part, what),
                };
            }
            let remedy =
                "configure the target in MinIO (MINIO_NOTIFY_…) and restart MinIO, or correct the ARN";
            Finding::fail(&part, format!("{arn} is not there; it has {listed}"), remedy)
        };
        let mut found: Vec<_> = self.targets.iter().chain(&self.fast_targets).map(one).collect();
        if self.targets.iter().any(|arn| there.contains(arn) && self.kind(arn) == Kind::Either) {
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
                findings.extend(self.safe_leg());
                findings
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Level, remote::tests::shown},
        *,
    };

    /// What is said of the targets, all of which are there.
    async fn legs(
        targets: &[&str],
        fast: &[&str],
        sources: &[(&'static str, Redelivers)],
    ) -> Vec<(Level, String)> {
        let config: StorageConfig = toml::from_str(&format!(
            "endpoint = \"http://127.0.0.1:1\"\naccess_key = \"a\"\ntargets = {targets:?}\nfast_targets = {fast:?}"
        ))
        .unwrap();
        let there: BTreeSet<String> = targets.iter().chain(fast).map(|arn| (*arn).to_owned()).collect();
        let answer = move || {
            let there = there.clone();
            Box::pin(async move { StorageAnswer::In(Targets::There(there)) }) as Connecting<_>
        };
        let found = StorageProbe::new("main", &config, answer).with_sources(sources.to_vec()).look().await;
        let found = found.into_iter().filter(|finding| finding.part == "storages.main.targets");
        found.map(|one| (one.level, format!("{} → {}", one.what, one.remedy.unwrap_or_default()))).collect()
    }

    #[tokio::test]
    async fn twin_targets_without_a_safe_leg_fail() {
        const FAST: &str = "arn:minio:sqs::FAST:webhook";
        const SAFE: &str = "arn:minio:sqs::SAFE:mqtt";
        let twins = [("webhook", Redelivers::Twin), ("mqtt", Redelivers::Yes)];
        for (targets, fast) in [(vec![SAFE], vec![FAST]), (vec![SAFE, FAST], vec![])] {
            let found = legs(&targets, &fast, &twins).await;
            assert!(found.len() == 2 && found.iter().all(|one| one.0 == Level::Ok), "{found:?}");
        }
        let swapped = legs(&[FAST], &[SAFE], &twins).await;
        let failed: Vec<_> = swapped.iter().filter(|one| one.0 == Level::Fail).collect();
        assert!(failed.len() == 1 && failed[0].1.contains("no safe leg"), "{swapped:?}");
        assert!(failed[0].1.contains(FAST) && failed[0].1.contains("`fast_targets`"), "{swapped:?}");
        assert!(swapped[1].0 == Level::Warn && swapped[1].1.contains(SAFE), "{swapped:?}");
        let beside_lossy = [("webhook", Redelivers::Twin), ("mqtt", Redelivers::No)];
        let found = legs(&[FAST, SAFE], &[], &beside_lossy).await;
        assert!(found.iter().any(|one| one.0 == Level::Fail), "both are without queue_dir: {found:?}");
    }

    #[tokio::test]
    async fn a_target_that_loses_events_is_warned_of() {
        const ONE: &str = "arn:minio:sqs::ONE:webhook";
        let found = legs(&[ONE], &[], &[("webhook", Redelivers::No)]).await;
        assert!(found.len() == 1 && found[0].0 == Level::Warn, "{found:?}");
        assert!(found[0].1.contains("is lost") && found[0].1.contains("queue_dir"), "{found:?}");
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
