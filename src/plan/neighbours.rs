//! Expressions that look at some rows before or after each, as `x.shift(1)` or a rolling mean does: each task reads, beside its share of the
//! rows, as many of its neighbours' as they look at, and leaves its own. Rows that are numbered, and slices of many, need no others: how many
//! each task has left is known when they are dealt.

use std::sync::Arc;

use polars::prelude::*;
use polars::series::ops::NullBehavior;
use polars_plan::plans::expr_ir::ExprIR;
use polars_plan::plans::{AExpr, FunctionIR, IR, IRFunctionExpr, is_scalar_ae};
use polars_utils::arena::{Arena, Node};

use super::Deal;
use super::aggregate::shown;
use super::common::varies;
use super::cut::{Cutter, single_input};
use super::exchange::TOP;
use super::lift::{below, has_udf};
use super::place::Place;
use super::rowwise::{expr_is_row_wise, maps_its_inputs, reads_a_column};
use super::scan::Splits;
use super::wire::placeholder;
use crate::sched::StageId;

/// How many rows before and after each are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reach {
    before: u64,
    after: u64,
}

impl Reach {
    fn or(self, other: Self) -> Self {
        Self { before: self.before.max(other.before), after: self.after.max(other.after) }
    }

    /// What is looked at looks further.
    fn and(self, other: Self) -> Self {
        Self { before: self.before.saturating_add(other.before), after: self.after.saturating_add(other.after) }
    }

    /// That of rows so far before, or after.
    fn to(rows: i64) -> Self {
        match rows {
            0.. => Self { before: rows.unsigned_abs(), after: 0 },
            _ => Self { before: 0, after: rows.unsigned_abs() },
        }
    }
}

impl Cutter {
    /// Runs a node that looks at rows beside each, or numbers them, in shares. Whether that was done.
    pub(super) fn neighbours(&mut self, node: Node) -> bool {
        let ir = self.ir.get(node).clone();
        let Some(input) = single_input(&ir) else { return false };
        if let IR::MapFunction { function: FunctionIR::RowIndex { name, offset, .. }, .. } = &ir {
            return self.index(node, input, name, offset.unwrap_or_default());
        }
        let roots: Vec<Node> = ir.exprs().map(ExprIR::node).collect();
        match ir {
            IR::Filter { .. } | IR::HStack { .. } => (),
            // Else it is an aggregation.
            IR::Select { .. } if !roots.iter().all(|root| is_scalar_ae(*root, &self.exprs)) => (),
            _ => return false,
        }
        let top = self.draw_in(input);
        if !self.is_several(top) {
            return false;
        }
        let reach: Result<_, String> =
            roots.iter().try_fold(Reach::default(), |all, root| Ok(all.or(reach(*root, &self.exprs)?)));
        let Reach { before, after } = match reach {
            Ok(Reach { before: 0, after: 0 }) => return false,
            Ok(Reach { before, after }) if before.max(after) > TOP as u64 => {
                let why = format!("it looks at {before} rows before each, and {after} after it");
                self.whole.insert(node.0, format!("it sees all rows at once, because {why}"));
                return false;
            }
            Ok(reach) => reach,
            Err(why) => {
                self.whole.entry(node.0).or_insert_with(|| format!("it sees all rows at once, because {why}"));
                return false;
            }
        };
        self.whole.remove(&node.0);
        let columns = self.schema(node);
        let why =
            format!("equal shares of the rows below; beside its own each task sees {before} before, {after} after");
        let splits = Splits::dealt(self.target.tasks, Deal { before, after, ..Deal::default() }, why);
        let (stage, rows) = (self.kept(top), self.schema(top));
        let shares = self.dealt(stage, rows, splits.clone());
        let (numbered, row) = self.numbered(shares, splits.clone());
        let work = self.keeping(ir, numbered, &row);
        let input = self.ir.add(work);
        self.decided.insert(input.0, splits);
        let predicate = self.place_of(Place::Own { from: 0, to: 0 }, &row, &row);
        let input = self.ir.add(IR::Filter { input, predicate });
        self.ir.replace(node, IR::SimpleProjection { input, columns });
        true
    }

    /// An index of rows: each task knows how many rows come before its own.
    fn index(&mut self, node: Node, input: Node, name: &PlSmallStr, offset: IdxSize) -> bool {
        let top = self.draw_in(input);
        if !self.is_several(top) {
            return false;
        }
        let (columns, rows) = (self.schema(node), self.schema(top));
        let stage = self.kept(top);
        let shares = self.shares_of(stage, &rows);
        let (numbered, row) = self.numbered(shares, Splits::shares(self.target.tasks));
        let index = self.place_of(Place::Index { first: 0, offset }, &row, name);
        let input = self.with_column(numbered, index, IDX_DTYPE);
        self.ir.replace(node, IR::SimpleProjection { input, columns });
        true
    }

