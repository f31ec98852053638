//! `[node]`: this daemon.

use std::path::PathBuf;

use serde::Deserialize;

/// This daemon's name and its place on disk.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name among the daemons that share the relations; the host's name when not set. Never change it: others wait
    /// for a daemon that they have heard of.
    pub name: String,
    /// Where `relations.db` and `queue.db` are kept. One daemon owns it.
    pub state_dir: PathBuf,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { name: host_name(), state_dir: "/var/lib/triggerd".into() }
    }
}

/// The host's name as the kernel has it; empty where it does not say, which validation refuses.
///
/// By the system call, because `/proc/sys` is out of sight for a unit with `ProcSubset=pid`.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().trim().to_owned()
}
