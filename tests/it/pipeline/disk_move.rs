//! `triggerd queue verify`, `export` and `import`: what one host has parked goes to another.

use std::{fs, process::Output};

use anyhow::{Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::disk_faults::{Spool, keys};
use crate::harness::suite::{Ctx, Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] a_queue_is_looked_over_moved_to_another_host_and_worked_off_there within 180;
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

pub(crate) async fn a_queue_is_looked_over_moved_to_another_host_and_worked_off_there(
    ctx: Ctx,
) -> Result<()> {
    let mut spool = Spool::by_webhook(&ctx).await?;
    let docs = keys("doc", 20);
    for key in &docs {
        ensure!(spool.notify("docs", key).await? == StatusCode::OK);
    }
    let path = ctx.folder().join("queue.jsonl");
    let file = path.to_string_lossy().into_owned();
    let daemon = &spool.world.daemon;
    for arguments in [&["queue", "verify"][..], &["queue", "export", &file], &["queue", "import", &file]] {
        fs::write(&path, "")?;
        if arguments[1] == "export" {
            fs::remove_file(&path)?;
        }
        let refused = daemon.run_cli(arguments)?;
        let said = said(&refused);
        let owner = format!("process {}", daemon.id()?);
        ensure!(refused.status.code() == Some(1) && said.contains("daemon stopped"), "{arguments:?}: {said}");
        ensure!(said.contains(&owner), "{arguments:?} does not name the daemon: {said}");
    }
    fs::remove_file(&path)?;
    spool.world.daemon.stop().await?;

    let daemon = &spool.world.daemon;
    let verified = daemon.cli(&["queue", "verify"])?;
    ensure!(verified.contains("20 can be read") && !verified.contains("FAIL"), "{verified}");
    daemon.cli(&["queue", "export", &file])?;
    ensure!(daemon.run_cli(&["queue", "export", &file])?.status.code() == Some(1), "a file was overwritten");
    let piped = daemon.cli(&["queue", "export", "-"])?;
    ensure!(piped == fs::read_to_string(&path)?, "the two exports differ");

    // The other host: the same config, a state directory without a queue.
    for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        fs::remove_file(spool.disk.state().join(name)).ok();
    }
    let cut = ctx.folder().join("cut.jsonl");
    fs::write(&cut, &piped[..piped.len() - 20])?;
    let refused = daemon.run_cli(&["queue", "import", &cut.to_string_lossy()])?;
    ensure!(refused.status.code() == Some(1) && said(&refused).contains("cut short"), "{}", said(&refused));
    ensure!(!spool.disk.state().join("queue.db").exists(), "what failed has left an empty queue");
    let imported: Value = serde_json::from_str(&daemon.cli(&["queue", "import", &file, "--json"])?)?;
    ensure!(imported["left"] == 0 && imported["rows"][3]["rows"] == 20, "{imported}");
    ensure!(imported["unknown_bindings"] == json!([]), "{imported}");
    // A host that has the queue, and not the bindings.
    let relations = spool.disk.state().join("relations.db");
    let aside = spool.disk.state().join("relations.aside");
    fs::rename(&relations, &aside)?;
    let warned = daemon.run_cli(&["queue", "import", &file])?;
    fs::rename(&aside, &relations)?;
    ensure!(
        warned.status.success()
            && said(&warned).contains("warning: 20 parked deliveries are of 1 binding(s)")
            && said(&warned).contains("relations.db"),
        "{}",
        said(&warned)
    );
    let again: Value = serde_json::from_str(&daemon.cli(&["queue", "import", &file, "--json"])?)?;
    ensure!(again["rows"][3]["rows"] == 0, "{again}");
    let verified: Value = serde_json::from_str(&daemon.cli(&["queue", "verify", "--json"])?)?;
    ensure!(verified["ok"] == true, "{verified}");

    spool.mend()?;
    spool.world.daemon.start_again().await?;
    spool.wait_until_done(&docs).await?;
    spool.world.daemon.stop().await
}
