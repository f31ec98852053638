//! `check`: everything that is wrong, at once.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::json;

use crate::{
    check::{self, Finding, Level, Probe, local},
    client::{Client, ClientError},
    config::{self, Inputs, Severity},
    domain::binding::{BindingView, State, StepState},
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
        probes.push(Box::new(Daemon(client.clone())));
        probes.push(Box::new(Standing(client)));
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

/// Bindings asked for at once, and pages at most: more than a platform may have by default.
const PAGE: u32 = 1_000;
const PAGES: usize = 20;

/// Bindings that are named; the others are counted.
const NAMED: usize = 5;

/// The bindings of the daemon that runs: those that are damaged or refused, and why.
struct Standing(Client);

impl Standing {
    /// What is wrong with a binding, how badly, and what to do.
    fn ill(view: &BindingView) -> Option<(Level, &'static str, String)> {
        let failed = view.steps.iter().any(|step| step.state == StepState::Failed);
        Some(match view.state {
            State::Degraded => (
                Level::Fail,
                "degraded, and its deliveries are held",
                "mend what it names; it is looked at again by itself, and at once when it is bound again"
                    .to_owned(),
            ),
            State::Rejected => (
                Level::Warn,
                "rejected, so it never fires",
                format!("`triggerd unbind {}`, and bind what the platform takes", view.id),
            ),
            State::Pending if failed => {
                (Level::Warn, "pending, so it does not fire yet", "mend what it names".to_owned())
            }
            _ => return None,
        })
    }

    fn report(part: &str, seen: usize, ill: &[BindingView], all: bool) -> Vec<Finding> {
        let of = |view: &BindingView| Self::ill(view).map(|(level, ..)| level);
        let mut worst: Vec<&BindingView> = ill.iter().collect();
        worst.sort_by_key(|view| std::cmp::Reverse(of(view)));
        let mut findings = Vec::new();
        for view in worst.iter().take(NAMED) {
            let Some((level, how, remedy)) = Self::ill(view) else { continue };
            let function = &view.spec.function;
            let why = view.why().unwrap_or_else(|| "no reason is known".to_owned());
            let what = format!("it ({}/{}) is {how}: {why}", function.platform, function.function);
            findings.push(Finding { level, part: format!("{part}.{}", view.id), what, remedy: Some(remedy) });
        }
        let mut more: BTreeMap<&str, usize> = BTreeMap::new();
        for view in worst.iter().skip(NAMED) {
            *more.entry(view.state.as_str()).or_default() += 1;
        }
        if let Some(level) = worst.get(NAMED).and_then(|view| of(view)) {
            let counts: Vec<_> = more.iter().map(|(state, count)| format!("{count} {state}")).collect();
            let what = format!("of further ones there are {}", counts.join(", "));
            let remedy = Some("`triggerd bindings` shows them all".to_owned());
            findings.push(Finding { level, part: part.to_owned(), what, remedy });
        }
        if !all {
            let what = format!("only the first {seen} were looked at");
            findings.push(Finding::warn(part, what, "`triggerd bindings` shows them all"));
        } else if findings.is_empty() {
            findings.push(Finding::ok(part, format!("{seen} there, none of them damaged or refused")));
        }
        findings
    }
}

#[async_trait]
impl Probe for Standing {
    fn part(&self) -> String {
        "bindings".into()
    }

    async fn look(&self) -> Vec<Finding> {
        let (part, mut after, mut seen, mut ill) = (self.part(), None, 0, Vec::new());
        for _ in 0..PAGES {
            let page = match self.0.bindings(after, PAGE).await {
                Ok(page) => page.value,
                // No daemon, no bindings to speak of; that it does not run is told of it.
                Err(ClientError::Unreachable { source, .. }) if source.is_connect() => return Vec::new(),
                Err(error) => {
                    let remedy = "mend that, and look again, or see `triggerd bindings`";
                    return vec![Finding::warn(part, format!("nobody knows how they are: {error}"), remedy)];
                }
            };
            seen += page.bindings.len();
            ill.extend(page.bindings.into_iter().filter(|view| Self::ill(view).is_some()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Self::report(&part, seen, &ill, after.is_none())
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
