//! Which nodes map row to row, so that a piece of the input gives that piece of the output.

use polars_plan::plans::{AExpr, ArenaExprIter, FunctionIR, IR, is_elementwise, is_elementwise_rec};
use polars_utils::arena::{Arena, Node};
use polars_utils::unitvec;

/// Whether this node may run on each piece of its input alone. Polars' own analysis decides, with one correction: some
/// functions are flagged elementwise although their second argument has a length of its own.
pub(super) fn is_row_wise(ir: &IR, exprs: &Arena<AExpr>) -> bool {
    match ir {
        IR::Filter { predicate, .. } => expr_is_row_wise(predicate.node(), exprs),
        IR::HStack { exprs: columns, .. } => columns.iter().all(|e| expr_is_row_wise(e.node(), exprs)),
        // A select without a column yields one row for the whole query, not one for each piece.
        IR::Select { expr, .. } => {
            expr.iter().all(|e| expr_is_row_wise(e.node(), exprs))
                && expr.iter().any(|e| reads_a_column(e.node(), exprs))
        }
        IR::SimpleProjection { .. } => true,
        // A struct's fields become columns; a list's elements become rows, in place of the list's row.
        IR::MapFunction { function: FunctionIR::Unnest { .. } | FunctionIR::Explode { .. }, .. } => true,
        _ => false,
    }
}

/// Whether this node is row-wise and has a row for each row of its input.
pub(super) fn keeps_rows(ir: &IR, exprs: &Arena<AExpr>) -> bool {
    !matches!(ir, IR::Filter { .. } | IR::MapFunction { function: FunctionIR::Explode { .. }, .. })
        && is_row_wise(ir, exprs)
}

/// Whether row *i* of this expression depends on row *i* of its columns only.
pub(super) fn expr_is_row_wise(root: Node, exprs: &Arena<AExpr>) -> bool {
    is_elementwise_rec(root, exprs) && !exprs.iter(root).any(|(_, e)| compares_with_a_whole_column(e, exprs))
}

/// Whether row *i* of this expression depends on row *i* of its inputs only, whatever those are.
pub(super) fn maps_its_inputs(expr: &AExpr, exprs: &Arena<AExpr>) -> bool {
    is_elementwise(&mut unitvec![], expr, exprs) && !compares_with_a_whole_column(expr, exprs)
}

/// Whether any column is read below this expression.
pub(super) fn reads_a_column(root: Node, exprs: &Arena<AExpr>) -> bool {
    exprs.iter(root).any(|(_, e)| matches!(e, AExpr::Column(_)))
}

// `x.is_in(column)`, `x.replace(old, new)`: row-wise only if what they look into is a literal.
fn compares_with_a_whole_column(expr: &AExpr, exprs: &Arena<AExpr>) -> bool {
    let AExpr::Function { input, function, .. } = expr else { return false };
    // By name, because the variants exist only with features that a program may or may not have switched on.
    let name = function.to_string();
    let looks_into = ["is_in", "replace", "replace_strict"].contains(&name.rsplit('.').next().unwrap_or(&name));
    looks_into && input.iter().skip(1).any(|e| reads_a_column(e.node(), exprs))
}
