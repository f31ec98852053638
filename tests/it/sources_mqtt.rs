//! The MQTT source against a real Mosquitto, in both versions of the protocol.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rumqttc::{AsyncClient, QoS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::installed::Server;
use crate::harness::mosquitto::{Mosquitto, MosquittoOptions, Tls};
use crate::harness::suite::{Ctx, Test, tests};
use crate::harness::wait::wait_for;
use crate::sources::{LIMIT, text};
use crate::sources_subscriber::{
    CLIENT_ID, Subscriber, TOPIC, Version, broker, intrude, lasting, publish, publish_all, seen_acknowledged,
};

/// Lists each test once for each version.
macro_rules! in_both_versions {
    ($($name:ident $(within $seconds:literal)?;)*) => {{
        let mut tests = Vec::new();
        for (version, suffix) in [("3.1.1", "v3"), ("5", "v5")] {
            $(
                let name = concat!("sources_mqtt::", stringify!($name));
                let test = Test::new(format!("{name}_{suffix}"), &[Server::Mosquitto], move |ctx| $name(ctx, version));
                $(let test = test.within(Duration::from_secs($seconds));)?
                tests.push(test);
            )*
        }
        tests
    }};
}

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = tests! { [] takeover_that_the_broker_explains_is_told_at_once; };
    tests.extend(in_both_versions! {
        acknowledgements_go_out_in_the_order_of_receipt;
        message_that_is_not_safe_comes_again_on_the_next_connection;
        unacknowledged_messages_come_again_in_a_new_process;
        acknowledgement_of_an_earlier_connection_is_dropped;
        broker_that_restarts_is_connected_and_subscribed_again;
        broker_that_hangs_is_noticed_and_connected_again;
        what_a_killed_broker_had_sent_is_handed_on;
        another_client_of_our_id_is_an_alarm_with_a_long_pause;
        wrong_password_is_told;
        tls_with_own_authority_and_client_certificate_works;
        burst_with_slow_acknowledgements_loses_none within 120;
        changed_topic_is_subscribed_on_the_kept_session;
        full_source_closes_and_opens_again_below_half;
        stop_takes_no_more_and_acknowledges_what_becomes_safe;
        large_messages_arrive_and_larger_ones_as_their_beginning;
        messages_over_a_low_limit_are_kept_whole_up_to_64_kib;
        message_at_qos_0_is_pressed;
        subscription_that_is_not_granted_is_told;
    });
    tests
}

async fn acknowledgements_go_out_in_the_order_of_receipt(_: Ctx, version: Version) -> Result<()> {
    let mosquitto = broker().await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "").await?;
    publish_all(&mosquitto, &["1", "2", "3", "4"]).await?;
    let mut messages = subscriber.expect(&["1", "2", "3", "4"]).await?;
    let first = messages.remove(0);
    for message in messages.into_iter().rev() {
        message.ack.acknowledge();
    }
    ensure!(subscriber.bound.unsettled() == 1);
    // A message that is acknowledged at once behind them shows that the others were held back, and not only slow.
    publish_all(&mosquitto, &["5"]).await?;
    subscriber.next().await?.ack.acknowledge();
    ensure!(seen_acknowledged(&mosquitto)?.is_empty(), "acknowledged out of order");
    first.ack.acknowledge();
    wait_for("all are acknowledged", LIMIT, async || {
        seen_acknowledged(&mosquitto).is_ok_and(|ids| ids.len() == 5)
    })
    .await?;
    let ids = seen_acknowledged(&mosquitto)?;
    ensure!(ids.is_sorted() && ids.len() == 5, "{ids:?}");
    subscriber.running.end().await
}

async fn message_that_is_not_safe_comes_again_on_the_next_connection(_: Ctx, version: Version) -> Result<()> {
    let mosquitto = broker().await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "").await?;
    publish_all(&mosquitto, &["1", "2", "3"]).await?;
    let mut messages = subscriber.expect(&["1", "2", "3"]).await?.into_iter();
    messages.next().context("none")?.ack.acknowledge();
    drop(messages);
    let state =
        subscriber.until("connected again", |state| state.connections == 2 && state.subscribed).await?;
    ensure!(state.last_error.is_some_and(|error| error.contains("could not be made safe")));
    for message in subscriber.expect(&["2", "3"]).await? {
        message.ack.acknowledge();
    }
    publish_all(&mosquitto, &["4"]).await?;
    subscriber.expect(&["4"]).await?;
    subscriber.crash().await;
    Ok(())
}

