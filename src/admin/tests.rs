//! Every handler through the whole router: who may, what comes back, and what hostile input comes to.

use std::sync::atomic::Ordering;

use axum::body::{Body, to_bytes};
use http::{StatusCode, header};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{
    fakes::{LOCAL, OPERATOR, OTHER, World, node, state},
    wire::Explanation,
    *,
};
use crate::domain::{
    binding::State as BindingState,
    clock::Timestamp,
    ids::{BindingId, DeliveryId, EventId},
};
use crate::telemetry::RecentOutcome;

const LOOPBACK: Door = Door::Admin { loopback: true };

struct Api {
    world: Arc<World>,
    state: Arc<AdminState>,
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Value,
    text: String,
}

impl Answer {
    /// The answer as a problem document of this status and slug; its detail and remedy.
    #[track_caller]
    fn problem(&self, status: u16, slug: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(self.body["type"], format!("/problems/{slug}"));
        assert_eq!(self.body["status"], status);
        for member in ["title", "detail", "remedy"] {
            assert!(
                self.body[member].as_str().is_some_and(|text| !text.is_empty()),
                "{member}: {}",
                self.text
            );
        }
        format!("{} | {}", self.body["detail"], self.body["remedy"])
    }

    #[track_caller]
    fn is(&self, status: u16) -> &Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        &self.body
    }
}

impl Api {
    fn new() -> Self {
        let world = Arc::new(World::default());
        let state = Arc::new(state(&world));
        Self { world, state }
    }

    async fn send(&self, door: Door, token: &str, call: (&str, &str), body: impl Into<Body>) -> Answer {
        let (method, path) = call;
        let mut request = http::Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.raw(door, request.body(body.into()).unwrap()).await
    }

    async fn raw(&self, door: Door, request: http::Request<Body>) -> Answer {
        let answer = router(Arc::clone(&self.state), door).oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let text = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
        let body = serde_json::from_str(&text).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, body, text }
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(LOOPBACK, token, ("GET", path), "").await
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.send(LOOPBACK, token, ("POST", path), body.to_string()).await
    }

    async fn delete(&self, token: &str, path: &str) -> Answer {
        self.send(LOOPBACK, token, ("DELETE", path), "").await
    }

    /// Binds as this caller; the binding's id.
    async fn bind(&self, token: &str, request: &Value) -> BindingId {
        let answer = self.post(token, "/v1/bindings", request).await;
        answer.is(202)["id"].as_str().unwrap().parse().unwrap()
    }
}

fn request() -> Value {
    json!({"bucket": "photos", "events": ["s3:ObjectCreated:*"], "prefix": "in/", "platform": "local", "function": "thumb"})
}

fn with(field: &str, value: impl Into<Value>) -> Value {
    let mut request = request();
    request[field] = value.into();
    request
}

#[tokio::test]
async fn a_new_binding_is_accepted_and_the_reconciler_woken() {
    let api = Api::new();
    let answer = api.post(OPERATOR, "/v1/bindings", &request()).await;
    let body = answer.is(202);
    assert_eq!(
        (&body["state"], &body["storage"], &body["concurrency"]),
        (&json!("pending"), &json!("main"), &json!(16))
    );
    let id = body["id"].as_str().unwrap();
    assert_eq!(answer.headers[header::LOCATION], format!("/v1/bindings/{id}"));
    assert_eq!(api.world.calls(), ["bind by operator".to_owned(), format!("wake binding {id}")]);
    // Nothing of the secret.
    let secret = api.world.bindings.lock().unwrap().values().next().unwrap().secret.expose().to_owned();
    assert!(!answer.text.contains(&secret) && !answer.text.contains("whsec_"));
}

#[tokio::test]
async fn the_same_request_gives_the_same_binding_and_other_settings_are_a_conflict() {
    let api = Api::new();
    let id = api.bind(OPERATOR, &request()).await;
    let again = api.post(OPERATOR, "/v1/bindings", &with("events", json!(["ObjectCreated:*"]))).await;
    assert_eq!(again.is(200)["id"], id.to_string());
    let other = api.post(OPERATOR, "/v1/bindings", &with("concurrency", 3)).await;
    assert!(other.problem(409, "binding-conflict").contains(&id.to_string()));
    assert_eq!(other.body["binding"], id.to_string());
    api.delete(OPERATOR, &format!("/v1/bindings/{id}")).await.is(202);
    let going = api.post(OPERATOR, "/v1/bindings", &request()).await;
    assert!(going.problem(409, "binding-going").contains(&id.to_string()));
    assert_eq!(going.headers[header::RETRY_AFTER], "1");
}

