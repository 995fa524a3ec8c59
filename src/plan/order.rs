//! Whose order nobody observes.

use std::collections::BTreeSet;

use polars_plan::dsl::SinkTypeIR;
use polars_plan::plans::{ArenaLpIter, IR, IRPlan};
use polars_plan::prelude::simplify_ordering::ir_node_key::IRNodeKey;
use polars_plan::prelude::simplify_ordering::simplify_and_fetch_orderings;

use polars::prelude::*;
use polars_utils::arena::Node;

/// Lets Polars drop what keeps an order that nobody observes.
///
/// It overlooks that a slice inside an aggregation or a join observes their order: the first rows of any order would do for
/// it. Such a slice becomes a node of its own, which it sees.
///
/// Returns the nodes that are left whose order nobody observes, or who have none.
pub(super) fn drop_unobserved(plan: &mut IRPlan) -> BTreeSet<usize> {
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
    let (nodes, edges) = simplify_and_fetch_orderings(&[top], &mut plan.lp_arena, &mut plan.expr_arena);
    let is_unordered = |node: Node| {
        let out = nodes.get(&IRNodeKey::new(node, &plan.lp_arena)).map(|keys| &keys.out_edges[..]).unwrap_or_default();
        !out.is_empty() && out.iter().all(|edge| edges.get(*edge).is_some_and(|edge| edge.is_unordered()))
    };
    let left = plan.lp_arena.iter(plan.lp_top).map(|(node, _)| node);
    left.filter(|node| is_unordered(*node)).map(|node| node.0).collect()
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
