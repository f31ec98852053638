//! The state machine, with a crash before and after every effect, and every step repeated.

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
        let new = NewBinding { id, spec, secret, by: "operator".into(), now: self.clock.now() };
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
            handle.confirm(id, &signed(&binding.secret, now, &body), &body).await.unwrap();
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

async fn survives_a_crash_anywhere(story: Story) {
    let mut crashes = 0;
    for after in [false, true] {
        for at in 1.. {
            let (site, id) = story.begin().await;
            site.world.crash(Some(Crash { at, after }));
            let (mut reconciler, handle) = site.start();
            let died = tokio::select! {
                () = site.world.died() => true,
                () = site.settle(&mut reconciler, &handle) => false,
            };
            if !died {
                story.end(&site, id).await;
                break;
            }
            crashes += 1;
            drop((reconciler, handle));
            site.check_invariants().await;
            let left = site.binding(id).await;
            if let Some(binding) =
                left.filter(|binding| matches!(binding.state, State::Armed | State::Active))
                && matches!(story, Story::Bind | Story::BindWithCallBack)
            {
                assert!(
                    site.world.state().rules.contains_key(&id) && site.carried(&binding),
                    "armed too early"
                );
            }
            site.world.crash(None);
            let (mut reconciler, handle) = site.start();
            site.settle(&mut reconciler, &handle).await;
            story.end(&site, id).await;
        }
    }
    assert!(crashes >= 6, "only {crashes} places to crash at");
}

#[tokio::test]
async fn binding_survives_a_crash_before_and_after_every_effect() {
    survives_a_crash_anywhere(Story::Bind).await;
}

#[tokio::test]
async fn binding_confirmed_by_call_back_survives_a_crash_before_and_after_every_effect() {
    survives_a_crash_anywhere(Story::BindWithCallBack).await;
}

#[tokio::test]
async fn unbinding_survives_a_crash_before_and_after_every_effect() {
    survives_a_crash_anywhere(Story::Unbind).await;
}

#[tokio::test]
async fn repair_of_a_lost_rule_survives_a_crash_before_and_after_every_effect() {
    survives_a_crash_anywhere(Story::RuleLost).await;
}

#[tokio::test]
async fn repair_of_a_changed_rule_survives_a_crash_before_and_after_every_effect() {
    survives_a_crash_anywhere(Story::RuleChanged).await;
}

#[tokio::test]
async fn repair_of_lost_bucket_rules_survives_a_crash_before_and_after_every_effect() {
    survives_a_crash_anywhere(Story::BucketRulesLost).await;
}

#[tokio::test]
async fn steps_repeated_on_an_active_binding_write_nothing() {
    let (site, id) = Story::Bind.begin().await;
    let (mut reconciler, handle) = site.start();
    site.settle(&mut reconciler, &handle).await;
    site.assert_active(id).await;
    let before = site.binding(id).await.unwrap();
    site.world.crash(None);
    for _ in 0..3 {
        handle.wake_binding(id);
        reconciler.pass().await.unwrap();
    }
    let effects = site.world.state().effects.clone();
    assert!(effects.iter().all(|effect| effect == "record active" || effect == "hold"), "{effects:?}");
    assert_eq!(site.binding(id).await.unwrap().revision, before.revision);
}

#[tokio::test]
async fn record_of_a_failing_step_is_not_repeated_for_having_been_recorded() {
    // This daemon is always one look behind: what a pass records it has in force only after the next.
    for unbind in [false, true] {
        let (site, id) = Story::Bind.begin().await;
        let (mut reconciler, handle) = site.start();
        site.settle(&mut reconciler, &handle).await;
        site.world.state().platform_away = true;
        if unbind {
            site.relations.unbind(id, "operator", site.clock.now()).await.unwrap();
        }
        let mut revisions = Vec::new();
        for _ in 0..8 {
            let behind = site.relations.head().await.unwrap().revision;
            site.clock.advance(Duration::from_mins(7));
            reconciler.pass().await.unwrap();
            site.relations.heartbeat(NODE, behind, None).await.unwrap();
            revisions.push(site.relations.head().await.unwrap().revision);
        }
        revisions.dedup();
        assert!(revisions.len() <= 2, "it is recorded again and again: {revisions:?}");
    }
}

