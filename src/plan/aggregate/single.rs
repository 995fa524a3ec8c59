//! What a task keeps of a single row: the same as of a group of one, made row by row. Where hardly two rows are of one group, tasks pass
//! their rows on so, and what merges them cannot tell. (reference: exchanges.md §2.1, §2.4)

use polars::prelude::*;
use polars_core::scalar::Scalar;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{AExpr, IRAggExpr, IRBooleanFunction, IRFunctionExpr, LiteralValue};
use polars_utils::arena::{Arena, Node};

use super::states::is_its_own_merge;

/// An aggregate that tasks keep, of one row; `None` where it is not made row by row.
pub(super) fn of_one_row(kept: &ExprIR, rows: &Schema, exprs: &mut Arena<AExpr>) -> Option<ExprIR> {
    let dtype = kept.dtype(rows, exprs).ok()?.clone();
    let single = Single { rows, exprs }.of(kept.node())?;
    let is = ExprIR::from_node(single, exprs).dtype(rows, exprs).ok()?.clone();
    let single = if is == dtype { single } else { cast(single, dtype, exprs) };
    Some(ExprIR::new(single, OutputName::Alias(kept.output_name().clone())))
}

struct Single<'a> {
    rows: &'a Schema,
    exprs: &'a mut Arena<AExpr>,
}

impl Single<'_> {
    fn of(&mut self, at: Node) -> Option<Node> {
        match self.exprs.get(at).clone() {
            AExpr::Cast { expr, dtype, options } => {
                let expr = self.of(expr)?;
                Some(self.exprs.add(AExpr::Cast { expr, dtype, options }))
            }
            AExpr::BinaryExpr { left, op, right } => {
                let (left, right) = (self.of(left)?, self.of(right)?);
                Some(self.exprs.add(AExpr::BinaryExpr { left, op, right }))
            }
            AExpr::Len => Some(self.literal(Scalar::from(1 as IdxSize))),
            AExpr::Agg(aggregate) => self.of_aggregate(&aggregate),
            AExpr::Function { input, function: IRFunctionExpr::NullCount, .. } => {
                self.counted(input.first()?.node(), Some(IRBooleanFunction::IsNull))
            }
            AExpr::Function { input, function, .. } if is_its_own_merge(&function) => {
                let input = input.first()?.node();
                match function {
                    // A null is not known, and makes that of others not known.
                    IRFunctionExpr::Boolean(IRBooleanFunction::Any { .. }) => Some(self.masked_by(input, false.into())),
                    IRFunctionExpr::Boolean(IRBooleanFunction::All { .. }) => Some(self.masked_by(input, true.into())),
                    _ => self.masked(input),
                }
            }
            _ => None,
        }
    }

    fn of_aggregate(&mut self, aggregate: &IRAggExpr) -> Option<Node> {
        match *aggregate {
            // Merged, nulls count for nothing.
            IRAggExpr::Min { input, .. }
            | IRAggExpr::Max { input, .. }
            | IRAggExpr::Mean(input)
            | IRAggExpr::First(input)
            | IRAggExpr::Last(input)
            | IRAggExpr::FirstNonNull(input)
            | IRAggExpr::LastNonNull(input) => self.masked(input),
            // As wide as its sum, before anything is computed of it.
            IRAggExpr::Sum(input) => {
                let sum = self.exprs.add(AExpr::Agg(aggregate.clone()));
                let dtype = ExprIR::from_node(sum, self.exprs).dtype(self.rows, self.exprs).ok()?.clone();
                let input = self.masked(input)?;
                Some(cast(input, dtype, self.exprs))
            }
            IRAggExpr::Count { input, include_nulls } => {
                self.counted(input, (!include_nulls).then_some(IRBooleanFunction::IsNotNull))
            }
            // None of a number, and no number of one that has no distance to itself.
            IRAggExpr::Var(input, 0) => {
                let input = self.masked(input)?;
                let right = self.literal(Scalar::from(0.0f64));
                Some(self.exprs.add(AExpr::BinaryExpr { left: input, op: Operator::Multiply, right }))
            }
            _ => None,
        }
    }

    /// A value, or null if it is not among the rows that are taken.
    fn masked(&mut self, input: Node) -> Option<Node> {
        let AExpr::Filter { input: of, .. } = *self.exprs.get(input) else { return Some(input) };
        let dtype = ExprIR::from_node(of, self.exprs).dtype(self.rows, self.exprs).ok()?.clone();
        Some(self.masked_by(input, Scalar::null(dtype)))
    }

    /// A value, or this one in the place of what is not among the rows that are taken.
    fn masked_by(&mut self, input: Node, other: Scalar) -> Node {
        let AExpr::Filter { input, by } = *self.exprs.get(input) else { return input };
        let falsy = self.literal(other);
        self.exprs.add(AExpr::Ternary { predicate: by, truthy: input, falsy })
    }

    /// One, or zero if the value is not of the rows that are taken, or not what is asked for.
    fn counted(&mut self, input: Node, which: Option<IRBooleanFunction>) -> Option<Node> {
        let (input, by) = match *self.exprs.get(input) {
            AExpr::Filter { input, by } => (input, Some(by)),
            _ => (input, None),
        };
        let is_one = which.map(|which| {
            let function = IRFunctionExpr::Boolean(which);
            let (input, options) = (vec![ExprIR::from_node(input, self.exprs)], function.function_options());
            self.exprs.add(AExpr::Function { input, function, options })
        });
        let (one, zero) = (self.literal(Scalar::from(1 as IdxSize)), self.literal(Scalar::from(0 as IdxSize)));
        let mut count = one;
        for predicate in is_one.into_iter().chain(by) {
            count = self.exprs.add(AExpr::Ternary { predicate, truthy: count, falsy: zero });
        }
        Some(count)
    }

    fn literal(&mut self, value: Scalar) -> Node {
        self.exprs.add(AExpr::Literal(LiteralValue::Scalar(value)))
    }
}

fn cast(expr: Node, dtype: DataType, exprs: &mut Arena<AExpr>) -> Node {
    exprs.add(AExpr::Cast { expr, dtype, options: polars_core::chunked_array::cast::CastOptions::Strict })
}
