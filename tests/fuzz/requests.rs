//! Bindings as users and platforms ask for them: refused with a reason, or kept as they were meant.

use triggerd::{
    admin::wire::BindingRequest,
    domain::{binding::BindingSpec, event_name::EventName},
};

use crate::{
    mangle::{Dice, mangled},
    run,
};

const REQUESTS: [&str; 3] = [
    r#"{"storage":"default","bucket":"photos","events":["s3:ObjectCreated:*"],"prefix":"in/","suffix":".jpg",
        "platform":"local","function":"thumb"}"#,
    r#"{"bucket":"docs","events":["s3:ObjectCreated:Put","s3:ObjectRemoved:*","s3:ObjectAccessed:Get"],
        "glob":"in/**/{a,b}*.[jp]pg","platform":"local","function":"index","mode":"async","await_result_s":60,
        "retry":{"max_attempts":3,"first_wait_ms":10,"max_wait_ms":100},"rate_limit":2.5,"concurrency":4,
        "timeout_ms":1000,"max_event_age_s":3600,"ignore_principals":["app"],"dead_letter_function":"dead"}"#,
    r#"{"bucket":"any","events":["s3:ObjectCreated:*"],"function":"all","prefix":"","suffix":"","twin":true}"#,
];

/// As the admin API makes a binding of a request, with what its config knows in the place of what is left out.
fn spec_of(body: &[u8]) -> Result<BindingSpec, String> {
    let mut request: BindingRequest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    request.storage.get_or_insert_with(|| "default".to_owned());
    request.platform.get_or_insert_with(|| "local".to_owned());
    let spec: BindingSpec =
        serde_json::to_value(&request).and_then(serde_json::from_value).map_err(|error| error.to_string())?;
    spec.validate().map_err(|error| error.to_string())?;
    Ok(spec)
}

/// Whether these affixes match, as one would explain it.
fn by_affixes(request: &BindingRequest, key: &str) -> Option<bool> {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let (prefix, suffix) = (text(&request.prefix), text(&request.suffix));
    text(&request.glob).is_empty().then(|| key.starts_with(&prefix) && key.ends_with(&suffix))
}

#[test]
fn a_binding_is_refused_with_a_reason_or_matches_the_same_after_it_was_kept() {
    let requests = REQUESTS.map(|request| request.as_bytes().to_vec());
    assert!(requests.iter().all(|request| spec_of(request).is_ok()), "what is spoiled is good at first");
    let names = ["s3:ObjectCreated:Put", "s3:ObjectRemoved:Delete", "s3:ObjectAccessed:Get", "s3:Made:Up"];
    run("bindings", 20_000, |input| {
        let mut dice = Dice::new(input);
        let fresh = dice.text_of(&['i', 'n', '/', 'a', 'b', '.', 'j', 'p', 'g', '*', 'é', '"', '\\'], 16);
        let body = mangled(&requests, &mut dice);
        let spec = match spec_of(&body) {
            Ok(spec) => spec,
            Err(reason) => return assert!(!reason.is_empty() && reason.len() < 4_000, "{reason}"),
        };
        let written = serde_json::to_string(&spec).unwrap();
        let kept: BindingSpec = serde_json::from_str(&written).unwrap();
        assert_eq!(kept, spec, "{written}");
        assert_eq!(kept.identity(), spec.identity());
        assert_eq!(kept.validate(), Ok(()));
        let request: BindingRequest = serde_json::from_slice(&body).unwrap();
        for key in [fresh.as_str(), "in/a.jpg", "in/x/b1.ppg", "in/", ".jpg", ""] {
            let matches = spec.filter.keys.matches(key);
            assert_eq!(kept.filter.keys.matches(key), matches, "{written} {key}");
            assert!(!matches || key.starts_with(spec.filter.keys.literal_prefix()), "{written} {key}");
            if let Some(wanted) = by_affixes(&request, key) {
                assert_eq!(matches, wanted, "{written} {key}");
            }
        }
        for name in names.map(EventName::new) {
            assert_eq!(kept.filter.events.contains(&name), spec.filter.events.contains(&name), "{written}");
        }
    });
}
