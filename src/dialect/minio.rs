//! The shape of MinIO's notifications, and of whatever else keeps to it.
//!
//! Webhook and MQTT: `EventName`, `Key` and `Records` with exactly one record, the key in the record
//! form-urlencoded and the one in the envelope raw. Listen: `Records` alone, the key raw. Read from MinIO's source
//! and seen in the recordings under `tests/fixtures/minio`.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use super::{MAX_RECORDS, Undecodable, blame, form};
use crate::domain::{
    clock::Timestamp,
    event::{Event, KeyEncoding, StorageName},
    event_name::EventName,
    ids::EventId,
};

/// The envelope. Both of its other fields repeat what the record says; of the two only the key is worth a
/// comparison.
#[derive(Debug, Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "Key")]
    key: Option<String>,
    #[serde(rename = "Records", borrow)]
    records: Records<'a>,
}

/// The envelope once more, for finding what is wrong with it.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "read for its errors only")]
#[serde(expecting = "an object with `Records`")]
struct OwnedEnvelope {
    #[serde(rename = "Key")]
    key: Option<String>,
    #[serde(rename = "Records")]
    records: OwnedRecords,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    event_time: Option<String>,
    event_name: Option<String>,
    user_identity: Option<Identity>,
    s3: Option<S3>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    principal_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct S3 {
    bucket: Option<Bucket>,
    object: Option<Object>,
}

#[derive(Debug, Deserialize)]
struct Bucket {
    name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    key: Option<String>,
    size: Option<u64>,
    e_tag: Option<String>,
    content_type: Option<String>,
    user_metadata: Option<Metadata>,
    version_id: Option<String>,
    sequencer: Option<String>,
}

pub(super) fn decode(
    text: &str,
    storage: &StorageName,
    encoding: KeyEncoding,
) -> Result<Vec<Event>, Undecodable> {
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
        Category::Data => blame::<OwnedEnvelope>(text, "", &error),
        Category::Syntax | Category::Eof | Category::Io => Undecodable::NotJson { source: error },
    })?;
    if !is_object(text) {
        return Err(Undecodable::field("(the whole body)", &"it is not an object"));
    }
    let records = &envelope.records.0;
    let events: Vec<Event> = records
        .iter()
        .enumerate()
        .map(|(index, raw)| read(raw, &format!("Records[{index}]"), storage, encoding))
        .collect::<Result<_, _>>()?;
    if let (Some(key), [event]) = (&envelope.key, events.as_slice()) {
        let sent = key.strip_prefix(&event.bucket).and_then(|rest| rest.strip_prefix('/'));
        if sent != Some(&event.key) {
            let reason = format!(
                "`{key}` is not the bucket `{}`, a slash and the record's key `{}`; is the way's key encoding right?",
                event.bucket, event.key
            );
            return Err(Undecodable::field("Key", &reason));
        }
    }
    Ok(events)
}

fn read(
    raw: &RawValue,
    path: &str,
    storage: &StorageName,
    encoding: KeyEncoding,
) -> Result<Event, Undecodable> {
    let record: Record =
        serde_json::from_str(raw.get()).map_err(|error| blame::<Record>(raw.get(), path, &error))?;
    if !is_object(raw.get()) {
        return Err(Undecodable::field(path, &"it is not an object"));
    }
    let required = |value: Option<String>, field: &str| {
        let value = value.filter(|value| !value.is_empty());
        value.ok_or_else(|| Undecodable::Missing { field: format!("{path}.{field}") })
    };
    let name = EventName::new(&required(record.event_name, "eventName")?);
    let time = required(record.event_time, "eventTime")?
        .parse::<Timestamp>()
        .map_err(|error| Undecodable::field(format!("{path}.eventTime"), &error))?;
    let S3 { bucket, object } = record.s3.unwrap_or(S3 { bucket: None, object: None });
    let bucket = required(bucket.and_then(|bucket| bucket.name), "s3.bucket.name")?;
    let object = object.unwrap_or_default();
    let key_field = || format!("{path}.s3.object.key");
    let key = object.key.ok_or_else(|| Undecodable::Missing { field: key_field() })?;
    let key = match encoding {
        KeyEncoding::Raw => key,
        KeyEncoding::Form => form::decode(&key).map_err(|error| Undecodable::field(key_field(), &error))?,
    };
    let created = name.as_str().starts_with("s3:ObjectCreated:");
    let filled = |value: Option<String>| value.filter(|value| !value.is_empty());
    Ok(Event {
        id: EventId::of_record(storage.as_str(), raw.get().as_bytes()),
        storage: storage.clone(),
        bucket,
        key,
        name,
        time,
        size: object.size.or(created.then_some(0)),
        etag: filled(object.e_tag),
        content_type: filled(object.content_type),
        version_id: filled(object.version_id),
        sequencer: filled(object.sequencer),
        principal: record.user_identity.and_then(|identity| identity.principal_id).unwrap_or_default(),
        user_metadata: object.user_metadata.unwrap_or_default().0,
        record: raw.to_owned(),
    })
}

/// Serde would take an array for a struct, field by field.
fn is_object(json: &str) -> bool {
    json.trim_start().starts_with('{')
}

/// At most [`MAX_RECORDS`] records, cut out of the body unread; null for none.
#[derive(Debug)]
struct Records<'a>(Vec<&'a RawValue>);

/// The same, copied.
#[derive(Debug)]
struct OwnedRecords;

impl<'de: 'a, 'a> Deserialize<'de> for Records<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RecordsVisitor(Vec::new())).map(Self)
    }
}

impl<'de> Deserialize<'de> for OwnedRecords {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RecordsVisitor::<Box<RawValue>>(Vec::new())).map(|_| Self)
    }
}

struct RecordsVisitor<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for RecordsVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records")
    }

    fn visit_unit<E>(self) -> Result<Vec<T>, E> {
        Ok(self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Vec<T>, A::Error> {
        while let Some(record) = list.next_element()? {
            if self.0.len() == MAX_RECORDS {
                return Err(A::Error::custom(format_args!("it has more than {MAX_RECORDS} records")));
            }
            self.0.push(record);
        }
        Ok(self.0)
    }
}

/// A map of texts that refuses the same name twice.
#[derive(Debug, Default)]
struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MetadataVisitor).map(Self)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((name, value)) = entries.next_entry::<String, String>()? {
            if map.contains_key(&name) {
                return Err(A::Error::custom(format_args!("it has `{name}` twice")));
            }
            map.insert(name, value);
        }
        Ok(map)
    }
}

#[cfg(test)]
#[path = "minio_tests.rs"]
mod tests;
