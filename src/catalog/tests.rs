use std::time::Duration;

use proptest::{collection::vec, prelude::*, sample::select};
use tempfile::TempDir;

use super::*;
use crate::{
    domain::{
        binding::{BindingSpec, State},
        clock::Timestamp,
        entropy::SeededEntropy,
        event_name::EventName,
        filter::Mismatch,
        ids::EventId,
        secret::SigningSecret,
    },
    relations::{Bound as Answer, NewBinding, Progress, Role},
};

const NOW: Timestamp = Timestamp::from_micros(1_763_740_000_000_000);

fn spec(bucket: &str, function: &str, filter: serde_json::Value) -> BindingSpec {
    let mut spec = filter;
    spec["storage"] = "default".into();
    spec["bucket"] = bucket.into();
    spec["platform"] = "local".into();
    spec["function"] = function.into();
    serde_json::from_value(spec).unwrap()
}

fn put(filter: &str, value: &str) -> serde_json::Value {
    serde_json::json!({ "events": ["s3:ObjectCreated:Put"], filter: value })
}

fn event(bucket: &str, name: &str, key: &str) -> Event {
    Event {
        id: EventId::from_bytes([0; 16]),
        storage: StorageName::new("default"),
        bucket: bucket.into(),
        key: key.into(),
        name: EventName::new(name),
        time: NOW,
        size: None,
        etag: None,
        content_type: None,
        version_id: None,
        sequencer: None,
        principal: "alice".into(),
        user_metadata: std::collections::BTreeMap::new(),
        record: serde_json::value::RawValue::from_string("{}".into()).unwrap(),
    }
}

/// An authority in a file, its catalog, and the head that the catalog has in force.
struct World {
    relations: Arc<SqliteRelations>,
    catalog: Catalog,
    made: u64,
    _folder: TempDir,
}

impl World {
    async fn with(options: CatalogOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relations.db");
        let relations = Arc::new(SqliteRelations::open(&path, Role::Authority).await.unwrap());
        let catalog = Catalog::open(Arc::clone(&relations), options).await.unwrap();
        Self { relations, catalog, made: 0, _folder: folder }
    }

    async fn new() -> Self {
        Self::with(CatalogOptions::default()).await
    }

    async fn bind(&mut self, spec: BindingSpec, state: State) -> Option<BindingId> {
        self.made += 1;
        let id = BindingId::from_bytes(u128::from(self.made).to_be_bytes());
        let secret = SigningSecret::generate(&SeededEntropy::new(self.made));
        let new = NewBinding { id, spec, secret, by: "operator".into(), now: NOW, most: u32::MAX };
        let Answer::Created(binding) = self.relations.bind(new).await.unwrap() else { return None };
        self.set(&binding, state).await;
        Some(id)
    }

    async fn set(&self, binding: &Binding, state: State) {
        let progress = Progress { state, reason: None, steps: Vec::new(), now: NOW };
        assert!(self.relations.record(binding.id, binding.revision, &progress).await.unwrap());
    }

    async fn follow(&self) {
        let (touched, head) = self.relations.touched_since(self.catalog.revision()).await.unwrap();
        self.catalog.apply(&touched, head).await.unwrap();
    }

    async fn fired(&self, event: &Event) -> Vec<BindingId> {
        let mut ids: Vec<_> =
            self.catalog.matching(event).await.unwrap().iter().map(|binding| binding.id).collect();
        ids.sort();
        ids
    }
}

/// What the index must agree with: every binding asked, one by one.
fn naive(bindings: &[Binding], event: &Event) -> Vec<BindingId> {
    let fires = |binding: &&Binding| {
        binding.state.matches()
            && binding.spec.storage == event.storage
            && binding.spec.bucket == event.bucket
            && binding.spec.filter.matches(event)
            && !binding.spec.ignore_principals.contains(&event.principal)
    };
    let mut ids: Vec<_> = bindings.iter().filter(fires).map(|binding| binding.id).collect();
    ids.sort();
    ids
}

fn filters() -> impl Strategy<Value = serde_json::Value> {
    let events = select(vec!["s3:ObjectCreated:*", "s3:ObjectCreated:Put", "s3:ObjectRemoved:Delete"]);
    let keys = prop_oneof![
        ("[aä/]{0,4}", "[aä.]{0,3}").prop_map(|(prefix, suffix)| {
            serde_json::json!({ "prefix": prefix.trim_start_matches('/'), "suffix": suffix })
        }),
        "[aä][aä/*?]{0,4}".prop_map(|glob| serde_json::json!({ "glob": glob })),
    ];
    (events, keys).prop_map(|(events, mut filter)| {
        filter["events"] = serde_json::json!([events]);
        filter
    })
}

fn events() -> impl Strategy<Value = Event> {
    let names =
        select(vec!["s3:ObjectCreated:Put", "s3:ObjectCreated:Post", "s3:ObjectRemoved:Delete", "s3:New"]);
    (select(vec!["photos", "texts"]), names, "[aä/.]{0,6}")
        .prop_map(|(bucket, name, key)| event(bucket, name, &key))
}

