//! The admin API's listeners, and what the API works with.

use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    foundation::Foundation,
    health,
    ports::{CatalogPort, ReconcilerPort},
    results::ResultsPort,
};
use crate::{
    admin::{self, Access, AdminState, Door, Names, Reintake},
    binding,
    config::Config,
    dispatch::Dispatcher,
    lifecycle::Workers,
    telemetry::{Recent, Seldom},
};

/// What the admin API works with.
pub(super) fn state(
    config: &Config,
    foundation: &Foundation,
    dispatcher: &Dispatcher,
    (handle, reintake): (binding::Handle, Arc<dyn Reintake>),
    (health, recent): (Arc<health::Parts>, Arc<Recent>),
) -> Arc<AdminState> {
    Arc::new(AdminState {
        node: config.node.name.clone(),
        access: access(config),
        names: Names {
            storages: config.storages.keys().cloned().collect(),
            twins: config
                .storages
                .iter()
                .filter(|(_, storage)| !storage.fast_targets.is_empty())
                .map(|(name, _)| name.clone())
                .collect(),
            platforms: config.platforms.keys().cloned().collect(),
            most: config.platforms.iter().map(|(name, it)| (name.clone(), it.max_bindings)).collect(),
            silent: config.cannot_call_back().into_iter().map(str::to_owned).collect(),
        },
        open_metrics: config.admin.open_metrics,
        relations: Arc::clone(&foundation.authority),
        queue: foundation.queue.clone(),
        letters: foundation.queue.clone(),
        reintake,
        deliveries: Arc::new(dispatcher.clone()),
        reconciler: Arc::new(ReconcilerPort(handle)),
        catalog: Arc::new(CatalogPort(Arc::clone(&foundation.catalog))),
        health,
        callbacks: Arc::new(ResultsPort {
            catalog: Arc::clone(&foundation.catalog),
            dispatcher: dispatcher.clone(),
            node: config.node.name.clone(),
            recent: Arc::clone(&recent),
            clock: Arc::clone(&foundation.clock),
            seen: std::sync::Mutex::default(),
            refusals: Seldom::once_in(std::time::Duration::from_mins(1)),
        }),
        recent,
        clock: Arc::clone(&foundation.clock),
        entropy: Arc::clone(&foundation.entropy),
    })
}

fn access(config: &Config) -> Access {
    let platforms = config.platforms.iter();
    let platforms =
        platforms.filter_map(|(name, platform)| Some((name.as_str(), platform.api_token.as_ref()?)));
    Access::new(config.admin.token.as_ref(), platforms)
}

/// Listens at the admin address, and at the callbacks' if there is one.
pub(super) async fn open(
    back: &mut Workers,
    config: &Config,
    state: Arc<AdminState>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let callbacks = config.callbacks.as_ref().map(|callbacks| (callbacks.listen, Door::Callbacks));
    let doors = [(config.admin.listen, Door::admin(config.admin.listen))].into_iter().chain(callbacks);
    for (address, door) in doors {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen at {address}: is another triggerd running, or the port taken?")
        })?;
        let (router, stop) = (admin::router(Arc::clone(&state), door), stop.clone());
        back.spawn(format!("the listener at {address}"), async move {
            Ok(admin::serve(listener, router, stop).await?)
        });
    }
    Ok(())
}
