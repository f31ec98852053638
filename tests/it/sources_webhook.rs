//! The webhook source, by real HTTP and by senders that do not keep to it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use triggerd::source::Redelivers;
use triggerd::source::webhook::{DISCARD_LIMIT, Limits, OVERSIZE_KEPT};

use crate::harness::minio::{Minio, MinioOptions, WebhookTarget};
use crate::harness::suite::{Ctx, Test, tests};
use crate::harness::wait::wait_for;
use crate::sources::{LIMIT, text};
use crate::sources_sender::{Sender, open, open_plain, post, request};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [] post_is_answered_only_when_it_was_acknowledged;
        [] post_that_is_not_safe_gets_503_with_retry_after;
        [] wrong_token_gets_401_and_no_hint;
        [] token_of_two_words_is_compared_as_it_is;
        [] probes_are_answered_and_hand_nothing_on;
        [] foreign_paths_and_methods_get_404_and_no_redirect;
        [] body_over_the_limit_is_handed_on_as_its_beginning_and_length;
        [] body_over_a_low_limit_is_kept_whole_up_to_64_kib;
        [] body_beyond_all_limits_is_answered_too;
        [] chunked_body_arrives_whole;
        [] redelivering_sender_is_asked_to_come_again_at_the_bound;
        [] sender_that_never_sends_again_is_pressed_before_it_is_refused;
        [] twin_is_answered_on_receipt_and_dropped_at_the_bound;
        [] sender_that_hangs_up_keeps_no_permit;
        [] raw_misbehaviour_leaves_the_source_working;
        [] slow_head_and_slow_body_are_cut_off;
        [] sender_that_takes_no_answer_is_cut_off;
        [] connections_over_the_limit_wait_their_turn;
        [] strangers_connections_keep_no_sender_out_and_cut_none_off;
        [] stop_lets_a_running_request_be_answered_and_accepts_no_more;
        [Minio] minio_with_a_queue_repeats_until_it_was_acknowledged;
    }
}

async fn post_is_answered_only_when_it_was_acknowledged(_: Ctx) -> Result<()> {
    let mut hook = open_plain().await?;
    let mut sender = Sender::connect(hook.address).await?;
    for body in ["first", "second"] {
        sender.send(post("/minio?x=1", "", body)).await?;
        let message = hook.running.next().await?;
        ensure!(text(&message) == body && message.oversize.is_none() && !message.pressed);
        ensure!(&*message.origin.source == "hook");
        let early = tokio::time::timeout(Duration::from_millis(100), sender.0.peek(&mut [0])).await;
        ensure!(early.is_err(), "answered before the acknowledgement");
        ensure!(hook.bound.unsettled() == 1);
        message.ack.acknowledge();
        ensure!(sender.answer().await?.starts_with("http/1.1 200"));
    }
    wait_for("the permits are back", LIMIT, async || hook.bound.unsettled() == 0).await?;
    hook.running.end().await
}

