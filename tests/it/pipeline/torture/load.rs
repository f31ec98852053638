//! The load: notifications published to the broker and objects uploaded to MinIO, both at a fixed rate whatever becomes
//! of them (as far as what may be unanswered at once allows).
//!
//! The publisher is a small MQTT 3.1.1 client of its own, because it must know exactly which notification the broker
//! has acknowledged: what was not is sent again, with the same bytes, after each reconnect. So is what was acknowledged
//! in the last moments before a connection ended: Mosquitto acknowledges before it writes, and one that is killed
//! forgets what it said yes to within the last milliseconds (25 kills of a Mosquitto 2.1.2 that writes at every change
//! took 52 of 9,072 acknowledged messages). That is the broker's loss, which a publisher that matters has to make good;
//! for uploads the fast leg of twin targets does.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aws_sdk_s3::{config::retry::RetryConfig, primitives::ByteStream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::books::{Books, FATAL};
use crate::harness::minio::Minio;

/// Keys of published notifications begin so, or with [`FATAL`].
pub(super) const PUBLISHED: &str = "pub/";

/// Keys of uploaded objects begin so.
pub(super) const UPLOADED: &str = "put/";

/// One published event in so many fires the function that fails.
pub(super) const FATAL_ONE_IN: u32 = 20;

/// Published notifications that may be unacknowledged at once.
const UNACKNOWLEDGED: usize = 500;

/// What a broker that is killed may have acknowledged and not written.
const UNWRITTEN: Duration = Duration::from_secs(1);

/// Uploads that may be unanswered at once.
const UNANSWERED: usize = 256;

/// How long a connection of the publisher may take, and the pause after one that failed.
const CONNECT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);

/// A MinIO's notification of an uploaded object, as it was recorded.
const RECORDED: &str = include_str!("../../../fixtures/minio/webhook-object-created-put.json");

/// Numbers are given out once in the process, so that no key comes twice.
static NEXT_UPLOAD: AtomicU64 = AtomicU64::new(0);
static NEXT_NOTIFICATION: AtomicU64 = AtomicU64::new(0);

/// Events a second of each load; none where it is 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    /// Published to the broker.
    pub(super) published: u32,
    /// Uploaded to MinIO.
    pub(super) uploaded: u32,
}

impl Rates {
    /// Keys whose times are told: of the load that waits for nothing but the daemon.
    pub(super) fn measured(self) -> &'static str {
        if self.published > 0 { PUBLISHED } else { UPLOADED }
    }
}

/// A load that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) rates: Rates,
    tasks: Vec<JoinHandle<()>>,
    rests: Arc<AtomicBool>,
}

impl Load {
    /// Begins to publish to the broker at this port and to upload to this MinIO.
    pub(super) fn start(rates: Rates, broker: Option<u16>, minio: &Minio, books: &Arc<Books>) -> Self {
        let (mut tasks, rests) = (Vec::new(), Arc::new(AtomicBool::new(false)));
        if let Some(port) = broker.filter(|_| rates.published > 0) {
            let publisher = Publisher::new(port, Arc::clone(books), Arc::clone(&rests));
            tasks.push(tokio::spawn(publisher.run(Duration::from_secs(1) / rates.published)));
        }
        if rates.uploaded > 0 {
            let config = minio.s3().config().to_builder().retry_config(RetryConfig::disabled()).build();
            let s3 = aws_sdk_s3::Client::from_conf(config);
            let pause = Duration::from_secs(1) / rates.uploaded;
            tasks.push(tokio::spawn(upload(s3, pause, Arc::clone(books), Arc::clone(&rests))));
        }
        Self { rates, tasks, rests }
    }

    /// Begins nothing new; what was begun goes on to its answer.
    pub(super) fn pause(&self) {
        self.rests.store(true, Ordering::SeqCst);
    }

