//! How things are named, on the wire and in words. Those that people see are of `regatta-observe`.

use serde::{Deserialize, Serialize};

pub use regatta_observe::{QueryId, StageId, StepId, TaskId, WorkerId};

/// Who submits queries. Drivers take turns, whatever number of queries each of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DriverId(pub(crate) u64);

/// Attempts of a task count from 1; a reply of another attempt than the current one is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Attempt(pub(crate) u32);

/// The replicas of one UDF with its arguments and options. No number is used twice in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct PoolId(pub(crate) u64);

/// One replica of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ReplicaId {
    pub(crate) pool: PoolId,
    pub(crate) rank: u32,
}

/// What one attempt of a task put into a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct PartitionId {
    pub(crate) task: TaskId,
    pub(crate) attempt: Attempt,
}
