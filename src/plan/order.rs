//! Whose order nobody observes.

use polars_plan::dsl::SinkTypeIR;
use polars_plan::plans::{ArenaLpIter, IR, IRPlan};
use polars_plan::prelude::simplify_ordering::simplify_and_fetch_orderings;

use polars::prelude::*;

/// Lets Polars drop what keeps an order that nobody observes.
///
/// It overlooks that a slice inside an aggregation or a join observes their order: the first rows of any order would do for
/// it. Such a slice becomes a node of its own, which it sees.
pub(super) fn drop_unobserved(plan: &mut IRPlan) {
    let nodes: Vec<_> = plan.lp_arena.iter(plan.lp_top).map(|(node, _)| node).collect();
    for node in nodes {
        let mut ir = plan.lp_arena.get(node).clone();
        let Some((offset, len)) = take_slice(&mut ir) else { continue };
        let input = plan.lp_arena.add(ir);
        let len = IdxSize::try_from(len).unwrap_or(IdxSize::MAX);
        plan.lp_arena.replace(node, IR::Slice { input, offset, len });
    }
    let top = match plan.root() {
        IR::Sink { .. } | IR::SinkMultiple { .. } => plan.lp_top,
        _ => plan.lp_arena.add(IR::Sink { input: plan.lp_top, payload: SinkTypeIR::Memory }),
    };
    simplify_and_fetch_orderings(&[top], &mut plan.lp_arena, &mut plan.expr_arena);
}

/// Takes out of a node the slice that it takes of rows which it keeps in order.
fn take_slice(ir: &mut IR) -> Option<(i64, usize)> {
    match ir {
        IR::GroupBy { maintain_order: true, options, .. } if options.slice.is_some() => {
            Arc::make_mut(options).slice.take()
        }
        IR::Join { options, .. } if options.args.maintain_order != MaintainOrderJoin::None => {
            if options.args.slice.is_some() { Arc::make_mut(options).args.slice.take() } else { None }
        }
        _ => None,
    }
}