async fn unacknowledged_messages_come_again_in_a_new_process(_: Ctx, version: Version) -> Result<()> {
    let mosquitto = broker().await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "").await?;
    publish_all(&mosquitto, &["1", "2"]).await?;
    let held = subscriber.expect(&["1", "2"]).await?;
    subscriber.crash().await;
    drop(held);
    publish_all(&mosquitto, &["while away"]).await?;
    let mut subscriber = Subscriber::start(&mosquitto, version, "")?;
    for message in subscriber.expect(&["1", "2", "while away"]).await? {
        message.ack.acknowledge();
    }
    subscriber.running.end().await
}

async fn acknowledgement_of_an_earlier_connection_is_dropped(_: Ctx, version: Version) -> Result<()> {
    let mosquitto = broker().await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "").await?;
    publish_all(&mosquitto, &["1", "2"]).await?;
    let mut early = subscriber.expect(&["1", "2"]).await?;
    // The first is not safe, which ends the connection; the second is acknowledged too late.
    drop(early.remove(0));
    let mut late = subscriber.expect(&["1", "2"]).await?;
    early.remove(0).ack.acknowledge();
    publish_all(&mosquitto, &["3"]).await?;
    subscriber.expect(&["3"]).await?;
    ensure!(seen_acknowledged(&mosquitto)?.is_empty(), "an old packet id was acknowledged");
    late.remove(0).ack.acknowledge();
    wait_for("the first is acknowledged", LIMIT, async || {
        seen_acknowledged(&mosquitto).is_ok_and(|ids| ids.len() == 1)
    })
    .await?;
    subscriber.crash().await;
    let mut again = Subscriber::start(&mosquitto, version, "")?;
    again.expect(&["2", "3"]).await?;
    again.crash().await;
    Ok(())
}

async fn broker_that_restarts_is_connected_and_subscribed_again(_: Ctx, version: Version) -> Result<()> {
    // Nothing on disk: the broker forgets the session, and with it the subscription.
    let mut mosquitto = Mosquitto::start(MosquittoOptions::default()).await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "").await?;
    mosquitto.kill9().await?;
    let state = subscriber.until("disconnected", |state| !state.connected).await?;
    ensure!(!state.subscribed && state.last_error.is_some(), "{state:?}");
    mosquitto.start_again().await?;
    let state = subscriber.until("subscribed again", |state| state.subscribed).await?;
    ensure!(state.connections == 2 && !state.taken_over, "{state:?}");
    publish_all(&mosquitto, &["after"]).await?;
    subscriber.expect(&["after"]).await?.remove(0).ack.acknowledge();
    subscriber.running.end().await
}

async fn broker_that_hangs_is_noticed_and_connected_again(_: Ctx, version: Version) -> Result<()> {
    let mosquitto = broker().await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "keep_alive_s = 5").await?;
    mosquitto.pause()?;
    subscriber.until("noticed", |state| !state.connected).await?;
    mosquitto.resume()?;
    subscriber.until("subscribed again", |state| state.subscribed).await?;
    publish_all(&mosquitto, &["after"]).await?;
    subscriber.expect(&["after"]).await?.remove(0).ack.acknowledge();
    subscriber.running.end().await
}