    /// Begins new ones again.
    pub(super) fn go_on(&self) {
        self.rests.store(false, Ordering::SeqCst);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn upload(s3: aws_sdk_s3::Client, pause: Duration, books: Arc<Books>, rests: Arc<AtomicBool>) {
    let (mut ticks, places) = (interval(pause), Arc::new(Semaphore::new(UNANSWERED)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if rests.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (s3, books) = (s3.clone(), Arc::clone(&books));
        let key = format!("{UPLOADED}{:07}", NEXT_UPLOAD.fetch_add(1, Ordering::SeqCst));
        tokio::spawn(async move {
            let sent = Instant::now();
            let request = s3.put_object().bucket("photos").key(&key).body(ByteStream::from_static(b"x"));
            if request.send().await.is_ok() {
                books.offered(&key, sent);
            }
            drop(place);
        });
    }
}

/// A notification that the broker has not acknowledged.
struct Pending {
    key: String,
    packet: Vec<u8>,
    sent: Instant,
}

struct Publisher {
    port: u16,
    books: Arc<Books>,
    rests: Arc<AtomicBool>,
    pending: BTreeMap<u16, Pending>,
    /// What was acknowledged a short while ago, oldest first.
    acknowledged: VecDeque<(Instant, Vec<u8>)>,
    next_packet: u16,
    is_connected: bool,
    /// When the last connection ended.
    ended_at: Instant,
}

impl Publisher {
    fn new(port: u16, books: Arc<Books>, rests: Arc<AtomicBool>) -> Self {
        Self {
            port,
            books,
            rests,
            pending: BTreeMap::new(),
            acknowledged: VecDeque::new(),
            next_packet: 0,
            is_connected: false,
            ended_at: Instant::now(),
        }
    }

    async fn run(mut self, pause: Duration) {
        loop {
            // However a connection ends, the next one sends again what was not acknowledged.
            let _ended: Result<()> = self.session(pause).await;
            if std::mem::take(&mut self.is_connected) {
                self.ended_at = Instant::now();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn session(&mut self, pause: Duration) -> Result<()> {
        let mut stream =
            tokio::time::timeout(CONNECT, TcpStream::connect(("127.0.0.1", self.port))).await??;
        stream.set_nodelay(true)?;
        stream.write_all(&connect_packet()).await?;
        let mut answer = [0; 4];
        tokio::time::timeout(CONNECT, stream.read_exact(&mut answer)).await??;
        ensure!(answer[0] == 0x20 && answer[3] == 0, "the broker refused: {answer:?}");
        self.is_connected = true;
        let (mut reads, mut writes) = stream.into_split();
        // Acknowledged once more, under packet ids that nobody waits for.
        for (_, packet) in self.acknowledged.iter().filter(|(at, _)| *at + UNWRITTEN >= self.ended_at) {
            writes.write_all(packet).await?;
        }
        for pending in self.pending.values() {
            writes.write_all(&pending.packet).await?;
        }
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut acknowledged = [0; 4];
        let mut filled = 0;
        loop {
            tokio::select! {
                read = reads.read(&mut acknowledged[filled..]) => {
                    filled += read?;
                    ensure!(filled > 0, "the broker closed the connection");
                    if filled == 4 {
                        filled = 0;
                        ensure!(acknowledged[..2] == [0x40, 2], "no PUBACK: {acknowledged:?}");
                        self.acknowledged(u16::from_be_bytes([acknowledged[2], acknowledged[3]]));
                    }
                }
                _ = ticks.tick() => if let Some(packet) = self.next() {
                    writes.write_all(&packet).await?;
                },
            }
        }
    }

    fn acknowledged(&mut self, id: u16) {
        if let Some(pending) = self.pending.remove(&id) {
            self.books.offered(&pending.key, pending.sent);
            let now = Instant::now();
            self.acknowledged.push_back((now, pending.packet));
            while self.acknowledged.front().is_some_and(|(at, _)| *at + UNWRITTEN < now) {
                self.acknowledged.pop_front();
            }
        }
    }

    /// The next notification, if one may be sent.
    fn next(&mut self) -> Option<Vec<u8>> {
        if self.rests.load(Ordering::SeqCst) || self.pending.len() >= UNACKNOWLEDGED {
            return None;
        }
        loop {
            self.next_packet = self.next_packet.wrapping_add(1).max(1);
            if !self.pending.contains_key(&self.next_packet) {
                break;
            }
        }
        let number = NEXT_NOTIFICATION.fetch_add(1, Ordering::SeqCst);
        let prefix = if number.is_multiple_of(FATAL_ONE_IN.into()) { FATAL } else { PUBLISHED };
        let key = format!("{prefix}{number:07}");
        let packet = publish_packet(self.next_packet, &notification(&key, number));
        self.pending.insert(self.next_packet, Pending { key, packet: packet.clone(), sent: Instant::now() });
        Some(packet)
    }
}

/// What MinIO would publish of an upload of this key.
fn notification(key: &str, number: u64) -> String {
    RECORDED
        .replace("fixtures", "photos")
        .replace("in/photo.jpg", key)
        .replace("in%2Fphoto.jpg", &key.replace('/', "%2F"))
        .replace("18EA199294BEA55C", &format!("{:016X}", 0x18EA_1992_0000_0000_u64 + number))
}

fn connect_packet() -> Vec<u8> {
    let mut body = vec![0, 4];
    // Version 3.1.1, clean session, no keep-alive.
    body.extend(b"MQTT\x04\x02\x00\x00\x00\x07torture");
    packet(0x10, &body)
}

fn publish_packet(id: u16, payload: &str) -> Vec<u8> {
    const TOPIC: &[u8] = b"minio/events";
    let mut body = u16::try_from(TOPIC.len()).unwrap_or_default().to_be_bytes().to_vec();
    body.extend(TOPIC);
    body.extend(id.to_be_bytes());
    body.extend(payload.as_bytes());
    packet(0x32, &body)
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let (mut packet, mut length) = (vec![kind], body.len());
    loop {
        let low = u8::try_from(length % 128).unwrap_or_default();
        length /= 128;
        packet.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}
