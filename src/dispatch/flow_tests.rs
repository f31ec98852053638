//! Functions that are away, refuse, flood or hang: what happens to them, and that nothing happens to others.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    bench::{Act, Bench, is_safe, redelivers},
    breaker::ASKED,
    *,
};
use crate::{
    domain::outcome::Class,
    queue::{FunctionState, QueueOptions},
};

/// Answers of a function that is away, each a while after its call; more than are ever asked for.
fn away() -> Vec<Act> {
    vec![Act::After(Duration::from_millis(250), Class::PlatformFault); 10_000]
}

impl Bench {
    fn flow(&self) -> Flow {
        self.dispatcher.flows().into_iter().find(|flow| &*flow.function.name == "thumb").expect("no lane yet")
    }

    /// Has calls fail until the breaker opens, and those that run then come back.
    async fn trip(&self) -> usize {
        for _ in 0..8 {
            assert!(is_safe(self.submit(redelivers(5_000)).1).await);
        }
        self.until("the breaker opens", async || self.flow().breaker != "closed").await;
        self.until("stragglers end", async || self.script.now.load(Ordering::SeqCst) == 0).await;
        8
    }

    fn heal(&self) {
        lock(&self.script.acts).clear();
    }

    /// The bench's binding for another function and with other settings.
    fn other(&self, id: u8, name: &str, change: impl FnOnce(&mut Binding)) -> Arc<Binding> {
        let mut binding = Binding::clone(&self.binding);
        binding.id = BindingId::from_bytes([id; 16]);
        binding.spec.function.function = name.into();
        change(&mut binding);
        let binding = Arc::new(binding);
        lock(&self.mirror.bindings).insert(binding.id, Arc::clone(&binding));
        binding
    }
}

#[tokio::test]
async fn a_function_that_is_away_is_asked_by_one_probe_at_a_time_and_loses_nothing() {
    let bench = Bench::new(away(), 8).await;
    let mut sent = bench.trip().await;
    let flow = bench.flow();
    assert!(flow.reason.contains("platform_fault: as told") && flow.open_until.is_some(), "{flow:?}");
    let (before, ids): (_, Vec<_>) =
        (bench.calls(), (0..20).map(|_| bench.submit(redelivers(60_000))).collect());
    sent += ids.len();
    for (_, safe) in ids {
        assert!(is_safe(safe).await, "parked at once, however long its source would wait");
    }
    bench.script.most.store(0, Ordering::SeqCst);
    bench.until("two probes", async || bench.calls() >= before + 2).await;
    assert_eq!(bench.script.most.load(Ordering::SeqCst), 1);
    bench.heal();
    bench.until("all delivered", async || bench.parked().await == 0).await;
    bench.until("closed", async || bench.flow().breaker == "closed").await;
    let delivered: BTreeSet<_> = lock(&bench.script.calls).iter().copied().collect();
    assert_eq!(delivered.len(), sent);
    bench
        .until("grown back", async || {
            assert!(is_safe(bench.submit(redelivers(5_000)).1).await);
            bench.flow().concurrency == 8
        })
        .await;
}

#[tokio::test]
async fn an_open_breaker_is_honoured_after_a_restart_and_forgotten_when_it_closes() {
    let bench = Bench::new(away(), 8).await;
    bench.trip().await;
    bench.until("kept", async || bench.queue.function_states().await.unwrap().len() == 1).await;
    bench.dispatcher.stop_soft();
    bench.dispatcher.stop_hard();
    bench.dispatcher.drained().await;
    let before = bench.calls();

    let (again, _suspected) = Dispatcher::new(bench.dispatcher.inner.parts.clone());
    again.restore().await.unwrap();
    let flow = again.flows().remove(0);
    assert!(flow.breaker != "closed" && flow.reason.contains("as told"), "{flow:?}");
    assert!(flow.open_until.is_some());
    assert!(is_safe(bench.submit_to(&again, redelivers(60_000)).1).await, "parked at once");
    assert_eq!(bench.calls(), before, "nobody was called before the probe");
    bench.heal();
    let pump = again.clone();
    tokio::spawn(async move { pump.run(|| ()).await.unwrap() });
    bench.until("all delivered", async || bench.parked().await == 0).await;
    bench.until("forgotten", async || bench.queue.function_states().await.unwrap().is_empty()).await;
}

#[tokio::test]
async fn what_a_jumped_clock_has_left_behind_holds_no_function_for_long() {
    let bench = Bench::still([], 4, QueueOptions::default()).await;
    let now = bench.dispatcher.inner.parts.clock.now();
    for (name, open_until) in
        [("thumb", now.plus(Duration::from_hours(24 * 365))), ("old", Timestamp::default())]
    {
        let function = FunctionRef { platform: "local".into(), name: name.into() };
        let state =
            FunctionState { function: function.clone(), open_until, opened: 4, reason: "away".into() };
        bench.queue.keep_function_state(function, Some(state)).await.unwrap();
    }
    bench.dispatcher.restore().await.unwrap();
    let flows = bench.dispatcher.flows();
    assert_eq!(flows.len(), 1, "what is long past is forgotten: {flows:?}");
    let left = flows[0].open_until.unwrap().since(now);
    assert!(left <= ASKED + Duration::from_secs(30), "{left:?}");
    bench.start_pump();
    bench.until("removed", async || bench.queue.function_states().await.unwrap().len() == 1).await;
}