async fn what_a_killed_broker_had_sent_is_handed_on(_: Ctx, version: Version) -> Result<()> {
    // It forgets everything with its end, so that ours is the only copy.
    let mut mosquitto = Mosquitto::start(MosquittoOptions::default()).await?;
    let broker = format!("mqtt://127.0.0.1:{}", mosquitto.port());
    let mut subscriber = Subscriber::with_inbox(1, &broker, version, "")?;
    subscriber.until("subscribed", |state| state.subscribed).await?;
    let bodies = ["1", "2", "3", "4", "5"];
    publish_all(&mosquitto, &bodies).await?;
    let bound = Arc::clone(&subscriber.bound);
    wait_for("all are received", LIMIT, async || bound.unsettled() == bodies.len()).await?;
    mosquitto.kill9().await?;
    let dropped =
        wait_for("some are dropped", Duration::from_millis(500), async || bound.unsettled() < bodies.len());
    ensure!(dropped.await.is_err(), "{} of {} are left", bound.unsettled(), bodies.len());
    drop(subscriber.expect(&bodies).await?);
    subscriber.running.end().await
}

async fn another_client_of_our_id_is_an_alarm_with_a_long_pause(_: Ctx, version: Version) -> Result<()> {
    let mosquitto = broker().await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "").await?;
    // Mosquitto's reason does not reach us (see the next test), so that only the third time in a row is told.
    for time in 1..=3 {
        subscriber.until("subscribed", |state| state.subscribed && state.connections == time).await?;
        let _intruder = intrude(&mosquitto, version).await?;
        let state = subscriber.until("thrown out", |state| !state.connected).await?;
        ensure!(state.taken_over == (time == 3), "{time}: {state:?}");
    }
    // It does not come back at once; a stop in the middle of the long pause is heeded all the same.
    ensure!(subscriber.state.borrow().connections == 3);
    subscriber.running.end().await
}

/// A broker of MQTT 5 in a few bytes, which tells the reason with the (empty) properties that Mosquitto leaves
/// out.
async fn takeover_that_the_broker_explains_is_told_at_once(_: Ctx) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let broker = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut packet = [0; 500];
        ensure!(stream.read(&mut packet).await? > 0 && packet[0] == 0x10, "no CONNECT");
        stream.write_all(&[0x20, 3, 0, 0, 0]).await?;
        ensure!(stream.read(&mut packet).await? > 4 && packet[0] == 0x82, "no SUBSCRIBE");
        stream.write_all(&[0x90, 4, packet[2], packet[3], 0, 1]).await?;
        stream.write_all(&[0xe0, 2, 0x8e, 0]).await?;
        Ok(stream)
    });
    let mut subscriber = Subscriber::at(&format!("mqtt://127.0.0.1:{port}"), "5", "")?;
    let state = subscriber.until("thrown out", |state| state.last_error.is_some()).await?;
    ensure!(state.taken_over && !state.connected, "{state:?}");
    ensure!(state.last_error.is_some_and(|error| error.contains("took over the session")));
    drop(broker.await??);
    subscriber.running.end().await
}

async fn wrong_password_is_told(_: Ctx, version: Version) -> Result<()> {
    let users = vec![("triggerd".to_owned(), "right".to_owned())];
    let mosquitto = Mosquitto::start(MosquittoOptions { users, ..lasting() }).await?;
    let mut wrong =
        Subscriber::start(&mosquitto, version, "username = \"triggerd\"\npassword = \"wrong-secret\"")?;
    let state = wrong.until("refused", |state| state.last_error.is_some()).await?;
    let error = state.last_error.unwrap_or_default();
    ensure!(!state.connected && !state.taken_over && error.contains("refused the connection"), "{error}");
    ensure!(!error.contains("wrong-secret"));
    wrong.running.end().await?;
    let right = "username = \"triggerd\"\npassword = \"right\"";
    Subscriber::subscribed(&mosquitto, version, right).await?.running.end().await
}

