//! From an upload to a function and back, on real parts.

mod firing;
mod world;

use crate::harness::suite::{Test, tests};
use firing::*;

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] an_upload_fires_a_bound_function;
    }
}
