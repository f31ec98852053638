//! `queue`: the file of a daemon that does not run, looked over, exported, imported into.
//!
//! An export to a file goes to a temporary name beside it first, so that a file of that name is always whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::{
    app::{Exported, Moved, export_queue, import_queue, verify_queue},
    config::Config,
};

use super::{
    Ended,
    args::{QueueArgs, QueueCommand},
    output::Terminal,
};

/// `queue verify|export|import`.
pub(super) async fn queue(config: Config, args: QueueArgs, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    match args.command {
        QueueCommand::Verify => verify(&config, terminal).await,
        QueueCommand::Export { file } => export(&config, &file, terminal).await,
        QueueCommand::Import { file } => import(&config, &file, terminal).await,
    }
}

async fn verify(config: &Config, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    let found = verify_queue(config).await?;
    if terminal.json() {
        terminal.document(&serde_json::to_value(&found)?)?;
    } else {
        for check in &found.checks {
            let word = if check.ok { "ok  " } else { "FAIL" };
            terminal.line(format!("{word} {}: {}", check.name, check.detail))?;
        }
        if !found.ok {
            terminal.aside(
                "hint: keep a copy of the file; `triggerd queue export` saves what can be read, and `import` takes it \
                 into a new one",
            )?;
        }
    }
    Ok(if found.ok { Ended::Done } else { Ended::Failed })
}

async fn export(config: &Config, file: &Path, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    let to_terminal = file == Path::new("-");
    let exported = if to_terminal {
        export_queue(config, BufWriter::new(terminal.raw())).await?
    } else {
        export_to_file(config, file).await?
    };
    // The output may be the export itself.
    if terminal.json() && !to_terminal {
        terminal.document(&json!(exported))?;
    } else {
        let rows: Vec<String> =
            exported.rows.iter().map(|count| format!("{} {}", count.rows, count.table)).collect();
        terminal.aside(format!("exported: {}", rows.join(", ")))?;
    }
    for problem in &exported.problems {
        terminal.aside(format!("warning: {problem}"))?;
    }
    if exported.left_out == 0 {
        return Ok(Ended::Done);
    }
    terminal.aside(format!("error: {} could not be read and are not in the export", exported.left_out))?;
    Ok(Ended::Failed)
}

async fn export_to_file(config: &Config, file: &Path) -> anyhow::Result<Exported> {
    ensure!(!file.exists(), "{} exists already; choose another name", file.display());
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let unwritable = || format!("{} cannot be written", file.display());
    let mut options = OpenOptions::new();
    // It holds what the objects' names and the notifications hold.
    let out =
        options.write(true).create(true).truncate(true).mode(0o600).open(partial).with_context(unwritable)?;
    let kept = out.try_clone().with_context(unwritable)?;
    let exported = export_queue(config, BufWriter::new(out)).await;
    let finished = exported.and_then(|exported| {
        kept.sync_all().and_then(|()| fs::rename(partial, file)).with_context(unwritable)?;
        Ok(exported)
    });
    if finished.is_err() {
        // What is left of it helps nobody.
        let _left: io::Result<()> = fs::remove_file(partial);
    }
    finished
}

async fn import(config: &Config, file: &Path, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    let moved = if file == Path::new("-") {
        import_queue(config, BufReader::new(io::stdin())).await?
    } else {
        let open = File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
        import_queue(config, BufReader::new(open)).await?
    };
    if terminal.json() {
        terminal.document(&json!(moved))?;
    } else {
        for count in &moved.imported.rows {
            terminal.line(format!("{} {}", count.rows, count.table))?;
        }
        if moved.imported.left > 0 {
            terminal.aside(format!(
                "{} were here already, belong to what was, or refer to what the export does not hold; they are left out",
                moved.imported.left
            ))?;
        }
    }
    warn_of_unknown_bindings(&moved, terminal)?;
    Ok(Ended::Done)
}

/// The daemon takes deliveries of bindings that it does not know for those of bindings that are gone.
fn warn_of_unknown_bindings(moved: &Moved, terminal: &mut Terminal) -> anyhow::Result<()> {
    const NAMED: usize = 5;
    if let Some(why) = &moved.bindings_unread {
        terminal.aside(format!("warning: nobody can tell whether the bindings are known here: {why}"))?;
    }
    let unknown = &moved.unknown_bindings;
    if unknown.is_empty() {
        return Ok(());
    }
    let deliveries: u64 = unknown.iter().map(|one| one.parked).sum();
    let mut named: Vec<_> = unknown.iter().take(NAMED).map(|one| one.binding.to_string()).collect();
    if unknown.len() > NAMED {
        named.push("…".to_owned());
    }
    terminal.aside(format!(
        "warning: {deliveries} parked deliveries are of {} binding(s) that this host does not know ({}); once the daemon \
         starts, they become dead letters (unbound). Bring relations.db of the old host into `state_dir` before",
        unknown.len(),
        named.join(", ")
    ))?;
    Ok(())
}
