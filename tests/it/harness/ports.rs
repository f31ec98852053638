//! Free ports of the loopback for servers.
//!
//! They are taken from below the kernel's ephemeral range, not by binding port 0: a server that a test stops and starts
//! again must find its port free, and an ephemeral port may meanwhile have become the near end of somebody's connection.
//! Each process begins its search elsewhere and never gives a port out twice; another process can still be quicker, so
//! whoever starts a server tries again when the port turns out to be taken ([`ATTEMPTS`]).

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

/// How many times a server is started anew on other ports before its start counts as failed.
pub(crate) const ATTEMPTS: u32 = 3;

const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// A port of 127.0.0.1 that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        // 7919 is prime to COUNT, so neighbours in process ids begin far apart.
        let start = std::process::id().wrapping_mul(7919) % COUNT;
        let port = u16::try_from(FIRST + (start + step) % COUNT)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of 127.0.0.1 from {FIRST} on is free")
}

/// Runs `start`, which takes free ports and starts a server on them, again if another process took one in between.
pub(crate) async fn on_free_ports<T>(mut start: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    for _ in 1..ATTEMPTS {
        match start().await {
            Err(error) if is_clash(&error) => {}
            outcome => return outcome,
        }
    }
    start().await
}

/// Whether a server's log, which the error holds, says that its port was taken: MinIO, Mosquitto, MySQL and MariaDB.
fn is_clash(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}").to_lowercase();
    text.contains("already in use") || text.contains("do you already have another")
}
