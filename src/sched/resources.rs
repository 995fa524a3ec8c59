//! Amounts of what workers have and work takes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a worker has, or what a task or replica takes of one. In thousandths and bytes, so that sums are exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Resources {
    pub(super) millicpus: u64,
    /// Thousandths of a GPU: a share of one, or whole ones.
    pub(super) milligpus: u64,
    pub(crate) memory: u64,
    /// On each of the GPUs.
    pub(super) gpu_memory: u64,
}

/// One whole GPU.
pub(super) const DEVICE: u64 = 1000;

impl Resources {
    pub(super) const NONE: Self = Self { millicpus: 0, milligpus: 0, memory: 0, gpu_memory: 0 };

    pub(crate) fn cpus(cpus: f64) -> Self {
        Self { millicpus: thousandths(cpus), ..Self::NONE }
    }

    /// These, with so many bytes of memory.
    pub(crate) fn with_memory(self, memory: u64) -> Self {
        Self { memory, ..self }
    }

    /// These, with so many GPUs, and so many bytes on each of them.
    pub(crate) fn with_gpus(self, gpus: f64, gpu_memory: u64) -> Self {
        Self { milligpus: thousandths(gpus), gpu_memory, ..self }
    }

    /// These, with so many thousandths of the CPUs.
    pub(super) fn with_share_of_cpus(self, thousandths: u64) -> Self {
        Self { millicpus: self.millicpus * thousandths / 1000, ..self }
    }

    pub(crate) fn as_cpus(self) -> f64 {
        self.millicpus as f64 / 1000.0
    }

    pub(crate) fn as_gpus(self) -> f64 {
        self.milligpus as f64 / DEVICE as f64
    }

    /// Whether some GPU must be there for it.
    pub(super) fn wants_gpu(self) -> bool {
        self.milligpus > 0 || self.gpu_memory > 0
    }

    /// For sums over several: memory of all GPUs together in place of each.
    pub(super) fn in_all(self) -> Self {
        Self { gpu_memory: self.gpu_memory * (self.milligpus / DEVICE).max(1), ..self }
    }

    pub(super) fn times(self, n: usize) -> Self {
        self.each(Self::NONE, |amount, _| amount * n as u64)
    }

    pub(super) fn plus(self, other: Self) -> Self {
        self.each(other, |a, b| a + b)
    }

    /// Nothing where there is less than `other`.
    pub(super) fn less(self, other: Self) -> Self {
        self.each(other, u64::saturating_sub)
    }

    /// Kind by kind: CPUs, GPUs, memory, GPU memory.
    pub(super) fn kinds(self) -> [u64; 4] {
        [self.millicpus, self.milligpus, self.memory, self.gpu_memory]
    }

    fn each(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            millicpus: of(self.millicpus, other.millicpus),
            milligpus: of(self.milligpus, other.milligpus),
            memory: of(self.memory, other.memory),
            gpu_memory: of(self.gpu_memory, other.gpu_memory),
        }
    }
}

fn thousandths(amount: f64) -> u64 {
    (amount * 1000.0).ceil() as u64
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} CPU", self.as_cpus())?;
        if self.milligpus > 0 {
            write!(f, ", {} GPU", self.as_gpus())?;
        }
        if self.memory > 0 {
            write!(f, ", {} of memory", Bytes(self.memory))?;
        }
        if self.gpu_memory > 0 {
            write!(f, ", {} of memory on each GPU", Bytes(self.gpu_memory))?;
        }
        Ok(())
    }
}

/// Bytes, in words.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0x4000_0000.. => write!(f, "{:.1} GiB", bytes / f64::from(1 << 30)),
            0x10_0000.. => write!(f, "{:.1} MiB", bytes / f64::from(1 << 20)),
            _ => write!(f, "{bytes} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_told_in_words() {
        let all = Resources::cpus(2.5).with_memory(3 << 29).with_gpus(0.5, 512);
        assert_eq!(all.to_string(), "2.5 CPU, 0.5 GPU, 1.5 GiB of memory, 512 bytes of memory on each GPU");
        assert_eq!(Resources::NONE.to_string(), "0 CPU");
    }
}