async fn tls_with_own_authority_and_client_certificate_works(ctx: Ctx, version: Version) -> Result<()> {
    let mosquitto = Mosquitto::start(MosquittoOptions { tls: Tls::ServerAndClient, ..lasting() }).await?;
    let files = mosquitto.certificates().context("no certificates")?;
    let ca = format!("ca_file = '{}'", files.ca.display());
    let mutual = format!(
        "{ca}\ncert_file = '{}'\nkey_file = '{}'",
        files.client_certificate.display(),
        files.client_key.display()
    );
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, &mutual).await?;
    publish_all(&mosquitto, &["secret"]).await?;
    subscriber.expect(&["secret"]).await?.remove(0).ack.acknowledge();
    subscriber.running.end().await?;

    let other = ctx.folder().join("other");
    std::fs::create_dir(&other)?;
    let other = crate::harness::certificates::Certificates::generate(&other)?;
    let strange = mutual.replace(&files.ca.display().to_string(), &other.ca.display().to_string());
    for (settings, what) in [(strange.as_str(), "certificate"), (&ca, ""), ("", "certificate")] {
        let mut refused = Subscriber::start(&mosquitto, version, settings)?;
        let state = refused.until("refused", |state| state.last_error.is_some()).await?;
        let error = state.last_error.unwrap_or_default();
        ensure!(!state.subscribed && error.contains(what), "{settings}: {error}");
        refused.running.end().await?;
    }
    Ok(())
}

async fn burst_with_slow_acknowledgements_loses_none(_: Ctx, version: Version) -> Result<()> {
    const COUNT: usize = 20_000;
    let mosquitto = broker().await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "receive_maximum = 1000").await?;
    let payload = |index: usize| format!("{index:0>1000}").into_bytes();
    let burst = publish(&mosquitto, TOPIC, (0..COUNT).map(payload).collect());
    let mut seen = BTreeSet::new();
    let receive = async {
        let mut messages = 0;
        while seen.len() < COUNT {
            let message = subscriber.next().await?;
            messages += 1;
            seen.insert(text(&message));
            // Each takes its time, the later ones less than the earlier ones.
            let slow = Duration::from_millis(20 - (messages % 20));
            tokio::spawn(async move {
                tokio::time::sleep(slow).await;
                message.ack.acknowledge();
            });
        }
        Ok::<_, anyhow::Error>(messages)
    };
    let (published, messages) = tokio::join!(burst, receive);
    published?;
    ensure!(messages? == COUNT as u64, "messages came twice on one connection");
    wait_for("all are acknowledged", LIMIT, async || {
        seen_acknowledged(&mosquitto).is_ok_and(|ids| ids.len() == COUNT)
    })
    .await?;
    ensure!(subscriber.bound.unsettled() == 0 && subscriber.state.borrow().connections == 1);
    subscriber.running.end().await
}

async fn changed_topic_is_subscribed_on_the_kept_session(_: Ctx, version: Version) -> Result<()> {
    let mosquitto = broker().await?;
    Subscriber::subscribed(&mosquitto, version, "").await?.running.end().await?;
    let mut changed = Subscriber::subscribed(&mosquitto, version, "topic = \"minio/+/new\"").await?;
    publish(&mosquitto, "minio/x/new", vec![b"new".to_vec()]).await?;
    changed.expect(&["new"]).await?.remove(0).ack.acknowledge();
    changed.running.end().await
}

async fn full_source_closes_and_opens_again_below_half(_: Ctx, version: Version) -> Result<()> {
    let mosquitto = broker().await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "bound = { messages = 4 }").await?;
    let payloads: Vec<String> = (1..=12).map(|index| index.to_string()).collect();
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    publish_all(&mosquitto, &payloads).await?;
    let mut held = Vec::new();
    for index in 1..=8 {
        let message = subscriber.next().await?;
        ensure!(message.pressed == (index > 4), "{index}");
        held.push(message);
    }
    // It stays connected until what is in flight is settled: its acknowledgements must not be lost.
    ensure!(subscriber.bound.unsettled() == 8 && subscriber.running.is_empty());
    ensure!(subscriber.state.borrow().connections == 1);
    for message in held {
        message.ack.acknowledge();
    }
    let state = subscriber.until("opened again", |state| state.connections == 2 && state.subscribed).await?;
    ensure!(state.last_error.is_some_and(|error| error.contains("twice the bound")));
    for message in subscriber.expect(&["9", "10", "11", "12"]).await? {
        message.ack.acknowledge();
    }
    subscriber.running.end().await
}

