//! The daemon: started, killed, frozen, stopped; asked by its API and its command line.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitStatus, Output},
};

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::Value;

use super::{Node, OPERATOR_TOKEN, SOON};
use crate::harness::{
    process::{Halt, Process},
    wait::{eventually, wait_for},
};

/// The daemon.
pub(crate) struct Daemon {
    config: PathBuf,
    env: Vec<(&'static str, String)>,
    log: PathBuf,
    admin: String,
    http: reqwest::Client,
    process: Option<Process>,
}

impl Daemon {
    pub(super) async fn start(node: &Node, config: PathBuf, env: &[(&'static str, String)]) -> Result<Self> {
        let mut daemon = Self {
            config,
            env: env.to_vec(),
            log: node.folder.join("triggerd.log"),
            admin: format!("http://127.0.0.1:{}", node.admin_port),
            http: reqwest::Client::builder().no_proxy().timeout(SOON).build()?,
            process: None,
        };
        daemon.start_again().await?;
        Ok(daemon)
    }

    /// Starts it, and does not wait for anything.
    pub(crate) fn launch(&mut self) -> Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triggerd"));
        command.arg("run").arg("--config").arg(&self.config).envs(self.env.iter().cloned());
        self.process = Some(Process::start("triggerd", &command, &self.log)?);
        Ok(())
    }

    /// Starts it, and waits until it is ready.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        self.launch()?;
        let mut process = self.process.take().context("it was just started")?;
        let ready = format!("{}/health/ready", self.admin);
        process
            .gate(SOON, async || {
                self.http.get(&ready).send().await?.error_for_status()?;
                Ok(())
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// Has it started in another environment from now on; the one before.
    pub(crate) fn set_env(&mut self, env: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
        std::mem::replace(&mut self.env, env)
    }

    /// `kill -9`, and nothing else.
    pub(crate) async fn kill9(&mut self) -> Result<()> {
        self.process.take().context("the daemon does not run")?.halt(Halt::Kill).await?;
        Ok(())
    }

    /// Stops its threads (SIGSTOP): connections stay open and nothing answers.
    pub(crate) fn pause(&self) -> Result<()> {
        self.process.as_ref().context("the daemon does not run")?.pause()
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub(crate) fn resume(&self) -> Result<()> {
        self.process.as_ref().context("the daemon does not run")?.resume()
    }

    /// Fails, with the end of the log, if it has ended by itself.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        self.process.as_mut().context("the daemon does not run")?.must_run()
    }

    /// SIGTERM; fails unless it ends well, with no worker that had to be cut off.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let status = self.process.take().context("the daemon does not run")?.stop().await?;
        ensure!(status.success(), "the daemon ended with {status}");
        ensure!(!self.log()?.contains("did not end in time"), "a worker had to be cut off at the stop");
        Ok(())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("the daemon does not run")?.signal(signal)
    }

    /// Waits until it ends by itself, or by a signal that it was sent; how it ended.
    pub(crate) async fn ends(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the daemon does not run")?;
        let mut status = None;
        wait_for("the daemon ends", SOON, async || {
            status = process.ended().ok().flatten();
            status.is_some()
        })
        .await
        .with_context(|| process.log_tail())?;
        status.context("it has ended")
    }

    /// A call of the admin API as the operator.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value)> {
        let mut request =
            self.http.request(method, format!("{}{path}", self.admin)).bearer_auth(OPERATOR_TOKEN);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Where its admin API is.
    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// The text of its config.
    pub(crate) fn config(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.config)?)
    }

    /// The metrics as they are now.
    pub(crate) async fn metrics(&self) -> Result<String> {
        Ok(self.http.get(format!("{}/metrics", self.admin)).send().await?.error_for_status()?.text().await?)
    }

    /// How a command of the command line ended, and what it said.
    pub(crate) fn run_cli(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triggerd"));
        command.args(arguments).arg("--config").arg(&self.config).envs(self.env.iter().cloned());
        Ok(command.output()?)
    }

    /// What the command line says on standard output; fails when it fails.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run_cli(arguments)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "triggerd {arguments:?}: {}\n{said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    /// Waits until a binding is in this state.
    pub(crate) async fn wait_for_state(&self, id: &str, state: &str) -> Result<Value> {
        eventually(&format!("binding {id} is {state}"), SOON, async || {
            let (status, binding) = self.call(Method::GET, &format!("/v1/bindings/{id}"), None).await?;
            ensure!(status == StatusCode::OK && binding["state"] == state, "{status} {binding}");
            Ok(binding)
        })
        .await
    }

    /// Waits until a binding is gone.
    pub(crate) async fn wait_until_gone(&self, id: &str) -> Result<()> {
        wait_for(&format!("binding {id} is gone"), SOON, async || {
            let answer = self.call(Method::GET, &format!("/v1/bindings/{id}"), None).await;
            answer.is_ok_and(|(status, _)| status == StatusCode::NOT_FOUND)
        })
        .await
    }

    /// The sum of a metric's series whose labels contain all of these texts.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let (_, text) = self.call(Method::GET, "/metrics", None).await?;
        let text = text.as_str().context("no text")?.to_owned();
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or("-");
            rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label))
        });
        series.map(|line| Ok(line.rsplit(' ').next().context("no value")?.parse::<f64>()?)).sum()
    }

    /// Asks for a binding, and returns its id without waiting for anything.
    pub(crate) async fn ask_for(&self, wanted: &Value) -> Result<String> {
        let (status, answer) = self.call(Method::POST, "/v1/bindings", Some(wanted)).await?;
        ensure!(status.is_success(), "{status}: {answer}");
        Ok(answer["id"].as_str().context("no id")?.to_owned())
    }

    /// A binding as the API shows it.
    pub(crate) async fn binding(&self, id: &str) -> Result<Value> {
        let (status, binding) = self.call(Method::GET, &format!("/v1/bindings/{id}"), None).await?;
        ensure!(status == StatusCode::OK, "{status} {binding}");
        Ok(binding)
    }

    /// Its process's id.
    pub(crate) fn id(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the daemon does not run")?.id())
    }

    /// The dead letters, newest first.
    pub(crate) async fn dead_letters(&self) -> Result<Vec<Value>> {
        let (status, page) = self.call(Method::GET, "/v1/dead-letters", None).await?;
        ensure!(status == StatusCode::OK, "{status} {page}");
        let list = page.as_array().or_else(|| page["dead_letters"].as_array()).context("no list")?;
        Ok(list.clone())
    }

    /// The end of its log, for errors.
    pub(crate) fn log_tail(&self) -> String {
        self.process.as_ref().map_or_else(|| "it does not run".to_owned(), Process::log_tail)
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}
