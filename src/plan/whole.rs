//! A query of this process in which nothing is ours: Polars runs it whole, as it has optimised it.

use std::collections::BTreeMap;

use polars_plan::plans::{ArenaLpIter, IR, IRPlan};

use super::cut::Parts;
use super::held::held_by_splits;
use super::lift::udf_calls;
use super::marker::{Marker, hash_keys};
use super::sink::input_of_object;
use super::wire::Fragment;
use super::{OneAttempt, Split, Stage, StageProgram, Work};
use crate::sched::{Fits, Holds, Mode, StageId};

/// Whether no UDF takes part in it, and it needs no cut to be right: of an object all rows are there before it is begun.
pub(super) fn is_whole(plan: &IRPlan) -> bool {
    udf_calls(plan).is_empty() && input_of_object(plan.lp_arena.get(plan.lp_top)).is_none()
}

/// All of it as one stage of one task.
pub(super) fn parts(mut plan: IRPlan) -> Parts {
    take_out_markers(&mut plan);
    let splits = vec![Split::Whole];
    let held = held_by_splits(plan.lp_arena.iter(plan.lp_top).map(|(_, ir)| ir), &splits);
    let (root, cuts) = (plan.lp_top.0 as u32, Vec::new());
    let program = StageProgram {
        root,
        by_pass: None,
        cuts,
        without: Vec::new(),
        batches: None,
        steps: Vec::new(),
        limit: None,
        scatter: None,
        finer: Vec::new(),
    };
    let stage = Stage {
        id: StageId(0),
        work: Work::Program(program),
        reads: Vec::new(),
        modes: vec![Mode {
            ways: Vec::new(),
            by_size: false,
            by_hash: false,
            shared: Vec::new(),
            when: Fits::Always,
            stable: true,
        }],
        one_attempt: OneAttempt::default(),
        splits,
        branches: BTreeMap::new(),
        held,
        holds: Holds::Nothing,
        grouped: 0,
        may_run_twice: false,
        why: "it calls no UDF, so Polars runs all of it at once".to_owned(),
        describe: plan.describe(),
    };
    Parts { whole: Fragment::as_it_is(plan), stages: vec![stage], stable: true }
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
