//! Mosquitto really starts, passes messages on, keeps them, and refuses whom it should.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};

use super::LIMIT;
use crate::harness::mosquitto::{Mosquitto, MosquittoOptions, Tls};
use crate::harness::process::Halt;
use crate::harness::suite::{Ctx, Test, tests};
use crate::harness::wait::wait_for;

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Mosquitto] qos_1_message_is_kept_for_an_absent_session_over_a_crash;
        [Mosquitto] tls_with_a_required_client_certificate_lets_only_its_holder_in;
        [Mosquitto] wrong_password_is_refused;
        [Mosquitto] paused_mosquitto_acknowledges_only_after_it_was_resumed;
    }
}

/// Connects and returns once the subscription stands.
pub(super) async fn subscribe(mut options: MqttOptions, topic: &str) -> Result<EventLoop> {
    options.set_clean_session(false);
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe(topic, QoS::AtLeastOnce).await?;
    poll_until(&mut events, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await?;
    Ok(events)
}

pub(super) async fn next_message(events: &mut EventLoop) -> Result<Vec<u8>> {
    poll_until(events, |packet| match packet {
        Packet::Publish(message) => Some(message.payload.to_vec()),
        _ => None,
    })
    .await
}

async fn poll_until<T>(events: &mut EventLoop, mut pick: impl FnMut(&Packet) -> Option<T>) -> Result<T> {
    tokio::time::timeout(LIMIT, async {
        loop {
            if let Event::Incoming(packet) = events.poll().await?
                && let Some(found) = pick(&packet)
            {
                return Ok(found);
            }
        }
    })
    .await
    .context("the broker did not send what was waited for")?
}

async fn publish(options: MqttOptions, topic: &str, payload: &str) -> Result<()> {
    let (client, mut events) = AsyncClient::new(options, 10);
    client.publish(topic, QoS::AtLeastOnce, false, payload).await?;
    poll_until(&mut events, |packet| matches!(packet, Packet::PubAck(_)).then_some(())).await
}

async fn qos_1_message_is_kept_for_an_absent_session_over_a_crash(_: Ctx) -> Result<()> {
    let options = MosquittoOptions {
        persistence: true,
        max_queued_messages: Some(1_000_000),
        ..MosquittoOptions::default()
    };
    let mut mosquitto = Mosquitto::start(options).await?;
    drop(subscribe(mosquitto.client_options("reader")?, "events").await?);
    publish(mosquitto.client_options("writer")?, "events", "while away").await?;
    let saved = mosquitto.log().with_file_name("mosquitto.db");
    wait_for("Mosquitto saves the message", LIMIT, async || {
        std::fs::read(&saved).is_ok_and(|bytes| bytes.windows(10).any(|window| window == b"while away"))
    })
    .await?;
    mosquitto.restart(Halt::Kill).await?;
    let mut options = mosquitto.client_options("reader")?;
    options.set_clean_session(false);
    let (_client, mut events) = AsyncClient::new(options, 10);
    ensure!(next_message(&mut events).await? == b"while away");
    Ok(())
}

async fn tls_with_a_required_client_certificate_lets_only_its_holder_in(_: Ctx) -> Result<()> {
    let mosquitto =
        Mosquitto::start(MosquittoOptions { tls: Tls::ServerAndClient, ..Default::default() }).await?;
    let mut events = subscribe(mosquitto.client_options("holder")?, "events").await?;
    publish(mosquitto.client_options("writer")?, "events", "secret").await?;
    ensure!(next_message(&mut events).await? == b"secret");
    let mut stranger = mosquitto.client_options("stranger")?;
    let ca = std::fs::read(&mosquitto.certificates().context("it has certificates")?.ca)?;
    let mut tls = native_tls::TlsConnector::builder();
    tls.disable_built_in_roots(true).add_root_certificate(native_tls::Certificate::from_pem(&ca)?);
    stranger.set_transport(rumqttc::Transport::tls_with_config(rumqttc::TlsConfiguration::NativeConnector(
        tls.build()?,
    )));
    ensure!(
        publish(stranger, "events", "forged").await.is_err(),
        "a client without a certificate was let in"
    );
    Ok(())
}

async fn wrong_password_is_refused(_: Ctx) -> Result<()> {
    let users = vec![("reader".to_owned(), "right".to_owned())];
    let mut mosquitto = Mosquitto::start(MosquittoOptions { users, ..MosquittoOptions::default() }).await?;
    publish(mosquitto.client_options("writer")?, "events", "allowed").await?;
    let mut wrong = mosquitto.client_options("writer")?;
    wrong.set_credentials("reader", "wrong");
    ensure!(publish(wrong, "events", "forged").await.is_err(), "a wrong password was let in");
    let (_client, mut nobody) =
        AsyncClient::new(MqttOptions::new("nobody", "127.0.0.1", mosquitto.port()), 1);
    ensure!(nobody.poll().await.is_err(), "somebody without a name was let in");
    mosquitto.kill9().await?;
    ensure!(
        publish(mosquitto.client_options("writer")?, "events", "x").await.is_err(),
        "a killed Mosquitto answered"
    );
    mosquitto.start_again().await?;
    publish(mosquitto.client_options("writer")?, "events", "allowed").await?;
    Ok(())
}

async fn paused_mosquitto_acknowledges_only_after_it_was_resumed(_: Ctx) -> Result<()> {
    let mosquitto = Mosquitto::start(MosquittoOptions::default()).await?;
    mosquitto.pause()?;
    let published = publish(mosquitto.client_options("writer")?, "events", "late");
    tokio::pin!(published);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut published).await;
    ensure!(early.is_err(), "a paused Mosquitto answered: {early:?}");
    mosquitto.resume()?;
    published.await
}
