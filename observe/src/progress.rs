//! Where a query stands, for people who wait for it.

mod block;
mod draw;
mod lines;

use serde::{Deserialize, Serialize};

pub use block::Block;
pub use draw::{Room, Shown};
pub use lines::Lines;

use crate::{QueryState, StageState};

/// Where a query stands. Times are in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Progress {
    /// Its number, in hexadecimal digits.
    pub id: String,
    /// What its author calls it.
    pub name: Option<String>,
    /// Where it stands.
    pub state: QueryState,
    /// Why it has failed.
    pub error: Option<String>,
    /// Since it was submitted, or from there to its end.
    pub time: u64,
    /// Its stages, in order.
    pub stages: Vec<StageProgress>,
    /// Workers that are there.
    pub workers: u32,
    /// Their CPUs.
    pub cpus: f64,
    /// How many of those are busy; not known before workers have said so twice.
    pub cpus_busy: Option<f64>,
    /// Memory that the workers use, and that they may, in bytes; not known before they have said so.
    pub memory: Option<(u64, u64)>,
    /// The most memory that one of them used.
    pub peak: u64,
    /// Rows of the result.
    pub rows: u64,
    /// The part of tasks' time that was waited for UDFs, and the UDF of the stage where it was most.
    pub udf: Option<(f64, String)>,
    /// What went wrong and was made good.
    pub notes: Vec<String>,
}

/// Where a stage stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StageProgress {
    /// Its number.
    pub stage: u32,
    /// What it does.
    pub label: String,
    /// Where it stands.
    pub state: StageState,
    /// Its rows are the driver's: it has no tasks.
    pub given: bool,
    /// How many tasks it has, once that is known.
    pub tasks: Option<u32>,
    /// How many it had before that changed.
    pub tasks_before: Option<u32>,
    /// Tasks that were done at some time: never fewer than before.
    pub done: u32,
    /// Tasks that run.
    pub running: u32,
    /// Rows that its tasks left.
    pub rows: u64,
    /// Bytes that they left.
    pub bytes: u64,
    /// Rows a second, over the last half minute.
    pub rate: Option<f64>,
    /// Since it began, or how long it took.
    pub time: u64,
    /// When it may be done: from so long to so long.
    pub left: Option<(u64, u64)>,
    /// Why there is no estimate.
    pub no_estimate: Option<String>,
    /// Stages that it reads and that are not done.
    pub waits_for: Vec<u32>,
    /// Its UDFs.
    pub pools: Vec<PoolProgress>,
}

/// Where the replicas of a UDF stand.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PoolProgress {
    /// The UDF's registered name.
    pub udf: String,
    /// Replicas that take batches, and the most that were asked for.
    pub ready: u32,
    /// The most that were asked for.
    pub most: u32,
    /// The part of their time in which they were busy.
    pub busy: Option<f64>,
    /// Batches that wait for room.
    pub waiting: u32,
    /// One that starts: for how long, on which worker, its last word.
    pub starting: Option<(u64, u32, Option<String>)>,
}

#[cfg(test)]
mod tests;
