//! Where workers come from: processes of this machine that run this same executable, or machines that join by token.

mod build;
mod capacity;
mod ending;
mod join;
mod local;
mod scratch;
mod worker;

pub(crate) use build::hello;
pub(crate) use capacity::{capacity, find_gpus};
#[cfg(test)]
pub(crate) use ending::Asks;
pub(crate) use join::{connect, resolve};
pub(crate) use local::{LocalSpec, LocalWorkers};
pub(crate) use scratch::Scratch;
#[cfg(test)]
pub(crate) use worker::Recruit;
#[cfg(feature = "gpu")]
pub(crate) use worker::{MARKER, PROBE, use_fakes_in_tests};
pub(crate) use worker::{SEVERAL, is_worker, replica_command};
pub use worker::{TestWorker, become_worker_if_started_as_one};

use crate::sched::WorkerId;

/// Where workers come from and go to. Calls may block; what cannot be done is logged, and asked for again if it is still
/// wanted.
pub(crate) trait ClusterProvider: Send + Sync {
    /// There are to be so many workers: starts what is missing. Replaces what was asked for before.
    fn demand(&self, workers: usize);

    /// Ends a worker that has nothing to do.
    fn retire(&self, worker: WorkerId);
}
