//! No server outlives its handle, nor the test process.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::LIMIT;
use crate::harness::database::{Engine, SqlServer};
use crate::harness::minio::{Minio, MinioOptions};
use crate::harness::mosquitto::{Mosquitto, MosquittoOptions};
use crate::harness::suite::{Ctx, Test, tests};
use crate::harness::wait::wait_for;

/// Set for a copy of this binary that is to start a broker, print its process id and wait to be killed.
const HOLD_VARIABLE: &str = "TRIGGERD_IT_HOLD";

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio, Mosquitto, MySql, MariaDb] stopped_and_dropped_servers_leave_no_process_and_no_folder;
        [Mosquitto] servers_die_with_a_killed_test_process;
    }
}

fn alive(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

async fn stopped_and_dropped_servers_leave_no_process_and_no_folder(_: Ctx) -> Result<()> {
    let mut minio = Minio::start(MinioOptions::default()).await?;
    let mut mosquitto = Mosquitto::start(MosquittoOptions::default()).await?;
    let mut mysql = SqlServer::start(Engine::MySql).await?;
    let mariadb = SqlServer::start(Engine::MariaDb).await?;
    let processes = [minio.id()?, mosquitto.id()?, mysql.id()?, mariadb.id()?];
    let logs = [minio.log(), mosquitto.log(), mysql.log(), mariadb.log()];
    ensure!(processes.iter().all(|process| alive(*process)) && logs.iter().all(|log| log.exists()));
    // A paused server is stopped all the same.
    mosquitto.pause()?;
    mysql.pause()?;
    minio.stop().await?;
    mosquitto.stop().await?;
    mysql.stop().await?;
    ensure!(minio.stop().await.is_err(), "what is stopped can be stopped");
    drop((minio, mosquitto, mysql, mariadb));
    for (process, log) in processes.into_iter().zip(logs) {
        ensure!(!alive(process), "process {process} is left ({})", log.display());
        let folder = log.parent().context("a log has a folder")?;
        ensure!(!folder.exists(), "{} is left", folder.display());
    }
    Ok(())
}

/// The other half of `servers_die_with_a_killed_test_process`: starts a broker from a thread that ends, prints its
/// process id and waits to be killed.
#[expect(clippy::print_stdout, reason = "the test reads it")]
pub(crate) fn hold_a_server_if_asked() -> Option<ExitCode> {
    std::env::var_os(HOLD_VARIABLE)?;
    let started = std::thread::spawn(|| {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(Mosquitto::start(MosquittoOptions::default()))
    });
    match started.join() {
        Ok(Ok(mosquitto)) => {
            println!("{}", mosquitto.id().unwrap_or_default());
            loop {
                std::thread::park();
            }
        }
        _ => Some(ExitCode::FAILURE),
    }
}

async fn servers_die_with_a_killed_test_process(ctx: Ctx) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    // The killed process cannot remove its temporary folders; they go with this test's.
    let mut holder =
        command.env(HOLD_VARIABLE, "1").env("TMPDIR", ctx.folder()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(holder.stdout.take().context("it has an output")?).read_line(&mut line)?;
    let broker: u32 = line.trim().parse().with_context(|| format!("it printed {line:?}"))?;
    // The thread that asked for the broker has ended by now, which must not have taken the broker along.
    ensure!(alive(broker), "the broker did not outlive the thread that asked for it");
    holder.kill()?;
    holder.wait()?;
    // Whoever adopts the orphan reaps it; until then a dead process still has its folder in /proc, as a zombie.
    wait_for("the broker of a killed test process dies", LIMIT, async || ended(broker)).await
}

fn ended(process: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}
