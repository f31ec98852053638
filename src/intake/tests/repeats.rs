//! What comes again: joined repeats, twin targets, what never comes again, and loops.

use super::*;

#[tokio::test]
async fn a_repeat_joins_what_is_in_flight_and_costs_nothing_once_it_is_settled() {
    let bench = Bench::new([Act::Wait(Class::Ok)]).await;
    let from = patient(Redelivers::Yes);
    let mut first = bench.take(&from, &body(&["a"])).await;
    let mut second = bench.take(&patient(Redelivers::Yes), &body(&["a"])).await;
    bench.until_called(1).await;
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    bench.script.gate.add_permits(1);
    assert!(is_acknowledged(first).await && is_acknowledged(second).await);
    let mut third = bench.take(&from, &body(&["a"])).await;
    assert_eq!(third.try_recv(), Ok(()));
    assert_eq!(bench.calls().len(), 1);
}

#[tokio::test]
async fn the_fast_leg_is_acknowledged_on_receipt_and_the_safe_leg_when_it_is_safe() {
    let bench = Bench::new([Act::Wait(Class::Ok)]).await;
    let mut fast = bench.take(&patient(Redelivers::Twin), &body(&["a"])).await;
    assert_eq!(fast.try_recv(), Ok(()));
    let mut safe = bench.take(&patient(Redelivers::Yes), &body(&["a"])).await;
    bench.until_called(1).await;
    assert!(safe.try_recv().is_err(), "the safe leg was let go while the function ran");
    bench.script.gate.add_permits(1);
    assert!(is_acknowledged(safe).await);
    assert_eq!((bench.calls().len(), bench.parked().await), (1, 0));
}

#[tokio::test]
async fn an_event_that_only_the_fast_leg_brought_is_parked_when_it_fails_and_tried_again() {
    let bench = Bench::new([Act::Wait(Class::FunctionFault)]).await;
    bench.take(&origin(Redelivers::Twin, Duration::from_millis(1)), &body(&["a"])).await;
    bench.until("parked while it runs", async || bench.parked().await == 1).await;
    bench.script.gate.add_permits(1);
    bench.until("delivered", async || bench.calls().len() == 2 && bench.parked().await == 0).await;
}

#[tokio::test]
async fn when_the_fast_leg_finds_no_disk_the_safe_leg_keeps_the_event() {
    let mut bench = Bench::new([Act::Wait(Class::FunctionFault)]).await;
    bench.without_a_queue().await;
    bench.take(&patient(Redelivers::Twin), &body(&["a"])).await;
    let safe = bench.take(&patient(Redelivers::Yes), &body(&["a"])).await;
    bench.until_called(1).await;
    bench.script.gate.add_permits(1);
    assert!(!is_acknowledged(safe).await);
    let again = bench.take(&patient(Redelivers::Yes), &body(&["a"])).await;
    assert!(is_acknowledged(again).await);
    let calls = bench.calls();
    assert!(calls.len() == 2 && calls[0] == calls[1], "{calls:?}");
}

#[tokio::test]
async fn what_never_comes_again_is_on_disk_before_it_is_fired_and_acknowledged_then() {
    let bench = Bench::new([Act::Wait(Class::Ok)]).await;
    let acknowledged = bench.take(&patient(Redelivers::No), &body(&["a"])).await;
    assert!(is_acknowledged(acknowledged).await);
    bench.until_called(1).await;
    assert_eq!(*lock(&bench.script.parked), [1]);
    bench.script.gate.add_permits(1);
    bench.until("the row is removed", async || bench.parked().await == 0).await;
    assert_eq!(bench.calls().len(), 1);
}

#[tokio::test]
async fn a_pressed_message_is_acknowledged_from_disk_while_its_function_hangs() {
    let bench = Bench::new([Act::Wait(Class::Ok)]).await;
    let pressed = |message: &mut Message| message.pressed = true;
    assert!(is_acknowledged(bench.take_with(&patient(Redelivers::Yes), &body(&["a"]), pressed).await).await);
    bench.until_called(1).await;
    assert_eq!(bench.parked().await, 1);
    bench.script.gate.add_permits(1);
    bench.until("the row is removed", async || bench.parked().await == 0).await;
}

#[tokio::test]
async fn a_function_that_fires_its_own_binding_is_told_of_and_nothing_of_it_is_dropped() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    let mut key = "in/a.jpg".to_owned();
    for _ in 0..6 {
        assert!(is_acknowledged(bench.take(&from, &body(&[&key])).await).await);
        key.push_str(".copy");
    }
    assert_eq!(bench.calls().len(), 6);
    let outcomes = bench.intake.recent.latest(Some(bench.bindings[0].id), 99);
    let told: Vec<_> = outcomes.iter().filter(|one| one.outcome == "loop_suspected").collect();
    assert_eq!(told.len(), 1, "once a minute: {told:?}");
    assert_eq!(told[0].key, "in/a.jpg.copy.copy.copy");
    assert!(told[0].detail.contains("ignore_principals"), "{}", told[0].detail);
}

#[tokio::test]
async fn what_clients_upload_side_by_side_is_suspected_of_nothing() {
    let bench = Bench::new([]).await;
    let from = patient(Redelivers::Yes);
    for number in 0..40 {
        let keys = [format!("in/film-{number}.mp4"), format!("in/film-{number}.srt")];
        assert!(is_acknowledged(bench.take(&from, &body(&[&keys[0], &keys[1]])).await).await);
    }
    assert_eq!(bench.calls().len(), 80);
    assert!(bench.intake.recent.latest(None, 99).iter().all(|one| one.outcome == "ok"));
}
