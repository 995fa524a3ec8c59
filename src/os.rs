//! Calls to the operating system. Linux is tested.

use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;

/// CPUs that this process may use.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of memory that this process may use: of the machine, or of its control group if that has less.
pub(crate) fn memory() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(total.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    });
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse().ok()).unwrap_or(UNKNOWN);
    machine.unwrap_or(UNKNOWN).min(group)
}

/// Memory where the system does not say how much: enough for any request, and sums of it do not overflow.
const UNKNOWN: u64 = u64::MAX >> 20;

/// The user that this process runs as; 0 where the system does not say.
pub(crate) fn user_id() -> u32 {
    std::fs::metadata("/proc/self").map_or(0, |process| process.uid())
}

/// A number that no other process has drawn. Not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one((std::process::id(), std::thread::current().id()))
}
