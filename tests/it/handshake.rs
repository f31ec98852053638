//! The handshake on real parts: MinIO, the reference platform, SQLite relations, and the reconciler that runs by
//! itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use axum::extract::{Path, State as Shared};
use http::{HeaderMap, StatusCode};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use triggerd::binding::bucket_rules::is_ours;
use triggerd::binding::{ConfirmError, Handle, InspectionVerdict, Parts, Reconciler, Settings, Storage};
use triggerd::bucket::{BucketNotifications as _, BucketRule, Configuration, S3Buckets};
use triggerd::dispatch::{Deliveries, Flow};
use triggerd::domain::binding::{Binding, State, StepName, StepState};
use triggerd::domain::clock::{Clock, SystemClock};
use triggerd::domain::delivery::FunctionRef;
use triggerd::domain::entropy::{Entropy, SystemEntropy};
use triggerd::domain::event::StorageName;
use triggerd::domain::ids::{BindingId, DeliveryId};
use triggerd::domain::secret::SigningSecret;
use triggerd::platform::Driver;
use triggerd::queue::{Disposal, QueueError};
use triggerd::relations::{Bound, NewBinding, Relations, Role, SqliteRelations};

use crate::bucket::{buckets, minio, others, storage};
use crate::harness::minio::Minio;
use crate::harness::receiver::Receiver;
use crate::harness::suite::{Ctx, Test, tests};
use crate::harness::wait::wait_for;
use crate::rules_driver::{Platform, spec};

const LIMIT: Duration = Duration::from_secs(30);
const NODE: &str = "storage-1";

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] binding_makes_rule_and_bucket_rules_and_unbinding_takes_both_back;
        [Minio] binding_to_an_unknown_function_is_rejected;
        [Minio] binding_to_a_missing_bucket_is_pending_and_heals_when_it_is_made;
        [Minio] binding_with_an_unknown_target_says_what_to_configure;
        [Minio] binding_at_a_platform_that_is_down_is_pending_and_heals;
        [Minio] binding_confirmed_by_call_back_becomes_active;
        [Minio] lost_rule_and_lost_bucket_rules_are_found_and_mended;
        [Minio] bindings_of_one_bucket_share_its_configuration;
    }
}

/// Nothing is parked in these tests.
#[derive(Debug)]
struct NoDeliveries;

#[async_trait]
impl Deliveries for NoDeliveries {
    fn wake(&self, _: &FunctionRef) {}

    fn running(&self, _: BindingId) -> Vec<DeliveryId> {
        Vec::new()
    }

    fn flows(&self) -> Vec<Flow> {
        Vec::new()
    }

    async fn hold(&self, _: BindingId, _: bool) -> Result<u64, QueueError> {
        Ok(0)
    }

    async fn clear(&self, _: BindingId, _: Disposal) -> Result<u64, QueueError> {
        Ok(0)
    }
}

