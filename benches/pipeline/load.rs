//! The loads: a bare loop of calls, and events in MinIO's form by webhook and by MQTT.
//!
//! Each keeps at most [`WINDOW`] events between sending and the function's call (closed loop), or sends at a given
//! pace. The webhook's sender is as lean as it can be (requests written as bytes), since it takes its time from the
//! same cores as what is measured.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use reqwest::{Client, header};
use rumqttc::{AsyncClient, QoS};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    function::{DIGITS, Sample},
    installation::{BUCKET, TOPIC, WEBHOOK_TOKEN},
    ledger::Load,
};

/// Events that are on their way at once.
pub(crate) const WINDOW: usize = 64;

/// Length of an event as MinIO would send it, in bytes.
pub(crate) const EVENT: usize = 1_024;

/// A MinIO's notification of an uploaded object, as it was recorded.
const RECORDED: &str = include_str!("../../tests/fixtures/minio/webhook-object-created-put.json");

/// How fast a load is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// The next one when one has arrived, [`WINDOW`] at a time.
    Closed,
    /// One in so much time, whatever becomes of the others.
    Each(Duration),
}

impl Pace {
    /// Ticks for one of several workers that send by turns.
    fn ticks(self, worker: usize) -> Option<Interval> {
        let Self::Each(pause) = self else { return None };
        let workers = u32::try_from(WINDOW).unwrap_or(1);
        let start = tokio::time::sleep(pause * u32::try_from(worker).unwrap_or(0)).deadline();
        let mut ticks = tokio::time::interval_at(start, pause * workers);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(ticks)
    }
}

/// Events in MinIO's form, of [`EVENT`] bytes, unique in key and sequencer.
#[derive(Clone)]
pub(crate) struct Events {
    template: String,
}

impl Events {
    pub(crate) fn new() -> Result<Self> {
        let mut record: serde_json::Value = serde_json::from_str(RECORDED)?;
        let agent = record["Records"][0]["source"]["userAgent"].take();
        let (agent, sequencer) = (
            agent.as_str().context("the recording has no user agent")?.to_owned(),
            record["Records"][0]["s3"]["object"]["sequencer"].take(),
        );
        let sequencer = sequencer.as_str().context("the recording has no sequencer")?;
        let text = RECORDED.replace("fixtures", BUCKET).replace("photo.jpg", "########.jpg");
        let text = text.replace(sequencer, "18EA1992########");
        let room = (EVENT + agent.len()).checked_sub(text.len()).context("the recording is too long")?;
        let short = agent.get(..room).context("the recording is too short")?;
        Ok(Self { template: text.replace(&agent, short) })
    }

    /// An event of the neighbour that hangs.
    fn neighbours(&self, number: usize) -> String {
        let event = self.event(number);
        event.replace(&format!("{BUCKET}/in/"), &format!("{BUCKET}/hang/")).replace("in%2F", "hang%2F")
    }

    fn event(&self, number: usize) -> String {
        self.template.replace("########", &format!("{number:0DIGITS$}"))
    }
}

/// Calls the function as the sample says, with nothing around: what any client has to do at the least.
pub(crate) async fn bare(load: &Load, url: &str, sample: &Sample, pace: Pace) -> Result<()> {
    let client = Client::builder()
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(WINDOW)
        .build()?;
    let mut headers = sample.headers.clone();
    headers.remove(header::HOST);
    headers.remove(header::CONTENT_LENGTH);
    let one = async |worker: usize| {
        let mut ticks = pace.ticks(worker);
        loop {
            tick(&mut ticks).await;
            let Some(number) = load.next() else { return Ok::<_, anyhow::Error>(()) };
            let mut body = sample.body.to_vec();
            let digits = format!("{number:0DIGITS$}");
            body[sample.number_at..sample.number_at + DIGITS].copy_from_slice(digits.as_bytes());
            let call = client.post(url).headers(headers.clone()).body(Bytes::from(body));
            let answer = call.send().await?.error_for_status()?;
            answer.bytes().await?;
        }
    };
    try_join_all((0..WINDOW).map(one)).await?;
    Ok(())
}

