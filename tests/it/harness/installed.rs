//! Which servers this machine has, and which of them the run is to leave out.
//!
//! `tests/servers/install where` knows the layout of the cache; it is asked once. `TRIGGERD_TEST_SKIP` names, with
//! commas, the servers whose tests are left out. A name that is not a server's is an error: a misspelt skip must not
//! look like a wish that was followed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{Context as _, Result, anyhow, bail};

/// The variable that names the servers to leave out.
pub(crate) const SKIP_VARIABLE: &str = "TRIGGERD_TEST_SKIP";

/// A server that tests can need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Server {
    Minio,
    Mosquitto,
    MySql,
    MariaDb,
}

impl Server {
    const ALL: [Self; 4] = [Self::Minio, Self::Mosquitto, Self::MySql, Self::MariaDb];
}

impl fmt::Display for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Minio => "minio",
            Self::Mosquitto => "mosquitto",
            Self::MySql => "mysql",
            Self::MariaDb => "mariadb",
        })
    }
}

/// The servers named in [`SKIP_VARIABLE`].
pub(crate) fn skipped() -> Result<BTreeSet<Server>> {
    parse_skipped(&std::env::var(SKIP_VARIABLE).unwrap_or_default())
}

/// Reads a list of servers as [`SKIP_VARIABLE`] holds it.
pub(crate) fn parse_skipped(list: &str) -> Result<BTreeSet<Server>> {
    let named = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    named
        .map(|name| {
            Server::ALL.into_iter().find(|server| server.to_string() == name).with_context(|| {
                let known = Server::ALL.map(|server| server.to_string()).join(", ");
                format!("{SKIP_VARIABLE} names {name:?}, which is not one of: {known}")
            })
        })
        .collect()
}

/// The path that `tests/servers/install where` tells under `name`, for a test that needs `server`.
pub(crate) fn path(server: Server, name: &str) -> Result<PathBuf> {
    static FOUND: LazyLock<Result<BTreeMap<String, PathBuf>, String>> =
        LazyLock::new(|| ask_installer().map_err(|error| format!("{error:#}")));
    if skipped()?.contains(&server) {
        bail!(
            "{SKIP_VARIABLE} leaves {server} out, but this test starts it; remedy: name it among the test's servers"
        );
    }
    let found = FOUND.as_ref().map_err(|error| anyhow!(error.clone()))?;
    found.get(name).cloned().with_context(|| {
        format!("{server} is not on this machine; remedy: `make servers`, or leave it out with {SKIP_VARIABLE}={server}")
    })
}

fn ask_installer() -> Result<BTreeMap<String, PathBuf>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/install");
    let output = Command::new(&script)
        .arg("where")
        .output()
        .with_context(|| format!("{} does not run", script.display()))?;
    if !output.status.success() {
        bail!("{} where: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    }
    let lines = String::from_utf8(output.stdout).context("the paths of the servers are not UTF-8")?;
    Ok(lines
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, path)| (name.into(), path.into()))
        .collect())
}
