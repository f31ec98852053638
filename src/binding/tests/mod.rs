//! The state machine on real relations (SQLite), with everything else outside of the process.

mod crashes;
mod states;

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::HeaderMap;
use tempfile::TempDir;

use super::{
    ConfirmError, Handle, InspectionVerdict, Parts, Reconciler, Settings, Storage, bucket_rules,
    fakes::{Crash, CrashingRelations, FakeDispatch, FakePlatform, FakeStorage, World, foreign},
};
use crate::{
    bucket::Configuration,
    dispatch::Deliveries,
    domain::{
        binding::{Binding, BindingSpec, State, StepName, StepState},
        clock::{Clock, ManualClock, Timestamp},
        entropy::{Entropy, SeededEntropy},
        event::StorageName,
        ids::BindingId,
        secret::SigningSecret,
    },
    platform::{
        Driver,
        signature::{Unverified, sign},
    },
    relations::{Bound, NewBinding, Relations, Role, SqliteRelations},
};

const TARGET: &str = "arn:minio:sqs::TRIGGERD:webhook";
const NODE: &str = "a";

/// One daemon's surroundings; its reconciler can be started again and again.
struct Site {
    world: Arc<World>,
    relations: Arc<SqliteRelations>,
    clock: Arc<ManualClock>,
    _folder: TempDir,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let relations =
            SqliteRelations::open(&folder.path().join("relations.db"), Role::Authority).await.unwrap();
        let world = Arc::new(World::default());
        {
            let mut state = world.state();
            state.functions.insert("thumb".into());
            state.buckets.insert("photos".into(), Configuration::of(vec![foreign()]));
        }
        let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_763_740_000_000_000)));
        Self { world, relations: Arc::new(relations), clock, _folder: folder }
    }

    fn start(&self) -> (Reconciler, Handle) {
        self.start_node(NODE)
    }

    fn start_node(&self, node: &str) -> (Reconciler, Handle) {
        let relations = CrashingRelations(Arc::clone(&self.world), Arc::clone(&self.relations));
        let driver: Arc<dyn Driver> = Arc::new(FakePlatform(Arc::clone(&self.world)));
        let storage = Storage {
            buckets: Arc::new(FakeStorage(Arc::clone(&self.world))),
            targets: vec![TARGET.to_owned()],
            fast_targets: Vec::new(),
        };
        let parts = Parts {
            relations: Arc::new(relations),
            drivers: HashMap::from([("faas".to_owned(), driver)]),
            storages: HashMap::from([(StorageName::new("default"), storage)]),
            deliveries: Arc::new(FakeDispatch(Arc::clone(&self.world))),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            entropy: Arc::new(SeededEntropy::new(1)),
        };
        Reconciler::new(parts, Settings::new(node))
    }

    async fn bind(&self, function: &str) -> BindingId {
        let spec: BindingSpec = serde_json::from_value(serde_json::json!({
            "storage": "default", "bucket": "photos", "events": ["s3:ObjectCreated:*"], "prefix": "in/",
            "platform": "faas", "function": function,
        }))
        .unwrap();
        let entropy = SeededEntropy::new(function.len() as u64);
        let mut random = [0; 10];
        entropy.fill(&mut random);
        let id = BindingId::new(self.clock.now(), random);
        let secret = SigningSecret::generate(&entropy);
        let new =
            NewBinding { id, spec, secret, by: "operator".into(), now: self.clock.now(), most: u32::MAX };
        assert!(matches!(self.relations.bind(new).await.unwrap(), Bound::Created(_)));
        id
    }

    fn away(&self, platform: bool, storage: bool) {
        let mut state = self.world.state();
        (state.platform_away, state.storage_away) = (platform, storage);
    }

    async fn binding(&self, id: BindingId) -> Option<Binding> {
        self.relations.binding(id).await.unwrap()
    }

    async fn state(&self, id: BindingId) -> Option<State> {
        self.binding(id).await.map(|binding| binding.state)
    }

    /// This daemon has the newest revision in force.
    async fn beat(&self) {
        let head = self.relations.head().await.unwrap();
        self.relations.heartbeat(NODE, head.revision, None).await.unwrap();
    }

    /// Passes, with a long time in between and calls back from the platform, until two passes change nothing.
    async fn settle(&self, reconciler: &mut Reconciler, handle: &Handle) {
        let mut still = 0;
        for _ in 0..40 {
            let before = self.relations.head().await.unwrap();
            self.beat().await;
            reconciler.pass().await.unwrap();
            self.call_back(handle).await;
            self.clock.advance(Duration::from_mins(7));
            self.check_invariants().await;
            still = if self.relations.head().await.unwrap() == before { still + 1 } else { 0 };
            if still == 2 {
                return;
            }
        }
        panic!("after 40 passes something still changes: {:?}", self.world.state().effects);
    }

    /// The platform confirms what waits for it, and marks its rule after our answer.
    async fn call_back(&self, handle: &Handle) {
        let waiting: Vec<_> =
            self.world.state().rules.iter().filter(|(_, rule)| !rule.1).map(|(id, _)| *id).collect();
        for id in waiting {
            let Some(binding) = self.binding(id).await else { continue };
            let body = format!(r#"{{"rule":"{id}","state":"confirmed"}}"#).into_bytes();
            let now = self.clock.now();
            confirm(handle, id, &signed(&binding.secret, now, &body), &body).await.unwrap();
            if let Some(rule) = self.world.state().rules.get_mut(&id) {
                rule.1 = true;
            }
        }
    }

    /// What must be true at every moment.
    async fn check_invariants(&self) {
        let bindings = self.relations.snapshot().await.unwrap().bindings;
        let state = self.world.state();
        for (name, bucket) in &state.buckets {
            assert_eq!(
                bucket.rules.iter().filter(|rule| **rule == foreign()).count(),
                1,
                "others' rule in {name}"
            );
        }
        for id in state.rules.keys() {
            assert!(bindings.iter().any(|binding| binding.id == *id), "a rule without a binding");
        }
    }

    fn carried(&self, binding: &Binding) -> bool {
        let state = self.world.state();
        let targets = [TARGET.to_owned()];
        state
            .buckets
            .get("photos")
            .is_some_and(|now| bucket_rules::carries(now, &binding.spec.filter, &targets))
    }

    async fn assert_active(&self, id: BindingId) {
        let binding = self.binding(id).await.unwrap();
        assert_eq!(binding.state, State::Active, "{:?} {:?}", binding.reason, binding.steps);
        assert!(binding.steps.iter().all(|step| step.state == StepState::Done), "{:?}", binding.steps);
        assert_eq!(self.world.state().rules.get(&id), Some(&(binding.secret.digest(), true)));
        assert!(self.carried(&binding));
        assert!(
            !self.world.state().parked.get(&id).is_some_and(|parked| parked.1),
            "deliveries are still held"
        );
    }

    async fn assert_gone(&self, id: BindingId) {
        assert!(self.binding(id).await.is_none());
        let state = self.world.state();
        assert!(state.rules.is_empty() && !state.parked.contains_key(&id));
        assert_eq!(state.buckets["photos"].rules, [foreign()]);
    }
}

