//! The queue on real files.

mod bounds;
mod crash;
mod failure;
mod group;
mod handover;
mod letters;
mod model;
mod offline;
mod results;
mod retention;
mod stored;
mod transfer;
mod verbs;

use std::{path::PathBuf, sync::Arc};

use serde_json::value::RawValue;
use sqlx::{ConnectOptions, SqliteConnection};
use tokio::task::JoinHandle;

use super::{open::connect_options, *};
use crate::domain::{
    event::{Event, StorageName},
    event_name::EventName,
    ids::EventId,
    outcome::Class,
};

const NOW: Timestamp = Timestamp::from_micros(1_763_740_000_000_000);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(NOW.as_micros() + seconds * 1_000_000)
}

/// An open queue in a directory of its own.
struct Fixture {
    dir: tempfile::TempDir,
    options: QueueOptions,
    queue: SqliteQueue,
    writer: JoinHandle<()>,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(QueueOptions::default()).await
    }

    async fn with(options: QueueOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (queue, writer) = SqliteQueue::open(&dir.path().join("queue.db"), &options).await.unwrap();
        let writer = tokio::spawn(writer.run());
        Self { dir, options, queue, writer }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("queue.db")
    }

    /// Ends this queue and opens its file again.
    async fn reopen(self) -> Self {
        self.queue.close().await;
        self.writer.await.unwrap();
        let path = self.dir.path().join("queue.db");
        let (queue, writer) = SqliteQueue::open(&path, &self.options).await.unwrap();
        Self { dir: self.dir, options: self.options, queue, writer: tokio::spawn(writer.run()) }
    }

    /// A connection of the test's own, to look at the file or to spoil it.
    async fn sql(&self) -> SqliteConnection {
        connect_options(&self.path(), &self.options).connect().await.unwrap()
    }

    async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut self.sql().await).await.unwrap();
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut self.sql().await).await.unwrap()
    }

    async fn due_ids(&self, function: &FunctionRef, now: Timestamp) -> Vec<DeliveryId> {
        let due = self.queue.due(function, now, &[], 1_000).await.unwrap();
        due.into_iter().map(|delivery| delivery.id).collect()
    }
}

fn function(name: &str) -> FunctionRef {
    FunctionRef { platform: "local".into(), name: name.into() }
}

fn binding(n: u8) -> BindingId {
    BindingId::from_bytes([n; 16])
}

/// The event number `n`, whose record has `size` bytes more than it needs.
fn event(n: u32, size: usize) -> Arc<Event> {
    let record = format!(r#"{{"n": {n},  "pad":"{}"}}"#, "x".repeat(size));
    Arc::new(Event {
        id: EventId::of_record("default", record.as_bytes()),
        storage: StorageName::new("default"),
        bucket: "photos".into(),
        key: format!("in/图片 {n}.jpg"),
        name: EventName::new("s3:ObjectCreated:Put"),
        time: NOW,
        size: Some(7),
        etag: None,
        content_type: None,
        version_id: None,
        sequencer: None,
        principal: "alice".into(),
        user_metadata: std::iter::once(("X-Amz-Meta-A".into(), "b".into())).collect(),
        record: RawValue::from_string(record).unwrap(),
    })
}

fn delivery(n: u32, name: &str) -> Delivery {
    Delivery::new(event(n, 100), binding(1), function(name), NOW)
}

fn park(delivery: Delivery, due: Timestamp) -> Park {
    Park { delivery, due, held: false, attempt: None, ticket: Ticket::default() }
}

fn attempt(second: i64) -> Attempt {
    Attempt {
        at: at(second),
        took_us: 1_500,
        class: Class::FunctionFault,
        status: Some(500),
        detail: format!("attempt at {second}"),
    }
}

fn retry(id: DeliveryId, due: Timestamp, attempt: Option<Attempt>) -> Retry {
    Retry { id, due, held: false, attempts: 1, tries: 2, earlier: 0, attempt }
}

fn letter(delivery: Delivery, died_at: Timestamp) -> DeadLetter {
    DeadLetter {
        delivery,
        reason: DeadReason::Permanent,
        detail: "404 no such function".into(),
        died_at,
        attempts: Vec::new(),
        replays: 0,
    }
}

impl SqliteQueue {
    /// The newest items of the quarantine, whole.
    pub(crate) async fn quarantined(&self, limit: u32) -> Result<Vec<Quarantined>, QueueError> {
        let mut whole = Vec::new();
        for item in self.quarantine_page(None, limit).await? {
            whole.extend(self.quarantine_item(item.id).await?.map(|item| item.what));
        }
        Ok(whole)
    }
}
