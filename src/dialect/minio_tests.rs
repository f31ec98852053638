use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::{Value, json};

use super::super::decode as decode_bytes;
use super::*;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/minio")
}

fn storage() -> StorageName {
    StorageName::new("default")
}

fn form(bytes: &[u8]) -> Result<Vec<Event>, Undecodable> {
    decode_bytes(bytes, &storage(), KeyEncoding::Form)
}

/// The one event in a recorded body of a target.
fn recorded(file: &str) -> Event {
    let bytes = fs::read(fixtures().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let events = form(&bytes).unwrap_or_else(|error| panic!("{file}: {error}"));
    let [event] =
        events.try_into().unwrap_or_else(|events: Vec<_>| panic!("{file}: {} events", events.len()));
    event
}

/// The events in a recorded piece of the listen stream, each line begun with the stream's blanks.
fn heard(file: &str) -> Vec<Event> {
    let text = fs::read_to_string(fixtures().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let line = |line: &str| {
        decode_bytes(format!("   {line}").as_bytes(), &storage(), KeyEncoding::Raw)
            .unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    text.lines().flat_map(line).collect()
}

fn files(prefix: &str, suffix: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(prefix) && name.ends_with(suffix))
        .collect();
    names.sort();
    names
}

/// `object-removed-multi-delete` for `webhook-object-removed-multi-delete-2.json`.
fn operation(file: &str) -> String {
    let stem = file.split_once('-').unwrap().1.rsplit_once('.').unwrap().0;
    let several = ["multi-delete-", "snowball-"].iter().any(|name| stem.contains(name));
    if several { stem.rsplit_once('-').unwrap().0.to_owned() } else { stem.to_owned() }
}

/// A record that decodes, to be damaged.
fn sample() -> Value {
    json!({
        "eventVersion": "2.0", "eventSource": "minio:s3", "awsRegion": "",
        "eventTime": "2026-11-21T15:38:39.578Z", "eventName": "s3:ObjectCreated:Put",
        "userIdentity": {"principalId": "app"}, "requestParameters": null,
        "responseElements": null,
        "s3": {"bucket": {"name": "photos"}, "object": {"key": "in%2Fa+b.jpg", "size": 5, "userMetadata": null}},
    })
}

fn body(record: &Value) -> Vec<u8> {
    json!({"Records": [record]}).to_string().into_bytes()
}

#[test]
fn every_recorded_notification_decodes() {
    let targets: Vec<String> =
        [files("webhook-", ".json"), files("mqtt-", ".json")].into_iter().flatten().collect();
    assert_eq!(targets.len(), 75 + 74, "recordings are missing");
    for file in targets {
        let event = recorded(&file);
        assert!(event.name.is_known() && !event.key.is_empty(), "{file}");
        assert_eq!(
            event.size.is_some(),
            event.name.as_str().starts_with("s3:ObjectCreated:")
                || event.name.as_str().starts_with("s3:ObjectAccessed:"),
            "{file}"
        );
    }
    let lines: usize = files("listen-", ".ndjson").iter().map(|file| heard(file).len()).sum();
    // Three operations have several lines; the ping has none.
    assert!(lines > 70, "{lines} lines of listen");
}

#[test]
fn webhook_and_mqtt_bring_the_same_event_under_the_same_id() {
    let ids = |prefix: &str| -> BTreeSet<(String, EventId)> {
        files(prefix, ".json").iter().map(|file| (operation(file), recorded(file).id)).collect()
    };
    let mut webhook = ids("webhook-");
    webhook.retain(|(operation, _)| operation != "object-created-put-region");
    assert_eq!(webhook.len(), 74, "two recordings have one identity");
    assert_eq!(webhook, ids("mqtt-"));
}

#[test]
fn listen_brings_the_same_keys_raw() {
    let mut compared = 0;
    for listen in files("listen-", ".ndjson") {
        let what = operation(&listen);
        let seen =
            |event: Event| (event.bucket, event.key, event.name.to_string(), event.size, event.version_id);
        let raw: BTreeSet<_> = heard(&listen).into_iter().map(seen).collect();
        let encoded: BTreeSet<_> = files("webhook-", ".json")
            .iter()
            .filter(|file| operation(file) == what)
            .map(|file| seen(recorded(file)))
            .collect();
        if !encoded.is_empty() {
            assert_eq!(raw, encoded, "{what}");
            compared += 1;
        }
    }
    assert!(compared >= 68, "{compared} compared");
}

#[test]
fn odd_keys_are_what_the_user_wrote() {
    let table = [
        ("space", "in/a b  c.txt"),
        ("plus", "in/a+b c.txt"),
        ("percent", "in/100%.txt"),
        ("percent-encoded-name", "in/%2F%20%41.txt"),
        ("chinese", "图片/照片 一.jpg"),
        ("emoji", "in/😀.txt"),
        ("nfd", "in/e\u{301}.txt"),
        ("hash-question", "in/a#b?c=d&e.txt"),
        ("html", "in/<a>&'\"b.txt"),
        ("special", "in/!*'();:@&=$,[]~-_.txt"),
        ("glob", "in/*?.txt"),
        ("control", "in/tab\tnl\n.txt"),
        ("del-control", "in/\u{1}\u{7f}.txt"),
        ("line-separator", "in/\u{2028}\u{2029}.txt"),
        ("leading-slash", "lead.txt"),
        ("backslash", "in\\b.txt"),
        ("trailing-space", "in/end "),
    ];
    for (file, key) in table {
        assert_eq!(recorded(&format!("webhook-object-created-put-key-{file}.json")).key, key);
    }
    assert_eq!(recorded("webhook-object-created-put-directory.json").key, "dir/");
    let long = |name: &str| recorded(&format!("webhook-object-created-put-key-long-{name}.json")).key.len();
    assert_eq!(["1000", "1024", "unicode"].map(long), [1_000, 1_024, 994]);
}

#[test]
fn fields_are_what_was_done() {
    let event = recorded("webhook-object-created-put-metadata.json");
    assert_eq!((event.bucket.as_str(), event.key.as_str()), ("fixtures", "in/meta.jpg"));
    assert_eq!(event.time.to_string().split('T').next(), Some("2026-11-21"));
    assert_eq!(event.content_type.as_deref(), Some("image/jpeg"));
    assert_eq!(event.user_metadata["X-Amz-Meta-Note"], "a<b>&c");
    assert_eq!((event.size, event.principal.as_str()), (Some(5), "minioadmin"));
    assert_eq!(event.version_id, None);
    assert_eq!(recorded("webhook-object-created-put-empty.json").size, Some(0));
    assert_eq!(recorded("webhook-object-removed-delete.json").size, None);
    assert_eq!(recorded("webhook-suspended-object-created-put.json").version_id.as_deref(), Some("null"));
    assert_eq!(recorded("webhook-object-created-put-anonymous.json").principal, "");
    let bucket = heard("listen-bucket-created.ndjson");
    assert_eq!((bucket[0].key.as_str(), bucket[0].name.as_str()), ("", "s3:BucketCreated:*"));
}

#[test]
fn pings_hold_no_events() {
    for ping in ["{\"Records\":null}", "{\"Records\":[]}", "   {\"Records\":null}\n"] {
        assert!(form(ping.as_bytes()).unwrap().is_empty(), "{ping}");
    }
    assert!(heard("listen-ping.ndjson").is_empty());
}

#[test]
fn what_other_versions_send_or_leave_out_does_not_matter() {
    let mut record = sample();
    record["eventName"] = json!("s3:ObjectCreated:Teleported");
    record["eventVersion"] = json!(23);
    record["eventSource"] = json!("rustfs:s3");
    record["novelty"] = json!({"deep": [1, 2]});
    record.as_object_mut().unwrap().remove("userIdentity");
    let event = form(&body(&record)).unwrap().remove(0);
    assert!(!event.name.is_known());
    assert_eq!((event.key.as_str(), event.principal.as_str()), ("in/a b.jpg", ""));
    record["eventName"] = json!("ObjectRemoved:Delete");
    assert_eq!(form(&body(&record)).unwrap()[0].name.as_str(), "s3:ObjectRemoved:Delete");
    record["s3"]["object"] = json!({"key": ""});
    assert_eq!(form(&body(&record)).unwrap()[0].key, "");
}

#[test]
fn identity_is_of_the_bytes_as_they_were_sent() {
    let record = r#"{ "eventTime":"2026-11-21T15:38:39.578Z" , "eventName":"s3:ObjectCreated:Put","s3":{"bucket":{"name":"b"},"object":{"key":"k"}}}"#;
    let sent = format!("{{\"Records\":[ {record} ,{record}]}}");
    let events = form(sent.as_bytes()).unwrap();
    assert_eq!(events.len(), 2);
    for event in events {
        assert_eq!(event.id, EventId::of_record("default", record.as_bytes()));
        assert_eq!(event.record.get(), record);
    }
}

type Change<'a> = &'a dyn Fn(&mut Value);

#[test]
fn errors_name_the_field() {
    let refused = |change: Change<'_>| {
        let mut record = sample();
        change(&mut record);
        form(&body(&record)).unwrap_err().to_string()
    };
    let cases: [(Change<'_>, &str); 14] = [
        (&|r| r["eventName"] = json!(null), "Records[0].eventName is missing"),
        (&|r| r["eventName"] = json!(""), "Records[0].eventName is missing"),
        (&|r| r["eventName"] = json!(5), "Records[0].eventName cannot be read: invalid type: integer"),
        (&|r| r["eventTime"] = json!("yesterday"), "Records[0].eventTime cannot be read"),
        (&|r| r["eventTime"] = json!(null), "Records[0].eventTime is missing"),
        (&|r| r["s3"] = json!(null), "Records[0].s3.bucket.name is missing"),
        (&|r| r["s3"]["bucket"] = json!({}), "Records[0].s3.bucket.name is missing"),
        (&|r| r["s3"]["bucket"]["name"] = json!(["b"]), "Records[0].s3.bucket.name cannot be read"),
        (&|r| r["s3"]["object"] = json!(null), "Records[0].s3.object.key is missing"),
        (
            &|r| r["s3"]["object"]["key"] = json!("a%zz"),
            "Records[0].s3.object.key cannot be read: the percent sign at byte 1",
        ),
        (
            &|r| r["s3"]["object"]["key"] = json!("%FF"),
            "Records[0].s3.object.key cannot be read: the decoded bytes",
        ),
        (&|r| r["s3"]["object"]["size"] = json!(-1), "Records[0].s3.object.size cannot be read"),
        (
            &|r| r["s3"]["object"]["userMetadata"] = json!({"a": 1}),
            "Records[0].s3.object.userMetadata.a cannot be read",
        ),
        (&|r| *r = json!([]), "Records[0] cannot be read"),
    ];
    for (change, message) in cases {
        let error = refused(change);
        assert!(error.contains(message), "{error} does not say {message}");
    }
}

#[test]
fn bodies_that_are_no_notification_are_refused() {
    let cases: [(&[u8], &str); 10] = [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b"{\"Records\":[", "not JSON"),
        (b"{\"Records\":null} x", "not JSON"),
        (b"\xff{}", "not UTF-8 from byte 0"),
        (b"{}", "`Records`"),
        (b"{\"Records\":5}", "Records cannot be read"),
        (b"[null,null]", "(the whole body)"),
        (b"{\"Records\":null,\"Records\":[]}", "duplicate field `Records`"),
        (b"{\"Key\":7,\"Records\":[]}", "Key cannot be read"),
    ];
    for (bytes, message) in cases {
        let error = form(bytes).unwrap_err().to_string();
        assert!(error.contains(message), "{error} does not say {message}");
    }
}

#[test]
fn the_same_field_twice_is_refused() {
    let twice = |from: &str, to: &str| {
        let text = String::from_utf8(body(&sample())).unwrap().replace(from, to);
        form(text.as_bytes()).unwrap_err().to_string()
    };
    let error = twice("\"key\":", "\"key\":\"x\",\"key\":");
    assert!(error.contains("Records[0].s3.object") && error.contains("duplicate field `key`"), "{error}");
    let error = twice("\"userMetadata\":null", "\"userMetadata\":{\"a\":\"1\",\"a\":\"2\"}");
    assert!(error.contains("userMetadata") && error.contains("`a` twice"), "{error}");
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let sent = |key: &str, encoding| {
        let body =
            json!({"EventName": "s3:ObjectCreated:Put", "Key": key, "Records": [sample()]}).to_string();
        decode_bytes(body.as_bytes(), &storage(), encoding)
    };
    assert_eq!(sent("photos/in/a b.jpg", KeyEncoding::Form).unwrap().len(), 1);
    let error = sent("photos/in/a+b.jpg", KeyEncoding::Form).unwrap_err().to_string();
    assert!(error.contains("the field Key"), "{error}");
    assert!(sent("photos/in/a b.jpg", KeyEncoding::Raw).is_err());
}

#[test]
fn hostile_sizes_are_refused() {
    let list = |count: usize| {
        let record = sample().to_string();
        format!("{{\"Records\":[{}]}}", vec![record; count].join(","))
    };
    assert_eq!(form(list(MAX_RECORDS).as_bytes()).unwrap().len(), MAX_RECORDS);
    let error = form(list(MAX_RECORDS + 1).as_bytes()).unwrap_err().to_string();
    assert!(error.contains("Records") && error.contains("more than 1000"), "{error}");

    let deep = format!("{{\"Key\":{}1{},\"Records\":null}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(form(deep.as_bytes()).is_err());
    let mut record = sample();
    record["eventName"] = json!(vec!["x"; 10_000]);
    assert!(form(&body(&record)).unwrap_err().to_string().len() < 1_000);
}