#[tokio::test]
async fn a_wrong_request_names_the_field() {
    let api = Api::new();
    let refused = async |body: &Value, status, slug| {
        let answer = api.post(OPERATOR, "/v1/bindings", body).await;
        answer.problem(status, slug)
    };
    assert!(refused(&with("bukket", "x"), 400, "bad-request").await.contains("`bukket`"));
    assert!(
        refused(&with("retry", json!({"max_atempts": 3})), 400, "bad-request").await.contains("max_atempts")
    );
    assert!(refused(&with("concurrency", "many"), 400, "bad-request").await.contains("u32"));
    assert!(refused(&with("mode", "slow"), 400, "bad-request").await.contains("slow"));
    assert!(refused(&json!({"bucket": "photos"}), 400, "bad-request").await.contains("events"));
    assert!(refused(&json!([1]), 400, "bad-request").await.contains("JSON"));
    assert!(refused(&with("bucket", "No"), 422, "invalid-binding").await.contains("no bucket name"));
    assert!(refused(&with("events", json!(["s3:Nope"])), 422, "invalid-binding").await.contains("s3:Nope"));
    assert!(refused(&with("events", json!([])), 422, "invalid-binding").await.contains("at least one"));
    assert!(refused(&with("glob", "*.jpg"), 422, "invalid-binding").await.contains("glob"));
    assert!(refused(&with("function", "../x"), 422, "invalid-binding").await.contains("function name"));
    assert!(refused(&with("timeout_ms", 0), 422, "invalid-binding").await.contains("timeout_ms"));
    assert!(refused(&with("storage", "nas"), 422, "unknown-storage").await.contains("main"));
    let platform = refused(&with("platform", "lambda"), 422, "unknown-platform").await;
    assert!(platform.contains("local, other") && platform.contains("lambda"), "{platform}");
    let mut none = request();
    none.as_object_mut().unwrap().remove("platform");
    assert!(refused(&none, 400, "bad-request").await.contains("platform"));
    assert!(api.world.calls().is_empty());
}

#[tokio::test]
async fn hostile_input_is_refused_without_harm() {
    let api = Api::new();
    let huge = vec![b' '; MAX_BODY + 1];
    api.send(LOOPBACK, OPERATOR, ("POST", "/v1/bindings"), huge).await.problem(413, "too-large");
    for body in [&b"{"[..], b"", b"\xff\xfe", b"null", "[".repeat(100_000).as_bytes()] {
        let answer = api.send(LOOPBACK, OPERATOR, ("POST", "/v1/bindings"), body.to_vec()).await;
        answer.problem(400, "bad-request");
    }
    for id in ["nonsense", "%00", "%ff", "..%2f..%2fetc", "0123", "'%20OR%201=1"] {
        for path in [format!("/v1/bindings/{id}"), format!("/v1/dead-letters/{id}")] {
            api.get(OPERATOR, &path).await.problem(400, "bad-request");
        }
    }
    for query in ["?limit=-1", "?limit=x", "?before=1", "?binding=z", "?bogus=1"] {
        api.get(OPERATOR, &format!("/v1/dead-letters{query}")).await.problem(400, "bad-request");
    }
    let long = "x".repeat(100_000);
    let answer = api.post(OPERATOR, "/v1/bindings", &with("platform", long)).await;
    answer.problem(422, "unknown-platform");
    assert!(answer.text.len() < 2_000, "{}", answer.text.len());
    api.get(OPERATOR, "/v1/nothing").await.problem(404, "no-such-path");
    let answer = api.send(LOOPBACK, OPERATOR, ("PATCH", "/v1/bindings"), "").await;
    answer.problem(405, "no-such-method");
    assert!(answer.headers[header::ALLOW].to_str().unwrap().contains("POST"));
}

