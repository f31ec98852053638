//! How soon after an upload its function is called, by each leg, at 50 uploads a second.
//!
//! Of each way three spans are told, as the one who uploads sees them: until the upload is answered; from there to the
//! function's call; and from sending the upload to the call. MinIO sends an event before it answers the upload, so the
//! call may come first. Two rows are MinIO's own part: its notifications go straight to a receiver in the place of
//! triggerd. Of triggerd's rows its own part is told, too: from an event's arrival to its function's answer, by its
//! metrics. The function is the double that answers at once. Times are printed, never asserted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aws_sdk_s3::types::{Event, NotificationConfiguration, QueueConfiguration};

use super::{
    PATIENCE,
    books::{Books, Function, Spans},
    is_back, is_full,
    load::{Load, UPLOADED},
    seed,
    site::{Design, Site, Targets},
    table::Table,
    twins::RATES,
    until_nothing_is_owed,
};
use crate::harness::{
    minio::{Minio, MinioOptions, WebhookTarget},
    receiver::{Answer, Receiver},
    suite::Ctx,
    wait::wait_for,
};

const STEADY: &[Function] = &[Function::Steady];

const HEAD: &str = "| from an upload | uploads | answered after, p50 ms | p99 | from there to the call, p50 ms | p99 | \
                    from sending to the call, p50 ms | p99 | first by the fast leg | triggerd's part, mean ms |\n\
                    |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";

pub(super) async fn functions_are_called_soon_after_an_upload_by_each_leg(_: Ctx) -> Result<()> {
    let seed = seed()?;
    let time = Duration::from_secs(if is_full() { 10 } else { 4 });
    let build = if cfg!(debug_assertions) { "debug build" } else { "optimised build" };
    let title = format!("From an upload to its function, {} uploads/s, {build}", RATES.uploaded);
    let mut table = Table::with_head(&title, HEAD);
    straight(false, time, &mut table).await?;
    if is_full() {
        straight(true, time, &mut table).await?;
        through(&Ctx::new()?, (Targets::Webhooks, false), seed, time, &mut table).await?;
    }
    through(&Ctx::new()?, (Targets::Webhooks, true), seed, time, &mut table).await?;
    if is_full() {
        through(&Ctx::new()?, (Targets::BrokerAndFast, true), seed, time, &mut table).await?;
    }
    table.end()
}

/// From MinIO straight to a receiver.
async fn straight(queue_dir: bool, time: Duration, table: &mut Table) -> Result<()> {
    let (receiver, books) = (Receiver::start().await?, Arc::new(Books::of(STEADY)));
    receiver.forget();
    let calls = Arc::clone(&books);
    receiver.answer_by(move |_, request| {
        let event = request.json().unwrap_or_default();
        let key = event["Key"].as_str().and_then(|key| key.strip_prefix("photos/")).unwrap_or_default();
        calls.called(Function::Steady, key, key);
        calls.answered(Function::Steady, key, key);
        Answer::status(200).unwrap()
    });
    let target = WebhookTarget { id: "IT".into(), endpoint: receiver.url("/"), auth_token: None, queue_dir };
    let minio = Minio::start(MinioOptions { webhooks: vec![target], ..MinioOptions::default() }).await?;
    minio.create_bucket("photos").await?;
    let rule = QueueConfiguration::builder()
        .queue_arn(minio.webhook_arn("IT"))
        .events(Event::from("s3:ObjectCreated:*"))
        .build()?;
    let rules = NotificationConfiguration::builder().queue_configurations(rule).build();
    minio.put_notification_configuration("photos", rules).await?;

    let load = Load::start(RATES, None, &minio, &books);
    let began = Instant::now();
    tokio::time::sleep(time).await;
    load.pause();
    wait_for("every event is at the receiver", PATIENCE, async || books.owes() == 0).await?;
    let spans = books.spans(Function::Steady, UPLOADED, (began, Instant::now()));
    let words = if queue_dir { "a target with `queue_dir`" } else { "a target without `queue_dir`" };
    tell(table, &format!("{words}, to a receiver"), &spans, &["-".into(), "-".into()]);
    Ok(())
}

/// From MinIO through triggerd to the function.
async fn through(
    ctx: &Ctx,
    (targets, twin): (Targets, bool),
    seed: u64,
    time: Duration,
    table: &mut Table,
) -> Result<()> {
    let design = Design {
        engine: None,
        targets,
        functions: STEADY,
        twin,
        webhooks_fail: false,
        disk_fails: false,
        seed,
    };
    let mut site = Site::start(ctx, design).await?;
    let load = Load::start(RATES, None, &site.world.minio, &site.books);
    is_back(&site, RATES, Instant::now()).await;
    let counts = async || -> Result<[f64; 4]> {
        let daemon = &site.world.daemon;
        let untouched = &["platform=\"untouched\""][..];
        Ok([
            daemon.metric("triggerd_delivery_seconds_sum", untouched).await?,
            daemon.metric("triggerd_delivery_seconds_count", untouched).await?,
            daemon.metric("triggerd_events_total", &["source=\"fast\""]).await?,
            daemon.metric("triggerd_events_total", &[]).await?,
        ])
    };
    let (before, began) = (counts().await?, Instant::now());
    tokio::time::sleep(time).await;
    let over = Instant::now();
    load.pause();
    let lost = until_nothing_is_owed(&site).await?;
    ensure!(lost.is_empty(), "{} deliveries were lost: {lost:?}", lost.len());
    let after = counts().await?;
    let [seconds, deliveries, fast, all] = std::array::from_fn(|at| after[at] - before[at]);
    let spans = site.books.spans(Function::Steady, UPLOADED, (began, over));
    let words = if twin {
        format!("{}, by triggerd", targets.words())
    } else {
        "the safe leg alone, by triggerd".into()
    };
    let own = format!("{:.1}", seconds / deliveries.max(1.0) * 1_000.0);
    tell(table, &words, &spans, &[format!("{:.0} %", fast / all.max(1.0) * 100.0), own]);
    site.world.daemon.stop().await
}

fn tell(table: &mut Table, words: &str, spans: &Spans, rest: &[String; 2]) {
    let all = [&spans.answer, &spans.since_yes, &spans.since_sent];
    let times = all.map(|latencies| format!("{} | {}", latencies.millis(0.5), latencies.millis(0.99)));
    table.line(&format!(
        "| {words} | {} | {} | {} |",
        spans.answer.count(),
        times.join(" | "),
        rest.join(" | ")
    ));
}
