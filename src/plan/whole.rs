//! A query of this process in which nothing is ours: Polars runs it whole, as it has optimised it.

use polars_plan::plans::{ArenaLpIter, IR, IRPlan};

use super::held::held_by_splits;
use super::lift::udf_calls;
use super::marker::{Marker, hash_keys};
use super::sink::input_of_object;
use super::wire::Fragment;
use super::{OneAttempt, Split, Stage, StageProgram, Work};
use crate::sched::StageId;

/// Whether no UDF takes part in it, and it needs no cut to be right: of an object all rows are there before it is begun.
pub(super) fn is_whole(plan: &IRPlan) -> bool {
    udf_calls(plan).is_empty() && input_of_object(plan.lp_arena.get(plan.lp_top)).is_none()
}

/// All of it as one stage of one task.
pub(super) fn stage(mut plan: IRPlan) -> Stage {
    take_out_markers(&mut plan);
    let splits = vec![Split::Whole];
    let held = held_by_splits(plan.lp_arena.iter(plan.lp_top).map(|(_, ir)| ir), &splits);
    let describe = plan.describe();
    let fragment = Fragment::whole(plan);
    let program = StageProgram { fragment, batches: None, steps: Vec::new(), limit: None, scatter: None };
    Stage {
        id: StageId(0),
        work: Work::Program(program),
        inputs: Vec::new(),
        one_attempt: OneAttempt::default(),
        splits,
        held,
        why: "it calls no UDF, so Polars runs all of it at once".to_owned(),
        describe,
    }
}

/// Markers ask for partitions, and for batches of what follows: there is one partition, and nothing follows.
fn take_out_markers(plan: &mut IRPlan) {
    let nodes: Vec<_> = plan.lp_arena.iter(plan.lp_top).map(|(node, _)| node).collect();
    for node in nodes {
        let ir = plan.lp_arena.get(node);
        let marker = Marker::of(ir);
        let input = match ir {
            IR::MapFunction { input, .. } if marker.is_some() => *input,
            IR::Filter { input, .. } if hash_keys(ir, &plan.expr_arena).is_some() => *input,
            _ => continue,
        };
        marker.into_iter().for_each(Marker::say_without_effect);
        let columns = plan.lp_arena.get(input).schema(&plan.lp_arena).into_owned();
        plan.lp_arena.replace(node, IR::SimpleProjection { input, columns });
    }
}