/// One daemon's handshake side with everything around it.
struct Site {
    receiver: Receiver,
    minio: Minio,
    buckets: S3Buckets,
    platform: Platform,
    relations: Arc<SqliteRelations>,
    handle: Handle,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Site {
    async fn start(ctx: &Ctx, confirm: &str) -> Result<Self> {
        Self::start_with_target(ctx, confirm, "arn:minio:sqs::OURS:webhook").await
    }

    async fn start_with_target(ctx: &Ctx, confirm: &str, target: &str) -> Result<Self> {
        let receiver = Receiver::start().await?;
        let minio = minio(&receiver, Some("eu-test-1")).await?;
        let platform = Platform::start(ctx.folder(), confirm).await?;
        let relations = SqliteRelations::open(&ctx.folder().join("relations.db"), Role::Authority).await?;
        let relations = Arc::new(relations);
        let config = storage(&minio.endpoint(), "eu-test-1");
        let driver: Arc<dyn Driver> = Arc::new(platform.driver()?);
        let our_storage = Storage {
            buckets: Arc::new(buckets(&config)),
            targets: vec![target.to_owned()],
            fast_targets: Vec::new(),
        };
        let parts = Parts {
            relations: Arc::clone(&relations) as Arc<dyn Relations>,
            drivers: HashMap::from([("faas".to_owned(), driver)]),
            storages: HashMap::from([(StorageName::new("default"), our_storage)]),
            deliveries: Arc::new(NoDeliveries),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let mut settings = Settings::new(NODE);
        settings.callback_url = Some(format!("http://{}/", listener.local_addr()?));
        let (reconciler, handle) = Reconciler::new(parts, settings);
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(reconciler.run(stop.clone())),
            tokio::spawn(beat(Arc::clone(&relations))),
            tokio::spawn(take_confirmations(listener, handle.clone())),
        ];
        let buckets = buckets(&config);
        buckets.write("photos", &Configuration::of(others())).await?;
        Ok(Self { receiver, minio, buckets, platform, relations, handle, stop, tasks })
    }

    async fn bind(&self, bucket: &str, function: &str, prefix: &str) -> Result<BindingId> {
        let mut spec = spec(function)?;
        bucket.clone_into(&mut spec.bucket);
        let events = spec.filter.events.clone();
        spec.filter = triggerd::domain::filter::Filter::new(events, Some(prefix), Some(".jpg"), None)?;
        let now = SystemClock::new().now();
        let mut random = [0; 10];
        SystemEntropy.fill(&mut random);
        let new = NewBinding {
            id: BindingId::new(now, random),
            spec,
            secret: SigningSecret::generate(&SystemEntropy),
            by: "operator".into(),
            now,
            most: u32::MAX,
        };
        let Bound::Created(binding) = self.relations.bind(new).await? else { bail!("it was bound before") };
        self.handle.wake_binding(binding.id);
        Ok(binding.id)
    }

    async fn unbind(&self, id: BindingId) -> Result<()> {
        self.relations.unbind(id, "operator", SystemClock::new().now()).await?;
        self.handle.wake_binding(id);
        wait_for("the binding is gone", LIMIT, async || matches!(self.relations.binding(id).await, Ok(None)))
            .await
    }

    /// Waits until the binding satisfies `condition`; the error shows where it stands.
    async fn wait(&self, id: BindingId, what: &str, condition: impl Fn(&Binding) -> bool) -> Result<Binding> {
        let mut last = None;
        let waited = wait_for(what, LIMIT, async || {
            last = self.relations.binding(id).await.ok().flatten();
            last.as_ref().is_some_and(&condition)
        })
        .await;
        match last {
            Some(binding) => {
                waited
                    .with_context(|| format!("{} {:?} {:?}", binding.state, binding.reason, binding.steps))?;
                Ok(binding)
            }
            None => bail!("the binding is not there"),
        }
    }

    async fn wait_for_state(&self, id: BindingId, state: State) -> Result<Binding> {
        self.wait(id, &format!("the binding is {state}"), |binding| binding.state == state).await
    }

    /// The rules of ours and of others in `photos`.
    async fn rules(&self) -> Result<(Vec<BucketRule>, Vec<BucketRule>)> {
        Ok(self.buckets.read("photos").await?.rules.into_iter().partition(is_ours))
    }

    /// What others had before, as MinIO returns it.
    async fn assert_others_untouched(&self) -> Result<()> {
        let (_, theirs) = self.rules().await?;
        let shape = |rules: &[BucketRule]| {
            rules.iter().map(|rule| (rule.events.clone(), rule.filters.clone())).collect::<Vec<_>>()
        };
        ensure!(shape(&theirs) == shape(&others()), "others' rules are {theirs:?}");
        Ok(())
    }

    /// Uploads and waits for the event at our target.
    async fn upload_arrives(&self, key: &str) -> Result<()> {
        let arrived = || {
            let ours = self.receiver.requests().into_iter().filter(|request| request.uri.path() == "/OURS");
            ours.filter(|request| request.json().is_ok_and(|event| event["Key"] == format!("photos/{key}")))
                .count()
        };
        let before = arrived();
        self.minio.put_object("photos", key, "x", &[]).await?;
        wait_for(&format!("the event of {key}"), LIMIT, async || arrived() > before).await
    }
}

/// The daemon has every revision in force at once.
async fn beat(relations: Arc<SqliteRelations>) {
    loop {
        if let Ok(head) = relations.head().await {
            relations.heartbeat(NODE, head.revision, None).await.ok();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the admin API does with `POST /v1/bindings/{id}/confirm`.
async fn take_confirmations(listener: tokio::net::TcpListener, handle: Handle) {
    async fn confirm(
        Shared(handle): Shared<Handle>,
        Path(id): Path<String>,
        headers: HeaderMap,
        body: bytes::Bytes,
    ) -> StatusCode {
        let Ok(id) = id.parse() else { return StatusCode::NOT_FOUND };
        let binding = handle.expects(id, &headers).await;
        match binding.and_then(|binding| handle.confirm(&binding, &headers, &body)) {
            Ok(()) => StatusCode::NO_CONTENT,
            Err(ConfirmError::NoSuchBinding(_)) => StatusCode::NOT_FOUND,
            Err(ConfirmError::Unverified(_)) => StatusCode::UNAUTHORIZED,
            Err(ConfirmError::Malformed(_)) => StatusCode::BAD_REQUEST,
            Err(ConfirmError::NotWaiting { .. }) => StatusCode::CONFLICT,
            Err(ConfirmError::Unavailable(_)) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
    let router = axum::Router::new()
        .route("/v1/bindings/{id}/confirm", axum::routing::post(confirm))
        .with_state(handle);
    axum::serve(listener, router).await.ok();
}

fn error_of(binding: &Binding, name: StepName) -> &str {
    let step = binding.steps.iter().find(|step| step.name == name && step.state == StepState::Failed);
    step.and_then(|step| step.error.as_deref()).unwrap_or_default()
}

async fn binding_makes_rule_and_bucket_rules_and_unbinding_takes_both_back(ctx: Ctx) -> Result<()> {
    let site = Site::start(&ctx, "answer").await?;
    let id = site.bind("photos", "cat", "in/").await?;
    let binding = site.wait_for_state(id, State::Active).await?;
    ensure!(binding.steps.iter().all(|step| step.state == StepState::Done), "{:?}", binding.steps);
    let rule = site.platform.rule(id).await?.context("the platform has no rule")?;
    ensure!(rule["secret_digest"] == binding.secret.digest() && rule["prefix"] == "in/", "{rule}");
    let (ours, _) = site.rules().await?;
    ensure!(ours.len() == 1 && ours[0].target == "arn:minio:sqs:eu-test-1:OURS:webhook", "{ours:?}");
    site.assert_others_untouched().await?;
    site.upload_arrives("in/a.jpg").await?;

    let history: Vec<_> =
        site.relations.history(id, 10).await?.iter().rev().map(|entry| entry.state).collect();
    ensure!(history.ends_with(&[State::Armed, State::Active]), "{history:?}");

    site.unbind(id).await?;
    ensure!(site.platform.rule(id).await?.is_none(), "the rule is still there");
    ensure!(site.rules().await?.0.is_empty(), "our bucket rule is still there");
    site.assert_others_untouched().await
}

async fn binding_to_an_unknown_function_is_rejected(ctx: Ctx) -> Result<()> {
    let site = Site::start(&ctx, "answer").await?;
    let id = site.bind("photos", "nobody", "in/").await?;
    let binding = site.wait_for_state(id, State::Rejected).await?;
    let reason = binding.reason.unwrap_or_default();
    ensure!(reason.contains("`faas`") && reason.contains("nobody"), "{reason}");
    ensure!(site.rules().await?.0.is_empty(), "a rejected binding has bucket rules");
    site.unbind(id).await
}

async fn binding_to_a_missing_bucket_is_pending_and_heals_when_it_is_made(ctx: Ctx) -> Result<()> {
    let site = Site::start(&ctx, "answer").await?;
    let id = site.bind("films", "cat", "in/").await?;
    let failed = |binding: &Binding| !error_of(binding, StepName::Bucket).is_empty();
    let binding = site.wait(id, "the bucket's step fails", failed).await?;
    ensure!(binding.state == State::Pending, "{}", binding.state);
    let error = error_of(&binding, StepName::Bucket);
    ensure!(error.contains("bucket `films` does not exist on storage `default`"), "{error}");
    site.minio.create_bucket("films").await?;
    site.wait_for_state(id, State::Active).await?;

    site.minio.s3().delete_bucket().bucket("films").send().await?;
    let verdict = site.handle.inspect_now(id).await;
    ensure!(
        matches!(&verdict, InspectionVerdict::Damaged { reason } if reason.contains("films")),
        "{verdict:?}"
    );
    site.wait_for_state(id, State::Degraded).await?;
    site.unbind(id).await?;
    ensure!(site.platform.rule(id).await?.is_none());
    Ok(())
}

async fn binding_with_an_unknown_target_says_what_to_configure(ctx: Ctx) -> Result<()> {
    let site = Site::start_with_target(&ctx, "answer", "arn:minio:sqs::ABSENT:webhook").await?;
    let id = site.bind("photos", "cat", "in/").await?;
    let failed = |binding: &Binding| !error_of(binding, StepName::Bucket).is_empty();
    let binding = site.wait(id, "the bucket's step fails", failed).await?;
    let error = error_of(&binding, StepName::Bucket);
    ensure!(
        error.contains("arn:minio:sqs::ABSENT:webhook") && error.contains("mc admin config set"),
        "{error}"
    );
    ensure!(binding.state == State::Pending);
    site.assert_others_untouched().await
}

async fn binding_at_a_platform_that_is_down_is_pending_and_heals(ctx: Ctx) -> Result<()> {
    let mut site = Site::start(&ctx, "answer").await?;
    site.platform.kill()?;
    let id = site.bind("photos", "cat", "in/").await?;
    let failed = |binding: &Binding| !error_of(binding, StepName::Rule).is_empty();
    let binding = site.wait(id, "the rule's step fails", failed).await?;
    ensure!(binding.state == State::Pending, "{}", binding.state);
    let error = error_of(&binding, StepName::Rule);
    ensure!(error.contains("platform `faas` cannot be reached") && error.contains("refused"), "{error}");
    site.platform.start_again().await?;
    site.wait_for_state(id, State::Active).await?;

    // Away again: an active binding stays so, and an inspection says that nobody can tell.
    site.platform.kill()?;
    ensure!(site.handle.inspect_now(id).await == InspectionVerdict::Unknown);
    let binding = site.wait(id, "the step shows it", failed).await?;
    ensure!(binding.state == State::Active, "{}", binding.state);
    site.platform.start_again().await?;
    site.wait(id, "the step is mended", |binding| !failed(binding)).await?;
    Ok(())
}

async fn binding_confirmed_by_call_back_becomes_active(ctx: Ctx) -> Result<()> {
    let site = Site::start(&ctx, "callback").await?;
    let id = site.bind("photos", "cat", "in/").await?;
    site.wait_for_state(id, State::Active).await?;
    let confirmed = async || {
        let rule = site.platform.rule(id).await.ok().flatten();
        rule.is_some_and(|rule| rule["state"] == "confirmed")
    };
    wait_for("the platform marks its rule", LIMIT, confirmed).await?;
    let revision = site.relations.binding(id).await?.context("it is gone")?.revision;
    ensure!(site.handle.inspect_now(id).await == InspectionVerdict::InStep { revision });
    site.upload_arrives("in/a.jpg").await
}

async fn lost_rule_and_lost_bucket_rules_are_found_and_mended(ctx: Ctx) -> Result<()> {
    let site = Site::start(&ctx, "answer").await?;
    let id = site.bind("photos", "cat", "in/").await?;
    site.wait_for_state(id, State::Active).await?;

    site.platform.lose_rule(id).await?;
    let verdict = site.handle.inspect_now(id).await;
    ensure!(matches!(verdict, InspectionVerdict::Damaged { .. }), "{verdict:?}");
    site.wait_for_state(id, State::Active).await?;
    ensure!(site.platform.rule(id).await?.is_some(), "the rule was not established again");

    // Somebody clears everybody's rules and sets theirs.
    site.buckets.write("photos", &Configuration::of(others())).await?;
    let verdict = site.handle.inspect_now(id).await;
    ensure!(
        matches!(&verdict, InspectionVerdict::Damaged { reason } if reason.contains("photos")),
        "{verdict:?}"
    );
    site.wait_for_state(id, State::Active).await?;
    ensure!(site.rules().await?.0.len() == 1, "our bucket rule was not written again");
    site.assert_others_untouched().await?;
    let history: Vec<_> =
        site.relations.history(id, 20).await?.iter().rev().map(|entry| entry.state).collect();
    let mended = [State::Active, State::Degraded, State::Armed, State::Active];
    ensure!(history.windows(4).filter(|states| **states == mended).count() == 2, "{history:?}");
    site.upload_arrives("in/b.jpg").await
}

async fn bindings_of_one_bucket_share_its_configuration(ctx: Ctx) -> Result<()> {
    let site = Site::start(&ctx, "answer").await?;
    let wide = site.bind("photos", "cat", "").await?;
    let narrow = site.bind("photos", "cat", "in/").await?;
    let other = site.bind("photos", "fail", "in/").await?;
    for id in [wide, narrow, other] {
        site.wait_for_state(id, State::Active).await?;
    }
    ensure!(site.rules().await?.0.len() == 1, "the wide rule covers the others");
    site.unbind(wide).await?;
    let (ours, _) = site.rules().await?;
    ensure!(ours.len() == 1 && ours[0].filters.contains(&("prefix".into(), "in/".into())), "{ours:?}");
    site.upload_arrives("in/a.jpg").await?;
    site.unbind(narrow).await?;
    ensure!(site.rules().await?.0.len() == 1, "another binding still needs the rule");
    site.unbind(other).await?;
    ensure!(site.rules().await?.0.is_empty());
    site.assert_others_untouched().await
}
