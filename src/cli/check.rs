//! `check`: everything that is wrong, at once.

use async_trait::async_trait;
use serde_json::json;

use crate::{
    check::{self, Finding, Level, Probe, local},
    client::{Client, ClientError},
    config::{self, Inputs, Severity},
};

use super::{Ended, output::Terminal};

/// Looks at the config, then at every part that it names.
pub(super) async fn check(inputs: &Inputs, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    let loaded = config::load(inputs);
    let mut findings: Vec<Finding> = loaded.problems.iter().cloned().map(Finding::from).collect();
    if !loaded.problems.iter().any(|problem| problem.severity == Severity::Error) {
        findings.insert(0, Finding::ok("config", format!("{} can be used", inputs.file.display())));
    }
    // Where nothing could be read there is nothing to look at: the defaults are not this host's.
    if inputs.file.exists() && !only_file(&findings, inputs) {
        let client = Client::new(&loaded.config.admin.local_url(), loaded.config.admin.token.clone())?;
        let held = client.live().await.map(|live| live.value.listeners()).unwrap_or_default();
        let mut probes = local::probes(&loaded.config, &held);
        probes.extend(crate::app::probes(&loaded.config));
        probes.push(Box::new(Daemon(client)));
        // A URL that is none was told of; to ask there would say so twice.
        let told = |part: &str| findings.iter().any(|one| one.level == Level::Fail && one.part == part);
        probes.retain(|probe| probe.part() != "relations" || !told("relations.url"));
        findings.extend(check::run(&probes).await);
    }
    report(&findings, terminal)
}

/// The daemon that this config is for, if it runs: how it says that it is.
struct Daemon(Client);

#[async_trait]
impl Probe for Daemon {
    fn part(&self) -> String {
        "daemon".into()
    }

    async fn look(&self) -> Vec<Finding> {
        let part = self.part();
        let ready = match self.0.ready().await {
            Ok(ready) => ready.value,
            Err(ClientError::Unreachable { source, .. }) if source.is_connect() => {
                return vec![Finding::ok(part, "not running")];
            }
            Err(error) => {
                let remedy =
                    "see who listens there, and that this config is the one that the daemon was started with";
                return vec![Finding::warn(part, format!("nobody knows how it is: {error}"), remedy)];
            }
        };
        if ready.ok {
            return vec![Finding::ok(part, "running, and it takes events in")];
        }
        let parts = ready.parts.iter().filter(|one| !one.ok);
        let parts: Vec<_> = parts.map(|one| format!("{}: {}", one.name, one.detail)).collect();
        let what = format!("running, and not ready ({})", parts.join("; "));
        vec![Finding::fail(part, what, "mend what it names; its log (`journalctl -u triggerd`) says more")]
    }
}

/// Whether the config file itself was the one thing that is wrong.
fn only_file(findings: &[Finding], inputs: &Inputs) -> bool {
    let file = inputs.file.display().to_string();
    findings.iter().any(|finding| finding.level == Level::Fail && finding.part == file)
}

fn report(findings: &[Finding], terminal: &mut Terminal) -> anyhow::Result<Ended> {
    let ok = findings.iter().all(|finding| finding.level != Level::Fail);
    if terminal.json() {
        terminal.document(&json!({"ok": ok, "findings": findings}))?;
        return Ok(if ok { Ended::Done } else { Ended::Failed });
    }
    for finding in findings {
        let mark = match finding.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let remedy = finding.remedy.as_ref().map(|remedy| format!(" → {remedy}")).unwrap_or_default();
        terminal.line(format!("{mark} {}: {}{remedy}", finding.part, finding.what))?;
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (warn, fail) = (count(Level::Warn), count(Level::Fail));
    terminal.aside(match (fail, warn) {
        (0, 0) => "all is well".to_owned(),
        (0, warn) => format!("it works; {warn} warning(s)"),
        (fail, warn) => format!("{fail} thing(s) to mend, {warn} warning(s)"),
    })?;
    Ok(if ok { Ended::Done } else { Ended::Failed })
}
