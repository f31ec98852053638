//! Answers that are none, byte by byte: what is said of each, and that none takes more than its bound.

use std::error::Error as _;

use http::Request;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    Driver as _, PlatformError,
    exchange::{Exchange, Payload},
    rules::RulesDriver,
};
use crate::telemetry::Chain;

/// A platform that reads a request, writes `begin` and then `again` until nobody reads it, or once if it is empty.
async fn platform(begin: &'static [u8], again: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                read_request(&mut stream).await;
                let mut written = stream.write_all(begin).await;
                let again = again.repeat(1000);
                while written.is_ok() && !again.is_empty() {
                    written = stream.write_all(&again).await;
                }
            });
        }
    });
    format!("http://{address}")
}

/// Without a body.
async fn read_request(stream: &mut TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
}

async fn said(url: &str) -> String {
    let driver = RulesDriver::new("faas", url, "token".to_owned().into()).unwrap();
    match driver.check().await.unwrap_err() {
        error @ PlatformError::Unreachable { .. } => Chain(error.source().unwrap()).to_string(),
        error => error.to_string(),
    }
}

const LOST: &str =
    "error sending request: client error (SendRequest): connection closed before message completed";
const BODY: &str =
    "error decoding response body: request or response body error: error reading a body from connection: ";

#[tokio::test]
async fn what_is_no_answer_is_said() {
    for (answer, words) in [
        (&b""[..], LOST.to_owned()),
        (b"HTTP/1.1 200 OK\r\nconte", LOST.to_owned()),
        (
            b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
            "error sending request: client error (SendRequest): invalid HTTP version parsed".into(),
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
            format!("{BODY}end of file before message length reached"),
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            format!("{BODY}Invalid chunk size line: missing size digit"),
        ),
    ] {
        assert_eq!(said(&platform(answer, b"").await).await, words);
    }
    let refused = said("http://127.0.0.1:1").await;
    let words = "error sending request: client error (Connect): tcp connect error: Connection refused";
    assert!(refused.starts_with(words), "{refused}");
}

#[tokio::test]
async fn interim_answers_without_end_are_no_answer() {
    for interim in [
        &b"HTTP/1.1 100 Continue\r\n\r\n"[..],
        b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nx-more: of it\r\n\r\n",
    ] {
        let said = said(&platform(b"", interim).await).await;
        assert!(said.starts_with("error sending request") && said.contains("(1xx)"), "{said}");
    }
    let said = said(&platform(b"HTTP/1.1 200 OK\r\n", b"x-endless: head\r\n").await).await;
    assert!(said.starts_with("error sending request"), "{said}");
}

#[tokio::test]
async fn answers_after_interim_ones_and_in_the_smallest_pieces_are_read() {
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
        HTTP/1.1 503 Busy\r\ncontent-length: 6\r\n\r\nlater!";
    let said = said(&platform(answer, b"").await).await;
    assert!(said.contains("503") && said.contains("later!"), "{said}");
    let chunks = platform(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n").await;
    let read = Exchange::new().unwrap().call(Request::get(chunks), Payload::default()).await.unwrap();
    assert!(read.body.len() == 64 << 10 && read.body.iter().all(|byte| *byte == b'x'));
}