#[tokio::test]
async fn damage_is_recorded_and_deliveries_held_before_anything_is_mended() {
    for story in [Story::RuleLost, Story::RuleChanged, Story::BucketRulesLost] {
        let (site, id) = story.begin().await;
        site.world.crash(None);
        let (mut reconciler, handle) = site.start();
        site.settle(&mut reconciler, &handle).await;
        let effects = site.world.state().effects.clone();
        let at = |name: &str| effects.iter().position(|effect| effect == name).unwrap_or(usize::MAX);
        let mended = at("establish").min(at("withdraw")).min(at("write"));
        assert!(at("record degraded") < at("hold") && at("hold") < mended, "{story:?}: {effects:?}");
        let history = site.relations.history(id, 10).await.unwrap();
        let states: Vec<_> = history.iter().rev().map(|entry| entry.state).collect();
        assert!(states.ends_with(&[State::Degraded, State::Armed, State::Active]), "{states:?}");
    }
}

#[tokio::test]
async fn refused_binding_is_rejected_for_good_and_leaves_the_bucket_alone() {
    let site = Site::new().await;
    let id = site.bind("nobody").await;
    let (mut reconciler, handle) = site.start();
    site.settle(&mut reconciler, &handle).await;
    let binding = site.binding(id).await.unwrap();
    assert_eq!((binding.state, binding.reason.as_deref()), (State::Rejected, Some("no such function")));
    assert_eq!(site.world.state().buckets["photos"].rules, [foreign()]);
    site.relations.unbind(id, "operator", site.clock.now()).await.unwrap();
    site.settle(&mut reconciler, &handle).await;
    site.assert_gone(id).await;
}

#[tokio::test]
async fn pending_binding_shows_which_step_failed_and_heals() {
    let site = Site::new().await;
    site.world.state().platform_away = true;
    let id = site.bind("thumb").await;
    let (mut reconciler, handle) = site.start();
    site.settle(&mut reconciler, &handle).await;
    let step = |binding: &Binding, name| binding.steps.iter().find(|step| step.name == name).unwrap().clone();
    let binding = site.binding(id).await.unwrap();
    assert_eq!(binding.state, State::Pending);
    assert!(step(&binding, StepName::Rule).error.unwrap().contains("503"));
    assert_eq!(step(&binding, StepName::Bucket).state, StepState::Waiting);
    assert_eq!(site.world.state().buckets["photos"].rules, [foreign()], "the bucket comes after the rule");

    site.world.state().platform_away = false;
    let photos = site.world.state().buckets.remove("photos").unwrap();
    site.settle(&mut reconciler, &handle).await;
    let binding = site.binding(id).await.unwrap();
    assert_eq!(step(&binding, StepName::Rule).state, StepState::Done);
    let reason = binding.reason.unwrap();
    assert!(reason.contains("bucket `photos` does not exist on storage `default`"), "{reason}");

    site.world.state().buckets.insert("photos".into(), photos);
    site.settle(&mut reconciler, &handle).await;
    site.assert_active(id).await;
}

#[tokio::test]
async fn platform_or_storage_that_does_not_answer_degrades_nothing() {
    let (site, id) = Story::Bind.begin().await;
    let (mut reconciler, handle) = site.start();
    site.settle(&mut reconciler, &handle).await;
    for away in [(true, false), (false, true)] {
        site.away(away.0, away.1);
        site.settle(&mut reconciler, &handle).await;
        let binding = site.binding(id).await.unwrap();
        assert_eq!(binding.state, State::Active);
        assert!(binding.steps.iter().any(|step| step.state == StepState::Failed), "{:?}", binding.steps);
        site.away(false, false);
        site.settle(&mut reconciler, &handle).await;
        site.assert_active(id).await;
    }
}

