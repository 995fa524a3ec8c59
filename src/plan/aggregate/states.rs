//! What a task keeps of its rows for each aggregate, and how what several have kept is merged.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use polars::prelude::*;
use polars_core::chunked_array::cast::CastOptions;
use polars_core::scalar::Scalar;
use polars_plan::dsl::LazySerde;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{
    AExpr, IRAggExpr, IRBitwiseFunction, IRBooleanFunction, IRFunctionExpr, IRPowFunction, LiteralValue,
};
use polars_plan::prelude::{AnonymousColumnsUdf, FunctionOptions, OpaqueColumnUdf, SpecialEq};
use polars_utils::arena::{Arena, Node};

use super::super::lift::hash_into;
use super::variances::Variances;
use crate::udf::UdfCall;

/// Whether what is kept of parts can be merged.
pub(super) fn is_mergeable(expr: &AExpr) -> bool {
    match expr {
        AExpr::Len | AExpr::Function { function: IRFunctionExpr::NullCount, .. } => true,
        AExpr::Agg(aggregate) => matches!(
            aggregate,
            IRAggExpr::Min { .. }
                | IRAggExpr::Max { .. }
                | IRAggExpr::Sum(_)
                | IRAggExpr::Count { .. }
                | IRAggExpr::Mean(_)
                | IRAggExpr::Var(..)
                | IRAggExpr::Std(..)
                | IRAggExpr::First(_)
                | IRAggExpr::Last(_)
                | IRAggExpr::FirstNonNull(_)
                | IRAggExpr::LastNonNull(_)
        ),
        AExpr::Function { function, .. } => is_its_own_merge(function),
        _ => aggregate_udf(expr).is_some(),
    }
}

/// Whether an aggregate of what it has made of parts is that of all rows.
pub(super) fn is_its_own_merge(function: &IRFunctionExpr) -> bool {
    matches!(
        function,
        IRFunctionExpr::Boolean(IRBooleanFunction::Any { .. } | IRBooleanFunction::All { .. })
            | IRFunctionExpr::Bitwise(IRBitwiseFunction::And | IRBitwiseFunction::Or | IRBitwiseFunction::Xor)
            | IRFunctionExpr::Product
    )
}

pub(super) fn aggregate_udf(expr: &AExpr) -> Option<UdfCall> {
    match expr {
        AExpr::AnonymousFunction { function, .. } => UdfCall::of(function).filter(UdfCall::is_aggregate),
        _ => None,
    }
}

/// What tasks keep of their rows.
pub(super) struct States<'a> {
    pub(super) rows: &'a Schema,
    pub(super) exprs: &'a mut Arena<AExpr>,
    pub(super) names: &'a mut dyn FnMut() -> PlSmallStr,
    pub(super) partials: Vec<ExprIR>,
    /// Which of these have this hash: there may be thousands.
    pub(super) alike: HashMap<u64, Vec<usize>>,
    pub(super) kept: Schema,
    /// Whether there are keys: else a task keeps a row also of none.
    pub(super) keyed: bool,
}