async fn post_that_is_not_safe_gets_503_with_retry_after(_: Ctx) -> Result<()> {
    let mut hook = open_plain().await?;
    let mut sender = Sender::connect(hook.address).await?;
    sender.send(post("/minio", "", "x")).await?;
    drop(hook.running.next().await?);
    let answer = sender.answer().await?;
    ensure!(answer.starts_with("http/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    hook.running.end().await
}

async fn wrong_token_gets_401_and_no_hint(_: Ctx) -> Result<()> {
    let mut hook = open("token = \"secret\"", Redelivers::Yes, Limits::default()).await?;
    let headers = [
        "",
        "Authorization: secret\r\n",
        "Authorization: Bearer secret2\r\n",
        "Authorization: Basic secret\r\n",
    ];
    for header in headers {
        let answer = request(hook.address, post("/minio", header, "x")).await?;
        ensure!(answer.starts_with("http/1.1 401"), "{header}: {answer}");
        ensure!(!answer.contains("authenticate") && answer.contains("content-length: 0"), "{answer}");
        ensure!(answer.contains("connection: close"), "a stranger keeps the connection: {answer}");
    }
    ensure!(hook.running.is_empty());
    let mut sender = Sender::connect(hook.address).await?;
    sender.send(post("/minio", "Authorization: Bearer secret\r\n", "x")).await?;
    hook.running.next().await?.ack.acknowledge();
    ensure!(sender.answer().await?.starts_with("http/1.1 200"));
    hook.running.end().await
}

async fn token_of_two_words_is_compared_as_it_is(ctx: Ctx) -> Result<()> {
    let file = ctx.folder().join("token");
    std::fs::write(&file, "Basic dTpw\n")?;
    let mut hook =
        open(&format!("token_file = {:?}", file.display().to_string()), Redelivers::Yes, Limits::default())
            .await?;
    ensure!(
        request(hook.address, post("/minio", "Authorization: Bearer Basic dTpw\r\n", "x"))
            .await?
            .starts_with("http/1.1 401")
    );
    let mut sender = Sender::connect(hook.address).await?;
    sender.send(post("/minio", "Authorization: Basic dTpw\r\n", "x")).await?;
    hook.running.next().await?.ack.acknowledge();
    ensure!(sender.answer().await?.starts_with("http/1.1 200"));
    let unsendable = open("token = \"three words here\"", Redelivers::Yes, Limits::default()).await;
    ensure!(unsendable.is_err_and(|error| format!("{error:#}").contains("3 words")));
    hook.running.end().await
}

async fn probes_are_answered_and_hand_nothing_on(_: Ctx) -> Result<()> {
    let hook = open_plain().await?;
    drop(TcpStream::connect(hook.address).await?);
    let head = "HEAD /minio HTTP/1.1\r\nHost: t\r\n\r\n".to_owned();
    let no_length = "POST /minio HTTP/1.1\r\nHost: t\r\n\r\n".to_owned();
    let chunked = "POST /minio HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned();
    for probe in [head, post("/minio", "", ""), no_length, chunked] {
        ensure!(request(hook.address, &probe).await?.starts_with("http/1.1 200"), "{probe}");
    }
    ensure!(hook.running.is_empty() && hook.bound.unsettled() == 0);
    hook.running.end().await
}

async fn foreign_paths_and_methods_get_404_and_no_redirect(_: Ctx) -> Result<()> {
    let hook = open_plain().await?;
    let get = "GET /minio HTTP/1.1\r\nHost: t\r\n\r\n".to_owned();
    for bytes in [post("/minio/", "", "x"), post("/", "", "x"), post("//minio", "", "x"), get] {
        let answer = request(hook.address, &bytes).await?;
        ensure!(answer.starts_with("http/1.1 404") && !answer.contains("location"), "{bytes}: {answer}");
        ensure!(answer.contains("connection: close"), "a stranger keeps the connection: {answer}");
    }
    ensure!(hook.running.is_empty());
    hook.running.end().await
}

async fn body_over_the_limit_is_handed_on_as_its_beginning_and_length(_: Ctx) -> Result<()> {
    let mut hook = open("max_body = 100000", Redelivers::Yes, Limits::default()).await?;
    let mut sender = Sender::connect(hook.address).await?;
    for length in [100_000, 100_001, 3_000_000] {
        let body = "ab".repeat(length / 2) + &"c".repeat(length % 2);
        sender.send(post("/minio", "", &body)).await?;
        let message = hook.running.next().await?;
        let expected = if length > 100_000 { (OVERSIZE_KEPT, Some(length as u64)) } else { (length, None) };
        ensure!((message.bytes.len(), message.oversize) == expected, "{length}");
        ensure!(body.as_bytes().starts_with(&message.bytes));
        message.ack.acknowledge();
        ensure!(sender.answer().await?.starts_with("http/1.1 200"), "{length}");
    }
    hook.running.end().await
}

async fn body_over_a_low_limit_is_kept_whole_up_to_64_kib(_: Ctx) -> Result<()> {
    let mut hook = open("max_body = 600", Redelivers::Yes, Limits::default()).await?;
    let mut sender = Sender::connect(hook.address).await?;
    for length in [600, 601, 1_030, OVERSIZE_KEPT, OVERSIZE_KEPT + 1] {
        let body = "ab".repeat(length / 2) + &"c".repeat(length % 2);
        sender.send(post("/minio", "", &body)).await?;
        let message = hook.running.next().await?;
        let oversize = (length > 600).then_some(length as u64);
        ensure!((message.bytes.len(), message.oversize) == (length.min(OVERSIZE_KEPT), oversize), "{length}");
        ensure!(body.as_bytes().starts_with(&message.bytes));
        message.ack.acknowledge();
        ensure!(sender.answer().await?.starts_with("http/1.1 200"), "{length}");
    }
    hook.running.end().await
}

async fn body_beyond_all_limits_is_answered_too(_: Ctx) -> Result<()> {
    let mut hook = open_plain().await?;
    let length = DISCARD_LIMIT * 2;
    let sender = Sender::connect(hook.address).await?;
    let (mut answers, mut sends) = sender.0.into_split();
    let sending = tokio::spawn(async move {
        sends
            .write_all(
                format!("POST /minio HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
            )
            .await?;
        let piece = vec![b'x'; 1 << 20];
        while sends.write_all(&piece).await.is_ok() {}
        Ok::<_, std::io::Error>(())
    });
    let message = hook.running.next().await?;
    ensure!((message.bytes.len(), message.oversize) == (OVERSIZE_KEPT, Some(length)));
    message.ack.acknowledge();
    let mut head = [0; 12];
    tokio::time::timeout(LIMIT, answers.read_exact(&mut head)).await??;
    ensure!(&head == b"HTTP/1.1 200");
    tokio::time::timeout(LIMIT, sending).await.context("the connection was not closed")???;
    hook.running.end().await
}

async fn chunked_body_arrives_whole(_: Ctx) -> Result<()> {
    let mut hook = open_plain().await?;
    let mut sender = Sender::connect(hook.address).await?;
    sender.send("POST /minio HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await?;
    sender.send("2\r\nde\r\n0\r\n\r\n").await?;
    let message = hook.running.next().await?;
    ensure!(text(&message) == "abcde");
    message.ack.acknowledge();
    ensure!(sender.answer().await?.starts_with("http/1.1 200"));
    hook.running.end().await
}

const BOUND_OF_ONE: &str = "bound = { messages = 1 }";

async fn redelivering_sender_is_asked_to_come_again_at_the_bound(_: Ctx) -> Result<()> {
    let mut hook = open(BOUND_OF_ONE, Redelivers::Yes, Limits::default()).await?;
    let mut first = Sender::connect(hook.address).await?;
    first.send(post("/minio", "", "first")).await?;
    let held = hook.running.next().await?;
    let answer = request(hook.address, post("/minio", "", "second")).await?;
    ensure!(answer.starts_with("http/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    ensure!(hook.running.is_empty() && hook.bound.unsettled() == 1);
    held.ack.acknowledge();
    ensure!(first.answer().await?.starts_with("http/1.1 200"));
    first.send(post("/minio", "", "second")).await?;
    ensure!(text(&hook.running.next().await?) == "second");
    hook.running.end().await?;

    let mut tiny = open("bound = { bytes = 10 }", Redelivers::Yes, Limits::default()).await?;
    let mut sender = Sender::connect(tiny.address).await?;
    sender.send(post("/minio", "", "larger than the whole bound")).await?;
    ensure!(tiny.running.next().await?.pressed, "what could never pass otherwise passes alone");
    tiny.running.end().await
}

async fn sender_that_never_sends_again_is_pressed_before_it_is_refused(_: Ctx) -> Result<()> {
    let mut hook = open(BOUND_OF_ONE, Redelivers::No, Limits::default()).await?;
    let mut held = Vec::new();
    for pressed in [false, true] {
        let mut sender = Sender::connect(hook.address).await?;
        sender.send(post("/minio", "", "x")).await?;
        let message = hook.running.next().await?;
        ensure!(message.pressed == pressed);
        held.push((sender, message));
    }
    ensure!(request(hook.address, post("/minio", "", "lost")).await?.starts_with("http/1.1 503"));
    for (mut sender, message) in held {
        message.ack.acknowledge();
        ensure!(sender.answer().await?.starts_with("http/1.1 200"));
    }
    hook.running.end().await
}

async fn twin_is_answered_on_receipt_and_dropped_at_the_bound(_: Ctx) -> Result<()> {
    let mut hook = open(BOUND_OF_ONE, Redelivers::Twin, Limits::default()).await?;
    ensure!(request(hook.address, post("/minio", "", "first")).await?.starts_with("http/1.1 200"));
    let held = hook.running.next().await?;
    ensure!(request(hook.address, post("/minio", "", "dropped")).await?.starts_with("http/1.1 200"));
    ensure!(hook.running.is_empty());
    drop(held);
    ensure!(request(hook.address, post("/minio", "", "third")).await?.starts_with("http/1.1 200"));
    ensure!(text(&hook.running.next().await?) == "third");
    hook.running.end().await
}

async fn sender_that_hangs_up_keeps_no_permit(_: Ctx) -> Result<()> {
    let mut hook = open(BOUND_OF_ONE, Redelivers::Yes, Limits::default()).await?;
    for _ in 0..3 {
        let mut sender = Sender::connect(hook.address).await?;
        sender.send(post("/minio", "", "x")).await?;
        let message = hook.running.next().await?;
        drop(sender);
        message.ack.acknowledge();
        wait_for("the permit is back", LIMIT, async || hook.bound.unsettled() == 0).await?;
        let mut half = Sender::connect(hook.address).await?;
        half.send("POST /minio HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nhalf").await?;
        wait_for("the body is being read", LIMIT, async || hook.bound.unsettled() == 1).await?;
        drop(half);
        wait_for("the permit is back", LIMIT, async || hook.bound.unsettled() == 0).await?;
    }
    ensure!(hook.running.is_empty(), "half a body was handed on");
    hook.running.end().await
}

async fn raw_misbehaviour_leaves_the_source_working(_: Ctx) -> Result<()> {
    let mut hook = open_plain().await?;
    let huge_header = format!("POST /minio HTTP/1.1\r\nHost: t\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let pieces = [
        "\r\n\r\n\r\n".to_owned(),
        "not http at all\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{0}\u{5}TLS?".to_owned(),
        "POST /minio HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "POST /minio HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef".to_owned(),
        "POST /minio HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        huge_header,
    ];
    for bytes in pieces {
        let mut sender = Sender::connect(hook.address).await?;
        // The other side may hang up in the middle.
        let _hung_up: Result<()> = sender.send(&bytes).await;
        sender.0.shutdown().await.ok();
        sender.is_closed().await?;
    }
    ensure!(hook.running.is_empty() && hook.bound.unsettled() == 0);
    let mut sender = Sender::connect(hook.address).await?;
    sender.send(post("/minio", "", "still here")).await?;
    hook.running.next().await?.ack.acknowledge();
    ensure!(sender.answer().await?.starts_with("http/1.1 200"));
    hook.running.end().await
}

async fn slow_head_and_slow_body_are_cut_off(_: Ctx) -> Result<()> {
    let short = Duration::from_millis(300);
    let limits = Limits { head_time: short, body_time: short, ..Limits::default() };
    let hook = open("", Redelivers::Yes, limits).await?;
    let mut silent = Sender::connect(hook.address).await?;
    let mut head = Sender::connect(hook.address).await?;
    head.send("POST /minio HTTP/1.1\r\nHo").await?;
    let mut body = Sender::connect(hook.address).await?;
    body.send("POST /minio HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nslow").await?;
    ensure!(body.answer().await?.starts_with("http/1.1 408"));
    for sender in [&mut silent, &mut head, &mut body] {
        sender.is_closed().await?;
    }
    ensure!(hook.running.is_empty() && hook.bound.unsettled() == 0);
    hook.running.end().await
}

async fn sender_that_takes_no_answer_is_cut_off(_: Ctx) -> Result<()> {
    let limits = Limits { connections: 1, answer_time: Duration::from_secs(1), ..Limits::default() };
    let mut hook = open("", Redelivers::Yes, limits).await?;
    let mut deaf = TcpStream::connect(hook.address).await?;
    let requests = "GET /elsewhere HTTP/1.1\r\nHost: t\r\n\r\n".repeat(1_000);
    let asking = async { while deaf.write_all(requests.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(LIMIT, asking).await.context("the connection was left open")?;
    let mut sender = Sender::connect(hook.address).await?;
    sender.send(post("/minio", "", "next")).await?;
    hook.running.next().await?.ack.acknowledge();
    ensure!(sender.answer().await?.starts_with("http/1.1 200"));
    hook.running.end().await
}

async fn connections_over_the_limit_wait_their_turn(_: Ctx) -> Result<()> {
    let limits = Limits { connections: 2, head_time: Duration::from_millis(500), ..Limits::default() };
    let mut hook = open("", Redelivers::Yes, limits).await?;
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut sender = Sender::connect(hook.address).await?;
        sender.send(post("/minio", "", "")).await?;
        ensure!(sender.answer().await?.starts_with("http/1.1 200"));
        idle.push(sender);
    }
    let mut third = Sender::connect(hook.address).await?;
    third.send(post("/minio", "", "patient")).await?;
    // It is let in when the idle ones have been cut off, for which theirs is the time of a head.
    hook.running.next().await?.ack.acknowledge();
    ensure!(third.answer().await?.starts_with("http/1.1 200"));
    hook.running.end().await
}

async fn strangers_connections_keep_no_sender_out_and_cut_none_off(_: Ctx) -> Result<()> {
    let token = "Authorization: Bearer secret\r\n";
    // Nobody is closed for being idle or slow here.
    let limits = Limits { connections: 64, head_time: Duration::from_hours(1), ..Limits::default() };
    let mut hook = open("token = \"secret\"", Redelivers::No, limits).await?;
    let mut idle = Sender::connect(hook.address).await?;
    idle.send(post("/minio", token, "before")).await?;
    hook.running.next().await?.ack.acknowledge();
    ensure!(idle.answer().await?.starts_with("http/1.1 200"));
    let mut slow = Sender::connect(hook.address).await?;
    slow.send(post("/minio", token, "slow")).await?;
    let unsettled = hook.running.next().await?;
    let mut strangers = Vec::new();
    for number in 0..limits.connections + 50 {
        let mut stranger = Sender::connect(hook.address).await?;
        stranger.send(if number % 2 == 0 { "" } else { "POST /minio HTTP/1.1\r\nHo" }).await?;
        strangers.push(stranger);
    }
    let mut fresh = Sender::connect(hook.address).await?;
    fresh.send(post("/minio", token, "new")).await?;
    let message = hook.running.next().await?;
    ensure!(text(&message) == "new");
    message.ack.acknowledge();
    ensure!(fresh.answer().await?.starts_with("http/1.1 200"));
    for gone in &mut strangers[..50] {
        gone.is_closed().await?;
    }
    unsettled.ack.acknowledge();
    ensure!(slow.answer().await?.starts_with("http/1.1 200"), "a request in progress was cut off");
    idle.send(post("/minio", token, "after")).await?;
    hook.running.next().await?.ack.acknowledge();
    ensure!(idle.answer().await?.starts_with("http/1.1 200"), "a sender's idle connection was closed");
    // Who has begun a head and no more is not waited for when the source stops.
    hook.running.end().await
}

async fn stop_lets_a_running_request_be_answered_and_accepts_no_more(_: Ctx) -> Result<()> {
    let mut hook = open_plain().await?;
    let _silent = Sender::connect(hook.address).await?;
    let mut idle = Sender::connect(hook.address).await?;
    idle.send("HEAD /minio HTTP/1.1\r\nHost: t\r\n\r\n").await?;
    idle.answer().await?;
    let mut running = Sender::connect(hook.address).await?;
    running.send(post("/minio", "", "x")).await?;
    let message = hook.running.next().await?;
    hook.running.stop.cancel();
    idle.is_closed().await?;
    wait_for("nothing more is accepted", LIMIT, async || TcpStream::connect(hook.address).await.is_err())
        .await?;
    ensure!(!hook.running.task.is_finished());
    message.ack.acknowledge();
    ensure!(running.answer().await?.starts_with("http/1.1 200"));
    hook.running.end().await
}

async fn minio_with_a_queue_repeats_until_it_was_acknowledged(_: Ctx) -> Result<()> {
    let mut hook = open("token = \"secret\"", Redelivers::Yes, Limits::default()).await?;
    let target = WebhookTarget {
        id: "HOOK".into(),
        endpoint: format!("http://{}/minio", hook.address),
        auth_token: Some("secret".into()),
        queue_dir: true,
    };
    let minio = Minio::start(MinioOptions { webhooks: vec![target], ..MinioOptions::default() }).await?;
    minio.create_bucket("photos").await?;
    minio.notify("photos", &minio.webhook_arn("HOOK"), &["s3:ObjectCreated:*"]).await?;
    minio.put_object("photos", "in/a b.jpg", "hello", &[]).await?;
    let refused = text(&hook.running.next().await?);
    let again = hook.running.next().await?;
    ensure!(text(&again) == refused, "the queue sent other bytes");
    again.ack.acknowledge();
    wait_for("MinIO's queue is empty", LIMIT, async || {
        let folder = minio.queue_dir("HOOK").join("minio-webhook-HOOK");
        std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_none())
    })
    .await?;
    hook.running.end().await
}