#[tokio::test]
async fn active_waits_for_every_registered_daemon() {
    let (site, id) = Story::Bind.begin().await;
    site.relations.heartbeat("b", 0, None).await.unwrap();
    let (mut reconciler, handle) = site.start();
    site.settle(&mut reconciler, &handle).await;
    let binding = site.binding(id).await.unwrap();
    assert_eq!(binding.state, State::Armed);
    assert!(binding.reason.unwrap().contains("not every daemon"));
    site.relations.forget_node("b").await.unwrap();
    site.settle(&mut reconciler, &handle).await;
    site.assert_active(id).await;
}

#[tokio::test]
async fn two_daemons_at_once_end_where_one_does_and_rest_there() {
    for story in [Story::Bind, Story::Unbind, Story::RuleChanged, Story::BucketRulesLost] {
        let (site, id) = story.begin().await;
        let second = site.bind("nobody").await;
        let ((mut one, _), (mut two, _)) = (site.start(), site.start_node("b"));
        let mut heads = Vec::new();
        for _ in 0..30 {
            let head = site.relations.head().await.unwrap();
            for node in [NODE, "b"] {
                site.relations.heartbeat(node, head.revision, None).await.unwrap();
            }
            let (first, other) = tokio::join!(one.pass(), two.pass());
            first.and(other).unwrap();
            site.clock.advance(Duration::from_mins(7));
            site.check_invariants().await;
            heads.push(head);
        }
        story.end(&site, id).await;
        assert_eq!(site.state(second).await, Some(State::Rejected));
        assert!(heads[20..].windows(2).all(|pair| pair[0] == pair[1]), "{story:?} never rests: {heads:?}");
    }
}

#[tokio::test]
async fn unbinding_waits_for_running_deliveries_before_the_rule_goes() {
    let (site, id) = Story::Unbind.begin().await;
    site.world.state().running = 1;
    let (mut reconciler, handle) = site.start();
    site.settle(&mut reconciler, &handle).await;
    assert_eq!(site.state(id).await, Some(State::Unbinding));
    assert!(site.world.state().rules.contains_key(&id));
    assert_eq!(site.world.state().buckets["photos"].rules, [foreign()]);
    site.world.state().running = 0;
    site.settle(&mut reconciler, &handle).await;
    site.assert_gone(id).await;
}

#[tokio::test]
async fn unbinding_ends_only_when_platform_storage_and_daemons_have_followed() {
    for (platform_away, storage_away, lagging) in
        [(true, false, false), (false, true, false), (false, false, true)]
    {
        let (site, id) = Story::Unbind.begin().await;
        if lagging {
            site.relations.heartbeat("b", 0, None).await.unwrap();
        }
        site.away(platform_away, storage_away);
        let (mut reconciler, handle) = site.start();
        site.settle(&mut reconciler, &handle).await;
        let binding = site.binding(id).await.expect("it is gone before everybody followed");
        assert_eq!(binding.state, State::Unbinding);
        assert!(binding.reason.is_some());
        site.away(false, false);
        site.relations.forget_node("b").await.unwrap();
        site.settle(&mut reconciler, &handle).await;
        site.assert_gone(id).await;
    }
}

#[tokio::test]
async fn unbinding_from_a_bucket_that_is_gone_ends() {
    let (site, id) = Story::Unbind.begin().await;
    site.world.state().buckets.clear();
    let (mut reconciler, handle) = site.start();
    site.settle(&mut reconciler, &handle).await;
    assert!(site.binding(id).await.is_none());
}