#[tokio::test]
async fn a_function_that_refuses_is_called_less_at_once_and_gets_everything() {
    let bench = Bench::new(vec![Act::After(Duration::from_millis(2), Class::Ok); 100_000], 16).await;
    bench.script.capacity.store(3, Ordering::SeqCst);
    let mut least = 16;
    for _ in 0..20 {
        let all: Vec<_> = (0..20).map(|_| bench.submit(redelivers(5)).1).collect();
        for safe in all {
            assert!(is_safe(safe).await);
        }
        least = least.min(bench.flow().concurrency);
    }
    assert!(least < 16, "it never shrank");
    bench
        .until("all delivered", async || {
            least = least.min(bench.flow().concurrency);
            bench.parked().await == 0
        })
        .await;
    assert!(least <= 4, "{least}");
    bench.script.capacity.store(usize::MAX, Ordering::SeqCst);
    bench
        .until("grown back", async || {
            assert!(is_safe(bench.submit(redelivers(5_000)).1).await);
            bench.flow().concurrency == 16
        })
        .await;
}

#[tokio::test]
async fn what_exceeds_the_rate_is_parked_and_drained_at_the_rate_in_order_by_a_pump_that_rests() {
    let bench = Bench::still([], 4, QueueOptions::default()).await;
    let rounds = Arc::new(AtomicUsize::new(0));
    let (pump, beats) = (bench.dispatcher.clone(), Arc::clone(&rounds));
    tokio::spawn(async move {
        let beat = || {
            beats.fetch_add(1, Ordering::SeqCst);
        };
        pump.run(beat).await.unwrap();
    });
    let limited = bench.other(7, "thumb", |binding| binding.spec.rate_limit = Some(20.0));
    let clock = Arc::clone(&bench.dispatcher.inner.parts.clock);
    bench.dispatcher.wake(&limited.spec.function.to_ref());
    bench.until("the limit is known", async || bench.flow().rate_limit == Some(20.0)).await;
    let began = clock.monotonic();
    let mut ids = Vec::new();
    for _ in 0..40 {
        let (id, safe) = bench.submit_as(Arc::clone(&limited), redelivers(5_000));
        assert!(is_safe(safe).await, "none waits for its turn unparked");
        ids.push(id);
    }
    bench.until("all called", async || bench.calls() == 40 && bench.parked().await == 0).await;
    let took = clock.monotonic().saturating_sub(began);
    // The bucket holds two; the rest comes at the rate.
    assert!(took >= Duration::from_millis(38 * 50 - 50), "{took:?}");
    assert_eq!(*lock(&bench.script.calls), ids);
    let rounds = rounds.load(Ordering::SeqCst);
    assert!(rounds < 1_000, "{rounds} rounds for 40 calls");
}

#[tokio::test]
async fn a_flood_for_a_function_that_hangs_keeps_no_other_waiting() {
    let bench = Bench::new([], 4).await;
    let hanging = bench.other(1, "hanging", |_| ());
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.extend((0..10).map(|_| bench.submit_as(Arc::clone(&hanging), redelivers(5)).1));
        assert!(is_safe(bench.submit(redelivers(60_000)).1).await);
    }
    let healthy = |calls: &[DeliveryId]| {
        let ours = |id: &&DeliveryId| !lock(&bench.dispatcher.inner.running).contains_key(*id);
        calls.iter().filter(ours).count()
    };
    bench.until("every healthy one", async || healthy(&lock(&bench.script.calls)) == 200).await;
    for safe in flood {
        assert!(is_safe(safe).await, "what hangs is parked");
    }
    assert_eq!(bench.queue.parked_of(hanging.id).await.unwrap(), 2_000, "and none of it is done");
}

#[tokio::test]
async fn a_thousand_functions_have_their_turn() {
    let bench = Bench::still([], 4, QueueOptions::default()).await;
    let mut parks = Vec::new();
    for number in 0..1_000_u32 {
        let mut binding = Binding::clone(&bench.binding);
        binding.id = BindingId::from_bytes(u128::from(number + 1).to_be_bytes());
        binding.spec.function.function = format!("function-{number}");
        lock(&bench.mirror.bindings).insert(binding.id, Arc::new(binding.clone()));
        parks.push(binding);
    }
    futures_util::future::join_all(parks.iter().map(|binding| bench.park(binding, false))).await;
    bench.start_pump();
    bench.until("all called", async || bench.calls() == 1_000).await;
}
