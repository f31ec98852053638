//! Between rows and values: what is written, and what can be read of it.
//!
//! Whatever stands in a row, reading it gives a value or [`QueueError::Corrupt`] with table, row and column, never a
//! panic: the file may have been edited by hand, or come from a disk that lies.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, de::IntoDeserializer};
use sqlx::{Decode, Row, Sqlite, Type, sqlite::SqliteRow};

use super::{DeadLetter, Quarantined, QueueError, office::Item};
use crate::domain::{
    clock::Timestamp,
    delivery::{DeadReason, Delivery, FunctionRef},
    event::Event,
    ids::{BindingId, DeliveryId},
    outcome::{Attempt, Class},
};

/// The tables whose rows carry an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Delivery,
    DeadLetter,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// A list as one JSON text, for `json_each`.
pub(super) fn json<T: Serialize>(items: impl Iterator<Item = T>) -> Result<String, sqlx::Error> {
    let items: Vec<T> = items.collect();
    serde_json::to_string(&items).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// The number as SQLite keeps it; beyond its range its end.
pub(super) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// When an attempt was over.
pub(super) fn end_of_attempt(attempt: &Attempt) -> Timestamp {
    attempt.at.plus(std::time::Duration::from_micros(attempt.took_us))
}

/// The word for a class, as it is stored.
pub(super) fn class_word(class: Class) -> &'static str {
    class.as_str()
}

/// A row being read.
struct Reader<'r> {
    row: &'r SqliteRow,
    table: &'static str,
    key: String,
}

impl<'r> Reader<'r> {
    /// A row of `table` whose key is the id in the column `id`.
    fn new(row: &'r SqliteRow, table: &'static str) -> Self {
        let key = row.try_get::<&[u8], _>("id").map_or_else(|_| "unknown".to_owned(), hex);
        Self { row, table, key }
    }

    fn get<T: Decode<'r, Sqlite> + Type<Sqlite>>(&self, column: &'static str) -> Result<T, QueueError> {
        self.row.try_get(column).map_err(|error| self.corrupt(self.table, column, &error))
    }

    fn parse<R: Decode<'r, Sqlite> + Type<Sqlite>, T, E: fmt::Display>(
        &self,
        column: &'static str,
        read: impl FnOnce(R) -> Result<T, E>,
    ) -> Result<T, QueueError> {
        read(self.get(column)?).map_err(|error| self.corrupt(self.table, column, &error))
    }

    fn time(&self, column: &'static str) -> Result<Timestamp, QueueError> {
        self.get(column).map(Timestamp::from_micros)
    }

    fn number<T: TryFrom<i64, Error: fmt::Display>>(&self, column: &'static str) -> Result<T, QueueError> {
        self.parse(column, |number: i64| T::try_from(number))
    }

    fn corrupt(&self, table: &'static str, column: &'static str, problem: &dyn fmt::Display) -> QueueError {
        QueueError::Corrupt { table, column, row: self.key.clone(), problem: problem.to_string() }
    }

    fn event(&self) -> Result<Arc<Event>, QueueError> {
        let payload = self.get::<Option<&[u8]>>("payload")?;
        let payload = payload.ok_or_else(|| self.corrupt(self.table, "event", &"its event is missing"))?;
        let event = serde_json::from_slice(payload);
        event.map(Arc::new).map_err(|error| self.corrupt("event", "payload", &error))
    }

    fn delivery(&self, function: FunctionRef) -> Result<Delivery, QueueError> {
        Ok(Delivery {
            id: self.parse("id", DeliveryId::from_slice)?,
            event: self.event()?,
            binding: self.parse("binding", BindingId::from_slice)?,
            function,
            accepted_at: self.time("accepted_at")?,
            attempts: self.number("attempts")?,
            tries: self.number("tries")?,
            earlier: self.number("earlier")?,
            letter: None,
            awaiting: None,
        })
    }
}

/// A parked delivery of a known function.
pub(super) fn delivery(row: &SqliteRow, function: &FunctionRef) -> Result<Delivery, QueueError> {
    let reader = Reader::new(row, Table::Delivery.name());
    let letter: Option<&[u8]> = reader.get("letter")?;
    let letter = letter.map(DeliveryId::from_slice).transpose();
    let letter = letter.map_err(|error| reader.corrupt(reader.table, "letter", &error))?;
    let awaiting = reader.get::<Option<i64>>("awaiting_since")?.map(Timestamp::from_micros);
    Ok(Delivery { letter, awaiting, ..reader.delivery(function.clone())? })
}

/// A dead letter, its attempts still to be added.
pub(super) fn dead_letter(row: &SqliteRow) -> Result<DeadLetter, QueueError> {
    let reader = Reader::new(row, Table::DeadLetter.name());
    let platform: Option<&str> = reader.get("platform")?;
    let name: Option<&str> = reader.get("name")?;
    let function = platform
        .zip(name)
        .map(|(platform, name)| FunctionRef { platform: platform.into(), name: name.into() });
    let function =
        function.ok_or_else(|| reader.corrupt(reader.table, "function", &"its function is missing"))?;
    Ok(DeadLetter {
        delivery: reader.delivery(function)?,
        reason: reader.parse("reason", |word: &str| {
            DeadReason::parse(word).ok_or_else(|| format!("`{word}` is no reason"))
        })?,
        detail: reader.get("detail")?,
        died_at: reader.time("died_at")?,
        attempts: Vec::new(),
        replays: reader.number("replays")?,
    })
}

/// An attempt, with the delivery it belongs to. The key of its row is that delivery's id.
pub(super) fn attempt(row: &SqliteRow) -> Result<(DeliveryId, Attempt), QueueError> {
    let reader = Reader::new(row, "attempt");
    let id = reader.parse("id", DeliveryId::from_slice)?;
    let status: Option<i64> = reader.get("status")?;
    let status = status.map(u16::try_from).transpose();
    let attempt = Attempt {
        at: reader.time("at")?,
        took_us: reader.number("took_us")?,
        class: reader.parse("class", |word: &str| {
            let word: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
                word.into_deserializer();
            Class::deserialize(word)
        })?,
        status: status.map_err(|error| reader.corrupt("attempt", "status", &error))?,
        detail: reader.get("detail")?,
    };
    Ok((id, attempt))
}

/// An item of the quarantine.
pub(super) fn item(row: &SqliteRow) -> Result<Item, QueueError> {
    let seq: i64 = row.try_get("seq").unwrap_or_default();
    let reader = Reader { row, table: "quarantine", key: seq.to_string() };
    Ok(Item {
        id: reader.number("seq")?,
        what: Quarantined {
            source: reader.get("source")?,
            received_at: reader.time("received_at")?,
            reason: reader.get("reason")?,
            bytes: reader.get("bytes")?,
            length: reader.number("length")?,
        },
        tries: reader.number("tries")?,
        tried_at: reader.get::<Option<i64>>("tried_at")?.map(Timestamp::from_micros),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(32).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
