//! What a worker on this machine has.

use crate::os;
use crate::sched::{GpuInfo, Resources};

/// Workers may use so many hundredths of the memory: the rest is for the processes themselves, and for estimates that are too low.
const SHARE: u64 = 85;

/// Capacity of one of so many workers that share this machine: its CPUs, a share of the memory, and of the GPUs that this
/// process sees.
pub(crate) fn capacity(cpus: f64, workers: usize) -> Resources {
    let workers = workers.max(1) as u64;
    let gpus = gpus();
    let each = Resources::cpus(cpus).with_memory(os::memory() / 100 * SHARE / workers);
    each.with_gpus((gpus.len() as u64).div_ceil(workers) as f64, least_memory(gpus))
}

/// The GPUs of the worker that is number `slot` of so many on this machine.
pub(super) fn gpus_of(slot: usize, workers: usize, gpus: &[GpuInfo]) -> Vec<GpuInfo> {
    gpus.iter().skip(slot).step_by(workers.max(1)).cloned().collect()
}

/// What each of these GPUs has: the ledger takes them for equal, so those with more count as the one with least.
pub(super) fn least_memory(gpus: &[GpuInfo]) -> u64 {
    gpus.iter().map(|gpu| gpu.memory).min().unwrap_or(0)
}

/// The GPUs that this process sees.
pub(super) fn gpus() -> &'static [GpuInfo] {
    find_gpus().as_deref().unwrap_or_default()
}

/// The GPUs that this process sees, or why it sees none.
#[cfg(feature = "gpu")]
pub(crate) fn find_gpus() -> &'static Result<Vec<GpuInfo>, String> {
    crate::gpu::find()
}

/// Built without the feature `gpu`, it sees none.
#[cfg(not(feature = "gpu"))]
pub(crate) fn find_gpus() -> &'static Result<Vec<GpuInfo>, String> {
    use std::sync::LazyLock;
    static NONE: LazyLock<Result<Vec<GpuInfo>, String>> =
        LazyLock::new(|| Err("the program is built without regatta's feature gpu".to_owned()));
    &NONE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gpu_belongs_to_one_worker_which_counts_on_the_least_memory_of_its_own() {
        let gpu = |(uuid, memory): (&str, u64)| GpuInfo {
            name: "a GPU".to_owned(),
            uuid: uuid.to_owned(),
            memory,
            compute_capability: (9, 0),
            driver: (13, 0),
            mig: false,
        };
        let gpus = [("GPU-a", 80), ("GPU-b", 24), ("GPU-c", 40)].map(gpu);
        let split = |workers, gpus: &[GpuInfo]| {
            let of = |slot| gpus_of(slot, workers, gpus);
            let told = |gpus: Vec<GpuInfo>| (gpus.iter().map(|gpu| gpu.uuid.clone()).collect(), least_memory(&gpus));
            (0..workers).map(of).map(told).collect::<Vec<(Vec<String>, u64)>>()
        };
        let told = |uuids: &[&str], memory| (uuids.iter().map(ToString::to_string).collect(), memory);
        assert_eq!(split(2, &gpus), [told(&["GPU-a", "GPU-c"], 40), told(&["GPU-b"], 24)]);
        assert_eq!(split(3, &gpus[..1]), [told(&["GPU-a"], 80), told(&[], 0), told(&[], 0)]);
        assert_eq!(split(1, &[]), [told(&[], 0)]);
    }
}