/// What the admin API does with a confirmation.
async fn confirm(
    handle: &Handle,
    id: BindingId,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), ConfirmError> {
    let binding = handle.expects(id, headers).await?;
    handle.confirm(&binding, headers, body)
}

fn signed(secret: &SigningSecret, now: Timestamp, body: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", "confirm".parse().unwrap());
    headers.insert("webhook-timestamp", now.as_seconds().into());
    headers.insert("webhook-signature", sign(secret, "confirm", now, body).unwrap().parse().unwrap());
    headers
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    Bind,
    BindWithCallBack,
    Unbind,
    RuleLost,
    RuleChanged,
    BucketRulesLost,
}

impl Story {
    /// Brings a site to where the story begins.
    async fn begin(self) -> (Site, BindingId) {
        let site = Site::new().await;
        site.world.state().calls_back = self == Self::BindWithCallBack;
        let id = site.bind("thumb").await;
        if matches!(self, Self::Bind | Self::BindWithCallBack) {
            return (site, id);
        }
        let (mut reconciler, handle) = site.start();
        site.settle(&mut reconciler, &handle).await;
        site.assert_active(id).await;
        site.world.state().parked.insert(id, (3, false));
        match self {
            Self::Unbind => {
                site.relations.unbind(id, "operator", site.clock.now()).await.unwrap();
            }
            Self::RuleLost => site.world.state().rules.clear(),
            Self::RuleChanged => {
                site.world.state().rules.insert(id, ("other".into(), true));
            }
            Self::BucketRulesLost => {
                site.world.state().buckets.insert("photos".into(), Configuration::of(vec![foreign()]));
            }
            Self::Bind | Self::BindWithCallBack => {}
        }
        (site, id)
    }

    async fn end(self, site: &Site, id: BindingId) {
        if self == Self::Unbind {
            site.assert_gone(id).await;
            assert_eq!(site.world.state().dead, 3);
        } else {
            site.assert_active(id).await;
        }
    }
}
