//! Plans on Polars' in-memory engine, on the thread that asks.

use std::sync::Arc;

use polars::prelude::*;
use polars_expr::state::ExecutionState;
use polars_mem_engine::create_physical_plan;
use polars_plan::dsl::LazySerde;
use polars_plan::plans::{AExpr, IR, IRPlan};
use polars_plan::prelude::{AnonymousColumnsUdf, SpecialEq};
use polars_utils::arena::{Arena, Node};
use regatta_remote::catch;

use crate::error::{PolarsFailure, TaskFailure};
use crate::plan::placeholder_of;
use crate::udf::{CallingTask, UdfCall};

pub(super) fn schema(plan: &IRPlan) -> SchemaRef {
    plan.lp_arena.get(plan.lp_top).schema(&plan.lp_arena).into_owned()
}

/// Runs a row-wise fragment on one batch, on the in-memory engine.
pub(super) fn run_on_batch(
    plan: &IRPlan,
    calls: &[(Node, UdfCall)],
    task: &CallingTask,
    batch: DataFrame,
) -> Result<DataFrame, TaskFailure> {
    let (mut ir, mut exprs) = (plan.lp_arena.clone(), plan.expr_arena.clone());
    call_from(task, calls, &mut exprs);
    let schema = Arc::clone(batch.schema());
    let df = Arc::new(batch);
    for node in (0..ir.len()).map(Node) {
        if placeholder_of(ir.get(node)).is_some() {
            ir.replace(
                node,
                IR::DataFrameScan { df: Arc::clone(&df), schema: Arc::clone(&schema), output_schema: None },
            );
        }
    }
    fenced(|| execute_in_memory(plan.lp_top, &mut ir, &mut exprs))
}

/// Tells the UDF calls of a fragment which task makes them.
pub(super) fn call_from(task: &CallingTask, calls: &[(Node, UdfCall)], exprs: &mut Arena<AExpr>) {
    for (node, call) in calls {
        if let AExpr::AnonymousFunction { function, .. } = exprs.get_mut(*node) {
            let call: Arc<dyn AnonymousColumnsUdf> = Arc::new(call.made_by(task));
            *function = LazySerde::Deserialized(SpecialEq::new(call));
        }
    }
}

pub(super) fn execute_in_memory(top: Node, ir: &mut Arena<IR>, exprs: &mut Arena<AExpr>) -> PolarsResult<DataFrame> {
    create_physical_plan(top, ir, exprs, Some(polars_stream::build_streaming_query_executor))?
        .execute(&mut ExecutionState::new())
}

pub(super) fn fenced<T>(run: impl FnOnce() -> PolarsResult<T>) -> Result<T, TaskFailure> {
    catch(run).map_err(TaskFailure::Panicked)?.map_err(|e| PolarsFailure::from(e).into())
}