#[tokio::test]
async fn nobody_gets_in_without_a_token() {
    let api = Api::new();
    let paths = [
        ("GET", "/v1/bindings"),
        ("POST", "/v1/bindings"),
        ("GET", "/v1/bindings/x"),
        ("DELETE", "/v1/bindings/x"),
        ("GET", "/v1/dead-letters"),
        ("GET", "/v1/dead-letters/x"),
        ("DELETE", "/v1/dead-letters/x"),
        ("POST", "/v1/dead-letters/x/replay"),
        ("POST", "/v1/match"),
        ("GET", "/v1/outcomes"),
        ("GET", "/v1/nodes"),
        ("DELETE", "/v1/nodes/x"),
    ];
    for (method, path) in paths {
        for token in ["", "wrong", &OPERATOR[1..], &format!("{OPERATOR}x"), "ä"] {
            let answer = api.send(LOOPBACK, token, (method, path), "{}").await;
            answer.problem(401, "unauthorized");
            assert!(answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
            assert!(!answer.text.contains(OPERATOR));
        }
    }
    let basic = http::Request::get("/v1/bindings").header(header::AUTHORIZATION, "Basic b3A6b3A=");
    api.raw(LOOPBACK, basic.body(Body::empty()).unwrap()).await.problem(401, "unauthorized");
    assert!(!format!("{:?}", api.state.access).contains("token"));
}

#[tokio::test]
async fn a_platform_sees_and_changes_only_its_own() {
    let api = Api::new();
    let mut own = request();
    own.as_object_mut().unwrap().remove("platform");
    let local = api.bind(LOCAL, &own).await;
    let other = api.bind(OTHER, &with("platform", "other")).await;
    assert_eq!(api.world.calls()[0], "bind by local");
    let foreign = api.post(LOCAL, "/v1/bindings", &with("platform", "other")).await;
    assert!(foreign.problem(403, "other-platform").contains("other"));
    api.get(LOCAL, "/v1/bindings?platform=other").await.problem(403, "other-platform");

    let ids = |answer: Answer| -> Vec<String> {
        let list = answer.is(200)["bindings"].as_array().unwrap().clone();
        list.iter().map(|binding| binding["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(api.get(LOCAL, "/v1/bindings").await), [local.to_string()]);
    assert_eq!(ids(api.get(OPERATOR, "/v1/bindings").await).len(), 2);
    assert_eq!(ids(api.get(OPERATOR, "/v1/bindings?platform=other").await), [other.to_string()]);

    let letter = api.world.bury(other, "other", "in/a.jpg");
    let mine = api.world.bury(local, "local", "in/a.jpg");
    for (method, path) in [
        ("GET", format!("/v1/bindings/{other}")),
        ("DELETE", format!("/v1/bindings/{other}")),
        ("GET", format!("/v1/dead-letters/{letter}")),
        ("DELETE", format!("/v1/dead-letters/{letter}")),
        ("POST", format!("/v1/dead-letters/{letter}/replay")),
        ("GET", format!("/v1/outcomes?binding={other}")),
    ] {
        api.send(LOOPBACK, LOCAL, (method, &path), "").await.problem(404, "not-found");
    }
    assert!(api.world.letters.lock().unwrap().contains_key(&letter));
    let listed = api.get(LOCAL, "/v1/dead-letters").await;
    let listed = listed.is(200)["dead_letters"].as_array().unwrap();
    assert_eq!((listed.len(), &listed[0]["id"]), (1, &json!(mine.to_string())));
    api.get(LOCAL, &format!("/v1/dead-letters/{mine}")).await.is(200);
    api.get(LOCAL, "/v1/nodes").await.problem(403, "operator-only");
    api.delete(LOCAL, "/v1/nodes/x").await.problem(403, "operator-only");
    api.get(LOCAL, "/v1/outcomes").await.problem(400, "bad-request");
}

#[tokio::test]
async fn bindings_are_listed_in_pages() {
    let api = Api::new();
    let mut made = Vec::new();
    for number in 0..5 {
        made.push(api.bind(OPERATOR, &with("prefix", format!("{number}/"))).await);
    }
    made.sort();
    let mut seen = Vec::new();
    let mut path = "/v1/bindings?limit=2".to_owned();
    loop {
        let answer = api.get(OPERATOR, &path).await;
        let page: wire::Bindings = serde_json::from_value(answer.is(200).clone()).unwrap();
        seen.extend(page.bindings.iter().map(|binding| binding.id));
        let Some(next) = page.next else { break };
        path = format!("/v1/bindings?limit=2&after={next}");
    }
    assert_eq!(seen, made);
}

#[tokio::test]
async fn unbinding_deals_with_what_is_parked_as_asked() {
    let api = Api::new();
    let id = api.bind(OPERATOR, &request()).await;
    api.delete(OPERATOR, &format!("/v1/bindings/{id}?pending=keep")).await.problem(400, "bad-request");
    let answer = api.delete(OPERATOR, &format!("/v1/bindings/{id}?pending=discard")).await;
    assert_eq!(answer.is(202)["state"], "unbinding");
    assert_eq!(
        api.world.calls()[2..],
        ["unbind by operator".to_owned(), "clear Discard".to_owned(), format!("wake binding {id}")]
    );

    let id = api.bind(OPERATOR, &with("prefix", "other/")).await;
    let before = api.world.calls().len();
    api.delete(OPERATOR, &format!("/v1/bindings/{id}")).await.is(202);
    assert_eq!(api.world.calls()[before..], ["unbind by operator".to_owned(), format!("wake binding {id}")]);
    let unknown = BindingId::from_bytes([9; 16]);
    api.delete(OPERATOR, &format!("/v1/bindings/{unknown}")).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_binding_goes_even_when_the_queue_fails() {
    let api = Api::new();
    let id = api.bind(OPERATOR, &request()).await;
    api.world.sick.store(true, Ordering::Relaxed);
    let answer = api.delete(OPERATOR, &format!("/v1/bindings/{id}?pending=discard")).await;
    answer.problem(503, "stopping");
    assert_eq!(api.world.calls().last(), Some(&format!("wake binding {id}")));
}

#[tokio::test]
async fn relations_that_are_away_are_a_clear_503_and_dead_letters_go_on() {
    let api = Api::new();
    let id = api.bind(OPERATOR, &request()).await;
    let letter = api.world.bury(id, "local", "in/a.jpg");
    api.world.away.store(true, Ordering::Relaxed);
    for answer in [
        api.post(OPERATOR, "/v1/bindings", &request()).await,
        api.get(OPERATOR, "/v1/bindings").await,
        api.get(OPERATOR, &format!("/v1/bindings/{id}")).await,
        api.delete(OPERATOR, &format!("/v1/bindings/{id}")).await,
        api.get(OPERATOR, "/v1/nodes").await,
    ] {
        assert!(answer.problem(503, "relations-unavailable").contains("events go on firing"));
        assert_eq!(answer.headers[header::RETRY_AFTER], "5");
    }
    api.get(OPERATOR, "/v1/dead-letters").await.is(200);
    api.post(OPERATOR, &format!("/v1/dead-letters/{letter}/replay"), &json!(null)).await.is(202);
}

#[tokio::test]
async fn a_dead_letter_shows_its_event_attempts_and_reason() {
    let api = Api::new();
    let id = api.bind(OPERATOR, &request()).await;
    let letter = api.world.bury(id, "local", "in/ä b.jpg");
    let answer = api.get(OPERATOR, &format!("/v1/dead-letters/{letter}")).await;
    let body = answer.is(200);
    assert_eq!(
        (&body["reason"], &body["event"]["key"]),
        (&json!("attempts_exhausted"), &json!("in/ä b.jpg"))
    );
    assert_eq!(body["attempts"][0]["detail"], "exit status 1");
    assert_eq!(body["event"]["record"]["key"], "in/ä b.jpg");
    let typed: wire::DeadLetterView = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(typed.id, letter);
    let missing = DeliveryId::from_bytes([3; 16]);
    api.get(OPERATOR, &format!("/v1/dead-letters/{missing}")).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_replay_wakes_the_function_and_a_discard_forgets() {
    let api = Api::new();
    let id = api.bind(OPERATOR, &request()).await;
    let (one, two) = (api.world.bury(id, "local", "1"), api.world.bury(id, "local", "2"));
    let answer = api.post(OPERATOR, &format!("/v1/dead-letters/{one}/replay"), &json!(null)).await;
    assert_eq!(answer.is(202), &json!({"id": one.to_string(), "platform": "local", "function": "thumb"}));
    assert_eq!(api.world.calls().last().unwrap(), "wake function local/thumb");
    api.post(OPERATOR, &format!("/v1/dead-letters/{one}/replay"), &json!(null))
        .await
        .problem(404, "not-found");
    assert_eq!(api.delete(OPERATOR, &format!("/v1/dead-letters/{two}")).await.status, StatusCode::NO_CONTENT);
    api.delete(OPERATOR, &format!("/v1/dead-letters/{two}")).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_dead_letter_whose_binding_is_gone_is_not_replayed() {
    let api = Api::new();
    let letter = api.world.bury(BindingId::from_bytes([5; 16]), "local", "x");
    let answer = api.post(OPERATOR, &format!("/v1/dead-letters/{letter}/replay"), &json!(null)).await;
    answer.problem(409, "binding-gone");
    assert!(api.world.letters.lock().unwrap().contains_key(&letter));
}

#[tokio::test]
async fn dead_letters_are_listed_in_pages_and_by_binding() {
    let api = Api::new();
    let (a, b) = (BindingId::from_bytes([1; 16]), BindingId::from_bytes([2; 16]));
    for number in 0..3 {
        api.world.bury(a, "local", &number.to_string());
        api.world.bury(b, "local", &number.to_string());
    }
    let page = api.get(OPERATOR, &format!("/v1/dead-letters?binding={a}&limit=2")).await;
    let page: wire::DeadLetters = serde_json::from_value(page.is(200).clone()).unwrap();
    assert_eq!(page.dead_letters.len(), 2);
    let rest = format!("/v1/dead-letters?binding={a}&limit=2&before={}", page.next.unwrap());
    let rest = api.get(OPERATOR, &rest).await;
    let rest: wire::DeadLetters = serde_json::from_value(rest.is(200).clone()).unwrap();
    assert_eq!((rest.dead_letters.len(), rest.next), (1, None));
    assert!(rest.dead_letters.iter().chain(&page.dead_letters).all(|letter| letter.binding == a));
}

fn explanation(number: u8, platform: &str, fires: bool) -> Explanation {
    Explanation {
        binding: BindingId::from_bytes([number; 16]),
        platform: platform.into(),
        function: "thumb".into(),
        state: BindingState::Active,
        fires,
        reasons: if fires { vec![] } else { vec!["the key does not begin with `in/`".into()] },
    }
}

#[tokio::test]
async fn match_explains_outlines_and_whole_events() {
    let api = Api::new();
    *api.world.explanations.lock().unwrap() =
        vec![explanation(1, "local", false), explanation(2, "other", true), explanation(3, "local", true)];
    let outline =
        json!({"bucket": "photos", "key": "in/a b.jpg", "name": "ObjectRemoved:Delete", "principal": "eve"});
    let answer = api.post(OPERATOR, "/v1/match", &outline).await;
    let matched: wire::Matched = serde_json::from_value(answer.is(200).clone()).unwrap();
    assert_eq!(matched.fires, 2);
    assert_eq!(matched.bindings.iter().map(|one| one.fires).collect::<Vec<_>>(), [true, true, false]);
    {
        let explained = api.world.explained.lock().unwrap();
        let event = &explained[0];
        assert_eq!((event.name.as_str(), event.storage.as_str()), ("s3:ObjectRemoved:Delete", "main"));
        assert_eq!((event.key.as_str(), event.principal.as_str()), ("in/a b.jpg", "eve"));
    }
    let own = api.post(LOCAL, "/v1/match", &outline).await;
    assert_eq!(own.is(200)["bindings"].as_array().unwrap().len(), 2);

    let letter = api.world.bury(BindingId::from_bytes([1; 16]), "local", "whole");
    let event = api.get(OPERATOR, &format!("/v1/dead-letters/{letter}")).await.body["event"].clone();
    api.post(OPERATOR, "/v1/match", &json!({"event": event})).await.is(200);
    assert_eq!(api.world.explained.lock().unwrap().last().unwrap().key, "whole");

    api.post(OPERATOR, "/v1/match", &json!({"event": event, "key": "x"})).await.problem(400, "bad-request");
    let missing = api.post(OPERATOR, "/v1/match", &json!({"bucket": "photos"})).await;
    assert!(missing.problem(400, "bad-request").contains("key"));
    api.post(OPERATOR, "/v1/match", &json!({"bucket": "photos", "kee": ""}))
        .await
        .problem(400, "bad-request");
    let unknown = json!({"bucket": "photos", "key": "", "storage": "nas"});
    api.post(OPERATOR, "/v1/match", &unknown).await.problem(422, "unknown-storage");
    api.world.sick.store(true, Ordering::Relaxed);
    let failed = api.post(OPERATOR, "/v1/match", &outline).await;
    assert!(!failed.problem(500, "catalog-failed").contains("disk I/O"), "causes belong into the log");
}

#[tokio::test]
async fn outcomes_are_the_newest_first_and_of_one_binding() {
    let api = Api::new();
    let own = api.bind(LOCAL, &request()).await;
    for number in 0..3u8 {
        api.state.recent.note(RecentOutcome {
            at: Timestamp::from_micros(i64::from(number)),
            event: EventId::from_bytes([number; 16]),
            delivery: None,
            binding: (number > 0).then_some(own),
            bucket: "photos".into(),
            key: number.to_string(),
            name: "s3:ObjectCreated:Put".into(),
            outcome: "ok".into(),
            took_us: 1,
            detail: String::new(),
        });
    }
    let keys = |answer: Answer| -> Vec<String> {
        let list = answer.is(200)["outcomes"].as_array().unwrap().clone();
        list.iter().map(|one| one["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(api.get(OPERATOR, "/v1/outcomes").await), ["2", "1", "0"]);
    assert_eq!(keys(api.get(OPERATOR, "/v1/outcomes?limit=1").await), ["2"]);
    assert_eq!(keys(api.get(LOCAL, &format!("/v1/outcomes?binding={own}")).await), ["2", "1"]);
}

#[tokio::test]
async fn nodes_are_shown_and_forgotten_but_not_the_one_that_answers() {
    let api = Api::new();
    *api.world.nodes.lock().unwrap() = vec![node("old", 86_400), node("here", 0)];
    let answer = api.get(OPERATOR, "/v1/nodes").await;
    let nodes: wire::Nodes = serde_json::from_value(answer.is(200).clone()).unwrap();
    let shown: Vec<_> =
        nodes.nodes.iter().map(|node| (node.name.as_str(), node.this, node.silent_for_s)).collect();
    assert_eq!(shown, [("here", true, 0), ("old", false, 86_400)]);
    api.delete(OPERATOR, "/v1/nodes/here").await.problem(409, "node-alive");
    assert_eq!(api.delete(OPERATOR, "/v1/nodes/old").await.status, StatusCode::NO_CONTENT);
    api.delete(OPERATOR, "/v1/nodes/old").await.problem(404, "not-found");
}

#[tokio::test]
async fn health_and_metrics_are_open_on_loopback_only() {
    let api = Api::new();
    let live = api.get("", "/health/live").await;
    assert_eq!(live.is(200)["ok"], true);
    assert_eq!(api.get("", "/health/ready").await.is(200)["parts"][0]["name"], "queue");
    assert_eq!(api.get("", "/metrics").await.text, "triggerd_up 1\n");
    api.world.sick.store(true, Ordering::Relaxed);
    assert_eq!(api.get("", "/health/ready").await.is(503)["ok"], false);
    api.get("", "/health/live").await.is(200);
    let open = Door::admin("0.0.0.0:8360".parse().unwrap());
    for path in ["/health/live", "/health/ready", "/metrics"] {
        api.send(open, "", ("GET", path), "").await.problem(401, "unauthorized");
        api.send(open, LOCAL, ("GET", path), "").await.problem(403, "operator-only");
        api.send(Door::Callbacks, OPERATOR, ("GET", path), "").await.problem(404, "no-such-path");
    }
    assert_eq!(api.send(open, OPERATOR, ("GET", "/metrics"), "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn metrics_can_be_closed_on_loopback_too() {
    let mut api = Api::new();
    let mut closed = state(&api.world);
    closed.open_metrics = false;
    api.state = Arc::new(closed);
    api.get("", "/metrics").await.problem(401, "unauthorized");
    assert_eq!(api.get(OPERATOR, "/metrics").await.status, StatusCode::OK);
    api.get("", "/health/live").await.is(200);
}

#[tokio::test]
async fn the_callbacks_listener_carries_only_what_a_platform_needs() {
    let api = Api::new();
    let through = async |token: &str, method: &str, path: &str, body: String| {
        api.send(Door::Callbacks, token, (method, path), body).await
    };
    let answer = through(LOCAL, "POST", "/v1/bindings", request().to_string()).await;
    let id = answer.is(202)["id"].as_str().unwrap().to_owned();
    through(LOCAL, "GET", &format!("/v1/bindings/{id}"), String::new()).await.is(200);
    through(OTHER, "GET", &format!("/v1/bindings/{id}"), String::new()).await.problem(404, "not-found");
    let operator = through(OPERATOR, "GET", "/v1/bindings", String::new()).await;
    let wrong = through("wrong", "GET", "/v1/bindings", String::new()).await;
    operator.problem(401, "unauthorized");
    assert_eq!(operator.text, wrong.text);
    for path in ["/v1/dead-letters", "/v1/nodes", "/v1/outcomes", "/v1/match", "/metrics", "/health/ready"] {
        through(LOCAL, "GET", path, String::new()).await.problem(404, "no-such-path");
    }
    through(LOCAL, "DELETE", &format!("/v1/bindings/{id}"), String::new()).await.is(202);
}

#[tokio::test]
async fn confirmations_need_their_signature_and_no_token() {
    let api = Api::new();
    let id = api.bind(OPERATOR, &request()).await;
    for door in [LOOPBACK, Door::Callbacks] {
        let confirm = async |id: &str, signature: &str, body: Vec<u8>| {
            let path = format!("/v1/bindings/{id}/confirm");
            let request = http::Request::post(path).header("webhook-signature", signature);
            api.raw(door, request.body(Body::from(body)).unwrap()).await
        };
        let id = id.to_string();
        assert_eq!(confirm(&id, "good", b"{}".to_vec()).await.status, StatusCode::NO_CONTENT);
        confirm(&id, "bad", b"{}".to_vec()).await.problem(401, "bad-signature");
        confirm(&id, "good", b"odd".to_vec()).await.problem(400, "bad-request");
        confirm(&id, "good", b"stale".to_vec()).await.problem(409, "not-waiting");
        confirm(&BindingId::from_bytes([8; 16]).to_string(), "good", Vec::new())
            .await
            .problem(404, "not-found");
        confirm("x", "good", Vec::new()).await.problem(400, "bad-request");
        confirm(&id, "good", vec![b'x'; MAX_BODY + 1]).await.problem(413, "too-large");
    }
    api.world.away.store(true, Ordering::Relaxed);
    let path = format!("/v1/bindings/{id}/confirm");
    api.send(LOOPBACK, "", ("POST", &path), "").await.problem(503, "relations-unavailable");
}

#[tokio::test]
async fn results_go_to_whom_waits_for_them() {
    let api = Api::new();
    let callback = async |token: &str| {
        api.send(Door::Callbacks, "", ("POST", &format!("/v1/callbacks/{token}")), "result").await
    };
    assert_eq!(callback("known").await.status, StatusCode::NO_CONTENT);
    assert_eq!(callback("again").await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.world.calls()[0], "callback known of 6 bytes");
    callback("unheard-of").await.problem(404, "unknown-callback");
    callback("unsigned").await.problem(401, "callback-refused");
    let elsewhere = callback("elsewhere").await;
    assert!(elsewhere.problem(421, "other-node").contains("node2"));
    let later = callback("later").await;
    later.problem(503, "not-recorded");
    assert_eq!(later.headers[header::RETRY_AFTER], "5");
    let calls = api.world.calls().len();
    callback(&"x".repeat(300)).await.problem(404, "unknown-callback");
    assert_eq!(api.world.calls().len(), calls);
}

#[tokio::test]
async fn more_requests_than_there_is_room_for_are_put_off() {
    let api = Api::new();
    let room = Arc::new(Semaphore::new(0));
    let busy =
        Router::new().route("/", get(|| async { "in" })).layer(middleware::from_fn_with_state(room, bounded));
    let answer = busy.oneshot(http::Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
    api.get("", "/health/live").await.is(200);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_is_ended() {
    let stuck = Router::new()
        .route("/", get(|| async { std::future::pending::<()>().await }))
        .layer(middleware::from_fn_with_state(Arc::new(Semaphore::new(1)), bounded));
    let answer = stuck.oneshot(http::Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "5");
}

#[tokio::test]
async fn what_has_begun_is_finished_when_the_listener_stops() {
    let api = Api::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (begun, wait) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (told, waited) = (Arc::clone(&begun), Arc::clone(&wait));
    let slow = router(Arc::clone(&api.state), LOOPBACK).route(
        "/slow",
        get(move || async move {
            told.notify_one();
            waited.notified().await;
            "done"
        }),
    );
    let served = tokio::spawn(serve(listener, slow, stop.clone()));
    let asked = tokio::spawn(reqwest::get(format!("http://{address}/slow")));
    begun.notified().await;
    stop.cancel();
    wait.notify_one();
    assert_eq!(asked.await.unwrap().unwrap().text().await.unwrap(), "done");
    served.await.unwrap().unwrap();
    assert!(reqwest::get(format!("http://{address}/health/live")).await.is_err());
}
