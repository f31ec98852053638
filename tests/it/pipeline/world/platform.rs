//! The reference platform, and what its functions note of their calls.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{API_TOKEN, PLATFORM_TOKEN, Plan, SOON};
use crate::harness::{
    ports::free_port,
    process::{Halt, Process},
    wait::eventually,
};

/// The reference platform, whose functions write what they were called with into files of the test's folder.
pub(crate) struct Platform {
    folder: PathBuf,
    config: PathBuf,
    port: u16,
    process: Option<Process>,
}

/// A function that notes each call in the file NAME.calls (delivery id, attempt, key) and then runs `script`.
pub(crate) fn noting(name: &str, script: &str) -> String {
    format!(
        "[functions.{name}]\ncommand = [\"/bin/sh\", \"-c\", '''printf '%s %s %s\\n' \
         \"$TRIGGER_DELIVERY_ID\" \"$TRIGGER_ATTEMPT\" \"$TRIGGER_KEY\" >> \"$FOLDER/{name}.calls\"; {script}''']\n\
         env = {{ FOLDER = \"@FOLDER@\" }}\nconcurrency = 16\n"
    )
}

/// One call of a function, as it was noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) delivery: String,
    pub(crate) attempt: u32,
    pub(crate) key: String,
}

impl Platform {
    pub(super) async fn start(folder: &Path, plan: &Plan, admin_port: u16) -> Result<Self> {
        let folder = folder.join("platform");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("platform.token"), PLATFORM_TOKEN)?;
        fs::write(folder.join("triggerd.token"), API_TOKEN)?;
        let port = free_port()?;
        let confirm = if plan.confirm_by_callback { "callback" } else { "answer" };
        let config = format!(
            "listen = \"127.0.0.1:{port}\"\nstate_dir = \"state\"\ntoken_file = \"platform.token\"\n\
             confirm = \"{confirm}\"\n{}\n[triggerd]\nurl = \"http://127.0.0.1:{admin_port}\"\n\
             token_file = \"triggerd.token\"\nplatform = \"local\"\n",
            plan.functions
        );
        let config = config.replace("@FOLDER@", &folder.display().to_string());
        let path = folder.join("platform.toml");
        fs::write(&path, config)?;
        let mut platform = Self { folder, config: path, port, process: None };
        platform.start_again().await?;
        Ok(platform)
    }

    /// Starts it, and waits until it answers.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triggerd-platform"));
        command.arg("serve").arg("--config").arg(&self.config);
        let mut process = Process::start("the platform", &command, &self.folder.join("platform.log"))?;
        let health = format!("http://127.0.0.1:{}/health", self.port);
        process
            .gate(SOON, async || {
                reqwest::get(&health).await?.error_for_status()?;
                Ok(())
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill9(&mut self) -> Result<()> {
        self.process.take().context("the platform does not run")?.halt(Halt::Kill).await?;
        Ok(())
    }

    /// Stops its threads (SIGSTOP); the functions that run go on.
    pub(crate) fn pause(&self) -> Result<()> {
        self.process.as_ref().context("the platform does not run")?.pause()
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub(crate) fn resume(&self) -> Result<()> {
        self.process.as_ref().context("the platform does not run")?.resume()
    }

    /// The port of 127.0.0.1 that it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What its command line says on standard output; fails when it fails.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_triggerd-platform"))
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    }

    /// The platform's base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A file of the platform's folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The calls that a noting function has seen.
    pub(crate) fn calls(&self, function: &str) -> Result<Vec<Noted>> {
        let text = match fs::read_to_string(self.file(&format!("{function}.calls"))) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let lines = text.lines().map(|line| {
            let mut parts = line.splitn(3, ' ');
            let mut next = || parts.next().map(str::to_owned).context("a line that is no call");
            Ok(Noted { delivery: next()?, attempt: next()?.parse()?, key: next()? })
        });
        lines.collect()
    }

    /// Waits until a noting function has seen this many calls.
    pub(crate) async fn wait_for_calls(&self, function: &str, count: usize) -> Result<Vec<Noted>> {
        eventually(&format!("{count} calls of {function}"), SOON, async || {
            let calls = self.calls(function)?;
            ensure!(calls.len() >= count, "{} so far: {calls:?}", calls.len());
            Ok(calls)
        })
        .await
    }
}

/// Delivery ids by key; fails when one key was called under two ids.
pub(crate) fn ids_by_key(calls: &[Noted]) -> Result<BTreeMap<&str, &str>> {
    let mut ids = BTreeMap::new();
    for call in calls {
        let id = ids.entry(call.key.as_str()).or_insert(call.delivery.as_str());
        ensure!(*id == call.delivery, "{} was called under {id} and {}", call.key, call.delivery);
    }
    Ok(ids)
}
