//! `/v1/bindings`: asked for, listed, taken back, confirmed.

use super::*;

#[tokio::test]
async fn a_new_binding_is_accepted_and_the_reconciler_woken() {
    let api = Api::new().await;
    let answer = api.post(OPERATOR, "/v1/bindings", &request()).await;
    let body = answer.is(202);
    assert_eq!(
        (&body["state"], &body["storage"], &body["concurrency"]),
        (&json!("pending"), &json!("main"), &json!(16))
    );
    let id = body["id"].as_str().unwrap();
    assert_eq!(answer.headers[header::LOCATION], format!("/v1/bindings/{id}"));
    assert_eq!(api.world.audit().await, ["bind by operator"]);
    assert_eq!(api.world.calls(), [format!("wake binding {id} at revision 1")]);
    // Nothing of the secret.
    let binding = api.world.relations.binding(id.parse().unwrap()).await.unwrap().unwrap();
    let secret = binding.secret.expose();
    assert!(!answer.text.contains(secret) && !answer.text.contains("whsec_"));
}

#[tokio::test]
async fn the_same_request_gives_the_same_binding_and_other_settings_are_a_conflict() {
    let api = Api::new().await;
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
async fn a_platform_with_as_many_bindings_as_it_may_have_is_told_which_setting_says_so() {
    let api = Api::new().await;
    let mut request = with("platform", "other");
    for function in ["one", "two"] {
        request["function"] = function.into();
        api.post(OTHER, "/v1/bindings", &request).await.is(202);
    }
    api.post(OTHER, "/v1/bindings", &request).await.is(200);
    request["function"] = "three".into();
    for token in [OTHER, OPERATOR] {
        let refused = api.post(token, "/v1/bindings", &request).await;
        let said = refused.problem(409, "too-many-bindings");
        assert!(
            said.contains("platform `other` may have 2 bindings") && said.contains("max_bindings"),
            "{said}"
        );
    }
    api.bind(OPERATOR, &with("platform", "local")).await;
}

#[tokio::test]
async fn a_wrong_request_names_the_field() {
    let api = Api::new().await;
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
    assert!(refused(&with("twin", true), 422, "no-fast-target").await.contains("fast_targets"));
    let platform = refused(&with("platform", "lambda"), 422, "unknown-platform").await;
    assert!(platform.contains("local, other") && platform.contains("lambda"), "{platform}");
    let mut none = request();
    none.as_object_mut().unwrap().remove("platform");
    assert!(refused(&none, 400, "bad-request").await.contains("platform"));
    assert!(api.world.calls().is_empty() && api.world.audit().await.is_empty());
}

#[tokio::test]
async fn results_are_awaited_only_of_platforms_that_can_send_them() {
    let api = Api::new().await;
    let asks = |platform: &str, mode: &str, wait: u64| {
        let mut asked = with("await_result_s", wait);
        (asked["platform"], asked["mode"]) = (json!(platform), json!(mode));
        asked
    };
    let answer = api.post(OPERATOR, "/v1/bindings", &asks("other", "async", 60)).await;
    assert!(answer.problem(422, "no-way-back").contains("another host"));
    let answer = api.post(OPERATOR, "/v1/bindings", &asks("local", "sync", 60)).await;
    assert!(answer.problem(422, "invalid-binding").contains("comes on the call"));
    let answer = api.post(OPERATOR, "/v1/bindings", &asks("local", "async", 0)).await;
    assert!(answer.problem(422, "invalid-binding").contains("await_result_s must be between 1 and 86400"));
    let answer = api.post(OPERATOR, "/v1/bindings", &asks("local", "async", 60)).await;
    assert_eq!(answer.is(202)["await_result_s"], 60);
}

#[tokio::test]
async fn bindings_are_listed_in_pages() {
    let api = Api::new().await;
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
    let api = Api::new().await;
    let id = api.bind(OPERATOR, &request()).await;
    api.delete(OPERATOR, &format!("/v1/bindings/{id}?pending=keep")).await.problem(400, "bad-request");
    api.world.park(id, "local", "in/a.jpg", false).await;
    let answer = api.delete(OPERATOR, &format!("/v1/bindings/{id}?pending=discard")).await;
    assert_eq!(answer.is(202)["state"], "unbinding");
    assert_eq!(api.world.audit().await[1..], ["unbind by operator"]);
    assert_eq!(
        api.world.calls()[1..],
        ["clear Discard at revision 2".to_owned(), format!("wake binding {id} at revision 2")]
    );
    assert_eq!(api.world.queue.parked_of(id).await.unwrap(), 0);

    let id = api.bind(OPERATOR, &with("prefix", "other/")).await;
    api.world.park(id, "local", "other/a.jpg", false).await;
    let before = api.world.calls().len();
    api.delete(OPERATOR, &format!("/v1/bindings/{id}")).await.is(202);
    assert_eq!(api.world.audit().await[3..], ["unbind by operator"]);
    assert_eq!(api.world.calls()[before..], [format!("wake binding {id} at revision 4")]);
    assert_eq!(api.world.queue.parked_of(id).await.unwrap(), 1);
    let unknown = BindingId::from_bytes([9; 16]);
    api.delete(OPERATOR, &format!("/v1/bindings/{unknown}")).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_binding_goes_even_when_the_queue_fails() {
    let api = Api::new().await;
    let id = api.bind(OPERATOR, &request()).await;
    api.world.queue.close().await;
    let answer = api.delete(OPERATOR, &format!("/v1/bindings/{id}?pending=discard")).await;
    answer.problem(503, "stopping");
    assert_eq!(api.world.calls().last(), Some(&format!("wake binding {id} at revision 2")));
}

#[tokio::test]
async fn relations_that_are_away_are_a_clear_503_and_dead_letters_go_on() {
    let api = Api::new().await;
    let id = api.bind(OPERATOR, &request()).await;
    let letter = api.world.bury(id, "local", "in/a.jpg").await;
    api.world.relations.close().await;
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
async fn confirmations_need_their_signature_and_no_token() {
    let api = Api::new().await;
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
    api.world.relations.close().await;
    let path = format!("/v1/bindings/{id}/confirm");
    api.send(LOOPBACK, "", ("POST", &path), "").await.problem(503, "relations-unavailable");
}
