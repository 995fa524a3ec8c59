//! What several parts of a plan have in common runs once, if that is worth more than keeping what it yields.

use std::collections::BTreeMap;
use std::sync::Arc;

use polars_plan::plans::expr_ir::ExprIR;
use polars_plan::plans::{AExpr, ArenaExprIter, ArenaLpIter, IR, IRPlan, is_inherently_nondeterministic_top_level};
use polars_utils::arena::{Arena, Node};

use super::rowwise::is_row_wise;

/// Whether Polars has found something in common that would be made again anyway. It then stands between that and what would
/// have been done with its rows while they were read.
pub(super) fn has_useless(plan: &IRPlan) -> bool {
    let inputs: Vec<Node> = caches(plan).into_iter().map(|(_, input)| input).collect();
    let worth = |input: &Node| is_worth_keeping(*input, &plan.lp_arena, &plan.expr_arena);
    !inputs.is_empty() && !inputs.iter().any(worth)
}

/// Takes out what Polars marks common parts with: who stood on one of equal caches stands on what is below the first of them.
pub(super) fn join_up(plan: &mut IRPlan) {
    let mut below = BTreeMap::new();
    for (cache, input) in caches(plan) {
        let IR::Cache { id, .. } = plan.lp_arena.get(cache) else { continue };
        let columns = plan.lp_arena.get(input).schema(&plan.lp_arena).into_owned();
        let (first, known) = below.entry(*id).or_insert_with(|| (input, Arc::clone(&columns)));
        let input = if *known == columns { *first } else { input };
        plan.lp_arena.replace(cache, IR::SimpleProjection { input, columns });
    }
}

fn caches(plan: &IRPlan) -> Vec<(Node, Node)> {
    let nodes: BTreeMap<usize, &IR> = plan.lp_arena.iter(plan.lp_top).map(|(node, ir)| (node.0, ir)).collect();
    let caches = nodes.into_iter().filter_map(|(node, ir)| match ir {
        IR::Cache { input, .. } => Some((Node(node), *input)),
        _ => None,
    });
    caches.collect()
}

/// Whether what stands on this node is more than rows of a source, which cost no more to read twice than to keep. What chance, a
/// UDF or a closure makes of them need not be the same twice.
pub(super) fn is_worth_keeping(node: Node, ir: &Arena<IR>, exprs: &Arena<AExpr>) -> bool {
    let is_work = |node: &IR| {
        let varies = node.exprs().map(ExprIR::node).any(|expr| varies(expr, exprs));
        varies || (node.inputs().next().is_some() && !matches!(node, IR::Cache { .. }) && !is_row_wise(node, exprs))
    };
    ir.iter(node).any(|(_, node)| is_work(node))
}

/// Whether this expression may yield other values each time: by chance, or by code of a user's. Polars' own look does not go into what
/// is evaluated for each list.
pub(super) fn varies(root: Node, exprs: &Arena<AExpr>) -> bool {
    exprs.iter(root).any(|(_, expr)| is_inherently_nondeterministic_top_level(expr))
}
