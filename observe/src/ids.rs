//! How things are named, on the wire and in words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A query; random, so that two drivers never share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueryId(pub u64);

/// A stage of a query, from 0; inputs come before those that read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StageId(pub u32);

/// A task of a stage; the same for all its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The query.
    pub query: QueryId,
    /// The stage.
    pub stage: StageId,
    /// Its number in the stage, from 0.
    pub index: u32,
}

/// A UDF call of a stage. A pool of replicas serves it, and perhaps others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepId {
    /// The query.
    pub query: QueryId,
    /// The stage.
    pub stage: StageId,
    /// Which of the stage's UDF steps, from 0.
    pub step: u32,
}

/// A worker, numbered by whoever started it. No number is used twice in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub u32);

impl WorkerId {
    /// The driver, where it stands among workers as the holder of a frame. It runs nothing.
    pub const DRIVER: Self = Self(u32::MAX);
}

impl fmt::Display for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query {:08x}", self.0 as u32)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, stage {}, task {}", self.query, self.stage.0, self.index)
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, stage {}, step {}", self.query, self.stage.0, self.step)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::DRIVER { f.write_str("the driver") } else { write!(f, "worker {}", self.0) }
    }
}
