//! Calls to the operating system. Linux is tested.

use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;

/// CPUs that this process may use.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The user that this process runs as; 0 where the system does not say.
pub(crate) fn user_id() -> u32 {
    std::fs::metadata("/proc/self").map_or(0, |process| process.uid())
}

/// A number that no other process has drawn. Not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one((std::process::id(), std::thread::current().id()))
}
