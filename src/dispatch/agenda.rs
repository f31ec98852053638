//! Which lanes the pump has to look at.
//!
//! A lane lists itself when something about it changed: a delivery was parked, a permit came back to a lane that is
//! behind. It stands in the list once, however often it lists itself, and the list is worked off in its order; so what
//! the pump does in a round grows with the lanes that have something to do, not with all that there are.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

use super::lane::Lane;

/// The list.
#[derive(Debug, Default)]
pub struct Agenda {
    lanes: Mutex<VecDeque<Arc<Lane>>>,
    listed: Notify,
}

impl Agenda {
    /// Adds a lane at the end. That it stands there once is the lane's affair.
    pub(super) fn list(&self, lane: Arc<Lane>) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push_back(lane);
        self.listed.notify_one();
    }

    /// All that is listed, in order.
    pub(super) fn take(&self) -> VecDeque<Arc<Lane>> {
        std::mem::take(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Resolves when something was listed since this was asked last.
    pub(super) async fn listed(&self) {
        self.listed.notified().await;
    }
}
