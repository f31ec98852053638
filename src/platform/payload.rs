//! What a function is given: an event as a CloudEvent (structured or binary) or as S3 records. Pure.
//!
//! The attributes are those of the CloudEvents adapter for AWS S3: `id` is the event's identity, `type` is
//! `com.amazonaws.s3.` and the event's name without `s3:`, `subject` is the object's key, decoded (left out for
//! events of a whole bucket, because a subject must not be empty), `time` is the storage's, `data` is the record as
//! it was sent.
//!
//! `source` is `<eventSource>.<awsRegion>.<bucket>`, from the record. A MinIO without a region sends an empty one,
//! and it stays empty (`minio:s3..photos`): every source has three fields, so that no bucket's dots can be taken
//! for a region. Characters that a URI does not take are percent-encoded; a record without `eventSource` gets `s3`.
//!
//! In binary mode the attributes are headers, percent-encoded as the HTTP binding says: space, `"`, `%` and
//! everything that is not printable ASCII. Receivers differ in whether they decode them, so structured is the
//! default.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::{
    binding::Payload,
    delivery::{DeadReason, Obituary},
    event::Event,
    ids::DeliveryId,
};

/// The CloudEvents type of a dead letter.
pub const DEAD_LETTER: &str = "triggerd.deadletter";

/// A request's body, and the headers that say what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// `Content-Type`
    pub content_type: &'static str,
    /// The `ce-` headers of binary mode: names and encoded values.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: String,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: String,
    datacontenttype: &'static str,
    data: &'a RawValue,
}

/// The event in the form that its binding asks for.
pub fn encode(event: &Event, payload: Payload) -> Result<Encoded, serde_json::Error> {
    match payload {
        Payload::CloudeventsStructured => Ok(Encoded {
            content_type: "application/cloudevents+json",
            headers: Vec::new(),
            body: serde_json::to_vec(&cloud_event(event))?,
        }),
        Payload::CloudeventsBinary => Ok(Encoded {
            content_type: "application/json",
            headers: headers(&cloud_event(event)),
            body: event.record.get().as_bytes().to_vec(),
        }),
        Payload::S3Records => Ok(Encoded {
            content_type: "application/json",
            headers: Vec::new(),
            body: format!("{{\"Records\":[{}]}}", event.record.get()).into_bytes(),
        }),
    }
}

#[derive(Serialize)]
struct DeadLetterEvent<'a> {
    #[serde(flatten)]
    event: CloudEvent<'a>,
    deaddelivery: String,
    deadfunction: String,
    deadreason: DeadReason,
    deaddetail: &'a str,
    deadtime: String,
    /// A JSON text, since attributes are plain values.
    deadattempts: String,
}

/// A dead letter for a handler function: the event as a structured CloudEvent of another type and id, with what is known
/// of its death as attributes. `data` is the record as it was sent, as in every form, so that a platform can hold it
/// against the rule.
pub fn encode_letter(event: &Event, id: DeliveryId, letter: &Obituary) -> Result<Encoded, serde_json::Error> {
    let dead = CloudEvent { id: id.to_string(), r#type: DEAD_LETTER.to_owned(), ..cloud_event(event) };
    let body = serde_json::to_vec(&DeadLetterEvent {
        event: dead,
        deaddelivery: letter.delivery.to_string(),
        deadfunction: letter.function.to_string(),
        deadreason: letter.reason,
        deaddetail: &letter.detail,
        deadtime: letter.died_at.to_string(),
        deadattempts: serde_json::to_string(&letter.attempts)?,
    })?;
    Ok(Encoded { content_type: "application/cloudevents+json", headers: Vec::new(), body })
}

fn cloud_event(event: &Event) -> CloudEvent<'_> {
    CloudEvent {
        specversion: "1.0",
        id: event.id.to_string(),
        source: source(event),
        r#type: format!("com.amazonaws.s3.{}", event.name.without_prefix()),
        subject: (!event.key.is_empty()).then_some(event.key.as_str()),
        time: event.time.to_string(),
        datacontenttype: "application/json",
        data: &event.record,
    }
}

