//! Where bindings go, what they say meanwhile, and what the handle answers.

use std::sync::Mutex;

use super::*;

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
            confirm(&handle, id, &signed(secret, now, body.as_bytes()), body.as_bytes()).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let bare = confirm(&handle, id, &HeaderMap::new(), right.as_bytes()).await.unwrap_err();
    assert!(matches!(bare, ConfirmError::Unverified(Unverified::Missing("webhook-id"))), "{bare:?}");
    let long_ago = Timestamp::from_micros(now.as_micros() - 301_000_000);
    let stale = handle.expects(id, &signed(&binding.secret, long_ago, right.as_bytes())).await.unwrap_err();
    assert!(matches!(stale, ConfirmError::Unverified(Unverified::Stale { .. })), "{stale:?}");
    let headers = signed(&binding.secret, now, right.as_bytes());
    let stranger = confirm(&handle, BindingId::from_bytes([1; 16]), &headers, right.as_bytes()).await;
    assert!(matches!(stranger, Err(ConfirmError::NoSuchBinding(_))), "{stranger:?}");
    site.relations.unbind(id, "operator", now).await.unwrap();
    let late = confirm(&handle, id, &headers, right.as_bytes()).await;
    assert!(matches!(late, Err(ConfirmError::NotWaiting { state: State::Unbinding, .. })), "{late:?}");
}

#[tokio::test]
async fn a_rule_that_is_refused_again_is_an_error_in_the_log_once_for_each_change() {
    let (site, id) = Story::RuleLost.begin().await;
    site.world.state().functions.clear();
    let (mut reconciler, handle) = site.start();
    let (log, _guard) = log_of_this_thread();
    site.settle(&mut reconciler, &handle).await;
    for _ in 0..3 {
        site.clock.advance(Duration::from_mins(7));
        reconciler.pass().await.unwrap();
    }
    let asked = site.world.state().effects.iter().filter(|effect| *effect == "establish").count();
    assert!(asked > 2, "it was asked again only {asked} times");
    let lines = |level: &str| {
        let text = String::from_utf8(log.lock().unwrap().clone()).unwrap();
        let of_level = text.lines().filter(|line| line.contains(level) && line.contains(&id.to_string()));
        of_level.map(str::to_owned).collect::<Vec<_>>()
    };
    let errors = lines("ERROR");
    assert!(errors.len() == 1 && errors[0].contains("no such function"), "{errors:?}");
    assert!(errors[0].contains("platform=faas") && errors[0].contains("held"), "{errors:?}");
    let fell = lines("WARN");
    assert!(fell.len() == 1 && fell[0].contains("no longer has the rule"), "{fell:?}");
    let why = site.binding(id).await.unwrap().why().unwrap();
    assert!(why.contains("no longer has the rule") && why.contains("no such function"), "{why}");
    site.world.state().functions.insert("thumb".into());
    site.settle(&mut reconciler, &handle).await;
    site.assert_active(id).await;
    assert_eq!(lines("ERROR").len(), 1);
}

/// What is logged on this thread while the guard lives.
fn log_of_this_thread() -> (Arc<Mutex<Vec<u8>>>, tracing::subscriber::DefaultGuard) {
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&log);
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || Log(Arc::clone(&to))).finish();
    (log, tracing::subscriber::set_default(subscriber))
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

/// Passes without a pause, until one changes nothing.
async fn at_once(site: &Site, reconciler: &mut Reconciler) {
    for _ in 0..10 {
        let before = site.relations.head().await.unwrap();
        site.beat().await;
        reconciler.pass().await.unwrap();
        // A pass is due when something is still to come, which takes a moment.
        site.clock.advance(Duration::from_millis(250));
        if site.relations.head().await.unwrap() == before {
            return;
        }
    }
}

/// The platform forgets its rules, and a call is answered so.
async fn forget(site: &Site, reconciler: &mut Reconciler, handle: &Handle, id: BindingId) {
    site.world.state().rules.clear();
    let asked = tokio::spawn({
        let handle = handle.clone();
        async move { handle.inspect_now(id).await }
    });
    tokio::task::yield_now().await;
    reconciler.pass().await.unwrap();
    assert!(matches!(asked.await.unwrap(), InspectionVerdict::Damaged { .. }));
}

#[tokio::test]
async fn a_platform_that_forgets_its_rule_again_and_again_is_given_it_ever_more_seldom() {
    let (site, id) = Story::Bind.begin().await;
    let (mut reconciler, handle) = site.start();
    site.settle(&mut reconciler, &handle).await;
    site.world.state().parked.insert(id, (3, false));
    let mut rests = Vec::new();
    for turn in 1..=7 {
        forget(&site, &mut reconciler, &handle, id).await;
        let (began, mut establishes) = (site.clock.monotonic(), None);
        at_once(&site, &mut reconciler).await;
        while site.state(id).await != Some(State::Active) {
            let binding = site.binding(id).await.unwrap();
            let reason = binding.reason.unwrap();
            assert!(reason.contains(&format!("{turn} times in a row")), "{reason}");
            assert!(site.world.state().parked[&id].1, "its deliveries are not held");
            let so_far = site.world.state().effects.iter().filter(|name| *name == "establish").count();
            assert_eq!(*establishes.get_or_insert(so_far), so_far, "the platform was asked while it rested");
            site.clock.advance(Duration::from_millis(250));
            reconciler.pass().await.unwrap();
            if site.state(id).await != Some(State::Degraded) {
                at_once(&site, &mut reconciler).await;
            }
        }
        site.assert_active(id).await;
        rests.push(site.clock.monotonic().saturating_sub(began));
    }
    assert!(rests[0] < Duration::from_secs(2), "the first mend is late: {rests:?}");
    assert!(rests[1..].is_sorted() && rests[6] > Duration::from_secs(30), "{rests:?}");

    // Asked for again it is mended now, and unbound it goes now.
    forget(&site, &mut reconciler, &handle, id).await;
    site.clock.advance(Duration::from_secs(2));
    handle.wake_binding(id);
    at_once(&site, &mut reconciler).await;
    site.assert_active(id).await;
    forget(&site, &mut reconciler, &handle, id).await;
    site.relations.unbind(id, "operator", site.clock.now()).await.unwrap();
    at_once(&site, &mut reconciler).await;
    site.assert_gone(id).await;
}

#[tokio::test]
async fn bucket_rules_that_vanish_again_and_again_are_put_back_at_once_while_the_binding_rests() {
    let (site, id) = Story::Bind.begin().await;
    let (mut reconciler, handle) = site.start();
    site.settle(&mut reconciler, &handle).await;
    for _ in 0..6 {
        forget(&site, &mut reconciler, &handle, id).await;
        site.clock.advance(Duration::from_mins(1));
        at_once(&site, &mut reconciler).await;
        site.assert_active(id).await;
    }
    site.world.state().buckets.insert("photos".into(), Configuration::of(vec![foreign()]));
    handle.agenda.wake_binding(id);
    at_once(&site, &mut reconciler).await;
    let binding = site.binding(id).await.unwrap();
    assert_eq!(binding.state, State::Degraded);
    assert!(binding.reason.as_ref().unwrap().contains("7 times in a row"), "{:?}", binding.reason);
    assert!(site.carried(&binding), "events are lost while it rests");
    site.clock.advance(Duration::from_mins(2));
    at_once(&site, &mut reconciler).await;
    site.assert_active(id).await;
}
