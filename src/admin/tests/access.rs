//! Who gets in, through which door, and what hostile input and too much of it come to.

use super::*;

#[tokio::test]
async fn hostile_input_is_refused_without_harm() {
    let api = Api::new().await;
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
    let api = Api::new().await;
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
            assert_eq!(answer.headers[header::CONNECTION], "close");
        }
    }
    let basic = http::Request::get("/v1/bindings").header(header::AUTHORIZATION, "Basic b3A6b3A=");
    api.raw(LOOPBACK, basic.body(Body::empty()).unwrap()).await.problem(401, "unauthorized");
    assert!(!format!("{:?}", api.state.access).contains("token"));
}

#[tokio::test]
async fn what_is_refused_or_not_there_ends_its_connection() {
    let api = Api::new().await;
    let id = BindingId::from_bytes([9; 16]);
    let (binding, letter) = (format!("/v1/bindings/{id}"), format!("/v1/dead-letters/{}", "0".repeat(32)));
    let confirm = format!("{binding}/confirm");
    let open = Door::admin("0.0.0.0:8360".parse().unwrap());
    for (door, token, call, status) in [
        (LOOPBACK, "", ("GET", "/v1/nothing"), 404),
        (LOOPBACK, OPERATOR, ("GET", "/v1/nothing"), 404),
        (LOOPBACK, OPERATOR, ("GET", &binding), 404),
        (LOOPBACK, OPERATOR, ("GET", &letter), 404),
        (LOOPBACK, "", ("POST", "/v1/callbacks/guessed"), 404),
        (open, "", ("GET", "/health/ready"), 401),
        (Door::Callbacks, "", ("GET", "/v1/dead-letters"), 404),
        (Door::Callbacks, "", ("GET", "/health/ready"), 404),
        (Door::Callbacks, "", ("POST", "/v1/callbacks/guessed"), 404),
        (Door::Callbacks, "", ("POST", "/v1/callbacks/unsigned"), 401),
        (Door::Callbacks, "", ("POST", &confirm), 404),
        (Door::Callbacks, "wrong", ("POST", "/v1/bindings"), 401),
        (Door::Callbacks, LOCAL, ("GET", &binding), 404),
    ] {
        let answer = api.send(door, token, call, "{}").await;
        assert_eq!(answer.status.as_u16(), status, "{call:?}: {}", answer.text);
        assert_eq!(answer.headers[header::CONNECTION], "close", "{call:?}");
    }
    let fine = api.get(OPERATOR, "/v1/bindings").await;
    assert!(fine.is(200).is_object() && !fine.headers.contains_key(header::CONNECTION));
}

#[tokio::test]
async fn a_platform_sees_and_changes_only_its_own() {
    let api = Api::new().await;
    let mut own = request();
    own.as_object_mut().unwrap().remove("platform");
    let local = api.bind(LOCAL, &own).await;
    let other = api.bind(OTHER, &with("platform", "other")).await;
    assert_eq!(api.world.audit().await[0], "bind by local");
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

    let letter = api.world.bury(other, "other", "in/a.jpg").await;
    let mine = api.world.bury(local, "local", "in/a.jpg").await;
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
    assert!(api.world.letters().await.contains(&letter));
    let listed = api.get(LOCAL, "/v1/dead-letters").await;
    let listed = listed.is(200)["dead_letters"].as_array().unwrap();
    assert_eq!((listed.len(), &listed[0]["id"]), (1, &json!(mine.to_string())));
    api.get(LOCAL, &format!("/v1/dead-letters/{mine}")).await.is(200);
    api.get(LOCAL, "/v1/nodes").await.problem(403, "operator-only");
    api.delete(LOCAL, "/v1/nodes/x").await.problem(403, "operator-only");
    api.get(LOCAL, "/v1/outcomes").await.problem(400, "bad-request");
}

#[tokio::test]
async fn health_and_metrics_are_open_on_loopback_only() {
    let api = Api::new().await;
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
    let mut api = Api::new().await;
    let mut closed = state(&api.world);
    closed.open_metrics = false;
    api.state = Arc::new(closed);
    api.get("", "/metrics").await.problem(401, "unauthorized");
    assert_eq!(api.get(OPERATOR, "/metrics").await.status, StatusCode::OK);
    api.get("", "/health/live").await.is(200);
}

#[tokio::test]
async fn the_callbacks_listener_carries_only_what_a_platform_needs() {
    let api = Api::new().await;
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
async fn more_requests_than_there_is_room_for_are_put_off() {
    let api = Api::new().await;
    let none = middleware::from_fn_with_state(Bounds::new(0, MAX_TIME), bounded);
    let busy = Router::new().route("/", get(|| async { "in" })).layer(none);
    let answer = busy.oneshot(http::Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
    api.get("", "/health/live").await.is(200);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_is_ended() {
    let stuck = Router::new()
        .route("/", get(|| async { std::future::pending::<()>().await }))
        .layer(middleware::from_fn_with_state(Bounds::new(1, MAX_TIME), bounded));
    let answer = stuck.oneshot(http::Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "5");
}

#[tokio::test]
async fn what_has_begun_is_finished_when_the_listener_stops() {
    let api = Api::new().await;
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