fn headers(event: &CloudEvent<'_>) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("ce-specversion", event.specversion.to_owned()),
        ("ce-id", header_value(&event.id)),
        ("ce-source", header_value(&event.source)),
        ("ce-type", header_value(&event.r#type)),
        ("ce-time", header_value(&event.time)),
    ];
    headers.extend(event.subject.map(|subject| ("ce-subject", header_value(subject))));
    headers
}

fn source(event: &Event) -> String {
    #[derive(Deserialize, Default)]
    struct Origin {
        #[serde(default, rename = "eventSource")]
        event_source: String,
        #[serde(default, rename = "awsRegion")]
        region: String,
    }
    let origin: Origin = serde_json::from_str(event.record.get()).unwrap_or_default();
    let name = if origin.event_source.is_empty() { "s3" } else { &origin.event_source };
    let in_uri = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    let part = |text: &str| percent_encode(text, in_uri);
    format!("{}.{}.{}", part(name), part(&origin.region), part(&event.bucket))
}

fn header_value(text: &str) -> String {
    percent_encode(text, |byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'%')
}

fn percent_encode(text: &str, plain: impl Fn(u8) -> bool) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ok: std::fmt::Result = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        clock::Timestamp,
        delivery::FunctionRef,
        event::StorageName,
        event_name::EventName,
        ids::EventId,
        outcome::{Attempt, Class},
    };

    pub(crate) fn event(key: &str) -> Event {
        let record = format!(
            r#"{{"eventSource":"minio:s3","awsRegion":"","eventName":"s3:ObjectCreated:Put","s3":{{"object":{{"key":{}}}}}}}"#,
            serde_json::json!(key)
        );
        Event {
            id: EventId::of_record("default", record.as_bytes()),
            storage: StorageName::new("default"),
            bucket: "photos".into(),
            key: key.into(),
            name: EventName::new("s3:ObjectCreated:Put"),
            time: Timestamp::from_micros(1_763_740_000_123_456),
            size: Some(7),
            etag: None,
            content_type: None,
            version_id: None,
            sequencer: None,
            principal: "minioadmin".into(),
            user_metadata: std::collections::BTreeMap::new(),
            record: RawValue::from_string(record).unwrap(),
        }
    }

    #[test]
    fn structured_event_carries_the_record_as_sent() {
        let event = event("in/ü b.jpg");
        let encoded = encode(&event, Payload::CloudeventsStructured).unwrap();
        assert_eq!(encoded.content_type, "application/cloudevents+json");
        let body = String::from_utf8(encoded.body).unwrap();
        assert!(body.contains(&format!("\"data\":{}", event.record.get())), "{body}");
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json["specversion"], "1.0");
        assert_eq!(json["id"], event.id.to_string());
        assert_eq!(json["source"], "minio:s3..photos");
        assert_eq!(json["type"], "com.amazonaws.s3.ObjectCreated:Put");
        assert_eq!(json["subject"], "in/ü b.jpg");
        assert_eq!(json["time"], "2025-11-21T15:46:40.123456Z");
        assert_eq!(json["datacontenttype"], "application/json");
    }

    #[test]
    fn a_dead_letter_is_its_event_with_what_is_known_of_its_death() {
        let event = event("in/a.jpg");
        let attempt = Attempt {
            at: event.time,
            took_us: 7,
            class: Class::FunctionFault,
            status: Some(500),
            detail: "no such pixel".into(),
        };
        let letter = Obituary {
            delivery: DeliveryId::from_bytes([7; 16]),
            function: FunctionRef { platform: "local".into(), name: "thumb".into() },
            reason: DeadReason::AttemptsExhausted,
            detail: "no such pixel".into(),
            died_at: event.time,
            attempts: vec![attempt.clone()],
        };
        let encoded = encode_letter(&event, DeliveryId::from_bytes([8; 16]), &letter).unwrap();
        let body = String::from_utf8(encoded.body).unwrap();
        assert!(body.contains(&format!("\"data\":{}", event.record.get())), "{body}");
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&json["type"], &json["subject"]), (&"triggerd.deadletter".into(), &"in/a.jpg".into()));
        assert_eq!(json["id"], "08".repeat(16));
        assert_eq!(
            (&json["deaddelivery"], &json["deadfunction"]),
            (&"07".repeat(16).into(), &"local/thumb".into())
        );
        assert_eq!(json["deadreason"], "attempts_exhausted");
        let attempts: Vec<Attempt> = serde_json::from_str(json["deadattempts"].as_str().unwrap()).unwrap();
        assert_eq!(attempts, [attempt]);
    }

    #[test]
    fn binary_event_has_its_attributes_in_encoded_headers() {
        let encoded = encode(&event("Euro € 😀 \"5%\"\n"), Payload::CloudeventsBinary).unwrap();
        let subject = encoded.headers.iter().find(|(name, _)| *name == "ce-subject").unwrap();
        // The first words are the example in the CloudEvents HTTP binding.
        assert_eq!(subject.1, "Euro%20%E2%82%AC%20%F0%9F%98%80%20%225%25%22%0A");
        assert_eq!(encoded.content_type, "application/json");
        assert!(encoded.body.starts_with(b"{\"eventSource\""));
    }

    #[test]
    fn s3_records_hold_the_one_record() {
        let event = event("a");
        let encoded = encode(&event, Payload::S3Records).unwrap();
        assert_eq!(encoded.body, format!("{{\"Records\":[{}]}}", event.record.get()).into_bytes());
    }

    #[test]
    fn region_and_odd_sources_are_kept_in_their_fields() {
        let mut odd = event("");
        odd.record =
            RawValue::from_string(r#"{"eventSource":"aws:s3","awsRegion":"eu west"}"#.into()).unwrap();
        assert_eq!(source(&odd), "aws:s3.eu%20west.photos");
        odd.record = RawValue::from_string("{}".into()).unwrap();
        assert_eq!(source(&odd), "s3..photos");
        assert!(cloud_event(&odd).subject.is_none());
    }

    proptest! {
        #[test]
        fn every_key_makes_a_valid_header_that_decodes_to_it(key: String) {
            let value = header_value(&key);
            prop_assert!(http::HeaderValue::from_str(&value).is_ok());
            let mut bytes = Vec::new();
            let mut rest = value.bytes();
            while let Some(byte) = rest.next() {
                if byte == b'%' {
                    let digits: String = rest.by_ref().take(2).map(char::from).collect();
                    bytes.push(u8::from_str_radix(&digits, 16).unwrap());
                } else {
                    bytes.push(byte);
                }
            }
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), key);
        }
    }
}
