//! Who is told when a delivery is safe.
//!
//! Intake hands each delivery on with a [`Custody`]. It is used up when the delivery is settled or parked; dropped
//! before (an error, a panic, the end of the process), it says that nobody has the delivery, and its event must not be
//! acknowledged.

use std::{fmt, sync::Arc};

/// The one that waits for deliveries to be safe: intake.
pub trait Custodian: Send + Sync {
    /// One delivery is settled or parked.
    fn safe(&self);

    /// One delivery was dropped: not safe.
    fn abandoned(&self);
}

/// The duty to say that one delivery is safe.
pub struct Custody(Option<Arc<dyn Custodian>>);

impl Custody {
    /// A duty towards this custodian.
    pub fn new(custodian: Arc<dyn Custodian>) -> Self {
        Self(Some(custodian))
    }

    /// The delivery is settled or parked.
    pub fn safe(mut self) {
        if let Some(custodian) = self.0.take() {
            custodian.safe();
        }
    }
}

impl Drop for Custody {
    fn drop(&mut self) {
        if let Some(custodian) = self.0.take() {
            custodian.abandoned();
        }
    }
}

impl fmt::Debug for Custody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Custody")
    }
}