#[tokio::test]
async fn suspect_is_told_what_the_inspection_found() {
    let (site, id) = Story::Bind.begin().await;
    let (mut reconciler, handle) = site.start();
    site.settle(&mut reconciler, &handle).await;
    let ask = |id| {
        let handle = handle.clone();
        tokio::spawn(async move { handle.inspect_now(id).await })
    };
    let verdict = async |reconciler: &mut Reconciler, id| {
        let asked = ask(id);
        tokio::task::yield_now().await;
        reconciler.pass().await.unwrap();
        asked.await.unwrap()
    };
    let revision = site.binding(id).await.unwrap().revision;
    assert_eq!(verdict(&mut reconciler, id).await, InspectionVerdict::InStep { revision });
    assert_eq!(verdict(&mut reconciler, BindingId::from_bytes([9; 16])).await, InspectionVerdict::Gone);
    site.world.state().platform_away = true;
    assert_eq!(verdict(&mut reconciler, id).await, InspectionVerdict::Unknown);
    site.world.state().platform_away = false;
    site.world.state().rules.clear();
    assert!(matches!(verdict(&mut reconciler, id).await, InspectionVerdict::Damaged { .. }));
    site.settle(&mut reconciler, &handle).await;
    let photos = site.world.state().buckets.remove("photos").unwrap();
    for _ in 0..2 {
        let verdict = verdict(&mut reconciler, id).await;
        assert!(
            matches!(&verdict, InspectionVerdict::Damaged { reason } if reason.contains("is gone")),
            "{verdict:?}"
        );
    }
    site.world.state().buckets.insert("photos".into(), photos);
    site.settle(&mut reconciler, &handle).await;
    site.assert_active(id).await;
}

#[tokio::test]
async fn forged_confirmation_is_refused() {
    let (site, id) = Story::BindWithCallBack.begin().await;
    let (_reconciler, handle) = site.start();
    let binding = site.binding(id).await.unwrap();
    let now = site.clock.now();
    let other = SigningSecret::generate(&SeededEntropy::new(99));
    let right = format!(r#"{{"rule":"{id}","state":"confirmed"}}"#);
    let wrong = format!(r#"{{"rule":"{}","state":"confirmed"}}"#, BindingId::from_bytes([1; 16]));
    for (secret, body, words) in
        [(&other, &right, "not believed"), (&binding.secret, &wrong, "the body must be")]
    {
        let error =
            handle.confirm(id, &signed(secret, now, body.as_bytes()), body.as_bytes()).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let bare = handle.confirm(id, &HeaderMap::new(), right.as_bytes()).await.unwrap_err();
    assert!(matches!(bare, ConfirmError::Unverified(Unverified::Missing("webhook-id"))), "{bare:?}");
    let headers = signed(&binding.secret, now, right.as_bytes());
    let stranger = handle.confirm(BindingId::from_bytes([1; 16]), &headers, right.as_bytes()).await;
    assert!(matches!(stranger, Err(ConfirmError::NoSuchBinding(_))), "{stranger:?}");
    site.relations.unbind(id, "operator", now).await.unwrap();
    let late = handle.confirm(id, &headers, right.as_bytes()).await;
    assert!(matches!(late, Err(ConfirmError::NotWaiting { state: State::Unbinding, .. })), "{late:?}");
}

#[tokio::test]
async fn parked_deliveries_are_released_after_the_repair() {
    let (site, id) = Story::RuleLost.begin().await;
    site.world.state().functions.clear();
    let (mut reconciler, handle) = site.start();
    site.settle(&mut reconciler, &handle).await;
    assert_eq!(site.state(id).await, Some(State::Degraded));
    assert_eq!(site.world.state().parked[&id], (3, true));
    site.world.state().functions.insert("thumb".into());
    site.settle(&mut reconciler, &handle).await;
    site.assert_active(id).await;
    assert_eq!(site.world.state().parked[&id], (3, false));
    assert!(FakeDispatch(Arc::clone(&site.world)).running(id).is_empty());
}