async fn stop_takes_no_more_and_acknowledges_what_becomes_safe(_: Ctx, version: Version) -> Result<()> {
    let mosquitto = broker().await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "").await?;
    publish_all(&mosquitto, &["1", "2"]).await?;
    let running = subscriber.expect(&["1", "2"]).await?;
    subscriber.running.stop.cancel();
    publish_all(&mosquitto, &["3"]).await?;
    ensure!(!subscriber.running.task.is_finished());
    for message in running {
        message.ack.acknowledge();
    }
    let state = subscriber.state.clone();
    ensure!(subscriber.running.messages.recv().await.is_none(), "a message was taken in after the stop");
    subscriber.running.end().await?;
    ensure!(!state.borrow().connected);
    let goodbye = format!("Received DISCONNECT from {CLIENT_ID}");
    wait_for("the broker hears the goodbye", LIMIT, async || {
        std::fs::read_to_string(mosquitto.log()).is_ok_and(|log| log.contains(&goodbye))
    })
    .await?;
    ensure!(seen_acknowledged(&mosquitto)?.len() == 2);
    let mut next = Subscriber::start(&mosquitto, version, "")?;
    next.expect(&["3"]).await?.remove(0).ack.acknowledge();
    next.running.end().await
}

async fn large_messages_arrive_and_larger_ones_as_their_beginning(_: Ctx, version: Version) -> Result<()> {
    let mosquitto = broker().await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "max_body = 300000").await?;
    let payloads = vec![vec![b'a'; 300_000], vec![b'b'; 300_001], b"c".to_vec()];
    publish(&mosquitto, TOPIC, payloads).await?;
    let expected = [(300_000, None), (65_536, Some(300_001)), (1, None)];
    for expected in expected {
        let message = subscriber.next().await?;
        ensure!((message.bytes.len(), message.oversize) == expected, "{expected:?}");
        message.ack.acknowledge();
    }
    subscriber.running.end().await
}

async fn messages_over_a_low_limit_are_kept_whole_up_to_64_kib(_: Ctx, version: Version) -> Result<()> {
    let mosquitto = broker().await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "max_body = 600").await?;
    publish(&mosquitto, TOPIC, vec![vec![b'a'; 600], vec![b'b'; 1_030], vec![b'c'; 65_537]]).await?;
    for expected in [(600, None), (1_030, Some(1_030)), (65_536, Some(65_537))] {
        let message = subscriber.next().await?;
        ensure!((message.bytes.len(), message.oversize) == expected, "{expected:?}");
        message.ack.acknowledge();
    }
    subscriber.running.end().await
}

async fn message_at_qos_0_is_pressed(_: Ctx, version: Version) -> Result<()> {
    let mosquitto = broker().await?;
    let mut subscriber = Subscriber::subscribed(&mosquitto, version, "").await?;
    let (client, mut events) = AsyncClient::new(mosquitto.client_options("careless")?, 10);
    client.publish(TOPIC, QoS::AtMostOnce, false, "0").await?;
    let polling = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let message = subscriber.next().await?;
    ensure!(text(&message) == "0" && message.pressed);
    // Not safe, and nothing that the broker could repeat: the connection stays.
    drop(message);
    publish_all(&mosquitto, &["1"]).await?;
    let message = subscriber.expect(&["1"]).await?.remove(0);
    ensure!(!message.pressed && subscriber.state.borrow().connections == 1);
    message.ack.acknowledge();
    polling.abort();
    subscriber.running.end().await
}

async fn subscription_that_is_not_granted_is_told(_: Ctx, version: Version) -> Result<()> {
    let lines = vec!["max_qos 0".to_owned()];
    let mosquitto = Mosquitto::start(MosquittoOptions { lines, ..MosquittoOptions::default() }).await?;
    for (settings, reason) in [("", "only QoS 0"), ("topic = \"a/#/b\"", "no topic filter")] {
        let mut refused = Subscriber::start(&mosquitto, version, settings)?;
        let state = refused.until("refused", |state| state.last_error.is_some()).await?;
        let error = state.last_error.unwrap_or_default();
        ensure!(!state.subscribed && error.contains(reason), "{error}");
        refused.running.end().await?;
    }
    Ok(())
}
