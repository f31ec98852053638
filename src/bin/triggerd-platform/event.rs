//! The event in an invocation's body: what the rule is held against, and what the function is told.
//!
//! Three forms are taken: CloudEvents binary (`ce-*` headers, the body is the S3 record), CloudEvents
//! structured (`application/cloudevents+json`, `data` is the S3 record), S3 records
//! (`application/json`, `Records` with one record). Name, bucket and key come from the record, because
//! the body is signed and the headers are not.

use axum::http::{HeaderMap, header};
use serde_json::Value;
use std::collections::BTreeMap;

/// Attributes beyond these bounds are left out of the function's environment.
const MAX_ATTRIBUTES: usize = 32;
const MAX_ATTRIBUTE: usize = 2048;

/// One event, as far as this platform needs to understand it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// With its `s3:`, such as `s3:ObjectCreated:Put`.
    pub(crate) name: String,
    pub(crate) bucket: String,
    /// Decoded: as the object is called in the bucket.
    pub(crate) key: String,
    /// CloudEvents attributes as the environment `CE_ID`, `CE_TYPE`, …; none with S3 records.
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Event {
    /// Reads the body, or says in words why it cannot be.
    pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, String> {
        let document: Value =
            serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
        let content_type =
            headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let (record, attributes) = match media_type.as_str() {
            "application/cloudevents+json" => (&document["data"], structured(&document)),
            "application/json" if headers.contains_key("ce-specversion") => (&document, binary(headers)),
            "application/json" => match document["Records"].as_array().map(Vec::as_slice) {
                Some([record]) => (record, BTreeMap::new()),
                _ => return Err("`Records` must be a list of one record".to_owned()),
            },
            other => {
                return Err(format!(
                    "content type {other:?} is none of application/json, application/cloudevents+json"
                ));
            }
        };
        let field = |path: &str| {
            let text = record.pointer(path).and_then(Value::as_str);
            text.ok_or_else(|| format!("the record has no text at {path}"))
        };
        let name = field("/eventName")?;
        let key = decode(field("/s3/object/key")?, true).ok_or("the record's key is not UTF-8")?;
        let event = Self {
            name: if name.starts_with("s3:") { name.to_owned() } else { format!("s3:{name}") },
            bucket: field("/s3/bucket/name")?.to_owned(),
            key,
            attributes,
        };
        if [&event.name, &event.bucket, &event.key]
            .into_iter()
            .any(|text| text.len() > 1024 || text.contains('\0'))
        {
            return Err("event name, bucket or key has a NUL or more than 1024 bytes".to_owned());
        }
        Ok(event)
    }
}

fn structured(document: &Value) -> BTreeMap<String, String> {
    let fields = document.as_object().into_iter().flatten();
    keep(fields.filter_map(|(name, value)| match value {
        Value::String(text) if name != "data_base64" => Some((name.clone(), text.clone())),
        Value::Number(_) | Value::Bool(_) => Some((name.clone(), value.to_string())),
        _ => None,
    }))
}

fn binary(headers: &HeaderMap) -> BTreeMap<String, String> {
    keep(headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix("ce-")?;
        Some((name.to_owned(), decode(value.to_str().ok()?, false)?))
    }))
}

fn keep(attributes: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let sound = |name: &str| {
        name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    attributes
        .filter(|(name, value)| sound(name) && value.len() <= MAX_ATTRIBUTE && !value.contains('\0'))
        .take(MAX_ATTRIBUTES)
        .map(|(name, value)| (format!("CE_{}", name.to_ascii_uppercase()), value))
        .collect()
}

/// Undoes percent-encoding, and the `+` for a space of form-urlencoding where `form` says so. A percent
/// sign that begins no escape stands for itself; `None` when the result is not UTF-8.
fn decode(text: &str, form: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = tail.get(..2).filter(|digits| first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        if let Some(value) =
            escape.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
        {
            bytes.push(value);
            rest = &tail[2..];
        } else {
            bytes.push(if form && first == b'+' { b' ' } else { first });
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_as_forms_and_odd_percent_signs_stand_for_themselves() {
        for (coded, key) in [
            ("a%2Fb+c%2Bd.txt", "a/b c+d.txt"),
            ("100%25.txt", "100%.txt"),
            ("%E6%97%A5%2F%20", "日/ "),
            ("50%", "50%"),
            ("a%zz%4", "a%zz%4"),
        ] {
            assert_eq!(decode(coded, true).as_deref(), Some(key), "{coded}");
        }
        assert_eq!(decode("%ff", true), None);
        assert_eq!(decode("a+b%20c", false).as_deref(), Some("a+b c"));
    }
}
