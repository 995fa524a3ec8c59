//! In which parts a join may run.

use polars::prelude::*;
use polars_plan::plans::expr_ir::ExprIR;
use polars_plan::plans::{AExpr, IR};
use polars_utils::arena::Arena;

use super::lift::has_udf;
use super::rowwise::{expr_is_row_wise, reads_a_column};

/// What may be done with a join's sides, so that all tasks together yield its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    /// Rows of equal keys of both sides come to one task.
    pub(super) by_keys: bool,
    /// Tasks have some rows of the left side each, and all of the right.
    pub(super) left_along: bool,
    /// The other way round.
    pub(super) right_along: bool,
    /// Rows of equal keys could come to one task, but would then not be in the order of the left side.
    pub(super) in_order: bool,
}

/// # Errors
/// In words, why it has to run whole.
pub(super) fn parts(ir: &IR, left: &Schema, right: &Schema, exprs: &Arena<AExpr>) -> Result<Parts, String> {
    let IR::Join { left_on, right_on, options, .. } = ir else { return Err("it is no join".to_owned()) };
    let args = &options.args;
    if args.slice.is_some() {
        return Err("some of its rows are taken by their number".to_owned());
    }
    // Tasks have rows of the left side one after the other.
    let in_order = args.maintain_order == MaintainOrderJoin::Left;
    if args.maintain_order != MaintainOrderJoin::None && !in_order {
        return Err("it keeps the order of its rows".to_owned());
    }
    let is_key = |key: &ExprIR| expr_is_row_wise(key.node(), exprs) && reads_a_column(key.node(), exprs);
    if !left_on.iter().chain(right_on).all(is_key) {
        return Err("its keys are not computed row by row".to_owned());
    }
    // They are computed again wherever they are used, and a UDF need not give the same twice.
    if left_on.iter().chain(right_on).any(|key| has_udf(key.node(), exprs)) {
        return Err("its keys call UDFs".to_owned());
    }
    let (by_keys, left_along, right_along) = match &args.how {
        JoinType::Inner => (true, true, true),
        JoinType::Left | JoinType::Semi | JoinType::Anti => (true, true, false),
        JoinType::Right => (true, false, true),
        JoinType::Full => (true, false, false),
        JoinType::Cross | JoinType::IEJoin | JoinType::Range => (false, true, true),
        // As-of joins, which are there with a feature of Polars' that a program may have switched on.
        #[allow(unreachable_patterns)]
        other => return Err(format!("parts of a join {other} do not add up")),
    };
    let has_keys = by_keys;
    let (by_keys, right_along) = if in_order { (false, false) } else { (by_keys, right_along) };
    // Who looks whether keys are unique must see all rows of one.
    let (left_along, right_along) = match args.validation {
        JoinValidation::ManyToMany => (left_along, right_along),
        _ => (false, false),
    };
    let dtype = |key: &ExprIR, of: &Schema| key.dtype(of, exprs).ok().cloned();
    let meets = |(left_key, right_key): (&ExprIR, &ExprIR)| {
        let dtype_of = dtype(left_key, left);
        dtype_of == dtype(right_key, right) && dtype_of.is_some_and(|dtype| may_be_key(&dtype))
    };
    let by_keys = by_keys && !left_on.is_empty() && left_on.iter().zip(right_on).all(meets);
    match by_keys || left_along || right_along {
        true => Ok(Parts { by_keys, left_along, right_along, in_order: in_order && has_keys }),
        false if in_order => Err("it keeps the order of its rows".to_owned()),
        false => Err("its keys are of other types on both sides".to_owned()),
    }
}

/// Whether equal values of this type have equal hashes in all processes.
pub(super) fn may_be_key(dtype: &DataType) -> bool {
    !(dtype.is_object() || dtype.is_null() || dtype.is_unknown())
}
