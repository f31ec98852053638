//! A message that makes decoding panic. None is known that does, so in these tests the decoder panics at a word.

use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;
use crate::dialect::Undecodable;

const WORD: &str = "decoder-panics-here";

/// The real decoder, if it had this bug.
pub(in crate::intake) fn decode(
    bytes: &[u8],
    storage: &StorageName,
    encoding: KeyEncoding,
) -> Result<Vec<Event>, Undecodable> {
    assert!(!bytes.windows(WORD.len()).any(|part| part == WORD.as_bytes()), "on purpose");
    dialect::decode(bytes, storage, encoding)
}

#[tokio::test]
async fn a_panic_in_decoding_is_quarantined_and_told_once_and_the_next_message_goes_on() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _counted_here = metrics::set_default_local_recorder(&recorder);
    let bench = Bench::new([]).await;
    let (inbox, messages) = mpsc::channel(9);
    let running = tokio::spawn(bench.intake.clone().run(messages, || ()));
    let from = patient(Redelivers::Yes);
    let bytes = body(&["in/a", WORD]);
    let (bad, bad_acknowledged) = bench.message(&from, &bytes);
    let (next, next_acknowledged) = bench.message(&from, &body(&["next"]));
    inbox.send(bad).await.unwrap();
    inbox.send(next).await.unwrap();
    assert!(is_acknowledged(bad_acknowledged).await, "its sender would send it for ever");
    assert!(is_acknowledged(next_acknowledged).await);
    drop(inbox);
    timeout(SOON, running).await.unwrap().expect("intake died of it");

    let kept = bench.queue.quarantined(9).await.unwrap();
    assert_eq!((kept.len(), &kept[0].bytes, &*kept[0].source), (1, &bytes, "minio"));
    assert_eq!(kept[0].reason, "decoding panicked; see the log");
    let shown = recorder.handle().render();
    assert!(shown.contains("triggerd_quarantined_total{source=\"minio\"} 1\n"), "{shown}");
    let keys: Vec<_> = bench.calls().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["next"], "nothing of it is fired");

    let again = bench.intake.again(&kept[0], &from).await;
    assert_eq!(again, Again::Hopeless("decoding panicked; see the log".into()));
    assert_eq!(bench.reasons().await.len(), 1);
}

#[tokio::test]
async fn what_makes_decoding_panic_stays_with_its_source_when_it_cannot_be_kept() {
    let mut bench = Bench::new([]).await;
    bench.without_a_queue().await;
    assert!(!is_acknowledged(bench.take(&patient(Redelivers::Yes), &body(&[WORD])).await).await);
}
