//! Dispatch: permits and pacing per function; attempt → verdict → settle or park; takes up due deliveries.

use async_trait::async_trait;

use crate::{
    domain::{
        delivery::FunctionRef,
        ids::{BindingId, DeliveryId},
    },
    queue::{Disposal, QueueError},
};

/// What others may ask of dispatch: the handle that the reconciler and the admin API get.
#[async_trait]
pub trait Deliveries: Send + Sync + std::fmt::Debug {
    /// Something of this function became due (a replay, for example).
    fn wake(&self, function: &FunctionRef);

    /// The deliveries of a binding whose attempt is running now.
    fn running(&self, binding: BindingId) -> Vec<DeliveryId>;

    /// Holds or releases a binding's parked deliveries; how many.
    async fn hold(&self, binding: BindingId, held: bool) -> Result<u64, QueueError>;

    /// Clears a binding's parked deliveries; how many are left (those that run now).
    async fn clear(&self, binding: BindingId, disposal: Disposal) -> Result<u64, QueueError>;
}
