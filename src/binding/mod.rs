//! The two-way handshake and the reconciler: the one way by which bindings are made, mended and taken back.
//!
//! A binding has three places: the relation here, the rule on the platform, and the bucket's rules in the storage.
//! Whoever binds or unbinds writes only what is wanted into the relations and wakes the reconciler. It takes no
//! other input: each pass reads the whole intended state, looks at the other two places, and does what is missing.
//! Every step can be repeated, so recovery after a crash is the next pass, and nothing has to be remembered over a
//! restart.
//!
//! **To be present** (what a crash after the step leaves, and what the next pass does with it):
//!
//! 1. *Relation*: the row in state `pending`, with its secret. It matches nothing yet.
//! 2. *Rule*: the platform is asked to hold the rule. A crash leaves a rule that nothing uses; asked again, the
//!    platform answers that it has the same.
//! 3. *Bucket*: the configuration gets what all wanted bindings of the bucket need, this one included
//!    ([`bucket_rules`]). A crash leaves events that match nothing and are acknowledged.
//! 4. *Confirmation*: by the platform's answer or by its call back ([`Handle::confirm`]). Then the state is `armed`
//!    and events fire. A crash before that is recorded repeats 2 to 4.
//! 5. *Nodes*: every registered daemon has the revision in force: `active`.
//!
//! **Kept present.** From time to time, and when [`Handle::inspect_now`] asks for it, the rule and the bucket are
//! inspected. Only what an inspection found missing or changed makes a binding `degraded`; a platform or storage
//! that does not answer is shown on the step and changes nothing. `degraded` is recorded *before* anything is
//! mended, so that every daemon holds the deliveries; they are released after `armed` is recorded, and again at
//! every later pass, since a daemon that had not seen it yet may have parked more. A changed rule is withdrawn and
//! established; a crash between leaves it missing. If the platform then refuses it, it stays `degraded` and is asked for
//! again, and the refusal is an error in the log, once for each change of the platform's words. What is found damaged again and again rests before it is mended
//! ([`relapses`]).
//!
//! **To be absent** (the row says `unbinding` and matches nothing):
//!
//! 1. The bucket's configuration loses what only this binding needed. A bucket that is gone needs nothing.
//! 2. Its parked deliveries become dead letters; running ones are waited for.
//! 3. The rule is withdrawn, and with it the secret.
//! 4. When every registered daemon has seen that it goes, the row goes: the last thing, so that a crash at any point
//!    leaves a row in `unbinding` whose steps are all repeated.
//!
//! **Each platform by itself.** A platform that hangs keeps the reconciler from its own bindings only ([`reconciler`]).
//!
//! **Several daemons** run this at once, each for all bindings. They meet in the platform (idempotent), in the lock
//! of the bucket's configuration, and in the relations, which record only what was found at the revision that was
//! looked at. What a bucket needs is read anew under its lock: a binding that another daemon has already provided
//! for is in it.
//!
//! **Not guaranteed.** MinIO has no condition on writing a configuration: an edit of somebody else's between our
//! read and our write is lost. So it is written only when it differs, and rules of others that vanished are told in
//! the log. Daemons whose configs name different targets for one storage take each other's bucket rules for leftovers
//! and overwrite them again and again.

mod agenda;
pub mod bucket_rules;
mod bucket_step;
mod decide;
mod handle;
mod look;
mod reconciler;
mod relapses;
mod rule_step;
mod schedule;
mod unbinding;

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

pub use handle::{ConfirmError, Handle, InspectionVerdict};
pub use reconciler::Reconciler;

use crate::{
    bucket::BucketNotifications,
    dispatch::Deliveries,
    domain::{clock::Clock, entropy::Entropy, event::StorageName},
    platform::Driver,
    queue::Disposal,
    relations::Relations,
};

/// A storage as the reconciler needs it.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Its buckets.
    pub buckets: Arc<dyn BucketNotifications>,
    /// ARNs of the targets that our bucket rules name; at least one.
    pub targets: Vec<String>,
    /// ARNs of the targets that they name beside these for bindings that ask for both legs.
    pub fast_targets: Vec<String>,
}

/// What the reconciler works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The intended state, and where what was found is recorded.
    pub relations: Arc<dyn Relations>,
    /// The platforms, by their names in the config.
    pub drivers: HashMap<String, Arc<dyn Driver>>,
    /// The storages, by their names in the config.
    pub storages: HashMap<StorageName, Storage>,
    /// This daemon's deliveries, which are held and cleared.
    pub deliveries: Arc<dyn Deliveries>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
}

/// How the reconciler works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This daemon's name, by which it registers.
    pub node: String,
    /// Base URL at which platforms reach us for confirmations; none when they cannot.
    pub callback_url: Option<String>,
    /// The longest time between two looks at the intended state (changed elsewhere, without waking us).
    pub look_every: Duration,
    /// How often a binding that is in step is inspected, give or take a fifth.
    pub inspect_every: Duration,
    /// What becomes of parked deliveries of a binding that is unbound.
    pub disposal: Disposal,
}

impl Settings {
    /// The defaults, for the daemon of this name.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            callback_url: None,
            look_every: Duration::from_secs(30),
            inspect_every: Duration::from_mins(5),
            disposal: Disposal::DeadLetter,
        }
    }
}
