//! Dead letters, matching, outcomes, nodes, results.

use super::*;
use crate::{
    admin::wire::Explanation,
    dispatch::{Flow, LastCalls},
    domain::{
        binding::State as BindingState,
        clock::Timestamp,
        delivery::FunctionRef,
        ids::{DeliveryId, EventId},
        outcome::Class,
    },
    queue::{Results, Wait},
    telemetry::RecentOutcome,
};

#[tokio::test]
async fn a_dead_letter_shows_its_event_attempts_and_reason() {
    let api = Api::new().await;
    let id = api.bind(OPERATOR, &request()).await;
    let letter = api.world.bury(id, "local", "in/ä b.jpg").await;
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
    let api = Api::new().await;
    let id = api.bind(OPERATOR, &request()).await;
    let (one, two) = (api.world.bury(id, "local", "1").await, api.world.bury(id, "local", "2").await);
    let answer = api.post(OPERATOR, &format!("/v1/dead-letters/{one}/replay"), &json!(null)).await;
    assert_eq!(answer.is(202), &json!({"id": one.to_string(), "platform": "local", "function": "thumb"}));
    assert_eq!(api.world.calls().last().unwrap(), "wake function local/thumb");
    let again = api.post(OPERATOR, &format!("/v1/dead-letters/{one}/replay"), &json!(null)).await;
    assert_eq!(again.is(202)["already"], true, "asked for twice, it goes once");
    assert_eq!(api.world.calls().iter().filter(|call| call.starts_with("wake function")).count(), 1);
    let stranger = api.post(OTHER, &format!("/v1/dead-letters/{one}/replay"), &json!(null)).await;
    stranger.problem(404, "not-found");
    assert_eq!(api.delete(OPERATOR, &format!("/v1/dead-letters/{two}")).await.status, StatusCode::NO_CONTENT);
    api.delete(OPERATOR, &format!("/v1/dead-letters/{two}")).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_dead_letter_whose_binding_is_gone_is_not_replayed() {
    let api = Api::new().await;
    let letter = api.world.bury(BindingId::from_bytes([5; 16]), "local", "x").await;
    let answer = api.post(OPERATOR, &format!("/v1/dead-letters/{letter}/replay"), &json!(null)).await;
    answer.problem(409, "binding-gone");
    assert!(api.world.letters().await.contains(&letter));
}

#[tokio::test]
async fn a_dead_letter_whose_binding_is_gone_goes_to_one_that_fires_the_same_function_for_it() {
    let api = Api::new().await;
    let gone = BindingId::from_bytes([5; 16]);
    let (one, two) = (api.world.bury(gone, "local", "x").await, api.world.bury(gone, "local", "y").await);
    let mut other = explanation(3, "local", true);
    other.function = "another".into();
    let heir = explanation(4, "local", true);
    *api.world.explanations.lock().unwrap() =
        vec![explanation(1, "local", false), explanation(2, "other", true), other];
    let replay = json!({"binding": gone.to_string()});
    let batch = api.post(OPERATOR, "/v1/dead-letters/replay", &replay).await;
    assert_eq!((&batch.is(200)["done"], &batch.body["skipped"]), (&json!([]), &json!(2)));
    api.world.explanations.lock().unwrap().push(heir);
    api.post(OPERATOR, &format!("/v1/dead-letters/{one}/replay"), &json!(null)).await.is(202);
    let batch = api.post(OPERATOR, "/v1/dead-letters/replay", &replay).await;
    assert_eq!((&batch.is(200)["done"], &batch.body["skipped"]), (&json!([two.to_string()]), &json!(0)));
    for id in [one, two] {
        let replayed = api.world.queue.parked(id).await.unwrap().unwrap();
        assert_eq!(replayed.binding, BindingId::from_bytes([4; 16]));
    }
}

#[tokio::test]
async fn dead_letters_are_listed_in_pages_and_by_binding() {
    let api = Api::new().await;
    let (a, b) = (BindingId::from_bytes([1; 16]), BindingId::from_bytes([2; 16]));
    for number in 0..3 {
        api.world.bury(a, "local", &number.to_string()).await;
        api.world.bury(b, "local", &number.to_string()).await;
    }
    let page = api.get(OPERATOR, &format!("/v1/dead-letters?binding={a}&limit=2")).await;
    let page: wire::DeadLetters = serde_json::from_value(page.is(200).clone()).unwrap();
    assert_eq!(page.dead_letters.len(), 2);
    let rest = format!("/v1/dead-letters?binding={a}&limit=2&cursor={}", page.next.unwrap());
    let rest = api.get(OPERATOR, &rest).await;
    let rest: wire::DeadLetters = serde_json::from_value(rest.is(200).clone()).unwrap();
    assert_eq!((rest.dead_letters.len(), rest.next), (1, None));
    assert!(rest.dead_letters.iter().chain(&page.dead_letters).all(|letter| letter.binding == a));
}

#[tokio::test]
async fn batches_deal_with_what_fits_and_is_the_callers() {
    let api = Api::new().await;
    let bound = api.bind(OPERATOR, &request()).await;
    for number in 0..3 {
        api.world.bury(bound, "local", &format!("in/{number}")).await;
        api.world.bury(bound, "other", &format!("out/{number}")).await;
    }
    let replay = "/v1/dead-letters/replay";
    let mut ask = json!({"function": "local/thumb", "limit": 2});
    let first = api.post(OPERATOR, replay, &ask).await;
    let first: wire::LetterBatch = serde_json::from_value(first.is(200).clone()).unwrap();
    assert_eq!((first.done.len(), first.skipped, first.left), (2, 0, 1));
    ask["cursor"] = first.next.unwrap().into();
    let second = api.post(OPERATOR, replay, &ask).await;
    let second: wire::LetterBatch = serde_json::from_value(second.is(200).clone()).unwrap();
    assert_eq!((second.done.len(), second.next), (1, None));

    let own = api.post(LOCAL, "/v1/dead-letters/discard", &json!({"all": true, "why": "x"})).await;
    assert_eq!(own.is(200)["done"], json!([]), "what is another platform's is not touched");
    for name in ["key_prefix", "bucket", "function", "platform"] {
        let all = api.post(OPERATOR, "/v1/dead-letters/discard", &json!({name: "", "why": "x"})).await;
        let said = all.problem(400, "bad-request");
        assert!(said.contains(name), "nothing said is not everything: {said}");
    }
    api.post(LOCAL, replay, &json!({"platform": "other"})).await.problem(400, "bad-request");
    for wrong in [
        json!({}),
        json!({"all": true, "bucket": "photos"}),
        json!({"all": true, "why": "x"}),
        json!({"al": true}),
    ] {
        api.post(OPERATOR, replay, &wrong).await.problem(400, "bad-request");
    }
    for wrong in
        [json!({"all": true}), json!({"all": true, "why": " "}), json!({"all": true, "why": "x".repeat(501)})]
    {
        api.post(OPERATOR, "/v1/dead-letters/discard", &wrong).await.problem(400, "bad-request");
    }
    api.get(OPERATOR, "/v1/dead-letters?cursor=x").await.problem(400, "bad-request");
    api.get(OPERATOR, "/v1/dead-letters?all=true").await.problem(400, "bad-request");
    assert_eq!(api.world.letters().await.len(), 3);
    let ask = json!({"platform": "other", "key_prefix": "out/", "why": "not ours"});
    let discarded = api.post(OPERATOR, "/v1/dead-letters/discard", &ask).await;
    assert_eq!(discarded.is(200)["done"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn the_quarantine_is_the_operators_to_look_at_try_again_and_discard() {
    let api = Api::new().await;
    let mut ids = Vec::new();
    for bytes in [&b"good"[..], b"b\xffd", b"later", b"orphan"] {
        ids.push(api.world.shut_away(bytes).await);
    }
    let page = api.get(OPERATOR, "/v1/quarantine?limit=3").await;
    let page: wire::QuarantinePage = serde_json::from_value(page.is(200).clone()).unwrap();
    assert_eq!(page.quarantine.iter().map(|item| item.id).collect::<Vec<_>>(), [4, 3, 2]);
    let rest = api.get(OPERATOR, &format!("/v1/quarantine?before={}", page.next.unwrap())).await;
    assert_eq!((&rest.is(200)["quarantine"][0]["id"], &rest.body["next"]), (&json!(1), &json!(null)));
    let all = api.get(OPERATOR, "/v1/quarantine?limit=4").await;
    assert_eq!((all.is(200)["quarantine"].as_array().unwrap().len(), &all.body["next"]), (4, &json!(null)));
    let shown = api.get(OPERATOR, "/v1/quarantine/2").await;
    assert_eq!((&shown.is(200)["bytes"], &shown.body["kept"]), (&json!("Yv9k"), &json!(3)));

    let retry = async |id: u64| api.post(OPERATOR, &format!("/v1/quarantine/{id}/retry"), &json!(null)).await;
    assert_eq!(retry(ids[0]).await.is(200), &json!({"id": 1, "events": 2, "deliveries": 3}));
    retry(ids[0]).await.problem(404, "not-found");
    assert!(retry(ids[1]).await.problem(409, "still-quarantined").contains("still not JSON"));
    let stayed = api.get(OPERATOR, "/v1/quarantine/2").await.body;
    assert_eq!(
        (&stayed["reason"], &stayed["tries"]),
        (&json!("not JSON; when tried again: still not JSON"), &json!(1))
    );
    retry(ids[2]).await.problem(503, "not-safe");
    retry(ids[3]).await.problem(409, "no-such-source");
    for (method, path) in [
        ("GET", "/v1/quarantine"),
        ("GET", "/v1/quarantine/2"),
        ("POST", "/v1/quarantine/2/retry"),
        ("DELETE", "/v1/quarantine/2"),
    ] {
        api.send(LOOPBACK, LOCAL, (method, path), "").await.problem(403, "operator-only");
    }
    assert_eq!(api.delete(OPERATOR, "/v1/quarantine/2?why=x").await.status, StatusCode::NO_CONTENT);
    api.delete(OPERATOR, "/v1/quarantine/2").await.problem(404, "not-found");
    api.get(OPERATOR, "/v1/quarantine/x").await.problem(400, "bad-request");
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
    let api = Api::new().await;
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

    api.world.flow_of_one_away(Timestamp::from_micros(1_700_000_000_000_000));
    let away = api.post(OPERATOR, "/v1/match", &outline).await;
    let matched: wire::Matched = serde_json::from_value(away.is(200).clone()).unwrap();
    for one in &matched.bindings {
        let told = one.reasons.iter().any(|reason| reason.contains("breaker is open until 2023-11-14T"));
        assert_eq!(told, one.fires && one.platform == "local", "{one:?}");
    }

    let letter = api.world.bury(BindingId::from_bytes([1; 16]), "local", "whole").await;
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
    for name in ["s3:ObjectCreated:*", "ObjectCreate:Put"] {
        let unknown = json!({"bucket": "photos", "key": "in/a.jpg", "name": name});
        let answer = api.post(OPERATOR, "/v1/match", &unknown).await;
        assert!(answer.problem(422, "unknown-event").contains(name), "a typing error is no missing match");
    }
    api.world.sick.store(true, Ordering::Relaxed);
    let failed = api.post(OPERATOR, "/v1/match", &outline).await;
    assert!(!failed.problem(500, "catalog-failed").contains("disk I/O"), "causes belong into the log");
}

#[tokio::test]
async fn outcomes_are_the_newest_first_and_of_one_binding_function_or_key() {
    let api = Api::new().await;
    let own = api.bind(LOCAL, &request()).await;
    for number in 0..3u8 {
        api.state.recent.note(RecentOutcome {
            at: Timestamp::from_micros(i64::from(number)),
            event: EventId::from_bytes([number; 16]),
            delivery: None,
            binding: (number > 0).then_some(own),
            platform: (number > 0).then(|| "local".into()),
            function: (number > 0).then(|| "thumb".into()),
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
    for (query, expected) in [
        ("function=thumb", &["2", "1"][..]),
        ("function=local/thumb", &["2", "1"]),
        ("function=local%2Fthumb&limit=1", &["2"]),
        ("function=other/thumb", &[]),
        ("function=thum", &[]),
        ("key=0", &["0"]),
        ("key=1&function=thumb", &["1"]),
        ("key=0&function=thumb", &[]),
        ("key=", &[]),
    ] {
        assert_eq!(keys(api.get(OPERATOR, &format!("/v1/outcomes?{query}")).await), expected, "{query}");
    }
    assert_eq!(keys(api.get(LOCAL, &format!("/v1/outcomes?binding={own}&key=1")).await), ["1"]);
    api.get(LOCAL, "/v1/outcomes?function=thumb").await.problem(400, "bad-request");
    api.get(OPERATOR, "/v1/outcomes?function=").await.problem(400, "bad-request");
}

#[tokio::test]
async fn nodes_are_shown_and_forgotten_but_not_the_one_that_answers() {
    let api = Api::new().await;
    api.world.hears_of("old", 86_400).await;
    api.world.hears_of("here", 0).await;
    let answer = api.get(OPERATOR, "/v1/nodes").await;
    let nodes: wire::Nodes = serde_json::from_value(answer.is(200).clone()).unwrap();
    let days = |node: &wire::NodeView| node.silent_for_s / 86_400;
    let shown: Vec<_> = nodes.nodes.iter().map(|node| (node.name.as_str(), node.this, days(node))).collect();
    assert_eq!(shown, [("here", true, 0), ("old", false, 1)]);
    api.delete(OPERATOR, "/v1/nodes/here").await.problem(409, "node-alive");
    assert_eq!(api.delete(OPERATOR, "/v1/nodes/old").await.status, StatusCode::NO_CONTENT);
    api.delete(OPERATOR, "/v1/nodes/old").await.problem(404, "not-found");
}

#[tokio::test]
async fn results_go_to_whom_waits_for_them() {
    let api = Api::new().await;
    let callback = async |token: &str| {
        api.send(Door::Callbacks, "", ("POST", &format!("/v1/callbacks/{token}")), "result").await
    };
    assert_eq!(callback("known").await.status, StatusCode::NO_CONTENT);
    assert_eq!(callback("again").await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.world.calls()[..2], ["callback known", "6 bytes of known"]);
    callback("unheard-of").await.problem(404, "unknown-callback");
    callback("unsigned").await.problem(401, "callback-refused");
    assert!(callback("garbled").await.problem(400, "bad-request").contains("no report"));
    let elsewhere = callback("elsewhere").await;
    assert!(elsewhere.problem(421, "other-node").contains("node2"));
    let later = callback("later").await;
    later.problem(503, "not-recorded");
    assert_eq!(later.headers[header::RETRY_AFTER], "5");
    let early = callback("early").await;
    early.problem(503, "call-under-way");
    assert_eq!(early.headers[header::RETRY_AFTER], "1");
    let calls = api.world.calls().len();
    callback(&"x".repeat(300)).await.problem(404, "unknown-callback");
    assert_eq!(api.world.calls().len(), calls);
}

#[tokio::test]
async fn functions_show_what_waits_how_fast_it_drains_and_why_it_does_not() {
    let api = Api::new().await;
    let now = Timestamp::from_micros(0);
    *api.world.flows.lock().unwrap() = vec![Flow {
        function: FunctionRef { platform: "local".into(), name: "thumb".into() },
        running: 1,
        concurrency: 2,
        concurrency_limit: 16,
        rate_limit: Some(2.5),
        parked_per_s: 10.0,
        drained_per_s: 10.125,
        died_per_s: 1.25,
        last: Some(LastCalls { class: Class::FunctionFault, failed: 14, ended: now }),
        breaker: "open",
        open_until: Some(now),
        reason: "platform_fault: no answer".into(),
    }];
    let binding = BindingId::from_bytes([1; 16]);
    for number in 0..9 {
        let parked = api.world.park(binding, "local", &number.to_string(), number == 0).await;
        if number > 5 {
            let wait = Wait::of(&parked, now, now);
            assert!(api.world.queue.wait_for_result(wait).await.unwrap());
        }
    }
    api.world.park(binding, "other", "9", false).await;
    let body = api.get(OPERATOR, "/v1/functions").await;
    let functions = body.is(200)["functions"].as_array().unwrap().clone();
    assert_eq!(functions.len(), 2);
    let thumb = &functions[0];
    assert_eq!(
        (&thumb["parked"], &thumb["held"], &thumb["awaiting"], &thumb["empty_in_s"]),
        (&json!(5), &json!(1), &json!(3), &json!(40))
    );
    assert_eq!((&thumb["drained_per_s"], &thumb["rate_limit"]), (&json!(10.1), &json!(2.5)));
    assert_eq!((&thumb["concurrency"], &thumb["concurrency_limit"]), (&json!(2), &json!(16)));
    let last = &thumb["last"];
    assert_eq!((&last["class"], &last["failed_in_a_row"]), (&json!("function_fault"), &json!(14)));
    assert!(last["ago_s"].is_u64() && thumb["breaker"]["open_for_ms"].is_u64(), "{thumb}");
    assert_eq!(thumb["breaker"]["state"], "open");
    assert_eq!(thumb["breaker"]["reason"], "platform_fault: no answer");
    assert!(thumb["oldest_age_s"].is_u64() && thumb["breaker"]["open_until"].is_string(), "{thumb}");
    let index = &functions[1];
    assert_eq!((&index["breaker"]["state"], &index["empty_in_s"]), (&json!("closed"), &json!(null)));
    let own = api.get(LOCAL, "/v1/functions").await;
    assert_eq!(own.is(200)["functions"].as_array().unwrap().len(), 1, "a platform sees its own");
}
