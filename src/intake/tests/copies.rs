//! Second copies of an event, whatever the first one's fate: they cost the database nothing.

use super::*;

impl Bench {
    /// What was written since `before`, when all that was begun has ended.
    async fn written_since(&self, before: u64) -> u64 {
        self.intake.dispatcher.stop_soft();
        timeout(SOON, self.intake.dispatcher.drained()).await.expect("something does not end");
        self.queue.commits() - before
    }
}

#[tokio::test]
async fn a_second_copy_is_acknowledged_without_a_database_write() {
    let bench = Bench::new([Act::Wait(Class::Ok)]).await;
    let (fast, safe) = (patient(Redelivers::Twin), patient(Redelivers::Yes));
    let before = bench.queue.commits();
    let mut first = bench.take(&fast, &body(&["a"])).await;
    assert_eq!(first.try_recv(), Ok(()));
    bench.until_called(1).await;
    let joined = bench.take(&safe, &body(&["a"])).await;
    bench.script.gate.add_permits(1);
    assert!(is_acknowledged(joined).await, "the one that came while the first was on its way");
    for leg in [&safe, &fast] {
        let mut settled = bench.take(leg, &body(&["a"])).await;
        assert_eq!(settled.try_recv(), Ok(()), "the one that came when it was settled");
    }
    assert_eq!((bench.written_since(before).await, bench.calls().len()), (0, 1));
}

#[tokio::test]
async fn a_copy_of_what_is_parked_is_acknowledged_without_another_write() {
    let bench = Bench::new([Act::Wait(Class::Ok)]).await;
    let from = origin(Redelivers::Yes, Duration::from_millis(1));
    let before = bench.queue.commits();
    assert!(is_acknowledged(bench.take(&from, &body(&["a"])).await).await);
    assert_eq!((bench.parked().await, bench.queue.commits() - before), (1, 1));
    for _ in 0..3 {
        let mut copy = bench.take(&from, &body(&["a"])).await;
        assert_eq!(copy.try_recv(), Ok(()));
    }
    bench.script.gate.add_permits(1);
    bench.until("the row is removed", async || bench.parked().await == 0).await;
    assert_eq!((bench.written_since(before).await, bench.calls().len()), (2, 1), "parked once, removed once");
}
