//! Values that run on from row to row, as `x.cum_sum()` and filling forward do: each task has its share of the rows run on from what the
//! shares before it (or after it, if it runs from the end) come to. What each share comes to is worked out first, and is a row.

use std::collections::BTreeMap;
use std::sync::Arc;

use polars::prelude::*;
use polars_core::chunked_array::cast::CastOptions;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{AExpr, IR, IRAggExpr, IRBooleanFunction, IRFunctionExpr, is_scalar_ae};
use polars_plan::prelude::ProjectionOptions;
use polars_utils::arena::{Arena, Node};

use super::common::varies;
use super::cut::{Cutter, single_input};
use super::lift::{below, replaced};
use super::place::Place;
use super::rowwise::{expr_is_row_wise, maps_its_inputs, reads_a_column};
use super::scan::{Choice, Splits};
use crate::error::PlanError;
use crate::sched::{Fits, Way};

/// How a value runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sum,
    Count,
    Min,
    Max,
    /// The last one that is no null.
    Fill,
}

/// An expression whose value runs on.
struct Run {
    at: Node,
    /// From row to row of this.
    of: Node,
    kind: Kind,
    /// From the end.
    reverse: bool,
}

impl Kind {
    /// Whether values of this type come to the same in parts as at once.
    fn adds_up(self, dtype: &DataType) -> bool {
        match self {
            // Some floats cancel each other, in another order others; and a part may be too large that the whole is not.
            Self::Sum => dtype.is_integer() || dtype.is_bool(),
            Self::Count => true,
            // Of floats there are some that are neither more nor less.
            Self::Min | Self::Max => dtype.is_integer() || dtype.is_temporal(),
            Self::Fill => !dtype.is_object() && !dtype.is_null() && !dtype.is_unknown(),
        }
    }

    /// What some rows come to.
    fn of_rows(self, input: Node, reverse: bool) -> IRAggExpr {
        let propagate_nans = false;
        match self {
            Self::Sum => IRAggExpr::Sum(input),
            Self::Count => IRAggExpr::Count { input, include_nulls: false },
            Self::Min => IRAggExpr::Min { input, propagate_nans },
            Self::Max => IRAggExpr::Max { input, propagate_nans },
            Self::Fill if reverse => IRAggExpr::FirstNonNull(input),
            Self::Fill => IRAggExpr::LastNonNull(input),
        }
    }

    /// What shares come to, of what each does.
    fn of_shares(self, input: Node, reverse: bool) -> IRAggExpr {
        if self == Self::Count { IRAggExpr::Sum(input) } else { self.of_rows(input, reverse) }
    }

    /// A value of a share, run on from what those before it come to.
    fn run_on(self, from: Node, value: Node, exprs: &mut Arena<AExpr>) -> Node {
        let with = |op| AExpr::BinaryExpr { left: from, op, right: value };
        let takes_it = match self {
            Self::Sum | Self::Count => return exprs.add(with(Operator::Plus)),
            // What is compared with a null is null: a row of nothing stays so, and nothing before it changes nothing.
            Self::Min => with(Operator::Lt),
            Self::Max => with(Operator::Gt),
            Self::Fill => {
                let function = IRFunctionExpr::Boolean(IRBooleanFunction::IsNull);
                let (input, options) = (vec![ExprIR::from_node(value, exprs)], function.function_options());
                AExpr::Function { input, function, options }
            }
        };
        let predicate = exprs.add(takes_it);
        exprs.add(AExpr::Ternary { predicate, truthy: from, falsy: value })
    }
}

