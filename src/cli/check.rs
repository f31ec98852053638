//! `check`: everything that is wrong, at once.

use serde_json::json;

use crate::{
    check::{self, Finding, Level, local},
    client::Client,
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
        // A URL that is none was told of; to ask there would say so twice.
        let told = |part: &str| findings.iter().any(|one| one.level == Level::Fail && one.part == part);
        probes.retain(|probe| probe.part() != "relations" || !told("relations.url"));
        findings.extend(check::run(&probes).await);
    }
    report(&findings, terminal)
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
