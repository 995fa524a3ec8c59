//! A task that failed.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

use super::{FILES_THERE, PolarsFailure};
use crate::sched::{QueryId, TaskId};
use crate::udf::UdfError;

/// A task that failed: where and why.
#[derive(Clone, ThisError, Serialize, Deserialize)]
#[error("{task} failed on {worker}, attempt {attempt}: {cause}{history}", history = History(.before))]
pub struct TaskError {
    /// Query, stage and task.
    pub task: TaskId,
    /// Attempts count from 1.
    pub attempt: u32,
    /// The worker that ran it.
    pub worker: String,
    /// Why.
    pub cause: TaskFailure,
    /// The attempts before it that failed, since the last one that succeeded.
    pub before: Vec<EarlierAttempt>,
}

/// An attempt of a task that failed, and was not the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierAttempt {
    /// Attempts count from 1.
    pub attempt: u32,
    /// The worker that ran it.
    pub worker: String,
    /// Why it failed, in short.
    pub why: String,
}

/// What is said of earlier attempts.
struct History<'a>(&'a [EarlierAttempt]);

impl fmt::Display for History<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, EarlierAttempt { attempt, worker, why }) in self.0.iter().enumerate() {
            let before = if index == 0 { ". Before that" } else { ";" };
            write!(f, "{before} attempt {attempt} on {worker}: {why}")?;
        }
        Ok(())
    }
}

/// Why an attempt of a task failed.
#[derive(Clone, ThisError, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TaskFailure {
    /// The engine.
    #[error("{0}{remedy}", remedy = .0.remedy(FILES_THERE))]
    Engine(#[from] PolarsFailure),
    /// A UDF.
    #[error("UDF {udf} (replica {rank} on {worker}): {error}")]
    Udf {
        /// The UDF's registered name.
        udf: String,
        /// Which replica of its pool.
        rank: u32,
        /// Where that replica ran.
        worker: String,
        /// The author's error.
        error: UdfError,
    },
    /// Something panicked outside a UDF: a bug of ours or of Polars.
    #[error("panicked: {0}")]
    Panicked(String),
    /// Data could not be brought from another worker.
    #[error("could not read data from {from}: {why}")]
    Transfer {
        /// The other side.
        from: String,
        /// What broke.
        why: String,
    },
    /// The store.
    #[error("could not store what a task left: {0}")]
    Store(String),
    /// What its worker must be told of it is larger than a message may be, or cannot be written.
    #[error(
        "its worker cannot be told of it: {0}. A task that reads very many partitions or files is told where each of them is: \
         use fewer and larger ones, or fewer partitions in repartition(..)"
    )]
    CannotBeSent(String),
    /// There is no room for what the task leaves.
    #[error(
        "the disk of the scratch folder {folder} is full: {need} bytes were to be written where {room} are free, of which some \
         must stay free. Make room, or let REGATTA_SCRATCH name a folder on a larger disk"
    )]
    DiskFull {
        /// Where.
        folder: String,
        /// Bytes that were to be written.
        need: u64,
        /// Bytes that were free.
        room: u64,
    },
    /// The files of a sink, where they are collected.
    #[error("{0}")]
    Sink(String),
    /// The worker is gone.
    #[error("the worker was lost: {0}")]
    WorkerLost(String),
    /// What another task left cannot be read where it is: that task runs again.
    #[error("what {task} (attempt {attempt}) left on {from} cannot be read: {why}")]
    LostInput {
        /// The task that left it.
        task: TaskId,
        /// Which attempt of it.
        attempt: u32,
        /// Where it is.
        from: String,
        /// What is wrong with it.
        why: String,
    },
    /// Persisted rows were lost with their worker and are being made again; the task waits for them.
    #[error("the rows that {0} persisted were lost with their worker, and are being made again")]
    MadeAgain(QueryId),
    /// Persisted rows are gone for good.
    #[error(
        "the rows that {0} persisted are not here: they are another session's, their handle was dropped, or they were lost with \
         their worker and could not be made again. Persist the query again, in this session"
    )]
    NotPersisted(QueryId),
    /// The query ended first.
    #[error("cancelled")]
    Cancelled,
}

impl TaskFailure {
    /// Whether another attempt may succeed.
    pub fn is_retryable(&self) -> bool {
        let lost =
            matches!(self, Self::Transfer { .. } | Self::LostInput { .. } | Self::WorkerLost(_) | Self::MadeAgain(_));
        lost || matches!(self, Self::DiskFull { .. })
    }
}