/// Posts events as a MinIO target with `queue_dir` does, over [`WINDOW`] connections.
pub(crate) async fn webhook(load: &Load, port: u16, events: &Events, pace: Pace) -> Result<()> {
    let one = async |worker: usize| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut ticks = pace.ticks(worker);
        loop {
            tick(&mut ticks).await;
            let Some(number) = load.next() else { return Ok::<_, anyhow::Error>(()) };
            post(&mut stream, port, &events.event(number)).await?;
        }
    };
    try_join_all((0..WINDOW).map(one)).await?;
    Ok(())
}

async fn post(stream: &mut TcpStream, port: u16, event: &str) -> Result<()> {
    let request = format!(
        "POST /minio HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {}\r\nAuthorization: Bearer {WEBHOOK_TOKEN}\r\nContent-Type: application/json\r\n\r\n{event}",
        event.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 512];
    let mut read = 0;
    while !answer[..read].ends_with(b"\r\n\r\n") {
        let more = stream.read(&mut answer[read..]).await?;
        ensure!(more > 0, "the daemon closed a connection");
        read += more;
    }
    let head = String::from_utf8_lossy(&answer[..read]);
    ensure!(head.starts_with("HTTP/1.1 200 "), "the daemon refused an event: {head}");
    Ok(())
}

/// Publishes events as a MinIO target does, at QoS 1.
pub(crate) async fn mqtt(load: &Load, client: &AsyncClient, events: &Events, pace: Pace) -> Result<()> {
    let mut ticks = match pace {
        Pace::Closed => None,
        Pace::Each(pause) => Some(interval(pause)),
    };
    loop {
        tick(&mut ticks).await;
        while ticks.is_none() && load.in_flight() >= WINDOW {
            load.ledger.arrival.notified().await;
        }
        let Some(number) = load.next() else { return Ok(()) };
        client.publish(TOPIC, QoS::AtLeastOnce, false, events.event(number)).await?;
    }
}

/// Publishes events for the neighbour at this pace until it is dropped, and counts them.
pub(crate) async fn flood(
    client: AsyncClient,
    events: Events,
    pause: Duration,
    sent: Arc<AtomicUsize>,
) -> Result<()> {
    let mut ticks = interval(pause);
    loop {
        ticks.tick().await;
        let number = sent.fetch_add(1, Ordering::Relaxed);
        client.publish(TOPIC, QoS::AtLeastOnce, false, events.neighbours(number)).await?;
    }
}

async fn tick(ticks: &mut Option<Interval>) {
    if let Some(ticks) = ticks {
        ticks.tick().await;
    }
}

/// A client that publishes, served by a task of its own until the program ends.
pub(crate) fn publisher(options: rumqttc::MqttOptions) -> AsyncClient {
    let mut options = options;
    options.set_inflight(1_000);
    let (client, mut connection) = AsyncClient::new(options, WINDOW);
    let mut network = connection.network_options();
    network.set_tcp_nodelay(true);
    connection.set_network_options(network);
    tokio::spawn(async move {
        // An end of the connection shows as events that do not arrive.
        while connection.poll().await.is_ok() {}
    });
    client
}

/// What all loads of a program share.
pub(crate) struct Ways {
    pub(crate) events: Events,
    pub(crate) publisher: AsyncClient,
    pub(crate) webhook_port: u16,
    pub(crate) function_url: String,
    pub(crate) sample: Option<Sample>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Bare,
    Mqtt,
    Webhook,
}

impl Ways {
    /// Sends a load one way.
    pub(crate) async fn send(&self, way: Way, load: &Load, pace: Pace) -> Result<()> {
        match way {
            Way::Bare => {
                let sample = self.sample.as_ref().context("no sample was taken")?;
                bare(load, &self.function_url, sample, pace).await
            }
            Way::Mqtt => mqtt(load, &self.publisher, &self.events, pace).await,
            Way::Webhook => webhook(load, self.webhook_port, &self.events, pace).await,
        }
    }
}
