//! A `LazyFrame` becomes stages. Pure: no actor, no socket, no clock; the only home of IR rewriting.
//!
//! Polars optimises the query once. The optimised IR is walked from its leaves: UDF calls are lifted out of expressions
//! and made steps, the row-wise nodes around them are fused, and what is above becomes a stage that gathers. What the
//! planner cannot split runs whole on one worker, and [`explain`](QueryPlan::explain) says why.

mod cut;
mod explain;
mod lift;
mod rowwise;
mod scan;
mod wire;

use polars::prelude::*;
use polars_plan::plans::IRPlan;
use serde::{Deserialize, Serialize};

pub(crate) use lift::udf_calls;
pub(crate) use wire::{Fragment, placeholder_of};

use crate::error::PlanError;
use crate::sched::StageId;
use crate::udf::PoolOptions;

/// A query, cut into stages; the last one yields the result.
#[derive(Debug)]
pub(crate) struct QueryPlan {
    pub(crate) stages: Vec<Stage>,
    pub(crate) schema: SchemaRef,
}

/// What every task of a stage runs: a fragment, then UDF steps, each with the row-wise work up to the next.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) id: StageId,
    pub(crate) program: StageProgram,
    /// Stages whose whole output each task of this one reads.
    pub(crate) inputs: Vec<StageId>,
    /// One task each.
    pub(crate) splits: Vec<Split>,
    /// Why it has these tasks, for people.
    pub(crate) why: String,
    /// The fragment as Polars describes it, for people.
    pub(crate) describe: String,
}

/// The part of a stage that travels to workers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StageProgram {
    pub(crate) fragment: Fragment,
    pub(crate) steps: Vec<UdfStep>,
}

/// One UDF call per row of a stage, and what follows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UdfStep {
    pub(crate) udf: String,
    pub(crate) arguments: Vec<u8>,
    pub(crate) options: PoolOptions,
    /// Columns of the batch that are handed to the UDF, in order.
    pub(crate) inputs: Vec<String>,
    /// Name and dtype of the column that it adds.
    pub(crate) output: (String, DataType),
    /// Row-wise work on the batch with that column; `None` if there is none.
    pub(crate) then: Option<Fragment>,
}

/// A task's share of its stage's scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Split {
    /// All of it.
    Whole,
    /// Whole files, by their index in the scan.
    Files(Vec<usize>),
    /// Some rows of one file, aligned to row groups.
    Rows { file: usize, offset: usize, len: usize },
}

/// Where a plan will run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// Tasks that a stage is split into, if it can be; 1 leaves a scan whole.
    pub(crate) tasks: usize,
    /// Fragments leave this process, so everything in them must be able to.
    pub(crate) travels: bool,
    /// Calls in flight of an async UDF, per replica, where its pool does not say.
    pub(crate) in_flight: usize,
}

/// Plans a query.
///
/// Blocks, and Polars may use `block_in_place`: call it on a plain thread.
///
/// # Errors
/// What Polars' optimiser refuses, UDF options that make no sense, and closures that cannot travel.
pub(crate) fn plan(query: LazyFrame, target: Target) -> Result<QueryPlan, PlanError> {
    let optimised = optimise(query)?;
    let schema = optimised.lp_arena.get(optimised.lp_top).schema(&optimised.lp_arena).into_owned();
    let stages = cut::cut(optimised, target)?;
    Ok(QueryPlan { stages, schema })
}

fn optimise(query: LazyFrame) -> Result<IRPlan, PlanError> {
    // Without STREAMING the optimiser makes nodes that the streaming engine cannot lower; shared subplans and hive
    // rewrites would cross the cuts (reference: polars.md §4.5).
    let flags = (query.get_current_optimizations() | OptFlags::STREAMING)
        - (OptFlags::COMM_SUBPLAN_ELIM | OptFlags::PARTITION_HIVE | OptFlags::GPU | OptFlags::EAGER);
    query.with_optimizations(flags).to_alp_optimized().map_err(|e| PlanError::Polars(e.into()))
}

impl QueryPlan {
    /// The stage that yields the result.
    pub(crate) fn last(&self) -> Option<&Stage> {
        self.stages.last()
    }
}

#[cfg(test)]
mod tests;
