//! The reference platform: a small, honest functions-as-a-service for one host, and the example to
//! implement the Trigger Rules protocol from (`docs/trigger-rules.md` tells it, and
//! `docs/trigger-rules.openapi.yaml` fixes it). It shares no code with triggerd.
//!
//! The platform keeps a **rule** for each binding: which events of which bucket may run which function,
//! and the secret that only this binding's triggerd knows. A function is a command of this host. Each
//! invocation is checked against its rule before anything runs. Guaranteed:
//!
//! - a rule is on the disk when its request is answered, and the same request again is success
//! - a synchronous answer carries the function's own result, or says whose fault it is that there is none
//! - an accepted asynchronous invocation is run at least once, also over `kill -9`
//!
//! Deliberately not: exactly once (a function tells a repeat by `TRIGGER_DELIVERY_ID`), more than one host,
//! isolation of functions from each other beyond what the host's users and cgroups give, TLS and a bound on
//! connections (a proxy in front has both).
//!
//! Read in this order: `api` (the routes), `rule`, `rules`, `signature`, `invoke` (the checks), `event`,
//! `functions`, `jobs` and `callback` (asynchronous calls), `confirm`, `durable`, `serve`, and `bind` for the side
//! that begins a binding.

mod api;
mod bind;
mod callback;
mod check;
mod clock;
mod config;
mod confirm;
mod durable;
mod event;
mod functions;
mod invoke;
mod jobs;
mod problem;
mod rule;
mod rules;
mod serve;
mod signature;

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(version, about = "The reference platform of the Trigger Rules protocol")]
struct Cli {
    /// The platform's config; platform.example.toml beside the source explains every key.
    #[arg(long, global = true, default_value = "platform.toml", env = "TRIGGERD_PLATFORM_CONFIG")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve rules and functions; the first line printed is the address.
    Serve,
    /// Ask triggerd to bind events of a bucket to a function of this platform, and follow the binding.
    Bind {
        #[command(flatten)]
        bind: Box<bind::Wanted>,
        #[command(flatten)]
        ask: bind::Ask,
    },
    /// Ask triggerd to end a binding, and follow it until it is gone.
    Unbind {
        /// The binding.
        id: String,
        #[command(flatten)]
        ask: bind::Ask,
    },
    /// Print the rules that are kept, one line of JSON each, without their secrets.
    Rules,
    /// Say everything that is wrong with the config and what it names.
    Check,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    run(Cli::parse()).await.unwrap_or_else(|error| {
        writeln!(io::stderr(), "triggerd-platform: {error:#}").ok();
        ExitCode::FAILURE
    })
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = config::Config::read(&cli.config)?;
    let triggerd =
        || config.triggerd.as_ref().context("the config has no [triggerd] section, which this command needs");
    match cli.command {
        Command::Serve => serve::serve(config).await.map(|()| ExitCode::SUCCESS),
        Command::Bind { bind, ask } => bind::bind(triggerd()?, *bind, ask).await,
        Command::Unbind { id, ask } => bind::unbind(triggerd()?, &id, ask).await,
        Command::Rules => {
            for stored in rules::Rules::open(&config.state_dir)?.all() {
                writeln!(io::stdout(), "{}", stored.view())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Check => check::check(&config).await,
    }
}
