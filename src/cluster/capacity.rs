//! What a worker on this machine has.

use crate::os;
use crate::sched::Resources;

/// Capacity of one of so many workers that share this machine: its CPUs, a share of the memory, and of the GPUs that this
/// process sees.
pub(crate) fn capacity(cpus: usize, workers: usize) -> Resources {
    let workers = workers.max(1) as u64;
    let (gpus, gpu_memory) = gpus();
    let each = Resources::cpus(cpus as f64).with_memory(os::memory() / workers);
    each.with_gpus(gpus.div_ceil(workers) as f64, gpu_memory)
}

/// The GPUs of the worker that is number `slot` of so many on this machine, as `CUDA_VISIBLE_DEVICES` names them; `visible` is
/// what that variable says here.
pub(super) fn gpus_of(slot: usize, workers: usize, gpus: u64, visible: Option<&str>) -> Vec<String> {
    let all: Vec<String> = match visible {
        Some(list) => list.split(',').map(|device| device.trim().to_owned()).take(gpus as usize).collect(),
        None => (0..gpus).map(|device| device.to_string()).collect(),
    };
    all.into_iter().skip(slot).step_by(workers.max(1)).collect()
}

/// How many GPUs this process sees, and the least memory that one of them has.
#[cfg(feature = "gpu")]
pub(super) fn gpus() -> (u64, u64) {
    match crate::gpu::device_memory() {
        Ok(devices) => (devices.len() as u64, devices.into_iter().min().unwrap_or(0)),
        Err(why) => {
            tracing::info!(%why, "no GPU here");
            (0, 0)
        }
    }
}

/// Built without the feature `gpu`, it sees none.
#[cfg(not(feature = "gpu"))]
pub(super) fn gpus() -> (u64, u64) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gpu_belongs_to_one_worker() {
        let split =
            |workers, gpus, visible| (0..workers).map(|slot| gpus_of(slot, workers, gpus, visible)).collect::<Vec<_>>();
        assert_eq!(split(2, 3, None), [vec!["0", "2"], vec!["1"]]);
        assert_eq!(split(2, 2, Some("4, 6")), [["4"], ["6"]], "what is visible here, by its own names");
        assert_eq!(split(3, 1, None), [vec!["0"], vec![], vec![]]);
        assert_eq!(split(1, 0, None), [Vec::<String>::new()]);
    }
}