    /// What stands for the rows that a stage has left, dealt so.
    pub(super) fn dealt(&mut self, stage: StageId, columns: SchemaRef, splits: Splits) -> Node {
        let dealt = self.ir.add(placeholder(stage, columns));
        self.decided.insert(dealt.0, splits);
        dealt
    }

    /// Work on an input that has a column more, which is kept beside what comes of it.
    pub(super) fn keeping(&mut self, work: IR, input: Node, column: &PlSmallStr) -> IR {
        let mut work = self.widened(work, input);
        if let IR::Select { expr, schema, .. } = &mut work {
            expr.push(ExprIR::from_column_name(column.clone(), &mut self.exprs));
            let dtype = self.ir.get(input).schema(&self.ir).get(column).cloned();
            dtype.into_iter().for_each(|dtype| drop(Arc::make_mut(schema).insert(column.clone(), dtype)));
        }
        work
    }

    /// Work on an input that has more columns.
    pub(super) fn widened(&self, work: IR, input: Node) -> IR {
        let mut work = work.with_inputs([input]);
        if let IR::HStack { schema, .. } = &mut work {
            let mut widened = self.schema(input).as_ref().clone();
            // One may have another type than the one whose place it takes.
            schema.iter().for_each(|(name, dtype)| drop(widened.insert(name.clone(), dtype.clone())));
            *schema = Arc::new(widened);
        }
        work
    }
}

/// Whether an expression looks at some rows beside each.
pub(super) fn looks_beside(at: Node, exprs: &Arena<AExpr>) -> bool {
    reach(at, exprs).is_ok_and(|reach| reach != Reach::default())
}

/// How far around a row the value of an expression is looked for.
///
/// # Errors
/// In words, why it cannot be told.
fn reach(at: Node, exprs: &Arena<AExpr>) -> Result<Reach, String> {
    if expr_is_row_wise(at, exprs) {
        return Ok(Reach::default());
    }
    let refused = || format!("{} looks at other rows", shown(at, exprs));
    // A row is computed by each task that sees it.
    if has_udf(at, exprs) {
        return Err(format!("{} calls a UDF of other rows", shown(at, exprs)));
    }
    if varies(at, exprs) {
        return Err(format!("{} may have other values each time", shown(at, exprs)));
    }
    let of = |inputs: Vec<Node>| inputs.into_iter().try_fold(Reach::default(), |all, of| Ok(all.or(reach(of, exprs)?)));
    let (input, own) = match exprs.get(at) {
        AExpr::Function { input, function, .. } => match (function, &input[..]) {
            (IRFunctionExpr::Shift | IRFunctionExpr::Diff(NullBehavior::Ignore), [of, rows]) => {
                (of, Reach::to(number(rows, exprs).ok_or_else(refused)?))
            }
            (IRFunctionExpr::ShiftAndFill, [of, rows, fill]) if !reads_a_column(fill.node(), exprs) => {
                (of, Reach::to(number(rows, exprs).ok_or_else(refused)?))
            }
            (IRFunctionExpr::RollingExpr { options, .. }, [of]) => {
                let before = options.window_size.saturating_sub(1) as u64;
                (of, Reach { before, after: if options.center { before } else { 0 } })
            }
            (IRFunctionExpr::FillNullWithStrategy(FillNullStrategy::Forward(Some(rows))), [of]) => {
                (of, Reach { before: u64::from(*rows), after: 0 })
            }
            (IRFunctionExpr::FillNullWithStrategy(FillNullStrategy::Backward(Some(rows))), [of]) => {
                (of, Reach { before: 0, after: u64::from(*rows) })
            }
            _ if maps_its_inputs(exprs.get(at), exprs) => return of(below(exprs.get(at))),
            _ => return Err(refused()),
        },
        AExpr::StructEval { .. } | AExpr::Eval { .. } => return Err(refused()),
        expr if maps_its_inputs(expr, exprs) => return of(below(expr)),
        _ => return Err(refused()),
    };
    match reads_a_column(input.node(), exprs) {
        true => Ok(reach(input.node(), exprs)?.and(own)),
        false => Err(refused()),
    }
}

fn number(expr: &ExprIR, exprs: &Arena<AExpr>) -> Option<i64> {
    match exprs.get(expr.node()) {
        AExpr::Literal(value) => value.extract_i64().ok(),
        _ => None,
    }
}