impl Cutter {
    /// Runs a node that is row-wise but for values that run on. Whether that was done.
    pub(super) fn running(&mut self, node: Node) -> Result<bool, PlanError> {
        let ir = self.ir.get(node).clone();
        let (IR::Filter { .. } | IR::HStack { .. } | IR::Select { .. }, Some(input)) = (&ir, single_input(&ir)) else {
            return Ok(false);
        };
        let roots: Vec<ExprIR> = ir.exprs().cloned().collect();
        let is_aggregation = roots.iter().all(|root| is_scalar_ae(root.node(), &self.exprs));
        let mut runs = Vec::new();
        if (is_aggregation && matches!(ir, IR::Select { .. }))
            || !roots.iter().all(|root| take(root.node(), &mut runs, &self.exprs))
            || runs.is_empty()
        {
            return Ok(false);
        }
        let top = self.draw_in(input);
        if !self.is_several(top) {
            return Ok(false);
        }
        let rows = self.schema(top);
        let dtype = |of: Node, schema: &Schema, exprs: &Arena<AExpr>| {
            ExprIR::from_node(of, exprs).dtype(schema, exprs).cloned().map_err(PlanError::polars)
        };
        let dtypes = runs.iter().map(|run| dtype(run.at, &rows, &self.exprs)).collect::<Result<Vec<_>, _>>()?;
        for run in &runs {
            if !run.kind.adds_up(&dtype(run.of, &rows, &self.exprs)?) {
                return Ok(false);
            }
        }
        self.whole.remove(&node.0);
        let columns = self.schema(node);
        let stage = self.kept(top);

        // What each share comes to: a row.
        let shares = self.shares_of(stage, &rows);
        let names: Vec<_> = runs.iter().map(|_| self.names.fresh("run")).collect();
        let mut totals = Vec::with_capacity(runs.len());
        for (run, name) in runs.iter().zip(&names) {
            let total = self.exprs.add(AExpr::Agg(run.kind.of_rows(run.of, run.reverse)));
            totals.push(ExprIR::new(total, OutputName::Alias(name.clone())));
        }
        let totals = self.one_row(shares, totals)?;
        let why = "what shares of the rows come to".to_owned();
        self.decided.insert(totals.0, Splits { why, ..Splits::shares(self.target.tasks) });
        self.partials.insert(totals.0);
        let (totals, left) = self.leave(totals, None);

        // What those before a task's come to.
        let (numbered, row) = self.numbered(left, Splits::whole("it gathers its input"));
        let beside = [false, true].map(|after| self.place_of(Place::Beside { part: 0, after }, &row, &row).node());
        let mut before = Vec::with_capacity(runs.len());
        for (run, name) in runs.iter().zip(&names) {
            let by = beside[usize::from(run.reverse)];
            let input = self.exprs.add(AExpr::Column(name.clone()));
            let input = self.exprs.add(AExpr::Filter { input, by });
            let of = self.exprs.add(AExpr::Agg(run.kind.of_shares(input, run.reverse)));
            before.push(ExprIR::new(of, OutputName::Alias(name.clone())));
        }
        let before = self.one_row(numbered, before)?;

        let shares = self.shares_of(stage, &rows);
        let join = self.with_single(shares, before);
        let choices = vec![Choice::ways(vec![(stage, Way::Share), (totals, Way::All)], Fits::Always)];
        let why = "equal shares of the rows below, which run on from what those beside them come to".to_owned();
        let splits = Splits { choices, why, ..Splits::shares(self.target.tasks) };
        self.decided.insert(join.0, splits.clone());

        let mut run_on = BTreeMap::new();
        for ((run, name), dtype) in runs.into_iter().zip(names).zip(dtypes) {
            let value = self.exprs.add(self.exprs.get(run.at).clone());
            let from = self.exprs.add(AExpr::Column(name));
            let options = CastOptions::NonStrict;
            let from = self.exprs.add(AExpr::Cast { expr: from, dtype, options });
            run_on.insert(run.at.0, run.kind.run_on(from, value, &mut self.exprs));
        }
        let exprs = roots.into_iter().map(|mut root| {
            root.set_node(replaced(root.node(), &run_on, &mut self.exprs));
            root
        });
        let exprs = exprs.collect::<Vec<_>>();
        let work = self.widened(ir.with_exprs(exprs), join);
        let input = self.ir.add(work);
        self.decided.insert(input.0, splits);
        self.ir.replace(node, IR::SimpleProjection { input, columns });
        Ok(true)
    }

    /// A row of aggregates.
    fn one_row(&mut self, input: Node, expr: Vec<ExprIR>) -> Result<Node, PlanError> {
        let below = self.schema(input);
        let field = |expr: &ExprIR| Ok((expr.output_name().clone(), expr.dtype(&below, &self.exprs)?.clone()));
        let schema = expr.iter().map(field).collect::<PolarsResult<Schema>>().map_err(PlanError::polars)?;
        let (schema, options) = (Arc::new(schema), ProjectionOptions::default());
        Ok(self.ir.add(IR::Select { input, expr, schema, options }))
    }
}

/// Whether an expression runs on from row to row.
pub(super) fn runs_on(at: Node, exprs: &Arena<AExpr>) -> bool {
    let mut runs = Vec::new();
    take(at, &mut runs, exprs) && !runs.is_empty()
}

/// Takes in what runs on in an expression, if it is row-wise but for that.
fn take(at: Node, runs: &mut Vec<Run>, exprs: &Arena<AExpr>) -> bool {
    if expr_is_row_wise(at, exprs) {
        return true;
    }
    let expr = exprs.get(at);
    let run = match expr {
        AExpr::Function { input, function, .. } => match (function, &input[..]) {
            (IRFunctionExpr::CumSum { reverse }, [of]) => Some((of, Kind::Sum, *reverse)),
            (IRFunctionExpr::CumCount { reverse }, [of]) => Some((of, Kind::Count, *reverse)),
            (IRFunctionExpr::CumMin { reverse }, [of]) => Some((of, Kind::Min, *reverse)),
            (IRFunctionExpr::CumMax { reverse }, [of]) => Some((of, Kind::Max, *reverse)),
            (IRFunctionExpr::FillNullWithStrategy(FillNullStrategy::Forward(None)), [of]) => {
                Some((of, Kind::Fill, false))
            }
            (IRFunctionExpr::FillNullWithStrategy(FillNullStrategy::Backward(None)), [of]) => {
                Some((of, Kind::Fill, true))
            }
            _ => None,
        },
        _ => None,
    };
    match run {
        Some((of, kind, reverse)) => {
            let of = of.node();
            // It is computed twice: what chance or a user's code makes of it need not be the same.
            let is_taken = expr_is_row_wise(of, exprs) && reads_a_column(of, exprs) && !varies(of, exprs);
            if is_taken && runs.iter().all(|run| run.at != at) {
                runs.push(Run { at, of, kind, reverse });
            }
            is_taken
        }
        None => {
            maps_its_inputs(expr, exprs)
                && !matches!(expr, AExpr::StructEval { .. } | AExpr::Eval { .. })
                && below(expr).into_iter().all(|input| take(input, runs, exprs))
        }
    }
}