impl States<'_> {
    /// Has each task keep what this aggregate needs of its rows, and returns what merges it.
    pub(super) fn keep(&mut self, at: Node) -> PolarsResult<Node> {
        let expr = self.exprs.get(at).clone();
        let dtype = ExprIR::from_node(at, self.exprs).dtype(self.rows, self.exprs)?.clone();
        if let (Some(call), AExpr::AnonymousFunction { input, options, .. }) = (aggregate_udf(&expr), &expr) {
            return self.keep_udf(&call, input.clone(), *options, dtype);
        }
        if let AExpr::Function { input, function, options } = &expr
            && is_its_own_merge(function)
        {
            let of = input.first().map(|of| of.dtype(self.rows, self.exprs).cloned()).transpose()?;
            // One that is not of numbers observes an order, or wraps.
            if let (IRFunctionExpr::Product, false) = (function, of.is_some_and(|of| of.is_primitive_numeric())) {
                polars_bail!(ComputeError: "{} cannot be merged of parts", shown(at, self.exprs));
            }
            let (function, options) = (function.clone(), *options);
            let kept = self.intern(at)?;
            let input = vec![ExprIR::from_node(kept, self.exprs)];
            let merged = self.exprs.add(AExpr::Function { input, function, options });
            return self.as_before(merged, &dtype);
        }
        let AExpr::Agg(aggregate) = expr else {
            return self.keep_count(at, &dtype);
        };
        let (input, of) = match aggregate {
            IRAggExpr::Min { input, .. }
            | IRAggExpr::Max { input, .. }
            | IRAggExpr::Sum(input)
            | IRAggExpr::Count { input, .. }
            | IRAggExpr::Mean(input)
            | IRAggExpr::First(input)
            | IRAggExpr::Last(input)
            | IRAggExpr::FirstNonNull(input)
            | IRAggExpr::LastNonNull(input)
            | IRAggExpr::Var(input, _)
            | IRAggExpr::Std(input, _) => {
                (input, ExprIR::from_node(input, self.exprs).dtype(self.rows, self.exprs)?.clone())
            }
            _ => polars_bail!(ComputeError: "it cannot be merged of parts"),
        };
        let merged = match aggregate {
            IRAggExpr::Min { propagate_nans, .. } if !of.is_nested() => {
                let kept = self.intern(at)?;
                self.agg(IRAggExpr::Min { input: kept, propagate_nans })
            }
            IRAggExpr::Max { propagate_nans, .. } if !of.is_nested() => {
                let kept = self.intern(at)?;
                self.agg(IRAggExpr::Max { input: kept, propagate_nans })
            }
            IRAggExpr::Sum(_) if of.is_bool() => return self.keep_count(at, &dtype),
            IRAggExpr::Sum(_) if of.is_numeric() || of.is_duration() => {
                let kept = self.intern(at)?;
                self.agg(IRAggExpr::Sum(kept))
            }
            IRAggExpr::Count { .. } => return self.keep_count(at, &dtype),
            // Parts come in the order of tasks.
            IRAggExpr::First(_) => {
                let some = self.of_some(at, input)?;
                self.agg(IRAggExpr::First(some))
            }
            IRAggExpr::Last(_) => {
                let some = self.of_some(at, input)?;
                self.agg(IRAggExpr::Last(some))
            }
            IRAggExpr::FirstNonNull(_) => {
                let kept = self.intern(at)?;
                self.agg(IRAggExpr::FirstNonNull(kept))
            }
            IRAggExpr::LastNonNull(_) => {
                let kept = self.intern(at)?;
                self.agg(IRAggExpr::LastNonNull(kept))
            }
            IRAggExpr::Mean(_) if of.is_primitive_numeric() || of.is_bool() => self.keep_mean(input)?,
            IRAggExpr::Var(_, ddof) if of.is_primitive_numeric() => self.keep_var(input, ddof)?,
            IRAggExpr::Std(_, ddof) if of.is_primitive_numeric() => {
                let var = self.keep_var(input, ddof)?;
                let function = IRFunctionExpr::Pow(IRPowFunction::Sqrt);
                let (options, input) = (function.function_options(), vec![ExprIR::from_node(var, self.exprs)]);
                self.exprs.add(AExpr::Function { input, function, options })
            }
            _ => polars_bail!(ComputeError: "{} of {of} cannot be merged of parts", shown(at, self.exprs)),
        };
        self.as_before(merged, &dtype)
    }

    /// What this aggregate of some rows is, of those tasks that have any: of none it is null, which none of them need be.
    fn of_some(&mut self, at: Node, input: Node) -> PolarsResult<Node> {
        let kept = self.intern(at)?;
        if self.keyed && !matches!(self.exprs.get(input), AExpr::Filter { .. }) {
            return Ok(kept);
        }
        let count = self.agg(IRAggExpr::Count { input, include_nulls: true });
        let count = self.cast(count, DataType::Float64);
        let count = self.intern(count)?;
        let zero = self.float(0.0);
        let by = self.binary(count, Operator::Gt, zero);
        Ok(self.exprs.add(AExpr::Filter { input: kept, by }))
    }

    fn keep_udf(
        &mut self,
        call: &UdfCall,
        input: Vec<ExprIR>,
        options: FunctionOptions,
        dtype: DataType,
    ) -> PolarsResult<Node> {
        let (partial, merge) = call.in_parts(dtype);
        let call = |call: UdfCall, input, what| AExpr::AnonymousFunction {
            input,
            fmt_str: Box::new(format!("{} ({what})", call.name()).into()),
            function: opaque(call),
            options,
        };
        let partial = self.exprs.add(call(partial, input, "partial"));
        let kept = self.intern(partial)?;
        let kept = ExprIR::from_node(kept, self.exprs);
        Ok(self.exprs.add(call(merge, vec![kept], "merge")))
    }

    /// Counts are added as wide as can be: a sum past the type is an error, as in one piece.
    fn keep_count(&mut self, at: Node, dtype: &DataType) -> PolarsResult<Node> {
        let wide = self.cast(at, DataType::UInt64);
        let kept = self.intern(wide)?;
        let sum = self.agg(IRAggExpr::Sum(kept));
        Ok(self.cast(sum, dtype.clone()))
    }

    fn keep_mean(&mut self, input: Node) -> PolarsResult<Node> {
        let (count, sum) = (self.count(input)?, self.float_of(input));
        let sum = self.agg(IRAggExpr::Sum(sum));
        let sum = self.intern(sum)?;
        let (count, sum) = (self.agg(IRAggExpr::Sum(count)), self.agg(IRAggExpr::Sum(sum)));
        let mean = self.binary(sum, Operator::TrueDivide, count);
        let zero = self.float(0.0);
        let is_empty = self.binary(count, Operator::Eq, zero);
        Ok(self.null_if(is_empty, mean))
    }

    fn keep_var(&mut self, input: Node, ddof: u8) -> PolarsResult<Node> {
        let (count, input) = (self.count(input)?, self.float_of(input));
        let mean = self.agg(IRAggExpr::Mean(input));
        let mean = self.intern(mean)?;
        // Of the task's own rows: the sum of the squares of their distances from their mean.
        let (var, own) = (self.agg(IRAggExpr::Var(input, 0)), self.own_count(input));
        let squares = self.binary(var, Operator::Multiply, own);
        let squares = self.intern(squares)?;
        let lists = [count, mean, squares].map(|input| {
            let list = self.agg(IRAggExpr::Implode { input, maintain_order: true });
            ExprIR::from_node(list, self.exprs)
        });
        Ok(self.exprs.add(AExpr::AnonymousFunction {
            input: lists.to_vec(),
            function: Variances { ddof }.function(),
            options: FunctionOptions::elementwise(),
            fmt_str: Box::new("variance of parts".into()),
        }))
    }

    /// How many values of these rows are not null, as a float that is kept.
    fn count(&mut self, input: Node) -> PolarsResult<Node> {
        let count = self.own_count(input);
        self.intern(count)
    }

    fn own_count(&mut self, input: Node) -> Node {
        let count = self.agg(IRAggExpr::Count { input, include_nulls: false });
        self.cast(count, DataType::Float64)
    }

    /// Has each task keep this, once, and returns the column that it is then.
    fn intern(&mut self, partial: Node) -> PolarsResult<Node> {
        let mut hasher = DefaultHasher::new();
        hash_into(partial, self.exprs, &mut hasher);
        let alike = self.alike.entry(hasher.finish()).or_default();
        let is_known = |known: &&usize| {
            let known = self.exprs.get(self.partials[**known].node());
            known.is_expr_equal_to(self.exprs.get(partial), self.exprs)
        };
        if let Some(known) = alike.iter().find(is_known) {
            let name = self.partials[*known].output_name().clone();
            return Ok(self.exprs.add(AExpr::Column(name)));
        }
        alike.push(self.partials.len());
        let name = (self.names)();
        let partial = ExprIR::new(partial, OutputName::Alias(name.clone()));
        self.kept.insert(name.clone(), partial.dtype(self.rows, self.exprs)?.clone());
        self.partials.push(partial);
        Ok(self.exprs.add(AExpr::Column(name)))
    }

    /// With the type that it has in one piece.
    fn as_before(&mut self, merged: Node, dtype: &DataType) -> PolarsResult<Node> {
        let is = ExprIR::from_node(merged, self.exprs).dtype(&self.kept, self.exprs)?.clone();
        Ok(if is == *dtype { merged } else { self.cast(merged, dtype.clone()) })
    }

    fn agg(&mut self, aggregate: IRAggExpr) -> Node {
        self.exprs.add(AExpr::Agg(aggregate))
    }

    fn cast(&mut self, expr: Node, dtype: DataType) -> Node {
        self.exprs.add(AExpr::Cast { expr, dtype, options: CastOptions::Strict })
    }

    /// Some of the rows stay on top: so Polars streams them.
    fn float_of(&mut self, input: Node) -> Node {
        match *self.exprs.get(input) {
            AExpr::Filter { input, by } => {
                let input = self.cast(input, DataType::Float64);
                self.exprs.add(AExpr::Filter { input, by })
            }
            _ => self.cast(input, DataType::Float64),
        }
    }

    fn binary(&mut self, left: Node, op: Operator, right: Node) -> Node {
        self.exprs.add(AExpr::BinaryExpr { left, op, right })
    }

    fn float(&mut self, value: f64) -> Node {
        self.exprs.add(AExpr::Literal(LiteralValue::Scalar(Scalar::from(value))))
    }

    fn null_if(&mut self, predicate: Node, falsy: Node) -> Node {
        let truthy = self.exprs.add(AExpr::Literal(LiteralValue::Scalar(Scalar::null(DataType::Float64))));
        self.exprs.add(AExpr::Ternary { predicate, truthy, falsy })
    }
}

fn opaque(call: UdfCall) -> OpaqueColumnUdf {
    LazySerde::Deserialized(SpecialEq::new(Arc::new(call) as Arc<dyn AnonymousColumnsUdf>))
}

/// An expression as people write it.
pub(in crate::plan) fn shown(at: Node, exprs: &Arena<AExpr>) -> String {
    ExprIR::from_node(at, exprs).display(exprs).to_string()
}
