//! A TCP proxy between two parts that spoils the way between them on command.
//!
//! **Who acts.** One task listens on a port that never changes and serves each connection by a task of its own; a
//! connection carries each direction through a short queue, so that a delay does not limit what passes. What is wanted
//! ([`Mode`]) is looked at for every piece that is carried: a change counts for connections that are there already.
//!
//! **What it does not do.** It knows no protocol: a piece is what one read gave, and a cut falls wherever it falls, half
//! of a piece having been passed on. While it is silent nothing is read and nothing is lost: when it speaks again, what
//! the two sides have sent meanwhile (as far as the kernel's buffers held it) goes on, as after a cable was put back.
//!
//! It runs on the test's runtime and ends with it, or when dropped.

#![expect(clippy::disallowed_methods, reason = "it is what makes things late")]

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::ports::{free_port, on_free_ports};

/// Largest piece that is carried at once, in bytes.
const PIECE: usize = 16 * 1024;

/// Pieces of one direction that are on their way.
const ON_THE_WAY: usize = 256;

/// Pause between two attempts to have the port back.
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// What becomes of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Carried as it comes.
    Pass,
    /// Each piece is late by `fixed` and up to `jitter` more, in order.
    Delay { fixed: Duration, jitter: Duration },
    /// At most this many bytes a second in each direction of a connection.
    Limit(u32),
    /// One piece in so many is cut in half, and its connection with it.
    Cut { one_in: u64 },
    /// Connections are accepted, stay open, and carry nothing.
    Silent,
    /// Connections are cut, and no new ones accepted.
    Refuse,
}

/// The proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    upstream: Arc<AtomicU16>,
    mode: watch::Sender<Mode>,
    serving: JoinHandle<()>,
}

impl Proxy {
    /// Starts one that passes everything to this port of 127.0.0.1; `seed` decides jitter and cuts.
    pub(crate) async fn start(upstream: u16, seed: u64) -> Result<Self> {
        on_free_ports(async || {
            let port = free_port()?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
            let (mode, wanted) = watch::channel(Mode::Pass);
            let upstream = Arc::new(AtomicU16::new(upstream));
            let way = Way { upstream: Arc::clone(&upstream), wanted, dice: Arc::new(Dice::new(seed)) };
            let serving = tokio::spawn(serve(port, listener, way));
            Ok(Self { port, upstream, mode, serving })
        })
        .await
    }

    /// The port that it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Connections from now on go to this port.
    pub(crate) fn lead_to(&self, port: u16) {
        self.upstream.store(port, Ordering::SeqCst);
    }

    /// What becomes of the traffic from now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What a connection is served with.
#[derive(Debug, Clone)]
struct Way {
    upstream: Arc<AtomicU16>,
    wanted: watch::Receiver<Mode>,
    dice: Arc<Dice>,
}

impl Way {
    fn mode(&mut self) -> Mode {
        *self.wanted.borrow_and_update()
    }

    /// Returns when it is this mode no longer, or never when the proxy is gone.
    async fn until_not(&mut self, mode: Mode) {
        if self.wanted.wait_for(|wanted| *wanted != mode).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when connections are to be cut.
    async fn refused(&mut self) {
        if self.wanted.wait_for(|wanted| *wanted == Mode::Refuse).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Numbers that look random and are the same for the same seed and order of asking (`SplitMix64`).
#[derive(Debug)]
pub(crate) struct Dice(AtomicU64);

impl Dice {
    /// Dice that this seed decides.
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A number below `bound` (at least 1).
    pub(crate) fn below(&self, bound: u64) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }

    /// A time up to `longest`.
    pub(crate) fn time(&self, longest: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(longest.as_micros()).unwrap_or(u64::MAX)))
    }
}

async fn serve(port: u16, listener: TcpListener, mut way: Way) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        if way.mode() == Mode::Refuse {
            listener = None;
            way.until_not(Mode::Refuse).await;
        }
        let Some(open) = &listener else {
            listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.ok();
            if listener.is_none() {
                tokio::time::sleep(BIND_PAUSE).await;
            }
            continue;
        };
        tokio::select! {
            changed = way.wanted.changed() => if changed.is_err() { return },
            accepted = open.accept() => if let Ok((near, _)) = accepted {
                let mut way = way.clone();
                connections.spawn(async move {
                    let mut refused = way.clone();
                    tokio::select! {
                        // However a connection ends, both sides see it.
                        _ended = connect(near, &mut way) => (),
                        () = refused.refused() => (),
                    }
                });
            },
            Some(_) = connections.join_next() => (),
        }
    }
}

async fn connect(near: TcpStream, way: &mut Way) -> io::Result<()> {
    way.until_not(Mode::Silent).await;
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, way.upstream.load(Ordering::SeqCst))).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((near_reads, near_writes), (far_reads, far_writes)) = (near.into_split(), far.into_split());
    tokio::try_join!(carry(near_reads, far_writes, way.clone()), carry(far_reads, near_writes, way.clone()))?;
    Ok(())
}

/// A piece on its way.
struct Piece {
    due: Instant,
    bytes: Vec<u8>,
    /// It is the last: the connection is cut behind it.
    cut: bool,
}

/// One direction, until it ends; an error cuts the other one too.
async fn carry(reads: OwnedReadHalf, writes: OwnedWriteHalf, way: Way) -> io::Result<()> {
    let (sender, pieces) = mpsc::channel(ON_THE_WAY);
    tokio::try_join!(take(reads, sender, way.clone()), give(writes, pieces, way))?;
    Ok(())
}

async fn take(mut reads: OwnedReadHalf, pieces: mpsc::Sender<Piece>, mut way: Way) -> io::Result<()> {
    let mut last_due = Instant::now();
    loop {
        let mut bytes = vec![0; PIECE];
        let length = reads.read(&mut bytes).await?;
        bytes.truncate(length);
        way.until_not(Mode::Silent).await;
        if length == 0 {
            return Ok(());
        }
        let mut piece = Piece { due: Instant::now(), bytes, cut: false };
        match way.mode() {
            Mode::Delay { fixed, jitter } => piece.due += fixed + way.dice.time(jitter),
            Mode::Cut { one_in } if way.dice.below(one_in) == 0 => {
                piece.bytes.truncate(length / 2);
                piece.cut = true;
            }
            _ => {}
        }
        piece.due = piece.due.max(last_due);
        last_due = piece.due;
        if pieces.send(piece).await.is_err() {
            return Ok(());
        }
    }
}

async fn give(mut writes: OwnedWriteHalf, mut pieces: mpsc::Receiver<Piece>, mut way: Way) -> io::Result<()> {
    while let Some(piece) = pieces.recv().await {
        tokio::time::sleep_until(piece.due).await;
        let mut rest = piece.bytes.as_slice();
        while !rest.is_empty() {
            way.until_not(Mode::Silent).await;
            let step = if let Mode::Limit(per_second) = way.mode() {
                // Twenty steps a second, each after its time.
                let step = rest.len().min(usize::try_from(per_second / 20).unwrap_or(1).max(1));
                let share = f64::from(u32::try_from(step).unwrap_or(u32::MAX)) / f64::from(per_second.max(1));
                tokio::time::sleep(Duration::from_secs_f64(share)).await;
                step
            } else {
                rest.len()
            };
            writes.write_all(&rest[..step]).await?;
            rest = &rest[step..];
        }
        if piece.cut {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
    writes.shutdown().await
}
