//! Where workers come from: processes of this machine that run this same executable, places that a pilot gives, on Ray or elsewhere, or
//! machines that join by token.

mod build;
mod capacity;
mod ending;
mod fleet;
mod join;
mod local;
mod pilot;
mod piloted;
mod provider;
mod ray;
mod scratch;
mod worker;

pub(crate) use build::hello;
pub(crate) use capacity::{capacity, find_gpus};
#[cfg(test)]
pub(crate) use ending::Asks;
pub(crate) use join::{connect, resolve};
pub(crate) use local::{LocalSpec, LocalWorkers, OnEnd};
pub use piloted::Pilot;
pub(crate) use piloted::Wanted;
pub(crate) use provider::{Entrance, PilotedWorkers};
pub use ray::RayOptions;
pub(crate) use scratch::Scratch;
#[cfg(test)]
pub(crate) use worker::Recruit;
#[cfg(feature = "gpu")]
pub(crate) use worker::{MARKER, PROBE, use_fakes_in_tests};
pub(crate) use worker::{SEVERAL, is_worker, replica_command};
pub use worker::{TestWorker, become_worker_if_started_as_one};

use regatta_remote::NodeId;

use crate::sched::WorkerId;

/// Where workers come from and go to. Calls may block; what cannot be done is logged, and asked for again if it is still
/// wanted.
pub(crate) trait ClusterProvider: Send + Sync {
    /// There are to be so many workers: starts what is missing. Replaces what was asked for before.
    fn demand(&self, workers: usize);

    /// Ends a worker that has nothing to do, or is lost.
    fn retire(&self, worker: WorkerId, node: Option<NodeId>);

    /// A worker has joined at this node, whoever has started it.
    fn joined(&self, _: NodeId) {}

    /// Whether it has started the worker at this node, in a place that it was given: the head then need not ask which machine that
    /// is. Must not block.
    fn has_started(&self, _: NodeId) -> bool {
        false
    }

    /// What it waits for, as the end of "it waits ...". Must not block.
    fn waits(&self) -> Option<String> {
        None
    }
}
