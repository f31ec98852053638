//! The commands against the real API over loopback, with real relations and a real queue behind it.

mod arguments;
mod bindings;
mod letters;
mod shown;
mod trouble;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{output::tests::Written, *};
use crate::{
    admin::fakes::{OPERATOR, World, listen, state},
    domain::{
        binding::State,
        clock::Timestamp,
        ids::{BindingId, EventId},
    },
    telemetry::RecentOutcome,
};

struct Ran {
    ended: Result<Ended, String>,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn done(&self) -> &str {
        assert_eq!(self.ended, Ok(Ended::Done), "{}{}", self.out, self.err);
        &self.out
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// A host with a config file, and a daemon's API that the config names.
struct Host {
    world: Arc<World>,
    folder: TempDir,
}

impl Host {
    async fn new() -> Self {
        let world = World::new().await;
        let host = Self { world: Arc::clone(&world), folder: TempDir::new().unwrap() };
        let state = state(&world);
        state.recent.note(RecentOutcome {
            at: Timestamp::from_micros(1_700_000_000_000_000),
            event: EventId::from_bytes([1; 16]),
            delivery: None,
            binding: None,
            platform: None,
            function: None,
            bucket: "photos".into(),
            key: "in/a.jpg".into(),
            name: "s3:ObjectCreated:Put".into(),
            outcome: "unmatched".into(),
            took_us: 1_250,
            detail: "as printed\n".into(),
        });
        let address = listen(state).await;
        host.world.listening.set(address).unwrap();
        host.configure(address, OPERATOR);
        host
    }

    fn configure(&self, address: SocketAddr, token: &str) {
        let config = format!("[admin]\nlisten = \"{address}\"\ntoken = \"{token}\"\n");
        std::fs::write(self.folder.path().join("triggerd.toml"), config).unwrap();
    }

    async fn run(&self, args: &str) -> Ran {
        let cli = Cli::try_parse_from(std::iter::once("triggerd").chain(args.split_whitespace())).unwrap();
        let (out, err) = (Written::default(), Written::default());
        let mut terminal = Terminal::new(Box::new(out.clone()), Box::new(err.clone()), cli.json);
        let inputs = Inputs { file: self.folder.path().join("triggerd.toml"), env: BTreeMap::new() };
        let ended = execute(cli.command, &inputs, &mut terminal).await;
        Ran { ended: ended.map_err(|error| format!("{error:#}")), out: out.text(), err: err.text() }
    }

    /// Makes a binding and gives its id.
    async fn bound(&self) -> BindingId {
        let ran = self.run(&format!("{BIND} --wait 0s --json")).await;
        ran.done();
        ran.json()["id"].as_str().unwrap().parse().unwrap()
    }
}

const BIND: &str = "bind --bucket photos --event s3:ObjectCreated:* --prefix in/ --function local/thumb";