fn states() -> impl Strategy<Value = State> {
    select(vec![State::Pending, State::Rejected, State::Armed, State::Active, State::Degraded, State::Paused])
}

proptest! {
    #[test]
    fn an_index_finds_what_asking_every_binding_finds(
        filters in vec((filters(), states()), 0..24), events in vec(events(), 1..12),
    ) {
        let mut builder = Builder::default();
        let mut bindings = Vec::new();
        for (number, (filter, state)) in filters.into_iter().enumerate() {
            let binding = Binding {
                id: BindingId::from_bytes((number as u128).to_be_bytes()),
                spec: spec("photos", "f", filter),
                wanted: crate::domain::binding::Wanted::Present,
                state,
                reason: None,
                steps: Vec::new(),
                secret: SigningSecret::generate(&SeededEntropy::new(1)),
                revision: 1,
                created_at: NOW,
                updated_at: NOW,
            };
            builder.add(&binding);
            bindings.push(binding);
        }
        let index = builder.finish();
        for mut event in events {
            event.bucket = "photos".into();
            let mut found: Vec<_> = index.candidates(event.name.bit(), &event.key).collect();
            found.sort();
            prop_assert_eq!(found, naive(&bindings, &event), "{:?}", event);
        }
    }
}

/// One change, made on whichever binding `pick` hits.
#[derive(Debug, Clone)]
enum Change {
    Bind(&'static str, serde_json::Value, State),
    Set(prop::sample::Index, State),
    Unbind(prop::sample::Index),
    Remove(prop::sample::Index),
}

fn changes() -> impl Strategy<Value = Change> {
    let bind = (select(vec!["photos", "texts"]), filters(), states());
    prop_oneof![
        4 => bind.prop_map(|(bucket, filter, state)| Change::Bind(bucket, filter, state)),
        2 => (any::<prop::sample::Index>(), states()).prop_map(|(pick, state)| Change::Set(pick, state)),
        1 => any::<prop::sample::Index>().prop_map(Change::Unbind),
        1 => any::<prop::sample::Index>().prop_map(Change::Remove),
    ]
}

async fn make(world: &mut World, change: Change) {
    let all = world.relations.snapshot().await.unwrap().bindings;
    match change {
        Change::Bind(bucket, filter, state) => drop(world.bind(spec(bucket, "f", filter), state).await),
        _ if all.is_empty() => {}
        Change::Set(pick, state) => {
            let binding = pick.get(&all);
            if binding.state != State::Unbinding {
                world.set(binding, state).await;
            }
        }
        Change::Unbind(pick) => {
            world.relations.unbind(pick.get(&all).id, "operator", NOW).await.unwrap();
        }
        Change::Remove(pick) => {
            world.relations.remove(pick.get(&all).id, NOW).await.unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_catalog_that_follows_changes_agrees_with_the_file(
        rounds in vec((vec(changes(), 1..4), vec(events(), 1..6)), 1..8), little_memory: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut options = CatalogOptions::default();
            if little_memory {
                (options.index_bytes, options.binding_bytes) = (0, 0);
            }
            let mut world = World::with(options).await;
            for (changes, events) in rounds {
                for change in changes {
                    make(&mut world, change).await;
                }
                world.follow().await;
                let all = world.relations.snapshot().await.unwrap().bindings;
                for event in events {
                    prop_assert_eq!(world.fired(&event).await, naive(&all, &event), "{:?}", event);
                }
                for binding in &all {
                    let seen = world.catalog.binding(binding.id).await.unwrap().unwrap();
                    prop_assert_eq!((seen.state, seen.revision), (binding.state, binding.revision));
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_change_is_in_force_from_the_moment_it_is_applied() {
    let mut world = World::new().await;
    let photo = event("photos", "s3:ObjectCreated:Put", "in/a.jpg");
    assert!(world.fired(&photo).await.is_empty());
    let id = world.bind(spec("photos", "thumb", put("suffix", ".jpg")), State::Armed).await.unwrap();
    assert!(world.fired(&photo).await.is_empty(), "not told yet");
    world.follow().await;
    assert_eq!(world.fired(&photo).await, [id]);
    assert_eq!(world.catalog.revision(), world.relations.head().await.unwrap().revision);
    world.relations.unbind(id, "operator", NOW).await.unwrap();
    world.follow().await;
    assert!(world.fired(&photo).await.is_empty());
    assert_eq!(world.catalog.binding(id).await.unwrap().unwrap().state, State::Unbinding);
    world.relations.remove(id, NOW).await.unwrap();
    world.follow().await;
    assert!(world.catalog.binding(id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_reload_forgets_what_is_gone_and_finds_what_is_new() {
    let mut world = World::new().await;
    let old = world.bind(spec("photos", "a", put("prefix", "x")), State::Active).await.unwrap();
    world.follow().await;
    let photo = event("photos", "s3:ObjectCreated:Put", "xy");
    assert_eq!(world.fired(&photo).await, [old]);
    world.relations.unbind(old, "operator", NOW).await.unwrap();
    world.relations.remove(old, NOW).await.unwrap();
    let new = world.bind(spec("photos", "b", put("prefix", "xy")), State::Active).await.unwrap();
    let head = world.relations.head().await.unwrap();
    world.catalog.apply(&Touched::All, head).await.unwrap();
    assert_eq!(world.fired(&photo).await, [new]);
    assert!(world.catalog.binding(old).await.unwrap().is_none());
}

#[tokio::test]
async fn a_bucket_whose_bindings_do_not_match_yet_is_asked_of_the_file_only_once() {
    let mut world = World::new().await;
    let id = world.bind(spec("photos", "a", put("prefix", "x")), State::Pending).await.unwrap();
    world.follow().await;
    let photo = event("photos", "s3:ObjectCreated:Put", "xy");
    assert!(world.catalog.generations(&photo.storage, "photos").is_some());
    assert!(world.fired(&photo).await.is_empty());
    assert!(world.catalog.generations(&photo.storage, "photos").is_none());
    let binding = world.relations.binding(id).await.unwrap().unwrap();
    world.set(&binding, State::Armed).await;
    world.follow().await;
    assert_eq!(world.fired(&photo).await, [id]);
}

#[tokio::test]
async fn ignored_principals_do_not_fire_and_are_told() {
    let storage = StorageName::new("default");
    let ignored = HashSet::from(["robot".to_owned()]);
    let options = CatalogOptions {
        ignore_principals: HashMap::from([(storage, ignored)]),
        ..CatalogOptions::default()
    };
    let mut world = World::with(options).await;
    let mut filter = put("prefix", "in/");
    filter["ignore_principals"] = serde_json::json!(["writer"]);
    let id = world.bind(spec("photos", "a", filter), State::Active).await.unwrap();
    world.follow().await;
    let mut photo = event("photos", "s3:ObjectCreated:Put", "in/a");
    assert_eq!(world.fired(&photo).await, [id]);
    for (principal, reason) in [
        ("robot", Reason::IgnoredByStorage("robot".into())),
        ("writer", Reason::IgnoredByBinding("writer".into())),
    ] {
        photo.principal = principal.into();
        assert!(world.fired(&photo).await.is_empty(), "{principal}");
        assert_eq!(world.catalog.explain(&photo, 10).await.unwrap()[0].reasons, [reason]);
    }
}

#[tokio::test]
async fn explanations_name_every_reason_and_begin_with_what_fires() {
    let mut world = World::new().await;
    let other = world.bind(spec("photos", "a", put("prefix", "out/")), State::Rejected).await.unwrap();
    let fires = world.bind(spec("photos", "b", put("suffix", ".jpg")), State::Degraded).await.unwrap();
    world.follow().await;
    let told =
        world.catalog.explain(&event("photos", "s3:ObjectRemoved:Delete", "in/a.jpg"), 10).await.unwrap();
    assert!(told.iter().all(|told| !told.fires && told.reasons.contains(&Reason::Mismatch(Mismatch::Event))));
    let told = world.catalog.explain(&event("photos", "s3:ObjectCreated:Put", "in/a.jpg"), 10).await.unwrap();
    assert_eq!((told[0].binding.id, told[0].fires, told[0].reasons.len()), (fires, true, 0));
    let reasons = [Reason::State(State::Rejected), Reason::Mismatch(Mismatch::Prefix("out/".into()))];
    assert_eq!((told[1].binding.id, told[1].fires, told[1].reasons.as_slice()), (other, false, &reasons[..]));
    let held = told[0].words();
    assert!(held.len() == 1 && held[0].contains("held") && held[0].contains("is degraded"), "{held:?}");
    let refused = told[1].words();
    assert!(refused.len() == 2 && refused[0].contains("the platform refused it"), "{refused:?}");
    let one = world.catalog.explain(&event("photos", "s3:ObjectCreated:Put", "in/a.jpg"), 1).await.unwrap();
    assert_eq!(one.len(), 1);
    assert!(one[0].fires, "the one that fires was left out");
}

#[tokio::test]
async fn a_functions_limits_are_the_least_of_its_bindings_that_came_to_be() {
    let mut world = World::new().await;
    let function = FunctionRef { platform: "local".into(), name: "a".into() };
    assert_eq!(world.catalog.function_limits(&function).await.unwrap(), None);
    for (prefix, concurrency, rate, state) in [
        ("x", 7, serde_json::json!(9.5), State::Active),
        ("y", 3, serde_json::json!(10), State::Paused),
        ("w", 5, serde_json::Value::Null, State::Active),
        ("z", 1, serde_json::json!(1), State::Rejected),
    ] {
        let mut filter = put("prefix", prefix);
        filter["concurrency"] = concurrency.into();
        filter["rate_limit"] = rate;
        world.bind(spec("photos", "a", filter), state).await.unwrap();
    }
    world.follow().await;
    let least = FunctionLimits { concurrency: 3, rate: Some(9.5), longest_wait: Duration::from_hours(1) };
    assert_eq!(world.catalog.function_limits(&function).await.unwrap(), Some(least));
    assert_eq!(world.catalog.bindings_of_function(&function, 10).await.unwrap().len(), 4);
    assert_eq!(world.catalog.bindings_of_function(&function, 2).await.unwrap().len(), 2);
}
