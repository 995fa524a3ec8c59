//! What a worker on this machine has.

use crate::os;
use crate::sched::Resources;

/// Capacity of one of so many workers that share this machine: its CPUs, a share of the memory, and of the GPUs that this
/// process sees.
pub(crate) fn capacity(cpus: usize, workers: usize) -> Resources {
    let workers = workers.max(1) as u64;
    let (gpus, gpu_memory) = gpus();
    let each = Resources::cpus(cpus as f64).with_memory(os::memory() / workers);
    each.with_gpus((gpus.len() as u64).div_ceil(workers) as f64, gpu_memory)
}

/// The GPUs of the worker that is number `slot` of so many on this machine, by UUID.
pub(super) fn gpus_of(slot: usize, workers: usize, gpus: &[String]) -> Vec<String> {
    gpus.iter().skip(slot).step_by(workers.max(1)).cloned().collect()
}

/// The UUIDs of the GPUs that this process sees, and the least memory that one of them has.
#[cfg(feature = "gpu")]
pub(super) fn gpus() -> (Vec<String>, u64) {
    let gpus = crate::gpu::gpus();
    (gpus.iter().map(|gpu| gpu.uuid.clone()).collect(), gpus.iter().map(|gpu| gpu.memory).min().unwrap_or(0))
}

/// Built without the feature `gpu`, it sees none.
#[cfg(not(feature = "gpu"))]
pub(super) fn gpus() -> (Vec<String>, u64) {
    (Vec::new(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gpu_belongs_to_one_worker() {
        let gpus = ["GPU-a", "GPU-b", "GPU-c"].map(String::from);
        let split = |workers, gpus| (0..workers).map(|slot| gpus_of(slot, workers, gpus)).collect::<Vec<_>>();
        assert_eq!(split(2, &gpus), [vec!["GPU-a", "GPU-c"], vec!["GPU-b"]]);
        assert_eq!(split(3, &gpus[..1]), [vec!["GPU-a"], vec![], vec![]]);
        assert_eq!(split(1, &[]), [Vec::<String>::new()]);
    }
}
