//! From an upload to a function and back, on real parts.

mod world;

use crate::harness::suite::Test;

pub(crate) fn tests() -> Vec<Test> {
    Vec::new()
}
