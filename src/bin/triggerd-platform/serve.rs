//! `serve`: puts the parts together, and takes them apart in order.
//!
//! On SIGTERM or SIGINT no connection and no new job is taken; what runs may end, for at most
//! `DRAIN`, or until a second signal. What is cut off then was either synchronous (its caller sees the
//! connection break, and calls again) or is still a file in `jobs/` (and is run at the next start).

use crate::{
    api::{self, Platform},
    callback::Caller,
    config::{Config, read_token},
    confirm::Confirmer,
    durable,
    functions::Function,
    jobs::Jobs,
    rule::State,
    rules::Rules,
};
use anyhow::{Context, anyhow};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{DirBuilder, File},
    future::IntoFuture,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

const DRAIN: Duration = Duration::from_secs(20);

pub(crate) async fn serve(config: Config) -> anyhow::Result<()> {
    let _lock = own(&config.state_dir)?;
    let token = read_token(&config.token_file)?;
    let stop = CancellationToken::new();
    let rules = Arc::new(Rules::open(&config.state_dir)?);
    let functions = config
        .functions
        .iter()
        .map(|(name, function)| (name.clone(), Arc::new(Function::new(function.clone()))));
    let functions = Arc::new(functions.collect());
    let caller = Caller::new(stop.clone())?;
    let jobs = Jobs::new(
        &config.state_dir,
        Arc::clone(&functions),
        Arc::clone(&rules),
        caller.clone(),
        stop.clone(),
    );
    let jobs = Arc::new(jobs);

    let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(&config.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", config.listen))?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    tracing::info!(rules = rules.all().len(), functions = config.functions.len(), "the platform serves");

    jobs.resume().context("cannot read the accepted jobs")?;
    let confirmer = Confirmer::new(Arc::clone(&rules), caller);
    for stored in rules.all().into_iter().filter(|stored| stored.state == State::Pending) {
        confirmer.confirm(stored);
    }
    let platform = Platform { config, token, rules, functions, jobs: Arc::clone(&jobs), confirmer };
    let server = axum::serve(listener, api::router(Arc::new(platform)))
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    let server = tokio::spawn(server);

    told_to_stop(&mut signals).await;
    tracing::info!("the platform stops when what runs has ended");
    stop.cancel();
    let drained = async { (server.await, jobs.finish().await) };
    tokio::select! {
        (ended, ()) = drained => ended?.context("the HTTP server failed"),
        () = tokio::time::sleep(DRAIN) => { tracing::warn!("what still ran after {DRAIN:?} was cut off"); Ok(()) }
        () = told_to_stop(&mut signals) => { tracing::warn!("a second signal: what still ran was cut off"); Ok(()) }
    }
}

async fn told_to_stop((terminate, interrupt): &mut (Signal, Signal)) {
    tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
}

/// Makes the state folder this process's own: readable by this user only, locked, and cleared of what a
/// crash left half written.
fn own(state_dir: &Path) -> anyhow::Result<File> {
    let prepare = || {
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
        let lock = File::create(state_dir.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        for folder in ["rules", "jobs"].map(|name| state_dir.join(name)) {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            durable::remove_drafts(&folder)?;
        }
        Ok(lock)
    };
    prepare().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            anyhow!("another platform runs in {}; stop it or set another state_dir", state_dir.display())
        }
        _ => anyhow!(error).context(format!("cannot use the state folder {}", state_dir.display())),
    })
}
