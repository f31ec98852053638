//! Real listeners under people who take their time: what stays answerable, and for whom.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// How long anything may take that should be quick, on a machine that is busy.
const SOON: Duration = Duration::from_secs(30);

/// Serves this door on a free port of loopback; where.
async fn served(api: &Api, door: Door) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router(Arc::clone(&api.state), door), CancellationToken::new()));
    address
}

/// A request whose body begins and does not go on.
async fn begin(address: SocketAddr, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 1000\r\n\r\n{{");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn status(address: SocketAddr, path: &str) -> u16 {
    let asked = reqwest::Client::new().get(format!("http://{address}{path}")).bearer_auth(OPERATOR);
    asked.timeout(SOON).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn health_and_metrics_are_answered_while_every_place_for_requests_is_taken() {
    let api = Api::new().await;
    let address = served(&api, LOOPBACK).await;
    let allowed = format!("Authorization: Bearer {OPERATOR}\r\n");
    let mut slow = Vec::new();
    for _ in 0..MAX_REQUESTS {
        slow.push(begin(address, "/v1/bindings", &allowed).await);
    }
    let taken = async {
        while status(address, "/v1/bindings").await != 503 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, taken).await.expect("the places are not taken");
    for path in ["/health/live", "/health/ready", "/metrics"] {
        assert_eq!(status(address, path).await, 200, "{path}");
    }
    assert_eq!(status(address, "/v1/bindings").await, 503, "the places were given back meanwhile");
    drop(slow);
    let given_back = async {
        while status(address, "/v1/bindings").await != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, given_back).await.expect("places are not given back");
}

#[tokio::test]
async fn a_refused_request_is_answered_and_its_connection_closed_though_its_body_never_comes() {
    let api = Api::new().await;
    for (door, path, expected) in [
        (LOOPBACK, "/v1/bindings", "HTTP/1.1 401 "),
        (LOOPBACK, "/v1/nothing", "HTTP/1.1 404 "),
        (Door::Callbacks, "/v1/bindings", "HTTP/1.1 401 "),
        (Door::Callbacks, "/v1/nodes", "HTTP/1.1 404 "),
    ] {
        let mut stream = begin(served(&api, door).await, path, "").await;
        let said = until_closed(&mut stream).await;
        assert!(said.starts_with(expected) && said.contains("connection: close"), "{path}: {said}");
    }
}

#[tokio::test]
async fn a_report_and_a_confirmation_are_judged_by_their_heads_before_their_bodies_come() {
    let api = Api::new().await;
    let address = served(&api, Door::Callbacks).await;
    let known = api.bind(OPERATOR, &request()).await;
    let (known, unknown) = (known.to_string(), BindingId::from_bytes([8; 16]).to_string());
    for (path, headers, expected) in [
        ("/v1/callbacks/guessed".to_owned(), "", 404),
        (format!("/v1/callbacks/{}", "x".repeat(300)), "", 404),
        ("/v1/callbacks/unsigned".to_owned(), "", 401),
        ("/v1/callbacks/elsewhere".to_owned(), "", 421),
        (format!("/v1/bindings/{unknown}/confirm"), "webhook-signature: good\r\n", 404),
        (format!("/v1/bindings/{known}/confirm"), "", 401),
    ] {
        let mut stream = begin(address, &path, headers).await;
        let said = until_closed(&mut stream).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {expected} ")), "{path}: {said}");
        assert!(said.contains("connection: close"), "{path}: {said}");
    }
}

#[tokio::test]
async fn reports_get_through_beside_many_slow_strangers_and_confirmations_that_never_end() {
    let api = Api::new().await;
    let address = served(&api, Door::Callbacks).await;
    let id = api.bind(OPERATOR, &request()).await;
    let mut slow = Vec::new();
    for number in 0..MAX_REQUESTS {
        slow.push(begin(address, &format!("/v1/callbacks/guess-{number}"), "").await);
    }
    // These know a binding's id, so that their bodies are waited for.
    let confirm = format!("/v1/bindings/{id}/confirm");
    let mut confirming = Vec::new();
    for _ in 0..MAX_STRANGERS {
        confirming.push(begin(address, &confirm, "webhook-signature: made up\r\n").await);
    }
    let post = |path: String, signature: &'static str| {
        let sent = reqwest::Client::new().post(format!("http://{address}{path}"));
        let sent = sent.header("webhook-signature", signature).body("{}").timeout(SOON).send();
        async { sent.await.unwrap().status().as_u16() }
    };
    let taken = async {
        while post(confirm.clone(), "good").await != 503 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, taken).await.expect("confirmations are not bounded");
    for _ in 0..3 {
        assert_eq!(post("/v1/callbacks/known".into(), "good").await, 204);
    }
    for mut stream in slow {
        assert!(until_closed(&mut stream).await.starts_with("HTTP/1.1 404 "));
    }
    drop(confirming);
    let given_back = async {
        while post(confirm.clone(), "good").await != 204 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, given_back).await.expect("places for confirmations are not given back");
}

/// What is answered until the connection is closed.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut said)).await;
    // Closed with our bytes unread, it may be reset after the answer.
    let _ended = read.expect("the connection is left open");
    String::from_utf8(said).unwrap()
}
