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
    let api = Api::new();
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
    let api = Api::new();
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

/// What is answered until the connection is closed.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut said)).await;
    // Closed with our bytes unread, it may be reset after the answer.
    let _ended = read.expect("the connection is left open");
    String::from_utf8(said).unwrap()
}
