//! A stage's program, decoded once per worker and shared by its tasks.

use std::sync::Arc;

use polars::prelude::*;
use polars_plan::plans::IRPlan;
use polars_utils::arena::Node;

use super::fragment;
use crate::error::{PolarsFailure, TaskFailure};
use crate::plan::{FileSink, Scatter, StageProgram, UdfStep, udf_calls};
use crate::udf::{CallingTask, UdfCall, batch_of};

/// What every task of a stage runs.
pub(crate) struct Program {
    pub(super) fragment: Arc<IRPlan>,
    /// UDF calls in the fragment, which Polars will make itself.
    pub(super) calls: Vec<(Node, UdfCall)>,
    pub(super) batches: Option<usize>,
    pub(super) steps: Vec<Step>,
    /// Rows that a task leaves at most.
    pub(super) limit: Option<u64>,
    pub(super) scatter: Option<Scatter>,
    pub(super) schema: SchemaRef,
    /// Its tasks write files instead of rows.
    pub(super) sink: Option<FileSink>,
}

pub(super) struct Step {
    pub(super) spec: UdfStep,
    pub(super) then: Option<Arc<IRPlan>>,
    pub(super) calls: Vec<(Node, UdfCall)>,
}

impl Program {
    /// Decodes a program.
    ///
    /// # Errors
    /// The plan was made by another build, or calls a UDF that this one lacks.
    pub(crate) fn open(program: StageProgram) -> Result<Self, PolarsFailure> {
        let fragment = program.fragment.open()?;
        let sink = FileSink::of(fragment.lp_arena.get(fragment.lp_top));
        let mut schema = if sink.is_some() { FileSink::listing() } else { fragment::schema(&fragment) };
        let mut steps = Vec::with_capacity(program.steps.len());
        for spec in program.steps {
            let then = spec.then.as_ref().map(|then| then.open()).transpose()?;
            schema = match &then {
                Some(then) => fragment::schema(then),
                None => {
                    let mut widened = schema.as_ref().clone();
                    widened.insert(spec.output.0.as_str().into(), spec.output.1.clone());
                    Arc::new(widened)
                }
            };
            let calls = then.as_ref().map(|then| udf_calls(then)).unwrap_or_default();
            steps.push(Step { spec, then, calls });
        }
        let calls = udf_calls(&fragment);
        let StageProgram { batches, limit, scatter, .. } = program;
        Ok(Self { fragment, calls, batches, steps, limit, scatter, schema, sink })
    }
}

impl Step {
    /// The columns that go to the UDF.
    pub(super) fn inputs(&self, batch: &DataFrame) -> PolarsResult<DataFrame> {
        let inputs = self.spec.inputs.iter().map(|name| batch.column(name).cloned());
        batch_of(inputs.collect::<PolarsResult<_>>()?)
    }

    /// The batch with the UDF's column, after the row-wise work that follows.
    pub(super) fn finish(
        &self,
        mut batch: DataFrame,
        column: Column,
        task: &CallingTask,
    ) -> Result<DataFrame, TaskFailure> {
        let name = &self.spec.output.0;
        batch.with_column(column.with_name(name.as_str().into())).map_err(PolarsFailure::from)?;
        match &self.then {
            Some(then) => fragment::run_on_batch(then, &self.calls, task, batch),
            None => Ok(batch),
        }
    }
}
