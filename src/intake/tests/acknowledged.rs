//! When a message is acknowledged: after the last of what it caused is safe, and what keeps it.

use super::*;

#[tokio::test]
async fn a_body_of_several_records_is_acknowledged_after_the_last_is_delivered() {
    let bench = Bench::new([Act::Answer(Class::Ok), Act::Wait(Class::Ok), Act::Answer(Class::Ok)]).await;
    let mut acknowledged = bench.take(&patient(Redelivers::Yes), &body(&["a", "b", "c"])).await;
    bench.until_called(3).await;
    bench.until("two of three are settled", async || bench.intake.repeats.in_flight() == 1).await;
    assert!(acknowledged.try_recv().is_err(), "acknowledged while one was on its way");
    bench.script.gate.add_permits(1);
    assert!(is_acknowledged(acknowledged).await);
    let mut keys: Vec<_> = bench.calls().into_iter().map(|(key, _)| key).collect();
    keys.sort();
    assert_eq!(keys, ["a", "b", "c"]);
}

#[tokio::test]
async fn an_event_of_two_bindings_waits_for_both() {
    let bench = Bench::new([Act::Answer(Class::Ok), Act::Wait(Class::Ok)]).await;
    bench.matches(Matching::All(bench.bindings.clone()));
    let mut acknowledged = bench.take(&patient(Redelivers::Yes), &body(&["a"])).await;
    bench.until_called(2).await;
    bench.until("one attempt has ended", async || bench.intake.dispatcher.running_count() == 1).await;
    assert!(acknowledged.try_recv().is_err());
    bench.script.gate.add_permits(1);
    assert!(is_acknowledged(acknowledged).await);
}

#[tokio::test]
async fn one_record_that_is_not_safe_keeps_the_body_and_its_repeat_has_the_same_ids() {
    let mut bench = Bench::new([Act::Answer(Class::FunctionFault)]).await;
    bench.without_a_queue().await;
    let from = patient(Redelivers::Yes);
    assert!(!is_acknowledged(bench.take(&from, &body(&["a", "b"])).await).await);
    bench.until("nothing is in flight", async || bench.intake.repeats.in_flight() == 0).await;
    assert!(is_acknowledged(bench.take(&from, &body(&["a", "b"])).await).await);
    let mut calls = bench.calls();
    calls.sort();
    calls.dedup();
    assert_eq!(calls.len(), 2, "a key was called under two ids: {calls:?}");
}

#[tokio::test]
async fn nothing_to_do_is_acknowledged_at_once() {
    let mut bench = Bench::new([]).await;
    bench.without_a_queue().await;
    bench.matches(Matching::All(Vec::new()));
    for body in [body(&["a", "b"]), br#"{"Records":[]}"#.to_vec(), br#"{"Records":null}"#.to_vec()] {
        let mut acknowledged = bench.take(&patient(Redelivers::Yes), &body).await;
        assert_eq!(acknowledged.try_recv(), Ok(()));
    }
    let unmatched = bench.intake.recent.latest(None, 9);
    assert_eq!(unmatched.iter().filter(|one| one.outcome == "unmatched").count(), 2);
    assert!(bench.calls().is_empty());
}

#[tokio::test]
async fn while_the_bindings_cannot_be_read_messages_stay_with_their_source() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    bench.matches(Matching::Unreadable);
    assert!(!is_acknowledged(bench.take(&from, &body(&["a"])).await).await);
    assert_eq!(bench.intake.repeats.in_flight(), 0);
    bench.matches(Matching::All(vec![Arc::clone(&bench.bindings[0])]));
    assert!(is_acknowledged(bench.take(&from, &body(&["a"])).await).await);
    assert_eq!(bench.calls().len(), 1);
}

#[tokio::test]
async fn a_message_whose_bindings_must_be_read_first_keeps_no_other_back() {
    let bench = Bench::new([]).await;
    let gate = Arc::new(Semaphore::new(0));
    bench.matches(Matching::Waits("slow", Arc::clone(&gate), vec![Arc::clone(&bench.bindings[0])]));
    let (inbox, messages) = mpsc::channel(9);
    let running = tokio::spawn(bench.intake.clone().run(messages, || ()));
    let from = patient(Redelivers::Yes);
    let (slow, mut slow_acknowledged) = bench.message(&from, &body(&["slow"]));
    let (other, other_acknowledged) = bench.message(&from, &body(&["other"]));
    inbox.send(slow).await.unwrap();
    inbox.send(other).await.unwrap();
    assert!(is_acknowledged(other_acknowledged).await);
    assert!(slow_acknowledged.try_recv().is_err());
    gate.add_permits(1);
    assert!(is_acknowledged(slow_acknowledged).await);
    drop(inbox);
    timeout(SOON, running).await.unwrap().unwrap();
    assert_eq!(bench.calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intake_that_hangs_falls_silent_and_beats_again_when_it_goes_on() {
    let bench = Bench::new([]).await;
    let go_on = Arc::new(AtomicBool::new(false));
    bench.matches(Matching::Hangs(Arc::clone(&go_on)));
    let clock = Arc::clone(&bench.intake.clock);
    let last = Arc::new(Mutex::new(clock.monotonic()));
    let silent_for = || clock.monotonic().saturating_sub(*last.lock().unwrap());
    let (sender, inbox) = mpsc::channel(4);
    let (intake, beats, now) = (bench.intake.clone(), Arc::clone(&last), Arc::clone(&clock));
    let running =
        tokio::spawn(async move { intake.run(inbox, || *beats.lock().unwrap() = now.monotonic()).await });
    let (message, acknowledged) = bench.message(&origin(Redelivers::Yes, SOON), &body(&["a.jpg"]));
    sender.send(message).await.unwrap();
    bench.until("intake is silent", async || silent_for() > IDLE + Duration::from_secs(1)).await;
    go_on.store(true, Ordering::Release);
    assert_eq!(acknowledged.await, Ok(()));
    bench.until("intake beats", async || silent_for() < IDLE).await;
    drop(sender);
    running.await.unwrap();
}
