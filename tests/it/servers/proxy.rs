//! The proxy passes everything, and spoils the way as told.

#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::LIMIT;
use crate::harness::{
    proxy::{Mode, Proxy},
    suite::{Ctx, Test, tests},
    wait::eventually,
};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [] proxy_passes_everything_late_or_slow_when_told;
        [] proxy_cuts_is_silent_and_refuses_when_told;
    }
}

/// Sends back what it gets, and ends when the other side has.
async fn echo() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reads, mut writes) = stream.split();
                tokio::io::copy(&mut reads, &mut writes).await.ok();
                writes.shutdown().await.ok();
            });
        }
    });
    Ok(port)
}

/// What comes back, until the other side has ended or cut the connection.
async fn said(proxy: &Proxy, text: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
    stream.write_all(text).await?;
    stream.shutdown().await?;
    let mut back = Vec::new();
    let _cut: std::io::Result<usize> =
        tokio::time::timeout(LIMIT, stream.read_to_end(&mut back)).await.context("it never ended")?;
    Ok(back)
}

async fn proxy_passes_everything_late_or_slow_when_told(_: Ctx) -> Result<()> {
    let proxy = Proxy::start(echo().await?, 1).await?;
    let long: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    ensure!(said(&proxy, &long).await? == long);
    let fixed = Duration::from_millis(200);
    proxy.set(Mode::Delay { fixed, jitter: Duration::from_millis(50) });
    let began = Instant::now();
    ensure!(said(&proxy, &long).await? == long, "late, and in order");
    ensure!(began.elapsed() >= fixed * 2, "there and back in {:?}", began.elapsed());
    proxy.set(Mode::Limit(40_000));
    let began = Instant::now();
    ensure!(said(&proxy, &long[..20_000]).await? == long[..20_000]);
    ensure!(began.elapsed() >= Duration::from_millis(500), "20,000 bytes in {:?}", began.elapsed());
    proxy.lead_to(echo().await?);
    proxy.set(Mode::Pass);
    ensure!(said(&proxy, &long).await? == long);
    Ok(())
}

async fn proxy_cuts_is_silent_and_refuses_when_told(_: Ctx) -> Result<()> {
    let proxy = Proxy::start(echo().await?, 1).await?;
    proxy.set(Mode::Cut { one_in: 1 });
    let back = said(&proxy, &[b'x'; 1_000]).await?;
    ensure!(back.len() < 1_000, "{} bytes came back uncut", back.len());

    proxy.set(Mode::Pass);
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
    stream.write_all(b"a").await?;
    ensure!(stream.read_u8().await? == b'a');
    proxy.set(Mode::Silent);
    stream.write_all(b"b").await?;
    let mut another = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
    another.write_all(b"c").await?;
    let early = tokio::time::timeout(Duration::from_millis(300), async {
        tokio::select! { byte = stream.read_u8() => byte, byte = another.read_u8() => byte }
    });
    ensure!(early.await.is_err(), "a silent proxy spoke");
    proxy.set(Mode::Pass);
    ensure!(stream.read_u8().await? == b'b' && another.read_u8().await? == b'c', "what waited goes on");

    proxy.set(Mode::Refuse);
    let end = tokio::time::timeout(LIMIT, stream.read_u8()).await.context("the connection stayed open")?;
    ensure!(end.is_err(), "{end:?}");
    eventually("connections are refused", LIMIT, async || {
        ensure!(TcpStream::connect(("127.0.0.1", proxy.port())).await.is_err(), "it was accepted");
        Ok(())
    })
    .await?;
    proxy.set(Mode::Pass);
    let again = eventually("connections are accepted again", LIMIT, async || said(&proxy, b"again").await);
    ensure!(again.await? == b"again");
    Ok(())
}
