//! UDF calls are taken out of expressions: each becomes a column that a step adds below the node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use polars::prelude::*;
use polars_plan::plans::expr_ir::ExprIR;
use polars_plan::plans::{AExpr, ArenaExprIter, IR, IRPlan, MintermIter};
use polars_utils::arena::{Arena, Node};

use super::rowwise::{expr_is_row_wise, reads_a_column};
use crate::udf::UdfCall;

/// The UDF calls of a plan, with their places. They are what the planner left for Polars to make.
pub(crate) fn udf_calls(plan: &IRPlan) -> Vec<(Node, UdfCall)> {
    let nodes = (0..plan.expr_arena.len()).map(Node);
    let calls = nodes.filter_map(|node| match plan.expr_arena.get(node) {
        AExpr::AnonymousFunction { function, .. } => Some((node, UdfCall::of(function)?)),
        _ => None,
    });
    calls.collect()
}

/// Whether this expression holds a UDF call anywhere.
pub(super) fn has_udf(root: Node, exprs: &Arena<AExpr>) -> bool {
    exprs.iter(root).any(|(_, e)| call_at(e).is_some())
}

/// Whether any expression is a UDF call, or was one before that was lifted.
pub(super) fn calls_any(exprs: &Arena<AExpr>) -> bool {
    (0..exprs.len()).any(|index| call_at(exprs.get(Node(index))).is_some())
}

/// A call that can be lifted: no UDF call is in its inputs, and they are row-wise over columns.
pub(super) struct Liftable {
    /// Wherever it stands: nodes that are equal calls.
    pub(super) at: BTreeSet<usize>,
    pub(super) call: UdfCall,
    pub(super) inputs: Vec<ExprIR>,
}

impl Liftable {
    fn is(&self, call: &UdfCall, inputs: &[ExprIR], exprs: &Arena<AExpr>) -> bool {
        let equal = |(a, b): (&ExprIR, &ExprIR)| {
            a.output_name() == b.output_name() && exprs.get(a.node()).is_expr_equal_to(exprs.get(b.node()), exprs)
        };
        self.call.is_same_as(call) && self.inputs.len() == inputs.len() && self.inputs.iter().zip(inputs).all(equal)
    }
}

/// The calls in these expressions that can be lifted now, equal ones as one.
pub(super) fn liftable(roots: impl IntoIterator<Item = Node>, exprs: &Arena<AExpr>) -> Vec<Liftable> {
    let mut found: Vec<Liftable> = Vec::new();
    // A query may have thousands.
    let mut alike: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut stack: Vec<Node> = roots.into_iter().collect();
    while let Some(at) = stack.pop() {
        let expr = exprs.get(at);
        let below = below(expr);
        if let (Some(call), AExpr::AnonymousFunction { input, .. }) = (call_at(expr), expr)
            && !below.iter().any(|e| has_udf(*e, exprs))
        {
            let rows = |e: &ExprIR| expr_is_row_wise(e.node(), exprs);
            if input.iter().all(rows) && input.iter().any(|e| reads_a_column(e.node(), exprs)) {
                let alike = alike.entry(hash_of(&call, input, exprs)).or_default();
                match alike.iter().find(|known| found[**known].is(&call, input, exprs)) {
                    Some(known) => drop(found[*known].at.insert(at.0)),
                    None => {
                        alike.push(found.len());
                        found.push(Liftable { at: BTreeSet::from([at.0]), call, inputs: input.clone() });
                    }
                }
            }
            continue;
        }
        stack.extend(below);
    }
    found.sort_by_key(|call| call.at.first().copied());
    found
}

/// The same for equal calls.
fn hash_of(call: &UdfCall, inputs: &[ExprIR], exprs: &Arena<AExpr>) -> u64 {
    let mut hasher = DefaultHasher::new();
    call.name().hash(&mut hasher);
    for input in inputs {
        input.output_name().hash(&mut hasher);
        hash_into(input.node(), exprs, &mut hasher);
    }
    hasher.finish()
}

/// The same for equal expressions.
pub(super) fn hash_into(root: Node, exprs: &Arena<AExpr>, hasher: &mut impl Hasher) {
    exprs.iter(root).for_each(|(_, expr)| expr.hash(hasher));
}

/// A copy of the expression with others in the place of some nodes. Nodes may be shared with other expressions: nothing is
/// changed in place.
pub(super) fn replaced(root: Node, by: &BTreeMap<usize, Node>, exprs: &mut Arena<AExpr>) -> Node {
    if let Some(other) = by.get(&root.0) {
        return *other;
    }
    let expr = exprs.get(root).clone();
    let mut inputs = below(&expr);
    if inputs.is_empty() {
        return root;
    }
    // `inputs_rev_strict` yields them last to first, `replace_inputs` wants them first to last.
    inputs.reverse();
    let others: Vec<_> = inputs.iter().map(|e| replaced(*e, by, exprs)).collect();
    if others == inputs { root } else { exprs.add(expr.replace_inputs(&others)) }
}

/// Splits a scan whose predicate calls UDFs: those terms must not run inside the file reader, batch by batch, before
/// other columns are read. Returns the predicate that is to stand above the scan.
pub(super) fn take_udf_terms(scan: &mut IR, exprs: &mut Arena<AExpr>) -> Option<ExprIR> {
    let IR::Scan { predicate, .. } = scan else { return None };
    let whole = predicate.as_ref().filter(|p| has_udf(p.node(), exprs))?;
    let terms: Vec<Node> = MintermIter::new(whole.node(), exprs).collect();
    let (above, inside): (Vec<_>, Vec<_>) = terms.into_iter().partition(|term| has_udf(*term, exprs));
    let name = whole.output_name_inner().clone();
    let mut all = |terms: Vec<Node>| {
        let and = |left, right| exprs.add(AExpr::BinaryExpr { left, op: Operator::And, right });
        terms.into_iter().reduce(and).map(|node| ExprIR::new(node, name.clone()))
    };
    *predicate = all(inside);
    all(above)
}

// An aggregation stays where it is: it sees its whole group.
fn call_at(expr: &AExpr) -> Option<UdfCall> {
    match expr {
        AExpr::AnonymousFunction { function, .. } => UdfCall::of(function).filter(|call| !call.is_aggregate()),
        _ => None,
    }
}

/// The inputs that are evaluated on the node's own rows, so without the inner expression of `list.eval` and its kin.
pub(super) fn below(expr: &AExpr) -> Vec<Node> {
    let mut inputs = Vec::new();
    expr.inputs_rev_strict(&mut inputs);
    match expr {
        // Rewriting an aggregate takes one input only.
        AExpr::Agg(_) if inputs.len() != 1 => Vec::new(),
        _ => inputs,
    }
}
