//! What the reconciler has been asked to look at, between two passes. In memory only, since every entry only
//! hastens what a later pass would do anyway; bounded, an entry too many is left to the timer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use super::handle::InspectionVerdict;
use crate::domain::ids::BindingId;

/// Most bindings of each kind that are remembered.
const MAX: usize = 10_000;

/// Who waits for an inspection of which binding.
pub(super) type Suspects = BTreeMap<BindingId, Vec<oneshot::Sender<InspectionVerdict>>>;

#[derive(Debug, Default)]
pub(super) struct Agenda {
    wanted: Mutex<Wanted>,
    notify: Notify,
}

/// What was asked for since the last pass.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Bindings to be looked at now.
    pub(super) ids: BTreeSet<BindingId>,
    /// Who waits for an inspection.
    pub(super) suspects: Suspects,
    confirmed: BTreeSet<BindingId>,
}

impl Agenda {
    pub(super) fn wake(&self) {
        self.notify.notify_one();
    }

    pub(super) fn wake_binding(&self, id: BindingId) {
        let mut wanted = self.lock();
        if wanted.ids.len() < MAX {
            wanted.ids.insert(id);
        }
        drop(wanted);
        self.notify.notify_one();
    }

    /// Notes that somebody waits for an inspection that begins after now; none when too many wait.
    pub(super) fn suspect(&self, id: BindingId) -> Option<oneshot::Receiver<InspectionVerdict>> {
        let mut wanted = self.lock();
        if wanted.suspects.values().map(Vec::len).sum::<usize>() >= MAX {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        wanted.suspects.entry(id).or_default().push(sender);
        drop(wanted);
        self.notify.notify_one();
        Some(receiver)
    }

    /// Notes that the platform has confirmed.
    pub(super) fn confirm(&self, id: BindingId) {
        let mut wanted = self.lock();
        if wanted.confirmed.len() < MAX {
            wanted.confirmed.insert(id);
        }
        drop(wanted);
        self.wake_binding(id);
    }

    /// Whether the platform has confirmed since this was last forgotten.
    pub(super) fn is_confirmed(&self, id: BindingId) -> bool {
        self.lock().confirmed.contains(&id)
    }

    /// The rule for which a confirmation came is gone, or the confirmation is recorded.
    pub(super) fn forget_confirmation(&self, id: BindingId) {
        self.lock().confirmed.remove(&id);
    }

    /// Takes what was asked for; confirmations stay.
    pub(super) fn take(&self) -> Wanted {
        let mut wanted = self.lock();
        Wanted {
            ids: std::mem::take(&mut wanted.ids),
            suspects: std::mem::take(&mut wanted.suspects),
            confirmed: BTreeSet::new(),
        }
    }

    /// Gives back what a pass did not do, for the next one; wakes nobody.
    pub(super) fn put_back(&self, ids: BTreeSet<BindingId>, suspects: Suspects) {
        let mut wanted = self.lock();
        wanted.ids.extend(ids);
        for (id, waiting) in suspects {
            wanted.suspects.entry(id).or_default().extend(waiting);
        }
    }

    /// Ends when something was asked for since it last ended.
    pub(super) async fn woken(&self) {
        self.notify.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
