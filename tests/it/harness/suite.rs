//! The runner: what a test is, how it is run, and what is told at the end.
//!
//! A test fails when it returns an error, panics, or takes longer than its limit; a test whose server is left out by
//! `TRIGGERD_TEST_SKIP` is reported as ignored, and the closing lines count and name what was. With everything run
//! the shared servers are stopped, before the process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use libtest_mimic::{Arguments, Failed, Trial};
use tempfile::TempDir;

use super::database;
use super::installed::{SKIP_VARIABLE, Server, skipped};

/// How long a test may take that sets no limit of its own.
const DEFAULT_LIMIT: Duration = Duration::from_secs(90);

/// How long a finished test's stray tasks are waited for.
const STRAY_LIMIT: Duration = Duration::from_secs(2);

/// The test itself moves to the thread that runs it; its future never leaves that thread and need not be `Send`.
type Body = Box<dyn FnOnce(Ctx) -> Pin<Box<dyn Future<Output = Result<()>>>> + Send>;

/// A test: a sentence about behaviour, the servers it needs, and what it does.
pub(crate) struct Test {
    name: String,
    needs: Vec<Server>,
    limit: Duration,
    body: Body,
}

impl Test {
    /// A test called `name` (with its module's path) that starts no other servers than `needs`.
    pub(crate) fn new<F, R>(name: impl Into<String>, needs: &[Server], body: F) -> Self
    where
        F: FnOnce(Ctx) -> R + Send + 'static,
        R: Future<Output = Result<()>> + 'static,
    {
        Self {
            name: name.into(),
            needs: needs.to_vec(),
            limit: DEFAULT_LIMIT,
            body: Box::new(move |ctx| Box::pin(body(ctx))),
        }
    }

    /// Sets the time after which the test has failed.
    #[must_use]
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn into_trial(self, skipped: &BTreeSet<Server>) -> Trial {
        let ignored = self.needs.iter().any(|server| skipped.contains(server));
        let needs = self.needs.iter().map(Server::to_string).collect::<Vec<_>>().join(",");
        let name = self.name.clone();
        Trial::test(name, move || self.run().map_err(|error| Failed::from(format!("{error:?}"))))
            .with_kind(needs)
            .with_ignored_flag(ignored)
    }

    /// Runs it on a runtime of its own.
    pub(crate) fn run(self) -> Result<()> {
        let ctx = Ctx::new()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let Self { name, limit, body, .. } = self;
        let outcome = runtime.block_on(async {
            tokio::time::timeout(limit, body(ctx))
                .await
                .unwrap_or_else(|_| Err(anyhow!("{name} took longer than its limit of {limit:?}")))
        });
        runtime.shutdown_timeout(STRAY_LIMIT);
        outcome
    }
}

/// What a test gets: a temporary folder of its own, which goes with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Ctx {
    folder: Arc<TempDir>,
}

impl Ctx {
    /// The test's own empty folder (absolute).
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An empty folder.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { folder: Arc::new(tempfile::Builder::new().prefix("triggerd-it-").tempdir()?) })
    }
}

/// Lists tests of a module: `tests! { [Minio, MySql] name_of_an_async_fn; [] another within 200; }` (seconds).
macro_rules! tests {
    ($([$($server:ident),*] $name:ident $(within $seconds:literal)?;)*) => {
        vec![$(
            $crate::harness::suite::Test::new(
                concat!(module_path!(), "::", stringify!($name)).trim_start_matches("it::"),
                &[$($crate::harness::installed::Server::$server),*],
                $name,
            )$(.within(std::time::Duration::from_secs($seconds)))?
        ),*]
    };
}
pub(crate) use tests;

/// Runs the tests that the command line picks; the exit code is a failure if one failed.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a test runner tells by printing")]
pub(crate) fn run(tests: Vec<Test>) -> ExitCode {
    let arguments = Arguments::from_args();
    let skipped = match skipped() {
        Ok(skipped) => skipped,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut left_out: BTreeMap<Server, Vec<String>> = BTreeMap::new();
    let mut trials = Vec::new();
    for test in tests {
        let names = test.needs.iter().copied().filter(|server| skipped.contains(server)).collect::<Vec<_>>();
        let name = test.name.clone();
        let trial = test.into_trial(&skipped);
        if arguments.is_ignored(&trial) && !arguments.is_filtered_out(&trial) {
            for server in names {
                left_out.entry(server).or_default().push(name.clone());
            }
        }
        trials.push(trial);
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    database::stop_shared();
    if !arguments.list {
        println!("{}", skip_summary(&left_out));
    }
    conclusion.exit_code()
}

/// The closing lines: how many tests `TRIGGERD_TEST_SKIP` left out, and which, by server.
pub(crate) fn skip_summary(left_out: &BTreeMap<Server, Vec<String>>) -> String {
    let tests: BTreeSet<_> = left_out.values().flatten().collect();
    if tests.is_empty() {
        return format!("skipped by {SKIP_VARIABLE}: 0 tests");
    }
    let mut lines = vec![format!("skipped by {SKIP_VARIABLE}: {} tests", tests.len())];
    lines.extend(
        left_out.iter().map(|(server, tests)| format!("  {server}: {} ({})", tests.len(), tests.join(", "))),
    );
    lines.join("\n")
}
