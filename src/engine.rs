//! Runs a stage's task on Polars, on plain threads: never on an arbiter or a current-thread runtime, where
//! `polars_stream::run_query` would panic.

mod amend;
mod attempt;
mod beside;
mod fragment;
mod in_memory;
mod leave;
mod nodes;
mod program;
mod regroup;
mod scatter;
mod sink;
mod source;
mod spending;
mod task;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use polars::prelude::DataFrame;

use crate::error::TaskFailure;
use crate::udf::Reply;

pub(crate) use attempt::{Leave, Left, TaskRun};
pub(crate) use program::{Of, Program};
pub(crate) use source::Waits;
pub(crate) use spending::{Spending, nanoseconds};
#[cfg(test)]
pub(crate) use task::HAND_OVER;
pub(crate) use task::run_task;

/// The UDF replicas that a task hands its batches to.
pub(crate) trait Pools: Send + Sync {
    /// Runs one batch on some replica of the stage's `step`-th UDF. The columns are the UDF's inputs;
    /// the result is as high as they are and of the step's dtype. `by`: the task that calls, and which attempt.
    fn call(
        &self,
        step: usize,
        inputs: DataFrame,
        by: (u32, u32),
    ) -> Pin<Box<dyn Future<Output = Result<Called, TaskFailure>> + Send + '_>>;
}

/// What a call of a UDF has come to.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) reply: Reply,
    /// How long replicas were at it.
    pub(crate) busy: Duration,
    /// How often it was made again.
    pub(crate) again: u64,
}
