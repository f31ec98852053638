//! For tests of those who use dispatch and know no platforms: a driver that hands each call to a function of theirs.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    domain::{binding::Binding, delivery::Delivery, ids::BindingId, outcome::Outcome},
    platform::{Call, Driver, Established, Inspection, PlatformError},
};

/// A function that is called in this process.
#[async_trait]
pub(crate) trait Function: Send + Sync + fmt::Debug {
    async fn called(&self, binding: &Binding, delivery: &Delivery) -> Outcome;
}

/// A driver of a platform that has this function and nothing else.
pub(crate) fn driver(function: Arc<dyn Function>) -> Arc<dyn Driver> {
    Arc::new(InProcess(function))
}

#[derive(Debug)]
struct InProcess(Arc<dyn Function>);

#[async_trait]
impl Driver for InProcess {
    async fn establish(&self, _: &Binding, _: &str) -> Result<Established, PlatformError> {
        Ok(Established::Confirmed)
    }

    async fn inspect(&self, _: &Binding) -> Result<Inspection, PlatformError> {
        Ok(Inspection::Missing)
    }

    async fn withdraw(&self, _: BindingId) -> Result<(), PlatformError> {
        Ok(())
    }

    async fn check(&self) -> Result<(), PlatformError> {
        Ok(())
    }

    async fn invoke(&self, call: Call<'_>) -> Outcome {
        self.0.called(call.binding, call.delivery).await
    }
}
